//! The faults: what each does, what is promised of it, and how it is mended.

use std::time::Duration;

use countersign_attestation::digest::Sha256Digest;

use super::deployment::{Deployment, INTERVAL, LEASE, PERIOD, VALIDITY, Who};

/// What one injection came to.
#[derive(Debug)]
pub(super) enum Injected {
    /// It is in effect.
    Now,
    /// It cannot be injected here.
    Skipped(String),
    /// The broker refused what it could not record: nothing changed, nothing was lost.
    Refused(String),
}

/// One fault.
pub(super) struct Fault {
    /// Its name.
    pub(super) name: &'static str,
    /// What happens, in one line.
    pub(super) about: &'static str,
    /// Whether the host loses its generation by it.
    pub(super) revokes: bool,
    /// The longest time to denial.
    pub(super) bound: fn(&Deployment) -> Duration,
    pub(super) inject: fn(&mut Deployment) -> anyhow::Result<Injected>,
    pub(super) mend: fn(&mut Deployment) -> anyhow::Result<()>,
}

/// W: what a gate accepts at most after a revocation, cut off or not. All run on one machine, so that no clock errs;
/// one round of questions is allowed for.
fn w(_: &Deployment) -> Duration {
    VALIDITY.saturating_add(QUESTION)
}

/// Silence of the host: the lease, then the pulse that says so.
fn lease_and_w(deployment: &Deployment) -> Duration {
    LEASE.saturating_add(PERIOD).saturating_add(w(deployment))
}

/// A change that the host itself does not tell of: the next attestation, then W.
fn interval_and_w(deployment: &Deployment) -> Duration {
    INTERVAL.saturating_add(Duration::from_secs(1)).saturating_add(w(deployment))
}

/// One round of questions, on a machine that does much else.
const QUESTION: Duration = Duration::from_millis(250);

const HOUR: i64 = 3600;
/// Within the dates of the credential, so that it is the pulse's end that denies.
const STEP_BACK: i64 = 3;
/// How long the list that ends is valid.
const LIST: Duration = Duration::from_secs(6);

/// Trust ends with the list, and the list's end is in whole seconds.
fn list_and_w(deployment: &Deployment) -> Duration {
    LIST.saturating_add(Duration::from_secs(1)).saturating_add(PERIOD).saturating_add(w(deployment))
}

fn clocks(set: bool) -> Injected {
    if set { Injected::Now } else { Injected::Skipped("no libfaketime (package faketime)".to_owned()) }
}

