//! Collateral: what vendors publish comes in from sources, operators and files, and takes trust without the host's help
//! where it says what was not said before. While a source is down, what is on disk serves until its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::issue::Issue;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;
use countersign_policies::finding::Finding;
use serde::Serialize;

use crate::broker::Broker;
use crate::collateral::document::Document;
use crate::collateral::fetch::{FetchError, Wanted, client};
use crate::collateral::items::Item;
use crate::collateral::schedule::{Attempts, Schedule};
use crate::collateral::settings::{Reach, Settings};
use crate::collateral::{filed, load};
use crate::config::{ConfigError, DataDir};
use crate::keys::random;
use crate::problem::{Problem, Refusal};
use crate::references::{Offer, Offered, Outcome};

/// The actor of a change that no operator brought about.
const BY_SOURCE: &str = "broker";
/// How often what is due is looked for.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Fetches at one time: vendors limit how often they are asked.
const AT_ONCE: usize = 4;

/// Sources, and what became of asking them.
#[derive(Debug)]
pub struct Sources {
    settings: Settings,
    clients: BTreeMap<String, (Reach, reqwest::Client)>,
    schedule: Mutex<Schedule>,
    /// One round at a time.
    fetching: tokio::sync::Mutex<()>,
}

/// What came of a document that was offered or fetched.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Report {
    /// It is in force now.
    Accepted {
        /// Where it came from.
        source: String,
        /// Which issue.
        issue: Issue,
    },
    /// It was in force.
    Known {
        /// Where it came from.
        source: String,
    },
    /// It is not used.
    Refused {
        /// Where it came from.
        source: String,
        /// Why.
        finding: Finding,
    },
    /// It did not come.
    Failed {
        /// What was asked for.
        source: String,
        /// Why.
        error: String,
    },
}

/// What came of all of them, and how many hosts lost trust by it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Change {
    /// Of each document.
    pub documents: Vec<Report>,
    /// Hosts that no longer pass.
    pub revoked_hosts: u64,
}

/// Whether an item holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Before its nextUpdate.
    Current,
    /// By the grace that is stated for a time like this.
    Overdue,
    /// Not any more: what rests on it is denied.
    Ended,
}

/// An item as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct ItemView {
    /// Which issue it is.
    #[serde(flatten)]
    pub issue: Issue,
    /// When it ends: nextUpdate and the grace in force.
    pub ends: UnixMillis,
    /// Whether it holds.
    pub state: State,
    /// Where it came from.
    pub source: String,
    /// When.
    pub accepted_at: UnixMillis,
    /// SHA-256 of the document in the archive.
    pub sha256: Sha256Digest,
}

/// A source's document and what became of asking for it.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptsView {
    /// Source and document.
    pub wanted: String,
    /// What became of it.
    #[serde(flatten)]
    pub attempts: Attempts,
}

/// Everything about collateral.
#[derive(Clone, Debug, Serialize)]
pub struct CollateralView {
    /// What is in force, or was and ended.
    pub items: Vec<ItemView>,
    /// What sources are asked for.
    pub sources: Vec<AttemptsView>,
    /// What an operator should look at.
    pub warnings: Vec<String>,
}

