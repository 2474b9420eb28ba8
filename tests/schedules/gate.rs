//! Relying parties: the real gate's state and decision, on machines whose clocks are wrong.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::result::svid::KeyProtection;
use countersign_attestation::time::ClockError;
use countersign_gate::clock::Moment;
use countersign_gate::decide::{Decision, Trust, judge};
use countersign_gate::state::{GateState, Offer};

use crate::broker::{Estate, Left, wall};

/// A pulse as it was sent, and what only a simulator knows of it.
pub(crate) struct Message {
    pub(crate) pulse: String,
    pub(crate) lists: Vec<String>,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// True time at which the commit of its basis started, and how far off the broker's clock was then.
    pub(crate) started: u64,
    pub(crate) broker_error: i64,
}

/// Which part of a message arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Pulse,
    Lists,
}

/// When a gate got a pulse, by the two clocks that matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipt {
    pub(crate) started: u64,
    pub(crate) broker_error: i64,
    pub(crate) gate_error: i64,
    /// Whether the gate's kernel knew how far off its clock was at most.
    pub(crate) honest: bool,
}

impl Receipt {
    /// How much longer than Y after its basis the pulse may be believed, by how wrong both clocks were: what the bound
    /// calls the clock error of both sides.
    pub(crate) fn error(&self) -> i64 {
        // What a gate's kernel says is taken off the end of a pulse.
        if self.honest { self.broker_error } else { self.broker_error - self.gate_error }
    }
}

pub(crate) struct Gate {
    state: GateState,
    /// How far off its wall clock is.
    pub(crate) error: i64,
    /// What its kernel says of that.
    pub(crate) said: ClockError,
    pub(crate) asleep: bool,
    pub(crate) cut_off: bool,
    /// What arrived while it slept.
    pub(crate) buffered: Vec<(usize, Part)>,
    /// Lists of the newest message that was sent to it.
    pub(crate) lists_sent: Vec<String>,
    receipts: BTreeMap<(u64, u64), Receipt>,
}

impl Gate {
    pub(crate) fn new(error: i64) -> Self {
        Self {
            state: state(),
            error,
            said: ClockError::NONE,
            asleep: false,
            cut_off: false,
            buffered: Vec::new(),
            lists_sent: Vec::new(),
            receipts: BTreeMap::new(),
        }
    }

    /// The process starts anew and has heard nothing.
    pub(crate) fn restart(&mut self) {
        self.state = state();
        self.receipts.clear();
        self.buffered.clear();
        self.lists_sent.clear();
    }

    pub(crate) fn moment(&self, now: u64) -> Moment {
        Moment { wall: UnixMillis(wall(now, self.error)), steady_ms: now + 5_000, error: self.said }
    }

    /// Takes what arrives; whether it still waits for lists.
    pub(crate) fn take(&mut self, message: &Message, part: Part, now: u64) -> bool {
        let moment = self.moment(now);
        if part != Part::Pulse {
            for list in &message.lists {
                // Refused ones take no effect.
                let _refused = self.state.offer_list(list, moment);
            }
        }
        if part == Part::Lists {
            return false;
        }
        let offer = self.state.offer_pulse(&message.pulse, moment);
        if let Ok(Offer::Installed | Offer::WaitsForLists(_)) = offer {
            let Message { started, broker_error, .. } = *message;
            let honest = self.said.bounded().is_ok_and(|said| self.error.unsigned_abs() <= said);
            let receipt = Receipt { started, broker_error, gate_error: self.error, honest };
            self.receipts.insert((message.epoch, message.seq), receipt);
        }
        matches!(offer, Ok(Offer::WaitsForLists(_)))
    }

    /// The pulse that decisions rest on.
    pub(crate) fn held(&self) -> Option<Receipt> {
        let snapshot = self.state.snapshot();
        let pulse = snapshot.held.as_ref()?.pulse();
        Some(self.receipts[&(pulse.epoch, pulse.seq)])
    }

    /// Whether the credential is accepted. Its chain was verified when it left the broker.
    pub(crate) fn accepts(&self, left: &Left, now: u64) -> bool {
        matches!(judge(&left.credential, &self.state.snapshot(), self.moment(now)), Decision::Allow(_))
    }

    /// The whole decision, as a door asks for it.
    pub(crate) fn decide(&self, left: &Left, now: u64) -> Result<(), &'static str> {
        match self.state.decide(&left.chain, self.moment(now)) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(denial) => Err(denial.code()),
        }
    }
}

fn state() -> GateState {
    let estate = Estate::get();
    let trust =
        Trust { trust_domain: estate.domain.clone(), roots: estate.keys.workload.roots(), keys: KeyProtection::Tpm };
    GateState::new(trust, estate.jwks.clone())
}
