//! One attestation, and the rhythm of many: on time, at once on drift, again after failures.

use countersign_attestation::binder::Nonce;
use countersign_attestation::evidence::bundle::{Bundle, TdxEvidence};
use countersign_attestation::protocol::{
    AttestationRequest, AttestationResponse, Base64Bytes, Challenge, IssuedCredential, Problem,
};
use countersign_clock::Keeper;
use tokio::sync::{mpsc, watch};

use crate::backoff::{Backoff, random};
use crate::broker_client::BrokerError;
use crate::channel::Channel;
use crate::clock::{self, Now};
use crate::collect::hardware::{Hardware, HardwareSource};
use crate::collect::logs::{Logs, NewLogs};
use crate::collect::tpm::{CredentialKey, TpmEvidence, collect};
use crate::device::{Session, Tpm, TpmError};
use crate::error::AgentError;
use crate::keys::{Ak, WrappedKey};
use crate::trust::Lease;
use crate::watch::Baseline;
use crate::workload_key::MemoryKey;

/// First pause after a failure or denial, at most; it doubles.
const RETRY_FIRST_MS: u64 = 250;
/// Longest pause after a failure: several attempts fit in a lease.
const RETRY_MAX_MS: u64 = 2_000;
/// Longest pause after a denial: an operator may re-admit the host.
const DENIED_RETRY_MAX_MS: u64 = 5_000;
/// Part of the broker's interval that jitter may take away, so that a fleet does not attest in step: an eighth.
const JITTER_DIVISOR: u64 = 8;

/// What the attester may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Do not wait.
    AttestNow,
    /// Trust was lost: the next attestation is with a new credential key.
    RenewKey,
}

/// How an attestation ended.
#[derive(Debug)]
pub enum Outcome {
    /// Granted.
    Granted(Box<Granted>),
    /// The broker decided against this host.
    Denied(Box<Problem>),
    /// No decision.
    Failed(AgentError),
}

/// A grant, received.
#[derive(Debug)]
pub struct Granted {
    /// The broker's answer.
    pub response: AttestationResponse,
    /// The lease on this host's clocks.
    pub lease: Lease,
    /// A new credential and its key file.
    pub credential: Option<(IssuedCredential, String)>,
    /// The key that [`IssuedCredential::workload_chain`] is for.
    pub workload_key: Option<MemoryKey>,
}

/// What is needed to attest.
#[derive(Debug)]
pub struct Attester {
    /// The TPM.
    pub tpm: Tpm,
    /// The AK.
    pub attestation_key: Ak,
    /// Event log and IMA list.
    pub logs: Logs,
    /// Where the hardware's proofs come from.
    pub hardware: HardwareSource,
    /// The broker, with the channel certificate.
    pub broker: Channel,
    /// Tells the watch what was quoted.
    pub baseline: watch::Sender<Option<Baseline>>,
    /// Whom JWT-SVIDs are wanted for.
    pub audiences: Vec<String>,
    /// Whether workloads are to have a key in memory.
    pub wants_workload_key: bool,
    /// Who vouches for the clock that leases are seen by.
    pub keeper: Keeper,
    /// The credential key of the live credential, and when to renew.
    current: Option<(WrappedKey, countersign_attestation::UnixMillis)>,
}

impl Attester {
    /// An attester without a credential yet.
    #[must_use]
    pub fn new(
        tpm: Tpm,
        attestation_key: Ak,
        logs: Logs,
        hardware: HardwareSource,
        broker: Channel,
        baseline: watch::Sender<Option<Baseline>>,
    ) -> Self {
        let (audiences, wants_workload_key, keeper, current) = (Vec::new(), false, Keeper::default(), None);
        Self { tpm, attestation_key, logs, hardware, broker, baseline, audiences, wants_workload_key, keeper, current }
    }

    /// Attests once.
    pub async fn attest(&mut self) -> Outcome {
        // By a clock that nobody keeps, no lease would be worth anything.
        if let Err(error) = self.clock_error_ms() {
            return Outcome::Failed(error);
        }
        match self.try_attest().await {
            Ok(granted) => Outcome::Granted(Box::new(granted)),
            Err(error) => {
                let Some(problem) = error.denial().cloned() else { return Outcome::Failed(error) };
                // A credential of before a denial never comes back to life.
                self.current = None;
                Outcome::Denied(Box::new(problem))
            }
        }
    }

    fn clock_error_ms(&self) -> Result<u64, AgentError> {
        self.keeper.error().bounded().map_err(AgentError::Clock)
    }