impl Sources {
    /// The sources of `collateral.toml`; everything is due at once.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(data: &DataDir, now: UnixMillis) -> Result<Self, ConfigError> {
        let settings = Settings::load(data)?;
        let clients = settings.sources().map(|(name, reach)| Ok((name.to_owned(), (reach.clone(), client(reach)?))));
        let clients = clients.collect::<Result<_, ConfigError>>()?;
        let schedule = Mutex::new(Schedule::start(settings.wanted(), now));
        Ok(Self { settings, clients, schedule, fetching: tokio::sync::Mutex::default() })
    }

    fn schedule<T>(&self, with: impl FnOnce(&mut Schedule) -> T) -> T {
        with(&mut self.schedule.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn fetch(&self, wanted: &Wanted) -> Result<Document, FetchError> {
        let (_, client) =
            self.clients.get(&wanted.source).ok_or_else(|| FetchError::Content("no such source".to_owned()))?;
        self.settings.fetch(wanted, client).await
    }
}

impl Broker {
    /// Fetches what is due. Called every second; without sources it does nothing.
    ///
    /// # Errors
    /// A failure to record or store; what came is then asked for again.
    pub async fn fetch_due_collateral(&self) -> Result<Change, Problem> {
        let due = self.sources.schedule(|schedule| schedule.due(self.clock.now()));
        if due.is_empty() {
            return Ok(Change::default());
        }
        self.fetch_collateral(due, BY_SOURCE).await
    }

    /// Reads the operator's files again, and fetches everything there is a source for.
    ///
    /// # Errors
    /// Files that cannot be used, or a failure to record or store.
    pub async fn refresh_collateral(&self, operator: &HostId) -> Result<Change, Problem> {
        let read = || -> Result<_, ConfigError> { Ok((load(&self.data)?, filed(&self.data)?)) };
        let unreadable = |error: ConfigError| Refusal::CollateralUnreadable.because("files that can be used", error);
        let (decided, files) = tokio::task::block_in_place(read).map_err(unreadable)?;
        let offers = files.into_iter().map(|(source, document)| Offer { source, document }).collect();
        let from_files = self.offer_collateral(offers, Some(decided), operator.as_str())?;
        let wanted = self.sources.schedule(|schedule| schedule.all());
        let mut change = self.fetch_collateral(wanted, operator.as_str()).await?;
        change.documents.splice(0..0, from_files.documents);
        if from_files.changed {
            change.revoked_hosts = change.revoked_hosts.saturating_add(self.reappraise().await?);
        }
        Ok(change)
    }

    /// Takes documents that an operator brings: from another site, or by hand.
    ///
    /// # Errors
    /// A failure to record or store; a document that is refused is in the report.
    pub async fn import_collateral(&self, operator: &HostId, documents: Vec<Document>) -> Result<Change, Problem> {
        let source = format!("import:{operator}");
        let offer = |document| Offer { source: source.clone(), document };
        let offered = self.offer_collateral(documents.into_iter().map(offer).collect(), None, operator.as_str())?;
        self.change(offered).await
    }

    async fn fetch_collateral(&self, wanted: Vec<Wanted>, actor: &str) -> Result<Change, Problem> {
        let _one = self.sources.fetching.lock().await;
        // 1. Ask, a few at a time.
        let mut fetched = Vec::new();
        for some in wanted.chunks(AT_ONCE) {
            let answers = futures_util::future::join_all(some.iter().map(|wanted| self.sources.fetch(wanted))).await;
            fetched.extend(some.iter().cloned().zip(answers));
        }
        // 2. What came is judged, recorded and in force together.
        let mut asked = Vec::new();
        let (mut offers, mut failed) = (Vec::new(), Vec::new());
        for (wanted, answer) in fetched {
            match answer {
                Ok(document) => {
                    offers.push(Offer { source: wanted.source.clone(), document });
                    asked.push(wanted);
                }
                Err(error) => {
                    tracing::warn!(%wanted, %error, "collateral was not fetched");
                    failed.push((wanted, error));
                }
            }
        }
        let offered = match self.offer_collateral(offers, None, actor) {
            Ok(offered) => offered,
            Err(problem) => {
                // A full disk here is no reason to ask the vendor every second.
                asked.iter().try_for_each(|wanted| self.fetch_failed(wanted, problem.to_string()))?;
                return Err(problem);
            }
        };
        // 3. When each is asked for next.
        let mut missing = Vec::new();
        for (wanted, error) in failed {
            self.metrics.fetched(&wanted.source, error.code());
            self.fetch_failed(&wanted, error.to_string())?;
            missing.push(Report::Failed { source: wanted.to_string(), error: error.to_string() });
        }
        for (wanted, outcome) in asked.iter().zip(&offered.outcomes) {
            self.fetch_answered(wanted, outcome)?;
        }
        // 4. What changed is what hosts are judged by from now on.
        let mut change = self.change(offered).await?;
        change.documents.extend(missing);
        Ok(change)
    }

    fn fetch_failed(&self, wanted: &Wanted, error: String) -> Result<(), Problem> {
        let chance = chance()?;
        if let Some((reach, _)) = self.sources.clients.get(&wanted.source) {
            let now = self.clock.now();
            self.sources.schedule(|schedule| schedule.failed(wanted, reach, error, now, chance));
        }
        Ok(())
    }

    fn fetch_answered(&self, wanted: &Wanted, outcome: &Outcome) -> Result<(), Problem> {
        let next_update = match outcome {
            Outcome::Refused(rejection) => {
                tracing::warn!(%wanted, %rejection, "fetched collateral is refused");
                self.metrics.fetched(&wanted.source, rejection.code());
                return self.fetch_failed(wanted, rejection.to_string());
            }
            Outcome::Accepted(item) => item.issue.next_update,
            Outcome::Known(issue) => issue.next_update,
        };
        self.metrics.fetched(&wanted.source, "ok");
        let chance = chance()?;
        if let Some((reach, _)) = self.sources.clients.get(&wanted.source) {
            let now = self.clock.now();
            self.sources.schedule(|schedule| schedule.succeeded(wanted, reach, next_update, now, chance));
        }
        Ok(())
    }

    fn offer_collateral(
        &self,
        offers: Vec<Offer>,
        decided: Option<crate::collateral::Collateral>,
        actor: &str,
    ) -> Result<FromOffers, Problem> {
        let now = self.clock.now();
        let sources: Vec<_> = offers.iter().map(|offer| offer.source.clone()).collect();
        let Offered { outcomes, changed } = tokio::task::block_in_place(|| {
            let record = |digest| self.record_blocking(Entry::collateral_changed(now, actor, digest));
            self.references.offer(offers, decided, now, record)
        })?;
        let documents = sources.into_iter().zip(&outcomes).map(|(source, outcome)| match outcome {
            Outcome::Accepted(item) => {
                tracing::info!(issue = %item.issue, source, "collateral is in force");
                Report::Accepted { source, issue: item.issue.clone() }
            }
            Outcome::Known(_) => Report::Known { source },
            Outcome::Refused(rejection) => Report::Refused { source, finding: Finding::from(&**rejection) },
        });
        Ok(FromOffers { documents: documents.collect(), outcomes, changed })
    }

    async fn change(&self, offered: FromOffers) -> Result<Change, Problem> {
        let FromOffers { documents, changed, .. } = offered;
        let revoked_hosts = if changed { self.reappraise().await? } else { 0 };
        Ok(Change { documents, revoked_hosts })
    }
}

/// What came of offers, with what is needed to plan the next fetches.
struct FromOffers {
    documents: Vec<Report>,
    outcomes: Vec<Outcome>,
    changed: bool,
}

fn chance() -> Result<u16, Problem> {
    random().map(u16::from_be_bytes).map_err(|_| Refusal::Internal.plain())
}

/// Fetches what is due for as long as the broker lives.
pub(super) async fn watch(broker: Weak<Broker>) {
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(broker): Option<Arc<Broker>> = broker.upgrade() else { return };
        if let Err(problem) = broker.fetch_due_collateral().await {
            tracing::error!(%problem, "collateral that is due did not come into force");
        }
    }
}

