//! A broker starts: everything is restored from disk and checked before the first request is answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::tree::TreeHead;
use countersign_attestation::result::svid::TrustDomain;

use crate::broker::challenge::Challenges;
use crate::broker::reappraise::Reviewed;
use crate::broker::{Broker, authority, collateral, enrol, exceptions, instances, known};
use crate::clock::Clock;
use crate::config::{Config, DataDir};
use crate::credentials::execution::Issuer;
use crate::keys::Keys;
use crate::lineage::archive::Archive;
use crate::lineage::{Lineage, LineageError, LogKey, OpenLog};
use crate::metrics::Metrics;
use crate::references::References;
use crate::store::{Store, Table};
use crate::trust::Trust;
use crate::trust::hosts::Hosts;
use crate::trust::pulse::{Pulser, TREE_HEAD};

/// Attestations with long logs at one time: some 40 MiB each while they are judged.
const LONG_BODIES_MAX: usize = 8;

/// The log's origin line (C2SP tlog-checkpoint): the trust domain and our name.
#[must_use]
pub fn log_origin(trust_domain: &str) -> String {
    format!("{trust_domain}/countersign/log")
}

impl Broker {
    /// Restores a broker from its data directory and starts its pulse.
    ///
    /// # Errors
    /// Anything that is missing, damaged, shorter than it was, or held by another process.
    pub fn start(data: DataDir, config: Config, clock: Clock) -> anyhow::Result<Arc<Self>> {
        let trust_domain =
            TrustDomain::parse(&config.trust_domain).context("trust_domain is no SPIFFE trust domain")?;
        let keys = Arc::new(Keys::load(&data, &trust_domain, &config.authority, clock.now())?);
        let store = Store::open(&data.store(), clock.clone())?;
        let archive = Archive::open(&data.archive())?;
        let origin = log_origin(&config.trust_domain);
        let log_key = LogKey::load(&data.keys().join("log.key"), &origin)?;
        let (trust, lineage, registered) =
            restore(&store, |floor| Lineage::open(&data.log(), &origin, log_key, floor))?;
        let hosts = Hosts::load(store.clone()).map_err(|error| anyhow::anyhow!("host records: {error}"))?;
        let references = References::load(&data, &config, store.clone(), archive.clone(), registered, clock.now())?;
        let now = clock.now();
        let sources = collateral::Sources::load(&data, now)?;
        let governance = references.current();
        for entry in [
            Entry::broker_started(now, env!("CARGO_PKG_VERSION")),
            Entry::policy_activated(now, "broker", governance.digests.policy),
        ] {
            lineage.append_blocking(entry)?;
        }
        let list_uri = format!("https://{}/v1/status-lists/", address(&config));
        let pulse = Pulser {
            trust: trust.clone(),
            lineage: lineage.clone(),
            store: store.clone(),
            keys: Arc::clone(&keys),
            clock: clock.clone(),
            trust_domain: trust_domain.clone(),
            origin,
            list_uri: list_uri.clone(),
            validity_ms: config.pulse_validity_ms,
            lease_ms: config.lease_ms,
        };
        let pulse = pulse.start(Duration::from_millis(config.pulse_period_ms))?;
        let build = format!("countersign {}", env!("CARGO_PKG_VERSION"));
        let issuer = issuer_url(&config);
        let wit_svid = config.wit_svid;
        let issuer = Issuer { keys: Arc::clone(&keys), trust_domain, list_uri, issuer, build, wit_svid };
        let broker = Arc::new(Self {
            metrics: Metrics::new(),
            long_bodies: tokio::sync::Semaphore::new(LONG_BODIES_MAX),
            challenges: Challenges::new()?,
            enrollments: enrol::Pending::default(),
            latest: std::sync::Mutex::default(),
            boots: known::Boots::default(),
            instances: instances::Instances::default(),
            warm: super::warm::Warm::default(),
            nonces: super::nonce::Allowance::default(),
            sources,
            previewing: std::sync::Mutex::default(),
            ending: tokio::sync::Mutex::default(),
            reviewed: tokio::sync::Mutex::new(Reviewed::start(now)),
            authority_fault: std::sync::Mutex::default(),
            config,
            data,
            clock,
            keys,
            hosts,
            trust,
            lineage,
            store,
            references,
            pulse,
            archive,
            issuer,
        });
        broker.watch();
        Ok(broker)
    }

    /// What goes on beside the requests.
    fn watch(self: &Arc<Self>) {
        tokio::spawn(exceptions::watch(Arc::downgrade(self)));
        tokio::spawn(collateral::watch(Arc::downgrade(self)));
        tokio::spawn(authority::watch(Arc::downgrade(self)));
        let judging = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(problem) = judging.reappraise_where_changed().await {
                tracing::error!(?problem, "hosts were not judged again");
            }
        });
    }
}

/// The issuer of this broker's tokens (OpenID Connect Discovery 1.0, 4): https, its first name, and its port.
#[must_use]
pub fn issuer_url(config: &Config) -> String {
    format!("https://{}", address(config))
}

/// How relying parties reach this broker: its first name, and its port.
fn address(config: &Config) -> String {
    let name = config.server_names.first().map_or("localhost", String::as_str);
    format!("{name}:{}", config.listen.port())
}

/// Trust and the log that it follows from, as they are durable, and the manifests that are registered by it.
///
/// # Errors
/// A log that is damaged, or is not the one that the store remembers.
pub fn restore(
    store: &Store,
    open: impl FnOnce(Option<TreeHead>) -> Result<OpenLog, LineageError>,
) -> anyhow::Result<(Trust, Lineage, BTreeSet<Sha256Digest>)> {
    // The store remembers a tree head from before every pulse: a log that lost entries since is refused.
    let log = open(tree_head(store)?)?;
    let trust = Trust::restore(store, |index| log.entry(index).map_err(|error| error.to_string()))?;
    let (sink, registered) = (trust.clone(), log.registered().clone());
    let lineage = log.start(move |index, entry: &Entry| sink.apply(index, entry))?;
    Ok((trust, lineage, registered))
}

fn tree_head(store: &Store) -> anyhow::Result<Option<TreeHead>> {
    let Some(bytes) = store.get(Table::Meta, TREE_HEAD)? else { return Ok(None) };
    let (size, root) = bytes.split_first_chunk::<8>().context("the stored tree head is damaged")?;
    let root: [u8; 32] = root.try_into().context("the stored tree head is damaged")?;
    Ok(Some(TreeHead { size: u64::from_be_bytes(*size), root: Sha256Digest(root) }))
}