    async fn try_attest(&mut self) -> Result<Granted, AgentError> {
        // 1. A challenge, the connection it came on, and the key it is for.
        let (challenge, channel) = self.broker.challenge().await?;
        let nonce = nonce_of(&challenge)?;
        let wanted = match &self.current {
            Some((key, renew_at)) if clock::wall() < *renew_at => CredentialKey::Current(key.clone()),
            Some(_) | None => CredentialKey::New,
        };
        let is_new = wanted == CredentialKey::New;
        let workload_key = (is_new && self.wants_workload_key).then(MemoryKey::generate).transpose()?;
        let offered = workload_key.as_ref().map(|key| (nonce, key.spki().to_vec()));
        // 2. The TPM's part, in one sequence. How long the IMA list was before: what comes while the TPM works may be
        //    in the quote or not, and is news for the watch.
        let (ak, selection) = (self.attestation_key.clone(), challenge.pcr_selection.clone());
        let ima_length = self.logs.ima_length(&selection)?;
        let collecting =
            move |tpm: &mut Session| collect(tpm, &ak, wanted, (&nonce, &channel), &selection, offered.as_ref());
        let evidence = self.tpm.run(collecting).await?;
        let (selection, values) = (challenge.pcr_selection.clone(), evidence.pcrs.clone());
        self.baseline.send_replace(Some(Baseline { selection, values, ima_length }));
        // 3. The logs behind the quote, and the hardware's report over the same binder, where there is one.
        let key = evidence.credential_key.clone();
        let report_data = *key.binder(&nonce, &channel)?.report_data();
        let (mut logs, hardware) = (self.logs.clone(), self.hardware.clone());
        let (known, selection) = (challenge.known_boot, challenge.pcr_selection);
        let collected = tokio::task::spawn_blocking(move || {
            let new = logs.collect(known, evidence.boot, &selection)?;
            Ok::<_, AgentError>((logs, new, hardware.collect(&report_data)?))
        });
        let (logs, new, hardware) = collected.await.map_err(|_| AgentError::Tpm(TpmError::Stopped))??;
        self.logs = logs;
        tracing::debug!(
            event_log_bytes = new.event_log.as_ref().map(Vec::len),
            ima_from = new.ima.as_ref().map(|ima| ima.from),
            ima_bytes = new.ima.as_ref().map(|ima| ima.list.len()),
            "evidence is collected"
        );
        // 4. The broker decides.
        let spki = key.p256_spki()?;
        let endorsed = workload_key.as_ref().zip(evidence.endorsement);
        let offered = endorsed.map(|(key, endorsement)| key.offer(&nonce, &spki, endorsement)).transpose()?;
        let request = AttestationRequest {
            challenge: challenge.challenge,
            credential_key: Base64Bytes(spki),
            evidence: bundle(evidence, new, hardware).encode(),
            audiences: self.audiences.clone(),
            workload_key: offered,
        };
        let mut response = self.broker.attest(&request).await?;
        // The lease is counted from here, where its end on the broker's clock is known.
        let lease = Lease::seen_within(response.lease_until, clock::now(), self.clock_error_ms()?);
        let credential = response.credential.take();
        if is_new && credential.is_none() {
            return Err(AgentError::Grant("sent no credential for a new key"));
        }
        let credential = credential.map(|credential| {
            self.current = Some((key.clone(), credential.renew_at));
            (credential, key.to_tss2_pem())
        });
        Ok(Granted { response, lease, credential, workload_key })
    }

    /// Attests for ever, and tells how each attempt ended.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, outcomes: mpsc::Sender<Outcome>) {
        let mut pause = Pause::default();
        loop {
            let outcome = self.attest().await;
            let renew_at = self.current.as_ref().map(|(_, renew_at)| *renew_at);
            let wait_ms = pause.after(&outcome, renew_at, clock::now(), random());
            if outcomes.send(outcome).await.is_err() {
                return;
            }
            tokio::select! {
                () = clock::sleep(wait_ms) => {}
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::AttestNow) => {}
                    Some(Command::RenewKey) => self.current = None,
                },
            }
            // Commands that came meanwhile ask for the one attestation that comes next.
            while let Ok(command) = commands.try_recv() {
                if command == Command::RenewKey {
                    self.current = None;
                }
            }
        }
    }
}