impl Broker {
    /// What is in force, what sources were asked for, and what an operator should look at.
    #[must_use]
    pub fn collateral(&self) -> CollateralView {
        let now = self.clock.now();
        let items = self.collateral_items(now);
        let sources: Vec<_> = self.sources.schedule(|schedule| {
            let view = |(wanted, attempts): (&Wanted, &Attempts)| AttemptsView {
                wanted: wanted.to_string(),
                attempts: attempts.clone(),
            };
            schedule.attempts().map(view).collect()
        });
        let mut warnings = Vec::new();
        for ItemView { issue, state, ends, .. } in &items {
            match state {
                State::Current => {}
                State::Overdue => warnings.push(format!(
                    "collateral.overdue: {} since {}, counts until {ends}",
                    issue.subject, issue.next_update
                )),
                State::Ended => warnings.push(format!("collateral.ended: {} at {ends}", issue.subject)),
            }
        }
        for AttemptsView { wanted, attempts } in &sources {
            if let Some(since) = attempts.failing_since {
                warnings.push(format!("collateral.source: {wanted} not fetched since {since}"));
            }
        }
        CollateralView { items, sources, warnings }
    }

    /// The items whose root is pinned.
    pub(super) fn collateral_items(&self, now: UnixMillis) -> Vec<ItemView> {
        let governance = self.references.current();
        let collateral = &governance.collateral;
        let grace_ms = collateral.at(now).grace_ms;
        let view = |item: &Item| {
            let (issue, ends) = (item.issue.clone(), item.issue.next_update.plus(grace_ms));
            let state = if now < issue.next_update {
                State::Current
            } else if now < ends {
                State::Overdue
            } else {
                State::Ended
            };
            let (source, accepted_at) = (item.source.clone(), item.accepted_at);
            ItemView { issue, ends, state, source, accepted_at, sha256: item.sha256 }
        };
        governance.items.usable().map(view).collect()
    }

    /// Every document whose root is pinned, for another site.
    #[must_use]
    pub fn collateral_documents(&self) -> Vec<Document> {
        let governance = self.references.current();
        governance.items.usable().map(|item| item.document.clone()).collect()
    }
}
