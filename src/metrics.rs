//! Counters and histograms, in OpenMetrics text. Reason codes are labels; host ids never are.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use countersign_attestation::UnixMillis;
use countersign_attestation::time::ClockError;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Outcome and first reason of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    outcome: &'static str,
    code: String,
}

/// One route's answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    status: u16,
}

/// Standing of hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StandingLabels {
    standing: &'static str,
}

/// What came of asking a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    source: String,
    outcome: String,
}

/// A piece of collateral.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SubjectLabels {
    subject: String,
}

/// Everything the broker counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    hosts: Family<StandingLabels, Gauge>,
    log_entries: Gauge,
    pulse_age: Gauge,
    fetches: Family<FetchLabels, Counter>,
    next_updates: Family<SubjectLabels, Gauge>,
    ends: Family<SubjectLabels, Gauge>,
    warnings: Gauge,
    clock_error: Gauge<f64, AtomicU64>,
    issuing_left: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that start at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let decisions = Family::default();
        registry.register("decisions", "Decisions by outcome and first reason code", Family::clone(&decisions));
        let requests = Family::default();
        registry.register("requests", "Answered requests by route and status", Family::clone(&requests));
        let seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 16));
        registry.register_with_unit("request", "Time to answer", Unit::Seconds, seconds.clone());
        let hosts = Family::default();
        registry.register("hosts", "Hosts by standing", Family::clone(&hosts));
        let log_entries = Gauge::default();
        registry.register("log_entries", "Entries in the lineage log", log_entries.clone());
        let pulse_age = Gauge::default();
        registry.register("pulse_age_ms", "Milliseconds since the basis of the newest pulse", pulse_age.clone());
        let fetches = Family::default();
        let fetched = "Collateral asked for, by source and outcome: ok, or why it is not used";
        registry.register("collateral_fetches", fetched, Family::clone(&fetches));
        let (next_updates, ends) = (Family::default(), Family::default());
        let (next, end) = ("nextUpdate of collateral", "When collateral ends, with the grace in force");
        registry.register_with_unit("collateral_next_update", next, Unit::Seconds, Family::clone(&next_updates));
        registry.register_with_unit("collateral_ends", end, Unit::Seconds, Family::clone(&ends));
        let warnings = Gauge::default();
        registry.register("collateral_warnings", "What /readyz warns of", warnings.clone());
        let clock_error = Gauge::default();
        let error = "Clock error of this machine; -1 where it is not known or too large, and nothing is signed";
        registry.register_with_unit("clock_error", error, Unit::Seconds, clock_error.clone());
        let issuing_left = Gauge::default();
        let left = "Until the end of the last valid issuing certificate; 0 when there is none and nothing is issued";
        registry.register_with_unit("issuing_certificate_left", left, Unit::Seconds, issuing_left.clone());
        Self {
            registry,
            issuing_left,
            decisions,
            requests,
            seconds,
            hosts,
            log_entries,
            pulse_age,
            fetches,
            next_updates,
            ends,
            warnings,
            clock_error,
        }
    }

    /// Counts a decision by its findings' codes; none means granted.
    pub fn decision(&self, codes: &[String]) {
        let labels = match codes.first() {
            None => DecisionLabels { outcome: "granted", code: String::new() },
            Some(code) => DecisionLabels { outcome: "denied", code: code.clone() },
        };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts an answered request. `route` is the table's pattern, never the path that was asked for.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Sets how many hosts stand where.
    pub fn hosts(&self, standing: &'static str, count: usize) {
        self.hosts.get_or_create(&StandingLabels { standing }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the log's size and the newest pulse's age.
    pub fn progress(&self, log_entries: u64, pulse_age_ms: u64) {
        self.log_entries.set(i64::try_from(log_entries).unwrap_or(i64::MAX));
        self.pulse_age.set(i64::try_from(pulse_age_ms).unwrap_or(i64::MAX));
    }

    /// Counts an answer of a source of collateral: `ok`, or why it is not used.
    pub fn fetched(&self, source: &str, outcome: &str) {
        let labels = FetchLabels { source: source.to_owned(), outcome: outcome.to_owned() };
        self.fetches.get_or_create(&labels).inc();
    }

    /// Sets when a piece of collateral should be renewed, and when it ends.
    pub fn collateral(&self, subject: &str, next_update: UnixMillis, ends: UnixMillis) {
        let labels = SubjectLabels { subject: subject.to_owned() };
        let seconds = |at: UnixMillis| i64::try_from(at.seconds()).unwrap_or(i64::MAX);
        self.next_updates.get_or_create(&labels).set(seconds(next_update));
        self.ends.get_or_create(&labels).set(seconds(ends));
    }

    /// Sets the clock error.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a second")]
    pub fn clock(&self, error: ClockError) {
        self.clock_error.set(error.bounded().map_or(-1.0, |error_ms| error_ms as f64 / 1000.0));
    }

    /// Sets how much there is to warn of.
    pub fn warnings(&self, count: usize) {
        self.warnings.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets how long there is an issuing certificate.
    pub fn issuing(&self, left_ms: u64) {
        self.issuing_left.set(i64::try_from(left_ms / 1000).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// [`std::fmt::Error`] when a label cannot be written.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Everything a relay counts.
#[derive(Debug)]
pub struct RelayMetrics {
    registry: Registry,
    subscribers: Gauge,
    sequence: Gauge<u64, AtomicU64>,
    age: Gauge<f64, AtomicU64>,
    lag: Histogram,
    failures: Counter,
    upstream_bytes: Counter,
    bytes: Counter,
}

impl Default for RelayMetrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("countersign_relay");
        let (subscribers, sequence, age) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("subscribers", "Streams that are open", Gauge::clone(&subscribers));
        registry.register("pulse_sequence", "Sequence of the newest pulse", Gauge::clone(&sequence));
        let help = "Time since the basis of the newest pulse; -1 without one";
        registry.register("pulse_age_seconds", help, Gauge::clone(&age));
        let lag = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        registry.register("lag_seconds", "Time from the basis of a pulse until it is relayed", lag.clone());
        let (failures, upstream_bytes, bytes) = (Counter::default(), Counter::default(), Counter::default());
        registry.register(
            "upstream_failures",
            "Connections upstream that failed, and what was refused",
            failures.clone(),
        );
        registry.register("upstream_bytes", "Bytes of the stream that is followed", upstream_bytes.clone());
        registry.register("bytes", "Bytes of events for subscribers", bytes.clone());
        Self { registry, subscribers, sequence, age, lag, failures, upstream_bytes, bytes }
    }
}

impl RelayMetrics {
    /// A pulse is relayed, so long after its basis.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of at most ten seconds")]
    pub fn relayed(&self, sequence: u64, lag_ms: u64) {
        self.sequence.set(sequence);
        self.lag.observe(lag_ms as f64 / 1000.0);
    }

    /// Upstream failed, or said what was refused.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// So much of the stream was read.
    pub fn read(&self, bytes: usize) {
        self.upstream_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Counts what subscribers are sent.
    #[must_use]
    pub fn bytes(&self) -> Counter {
        self.bytes.clone()
    }

    /// OpenMetrics text.
    ///
    /// # Errors
    /// [`std::fmt::Error`] when it cannot be written.
    #[expect(clippy::cast_precision_loss, reason = "a gauge of seconds does not need 53 bits")]
    pub fn encode(&self, subscribers: usize, age_ms: Option<u64>) -> Result<String, std::fmt::Error> {
        self.subscribers.set(i64::try_from(subscribers).unwrap_or(i64::MAX));
        self.age.set(age_ms.map_or(-1.0, |age| age as f64 / 1000.0));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