/// Everything that is sent of this host for one challenge.
fn bundle(evidence: TpmEvidence, new: NewLogs, hardware: Hardware) -> Bundle {
    Bundle {
        tpm_quote: evidence.quote,
        tpm_pcrs: evidence.pcrs.to_tpm2bs(),
        tpm_certify: evidence.certify,
        event_log: new.event_log,
        ima: new.ima,
        snp: hardware.snp,
        tdx: hardware.tdx.map(|tdx| TdxEvidence { ccel: new.ccel, ..tdx }),
        paravisor: hardware.paravisor,
    }
}

fn nonce_of(challenge: &Challenge) -> Result<Nonce, AgentError> {
    let wrong = |found: String| BrokerError::Answer { request: "challenge", status: 201, found };
    let length = challenge.nonce.0.len();
    let nonce = Nonce::try_from(challenge.nonce.0.as_slice());
    nonce.map_err(|_| wrong(format!("a nonce of {length} bytes")).into())
}

/// How long to wait after an outcome; no I/O.
#[derive(Debug)]
struct Pause {
    backoff: Backoff,
}

impl Default for Pause {
    fn default() -> Self {
        Self { backoff: Backoff::new(RETRY_FIRST_MS) }
    }
}

impl Pause {
    fn after(
        &mut self,
        outcome: &Outcome,
        renew_at: Option<countersign_attestation::UnixMillis>,
        now: Now,
        random: u64,
    ) -> u64 {
        match outcome {
            Outcome::Granted(granted) => {
                let interval = granted.response.attest_again_in_ms;
                // Hosts that came back together do not stay together: the next attestation is anywhere in the interval.
                let least = if self.backoff.succeeded() {
                    interval / JITTER_DIVISOR
                } else {
                    interval.saturating_sub(interval / JITTER_DIVISOR)
                };
                let span = interval.saturating_sub(least).saturating_add(1);
                let early = interval.saturating_sub(random.checked_rem(span).unwrap_or(0));
                // A renewal that is due in between comes first.
                renew_at.map_or(early, |renew_at| early.min(renew_at.since(now.wall)).max(RETRY_FIRST_MS.min(early)))
            }
            Outcome::Denied(_) => self.backoff.pause_ms(DENIED_RETRY_MAX_MS, random),
            Outcome::Failed(_) => self.backoff.pause_ms(RETRY_MAX_MS, random),
        }
    }
}

#[cfg(test)]
mod fleet;

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::protocol::AttestationResponse;

    use super::{Granted, Outcome, Pause};
    use crate::clock::Now;
    use crate::error::AgentError;
    use crate::trust::Lease;

    const NOW: Now = Now { wall: UnixMillis(1_000_000), boot_ms: 50 };

    fn granted(attest_again_in_ms: u64) -> Outcome {
        let lease_until = UnixMillis(1_045_000);
        let decision = Sha256Digest([0; 32]);
        let response =
            AttestationResponse { decision, log_index: 0, lease_until, attest_again_in_ms, credential: None };
        Outcome::Granted(Box::new(Granted {
            response,
            lease: Lease::new(lease_until, NOW),
            credential: None,
            workload_key: None,
        }))
    }

    #[test]
    fn jitter_only_makes_it_earlier_and_renewal_comes_first() {
        let wait = |renew_at: Option<u64>, jitter| {
            Pause::default().after(&granted(15_000), renew_at.map(UnixMillis), NOW, jitter)
        };
        assert_eq!(wait(None, 0), 15_000);
        assert_eq!(wait(None, 1875), 15_000 - 1875);
        assert_eq!(wait(None, 1876), 15_000);
        assert_eq!(wait(Some(1_004_000), 0), 4_000);
        assert_eq!(wait(Some(2_000_000), 0), 15_000);
        assert_eq!(wait(Some(900_000), 0), 250, "a renewal in the past does not spin");
    }

    #[test]
    fn failures_back_off_and_a_grant_resets_and_spreads() {
        let mut pause = Pause::default();
        let failed = || Outcome::Failed(AgentError::Grant("x"));
        let waits = [187, 374, 750, 1500, 1500].map(|most| pause.after(&failed(), None, NOW, most));
        assert_eq!(waits, [62 + 187, 125 + 374, 1000, 2000, 2000]);
        for _ in 0..100 {
            assert_eq!(pause.after(&failed(), None, NOW, 7), 507);
        }
        assert_eq!(pause.after(&granted(15_000), None, NOW, 13_125), 1_875, "anywhere in the interval, once");
        assert_eq!(pause.after(&granted(15_000), None, NOW, 1_875), 15_000 - 1_875);
        assert_eq!(pause.after(&granted(15_000), None, NOW, 13_125), 15_000 - 13_125 % 1_876);
        assert_eq!(pause.after(&failed(), None, NOW, 7), 69);
    }
}
