//! A relay: follows a broker's pulses and fans them out, without a key. It can neither extend nor forge what it passes
//! on: gates check the broker's signatures, and silence ends in denial. What it checks itself keeps garbage from
//! spreading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::{Class, Pulse};
use countersign_attestation::result::authorities::Authorities;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::TrustDomain;
use countersign_attestation::sse::{Event, Parser, SseError};
use countersign_attestation::status_delta::StatusDelta;
use countersign_attestation::status_list::{StatusList, StatusListToken};
use countersign_attestation::{Rejection, UnixMillis, Verified};
use reqwest::{Client, StatusCode, Url};
use tokio::sync::watch;

use crate::clock::{Clock, sleep};
use crate::keys::random;
use crate::metrics::RelayMetrics;
use crate::trust::published::{Pacing, Published, PublishedAuthorities, PublishedList, same_lists};

/// Longest wait for a connection, and for a whole answer that is not a stream.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// First and longest pause between connections, before chance takes up to a half away.
const BACKOFF_MIN_MS: u64 = 100;
const BACKOFF_MAX_MS: u64 = 1_000;
/// Longest answer that is not a stream: the longest token.
const ANSWER_BYTES_MAX: usize = 128 * 1024;
/// Lists that no pulse has named yet.
const SPARE_LISTS_MAX: usize = 1024;

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub enum RelayFault {
    /// No connection, or it broke.
    #[error("the broker cannot be reached or does not answer: {0}")]
    Http(#[from] reqwest::Error),
    /// Another status than 200.
    #[error("the broker answers with status {0}")]
    Status(StatusCode),
    /// Not a stream of events.
    #[error("the stream cannot be read: {0}")]
    Stream(#[from] SseError),
    /// Not a token.
    #[error("an answer is no token")]
    NoToken,
    /// The stream ended.
    #[error("the stream ended")]
    Ended,
    /// Not signed by the pinned broker, or out of date.
    #[error("a token was refused: {0}")]
    Refused(#[from] Rejection),
}

/// Whom a relay follows.
#[derive(Debug)]
pub struct Upstream {
    /// The broker's address.
    pub broker: Url,
    /// Its client, with the pinned CA.
    pub client: Client,
    /// The broker's token keys: those that are pinned, and then those that it says follow them.
    pub keys: ArcSwap<JwkSet>,
    /// Whose pulses are relayed.
    pub trust_domain: TrustDomain,
    /// Time.
    pub clock: Clock,
    /// How soon gates behind this relay want to know: the upstream's pace.
    pub class: Class,
    /// What is counted.
    pub metrics: Arc<RelayMetrics>,
}

impl Upstream {
    /// The token of list `n`, as it is now.
    ///
    /// # Errors
    /// [`RelayFault`].
    pub async fn list(&self, n: u64) -> Result<String, RelayFault> {
        self.text(&format!("v1/status-lists/{n}")).await
    }

    /// Checks a token of a list under the pinned keys.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_list(&self, token: &str) -> Result<(Verified<StatusListToken>, StatusList), Rejection> {
        StatusListToken::verify(token, &self.keys.load(), self.clock.now())
    }

    async fn text(&self, path: &str) -> Result<String, RelayFault> {
        let mut response = self.client.get(self.address(path)).timeout(ANSWER_MAX).send().await?;
        if response.status() != StatusCode::OK {
            return Err(RelayFault::Status(response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if ANSWER_BYTES_MAX < body.len().saturating_add(chunk.len()) {
                return Err(RelayFault::NoToken);
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(body).map_err(|_| RelayFault::NoToken)?;
        Ok(text.trim_ascii().to_owned())
    }

    fn address(&self, path: &str) -> Url {
        let mut address = self.broker.clone();
        let folder = address.path().trim_end_matches('/').to_owned();
        address.set_path(&format!("{folder}/{path}"));
        address
    }
}

/// The client that a relay follows its broker with.
///
/// # Errors
/// [`reqwest::Error`] when it cannot be built.
pub fn client(tls: rustls::ClientConfig, class: Class) -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        // A broker does not redirect, and the environment does not choose who sits in between.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(ANSWER_MAX)
        .read_timeout(Duration::from_millis(class.silence_ms()))
        .build()
}

/// Follows a broker.
#[derive(Debug)]
pub struct Follower {
    upstream: Arc<Upstream>,
    newest: Option<Verified<Pulse>>,
    authorities: Option<Arc<PublishedAuthorities>>,
    lists: BTreeMap<Sha256Digest, Arc<PublishedList>>,
    publish: watch::Sender<Option<Arc<Published>>>,
    pacing: Pacing,
}

impl Follower {
    /// A follower that has heard nothing, and what it will hear.
    #[must_use]
    pub fn new(upstream: Arc<Upstream>) -> (Self, watch::Receiver<Option<Arc<Published>>>) {
        let (publish, published) = watch::channel(None);
        let pacing = Pacing::of(Class::Default.period_ms());
        (Self { upstream, newest: None, authorities: None, lists: BTreeMap::new(), publish, pacing }, published)
    }

    /// Follows until nobody listens any more.
    pub async fn follow(mut self) {
        let mut backoff = BACKOFF_MIN_MS;
        while !self.publish.is_closed() {
            let mut heard = false;
            let fault = self.stream(&mut heard).await;
            self.upstream.metrics.failed();
            tracing::warn!(broker = %self.upstream.broker, fault = %fault, "the broker is not heard");
            backoff = if heard { BACKOFF_MIN_MS } else { BACKOFF_MAX_MS.min(backoff.saturating_mul(2)) };
            sleep(Duration::from_millis(jittered(backoff))).await;
        }
    }

    /// Reads the stream until it breaks.
    async fn stream(&mut self, heard: &mut bool) -> RelayFault {
        let opened = self.open().await;
        let mut response = match opened {
            Ok(response) => response,
            Err(fault) => return fault,
        };
        let mut parser = Parser::default();
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return RelayFault::Ended,
                Err(error) => return error.into(),
            };
            self.upstream.metrics.read(chunk.len());
            let mut events = Vec::new();
            if let Err(error) = parser.read(&chunk, |event| events.push(event)) {
                return error.into();
            }
            for event in events {
                // What is refused does not end the stream: the next pulse may be sound.
                match self.take(&event).await {
                    Ok(()) => *heard = true,
                    Err(fault) => {
                        self.upstream.metrics.failed();
                        tracing::warn!(%fault, "not relayed");
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<reqwest::Response, RelayFault> {
        let stream = self.upstream.address(self.upstream.class.stream());
        let request = self.upstream.client.get(stream).header("accept", "text/event-stream");
        let response = request.send().await?;
        if response.status() == StatusCode::OK { Ok(response) } else { Err(RelayFault::Status(response.status())) }
    }

    async fn take(&mut self, event: &Event) -> Result<(), RelayFault> {
        match event.name.as_str() {
            "authorities" => self.learn(event.data.clone()).map(drop),
            "status-list" => self.keep(event.data.clone()).map(drop),
            "status-delta" => self.change(&event.data),
            "pulse" => self.relay(event.data.clone()).await,
            _ => Ok(()),
        }
    }

    /// Takes up what the broker says of its keys: the next token key is known before it signs.
    fn learn(&mut self, token: String) -> Result<Arc<PublishedAuthorities>, RelayFault> {
        let (now, upstream) = (self.upstream.clock.now(), &self.upstream);
        let authorities = Authorities::verify(&token, &upstream.keys.load(), &upstream.trust_domain, now)?.into_inner();
        if let Some(held) = self.authorities.as_ref().filter(|held| authorities.iat <= held.authorities.iat) {
            return Ok(Arc::clone(held));
        }
        self.upstream.keys.store(Arc::new(authorities.keys.clone()));
        let published = Arc::new(PublishedAuthorities { authorities, token });
        self.authorities = Some(Arc::clone(&published));
        Ok(published)
    }

    fn keep(&mut self, token: String) -> Result<Arc<PublishedList>, RelayFault> {
        let (claims, list) = self.upstream.verify_list(&token)?;
        let signed_at = UnixMillis(claims.iat.saturating_mul(1000));
        Ok(self.hold(PublishedList::new(0, list, Some(token), signed_at, None)))
    }

    /// Changes of a list that is held. Whether they are true, the next pulse says by the digest of what they come to.
    fn change(&mut self, text: &str) -> Result<(), RelayFault> {
        let delta = StatusDelta::parse(text)?;
        // Of a list that is not here, the whole is fetched when a pulse names it.
        let Some(base) = self.lists.get(&delta.from()).cloned() else { return Ok(()) };
        let list = delta.apply(&base.list)?;
        self.hold(PublishedList::new(delta.n(), list, None, base.signed_at, Some(&base)));
        Ok(())
    }

    fn hold(&mut self, list: PublishedList) -> Arc<PublishedList> {
        if SPARE_LISTS_MAX <= self.lists.len() {
            self.lists.pop_first();
        }
        let list = Arc::new(list);
        self.lists.insert(list.sha256, Arc::clone(&list));
        list
    }

    /// Passes a pulse on, once all its lists are there.
    async fn relay(&mut self, token: String) -> Result<(), RelayFault> {
        let now = self.upstream.clock.now();
        let pulse = Pulse::verify(&token, &self.upstream.keys.load(), &self.upstream.trust_domain, now)?;
        if self.newest.as_ref().is_some_and(|newest| !pulse.supersedes(newest)) {
            return Ok(());
        }
        let mut lists = Vec::with_capacity(pulse.lists.len());
        for named in &pulse.lists {
            // Its token is asked for when somebody asks for it.
            let list = match self.lists.get(&named.sha256) {
                Some(list) => Arc::clone(list),
                None => self.keep(self.upstream.list(named.n).await?)?,
            };
            // The list went on meanwhile: the pulse that names it is on its way.
            if list.sha256 != named.sha256 {
                return Ok(());
            }
            lists.push(list);
        }
        self.lists.retain(|digest, _| pulse.lists.iter().any(|named| named.sha256 == *digest));
        let says_new = self.publish.borrow().as_ref().is_none_or(|last| !same_lists(&last.lists, &lists));
        let extra = self.pacing.is_extra(pulse.basis, says_new);
        let authorities = match &self.authorities {
            Some(authorities) => Arc::clone(authorities),
            None => {
                let token = self.upstream.text("v1/authorities").await?;
                self.learn(token)?
            }
        };
        let published = Published { pulse: (*pulse).clone(), token, lists, authorities, extra };
        self.upstream.metrics.relayed(pulse.seq, self.upstream.clock.now().since(pulse.basis));
        self.newest = Some(pulse);
        self.publish.send_replace(Some(Arc::new(published)));
        Ok(())
    }
}

/// A fleet of relays does not come back in step: chance takes up to a half away.
fn jittered(milliseconds: u64) -> u64 {
    let chance = random::<1>().map_or(0, |[byte]| u64::from(byte));
    milliseconds.saturating_sub(milliseconds.saturating_mul(chance) / 512)
}