/// Every fault, in the order of injection.
pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "revoke",
        about: "an operator revokes the host",
        revokes: true,
        bound: w,
        inject: |deployment| deployment.revoke().map(|()| Injected::Now),
        mend: |deployment| deployment.readmit(),
    },
    Fault {
        name: "revoke-cut-off",
        about: "an operator revokes the host while the gate is cut off",
        revokes: true,
        bound: w,
        inject: |deployment| {
            deployment.gate_wire.cut(true);
            deployment.revoke().map(|()| Injected::Now)
        },
        mend: |deployment| {
            deployment.gate_wire.cut(false);
            deployment.readmit()
        },
    },
    Fault {
        name: "broker-kill",
        about: "the broker is killed",
        revokes: false,
        bound: w,
        inject: |deployment| {
            deployment.kill_broker();
            Ok(Injected::Now)
        },
        mend: Deployment::restart_broker,
    },
    Fault {
        name: "broker-pause",
        about: "the broker stands still",
        revokes: false,
        bound: w,
        inject: |deployment| deployment.pause(Who::Broker, true).map(|()| Injected::Now),
        mend: |deployment| deployment.pause(Who::Broker, false),
    },
    Fault {
        name: "store-fault",
        about: "every write of the broker to its files fails; it is started again when they no longer do",
        revokes: false,
        bound: w,
        inject: |deployment| deployment.fail_writes(true).map(|()| Injected::Now),
        mend: Deployment::restart_broker,
    },
    Fault {
        name: "disk-full",
        about: "the broker's disk is full, and an operator revokes the host",
        revokes: true,
        bound: w,
        inject: |deployment| {
            if !deployment.fill_disk(true)? {
                return Ok(Injected::Skipped("only who may mount has a disk to fill".to_owned()));
            }
            Ok(match deployment.revoke() {
                Ok(()) => Injected::Now,
                Err(error) => Injected::Refused(format!("refused: {error}")),
            })
        },
        mend: |deployment| {
            deployment.fill_disk(false)?;
            deployment.restart_broker()?;
            // Where the revocation was refused, the host is as it was.
            deployment.revoke()?;
            deployment.readmit()
        },
    },
    Fault {
        name: "gate-partition",
        about: "the gate is cut off from the broker",
        revokes: false,
        bound: w,
        inject: |deployment| {
            deployment.gate_wire.cut(true);
            Ok(Injected::Now)
        },
        mend: |deployment| {
            deployment.gate_wire.cut(false);
            Ok(())
        },
    },
    Fault {
        name: "agent-partition",
        about: "the agent is cut off from the broker",
        revokes: false,
        bound: lease_and_w,
        inject: |deployment| {
            deployment.agent_wire.cut(true);
            Ok(Injected::Now)
        },
        mend: |deployment| {
            deployment.agent_wire.cut(false);
            Ok(())
        },
    },
    Fault {
        name: "gate-clock-ahead",
        about: "the gate's clock steps an hour ahead",
        revokes: false,
        bound: w,
        inject: |deployment| deployment.set_clock(Who::Gate, HOUR).map(clocks),
        mend: |deployment| deployment.set_clock(Who::Gate, 0).map(drop),
    },
    Fault {
        name: "gate-clock-back",
        about: "the gate is cut off and its clock steps back, as if no time had passed",
        revokes: false,
        bound: w,
        inject: |deployment| {
            deployment.gate_wire.cut(true);
            deployment.set_clock(Who::Gate, -STEP_BACK).map(clocks)
        },
        mend: |deployment| {
            deployment.gate_wire.cut(false);
            deployment.set_clock(Who::Gate, 0).map(drop)
        },
    },
    Fault {
        name: "broker-clock-ahead",
        about: "the broker's clock steps an hour ahead; it is started again when it is right",
        revokes: false,
        bound: w,
        inject: |deployment| deployment.set_clock(Who::Broker, HOUR).map(clocks),
        mend: |deployment| {
            deployment.set_clock(Who::Broker, 0)?;
            deployment.restart_broker()
        },
    },
    Fault {
        name: "tpm-reset",
        about: "the host's TPM is reset, and its boot is measured again only later",
        revokes: false,
        bound: lease_and_w,
        inject: |deployment| deployment.swtpm.power_cycle().map(|()| Injected::Now),
        mend: |deployment| deployment.swtpm.extend(&deployment.boot.extended),
    },
    Fault {
        name: "drift",
        about: "something nobody registered is measured; the host boots anew and an operator readmits it",
        revokes: true,
        bound: interval_and_w,
        inject: |deployment| {
            let digest = Sha256Digest::of(&[b"something nobody registered"]);
            deployment.swtpm.extend(&[(13, digest)]).map(|()| Injected::Now)
        },
        mend: |deployment| {
            deployment.swtpm.power_cycle()?;
            deployment.swtpm.extend(&deployment.boot.extended)?;
            deployment.readmit()
        },
    },
    Fault {
        name: "list-expired",
        about: "the revocation list of the TPM's maker ends, and no newer one comes",
        revokes: false,
        bound: list_and_w,
        inject: |deployment| deployment.publish_list(1, LIST).map(|()| Injected::Now),
        mend: |deployment| deployment.publish_list(2, Duration::from_secs(86_400)),
    },
    Fault {
        name: "suspended",
        about: "the host is suspended, and three hours pass",
        revokes: false,
        bound: w,
        inject: |deployment| {
            deployment.pause(Who::Agent, true)?;
            deployment.set_clock(Who::Gate, 3 * HOUR)?;
            deployment.set_clock(Who::Agent, 3 * HOUR)?;
            deployment.set_clock(Who::Broker, 3 * HOUR).map(clocks)
        },
        mend: |deployment| deployment.pause(Who::Agent, false),
    },
];
