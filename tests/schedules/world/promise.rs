//! What must hold after everything that happens.

use countersign_agent::trust::Event as AgentEvent;
use countersign_attestation::pulse::CLOCK_ERROR_MAX_MS;

use super::{World, signed};

impl World {
    pub(crate) fn check(&mut self) {
        for gate in 0..self.gates.len() {
            self.check_gate(gate);
        }
        let now = self.time.now();
        let place = self.place();
        for host in self.hosts.iter_mut().filter(|host| !host.asleep) {
            host.agent.on(AgentEvent::Tick, host.now(now));
            assert!(!host.agent.is_live() || signed(now) < host.lease_end, "{} outlives its lease: {place}", host.id);
        }
    }

    pub(super) fn check_gate(&mut self, number: usize) {
        let (now, settings, gate) = (self.time.now(), self.settings, &self.gates[number]);
        if gate.asleep {
            return;
        }
        let Some(held) = gate.held() else {
            for credential in &self.credentials {
                assert!(!gate.accepts(&credential.left, now), "accepted without a pulse: {}", self.place());
            }
            return;
        };
        // W is Y and the clock error of both sides.
        let bound = settings.validity_ms.saturating_add_signed(held.error());
        let mut tally = self.tally;
        for credential in &self.credentials {
            if !gate.accepts(&credential.left, now) {
                continue;
            }
            tally.accepted += 1;
            tally.counted += u64::from(held.honest && gate.error != 0);
            assert!(gate.said.bounded().is_ok(), "accepted by a clock that nobody keeps: {}", self.place());
            let what = || format!("gate {number}, credential of entry {}: {}", credential.index, self.place());
            if let Some(revoked_at) = credential.revoked_at {
                let late = now - revoked_at;
                assert!(late < bound, "accepted {late} ms after its revocation, W is {bound} ms: {}", what());
                tally.late += 1;
                tally.latest_ms = tally.latest_ms.max(late);
            }
            // Silence: the lease of the last proof, on the broker's clock of then, and W after it.
            let host = &self.hosts[credential.host];
            let end = host.latest_end + signed(settings.validity_ms) - held.gate_error;
            assert!(signed(now) < end, "accepted {} ms after the last lease: {}", signed(now) - end, what());
            // A lease that a clock which was wrong made long ends when a clock which is right is asked.
            let longest = signed(held.started + settings.lease_ms + CLOCK_ERROR_MAX_MS) + held.broker_error;
            if let Some((_, end)) = host.granted.filter(|(at, _)| *at <= held.started) {
                assert!(end <= longest, "a lease is {} ms too long: {}", end - longest, what());
            }
        }
        self.tally = tally;
    }
}
