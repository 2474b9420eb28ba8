//! What the gate counts. Labels are reason codes: a closed set.

use core::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::clock::Moment;
use crate::decide::Decision;
use crate::state::GateState;

/// Upper bounds of the propagation histogram, in seconds: from a local broker to the longest life of a pulse.
const PROPAGATION_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The gate's metrics and their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: Family<Code, Counter>,
    pulses: Family<Code, Counter>,
    feed_faults: Family<Code, Counter>,
    handshakes: Family<Outcome, Counter>,
    proxied: Family<Code, Counter>,
    cut_off: Family<Code, Counter>,
    connections: Gauge,
    rereads: Family<Outcome, Counter>,
    propagation: Histogram,
    pulse_age: Gauge<f64, AtomicU64>,
    pulse_left: Gauge<f64, AtomicU64>,
    pulse_sequence: Gauge<u64, AtomicU64>,
    clock_error: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("countersign_gate");
        let (decisions, pulses, feed_faults) = (Family::default(), Family::default(), Family::default());
        let (handshakes, proxied, cut_off) = (Family::default(), Family::default(), Family::default());
        let connections: Gauge = Gauge::default();
        registry.register("proxy_handshakes", "Handshakes at the proxy door, by outcome", handshakes.clone());
        registry.register(
            "proxy_requests",
            "Requests let in at the proxy door, by what became of them",
            proxied.clone(),
        );
        registry.register("proxy_cut_off", "Open connections that were cut, by reason", cut_off.clone());
        registry.register("proxy_connections", "Connections open at the proxy door", connections.clone());
        let rereads = Family::default();
        registry.register("rereads", "Files that were read anew, by outcome", rereads.clone());
        let propagation = Histogram::new(PROPAGATION_SECONDS);
        let (pulse_age, pulse_left, pulse_sequence) = (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("decisions", "Decisions by code; allow is the one that is no denial", decisions.clone());
        registry.register("pulses", "Pulses received, by what became of them", pulses.clone());
        registry.register("feed_faults", "Faults of the feed, by code", feed_faults.clone());
        let help = "Time from the basis of a pulse until it decides here: how long a revocation takes";
        registry.register("revocation_latency_seconds", help, propagation.clone());
        registry.register(
            "pulse_age_seconds",
            "Time since the basis of the newest pulse; -1 without one",
            pulse_age.clone(),
        );
        registry.register("pulse_left_seconds", "Time until the newest pulse expires", pulse_left.clone());
        registry.register("pulse_sequence", "Sequence of the newest pulse", pulse_sequence.clone());
        let clock_error = Gauge::default();
        let error = "Clock error of this machine; -1 where it is not known or too large, and nobody is let in";
        registry.register("clock_error_seconds", error, clock_error.clone());
        Self {
            registry,
            decisions,
            pulses,
            feed_faults,
            handshakes,
            proxied,
            cut_off,
            connections,
            rereads,
            propagation,
            pulse_age,
            pulse_left,
            pulse_sequence,
            clock_error,
        }
    }
}

impl Metrics {
    /// Counts a decision.
    pub fn decided(&self, decision: &Decision) {
        let code = match decision {
            Decision::Allow(_) => "allow",
            Decision::Deny(denial) => denial.code(),
        };
        self.decisions.get_or_create(&Code { code }).inc();
    }

    /// Counts a pulse by what became of it: `installed`, `not_newer`, `waits_for_lists`, or why it was refused.
    pub fn pulse(&self, code: &'static str) {
        self.pulses.get_or_create(&Code { code }).inc();
    }

    /// Observes how long an installed pulse took from its basis.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of at most ten seconds")]
    pub fn propagated(&self, milliseconds: u64) {
        self.propagation.observe(milliseconds as f64 / 1000.0);
    }

    /// Counts a fault of a feed.
    pub fn feed_fault(&self, code: &'static str) {
        self.feed_faults.get_or_create(&Code { code }).inc();
    }

    /// Counts a handshake: `done`, `refused`, `timeout`, or `full` where there was no place for one that was done.
    pub fn handshake(&self, outcome: &'static str) {
        self.handshakes.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a request that was let in: `forwarded`, or why not.
    pub fn proxied(&self, code: &'static str) {
        self.proxied.get_or_create(&Code { code }).inc();
    }

    /// Counts an open connection that was cut.
    pub fn cut_off(&self, code: &'static str) {
        self.cut_off.get_or_create(&Code { code }).inc();
    }

    /// A connection is open.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// It is no more.
    pub fn disconnected(&self) {
        self.connections.dec();
    }

    /// Counts files read anew: `changed`, or `failed` where what was in force stays so.
    pub fn reread(&self, outcome: &'static str) {
        self.rereads.get_or_create(&Outcome { outcome }).inc();
    }

    /// How often files were changed and failed.
    #[cfg(test)]
    pub(crate) fn rereads(&self) -> (u64, u64) {
        let count = |outcome| self.rereads.get_or_create(&Outcome { outcome }).get();
        (count("changed"), count("failed"))
    }

    /// The metrics as text (OpenMetrics), with the pulse's age as of `now`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a gauge of seconds does not need 53 bits")]
    pub fn render(&self, state: &GateState, now: Moment) -> String {
        self.clock_error.set(now.error.bounded().map_or(-1.0, |error_ms| error_ms as f64 / 1000.0));
        match &state.snapshot().held {
            None => {
                self.pulse_age.set(-1.0);
                self.pulse_left.set(0.0);
            }
            Some(held) => {
                self.pulse_age.set(now.wall.since(held.pulse().basis) as f64 / 1000.0);
                let left = if held.check_fresh(now).is_ok() { held.until().since(now.wall) } else { 0 };
                self.pulse_left.set(left as f64 / 1000.0);
                self.pulse_sequence.set(held.pulse().seq);
            }
        }
        let mut text = String::new();
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing to a string cannot fail; an unreadable page would rather be an empty one.
            Err(core::fmt::Error) => String::new(),
        }
    }
}
