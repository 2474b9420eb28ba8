//! What verification of a host's next evidence would only compute again: its parsed AK, the endorsement of its VEK,
//! and what its event log says.
//! Nothing here is believed for being kept: each use names the bytes it was made from, and replay goes without.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use countersign_attestation::anchor::IntelAnchor;
use countersign_attestation::claims::{BootClaims, HexBytes, PcrBank, PcrHash, TpmClaims};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::amd::{self, VerifiedVek};
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::logs::IMA_PCR;
use countersign_attestation::evidence::tdx::{Quote, VerifiedQe};
use countersign_attestation::evidence::tpm::EnrolledTpm;
use countersign_attestation::evidence::tpm::key::AttestationKey;
use countersign_attestation::protocol::HostId;
use countersign_attestation::x509::ListValidity;
use countersign_attestation::{JudgedAt, Rejection, UnixMillis};

use crate::broker::judge::Inputs;
use crate::broker::recent::Recent;
use crate::collateral::intel::PlatformCollateral;
use crate::references::Governance;

/// A VEK takes about a kilobyte; a fleet larger than this endorses some of its chips more often.
const VEKS_MAX: usize = 4096;

/// Families of platforms: a fleet has a few.
const INTEL_MAX: usize = 256;

/// Kept by VEK certificate and by the anchors and lists it was checked with.
type Veks = BTreeMap<(Sha256Digest, Sha256Digest), Arc<VerifiedVek>>;

/// Parsed AKs by host, endorsed VEKs by certificate.
#[derive(Debug, Default)]
pub struct Warm {
    tpms: Mutex<Recent<Arc<EnrolledTpm>>>,
    veks: Mutex<Veks>,
    boots: Mutex<Recent<KeptBoot>>,
    /// By documents and grace.
    intel: Mutex<BTreeMap<(Sha256Digest, u64), Arc<VerifiedCollateral>>>,
    /// By the path of a TPM's endorsement and the collateral it was compared with.
    endorsements: Mutex<BTreeMap<(Sha256Digest, Sha256Digest), Option<ListValidity>>>,
    quoting_enclaves: Mutex<BTreeMap<(Sha256Digest, Sha256Digest), Arc<VerifiedQe>>>,
}

/// Boot claims, and all that they were made from.
#[derive(Debug)]
struct KeptBoot {
    log: Sha256Digest,
    pcrs: BTreeMap<PcrHash, PcrBank>,
    boot: BootClaims,
}

/// The PCRs that a boot log is replayed to: not those that the running system extends (IMA) or anyone resets.
fn boot_pcrs(tpm: &TpmClaims) -> impl Iterator<Item = (PcrHash, u8, &HexBytes)> {
    let all = tpm.pcrs.iter().flat_map(|(hash, bank)| bank.iter().map(|(index, value)| (*hash, *index, value)));
    all.filter(|(_, index, _)| *index != IMA_PCR)
}

/// The enrolled TPM that `inputs` name.
pub(super) fn enrolled(inputs: &Inputs) -> Result<EnrolledTpm, Rejection> {
    let ak = AttestationKey::from_public(&inputs.ak_public.0)?;
    Ok(EnrolledTpm::new(ak, inputs.ek, inputs.assurance, inputs.tpm.clone()))
}

impl Warm {
    /// The enrolled TPM that `inputs` name. Kept of the hosts that came by most
    /// recently.
    pub(super) fn tpm(&self, inputs: &Inputs) -> Result<Arc<EnrolledTpm>, Rejection> {
        let mut tpms = self.tpms.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |tpm: &&Arc<EnrolledTpm>| {
            tpm.ak().public() == inputs.ak_public.0
                && tpm.ek() == inputs.ek
                && tpm.assurance() == inputs.assurance
                && *tpm.identity() == inputs.tpm
        };
        if let Some(kept) = tpms.get(&inputs.host).filter(same) {
            return Ok(Arc::clone(kept));
        }
        let tpm = Arc::new(enrolled(inputs)?);
        tpms.insert(inputs.host.clone(), Arc::clone(&tpm));
        Ok(tpm)
    }

    /// The VEK with this certificate as it was endorsed under `governance` before, if it was and still holds.
    pub(super) fn vek(&self, certificate: &[u8], governance: &Governance, now: UnixMillis) -> Option<Arc<VerifiedVek>> {
        let veks = self.veks.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = veks.get(&(Sha256Digest::of(&[certificate]), governance.digests.collateral))?;
        kept.check_current(now).is_ok().then(|| Arc::clone(kept))
    }

    /// Keeps the VEK of evidence that was just verified; only such evidence gets here, so that nobody fills the memory
    /// with certificates alone. It is endorsed once more, and then not until its chain ends or the collateral changes.
    pub(super) fn keep(&self, certificate: &[u8], governance: &Governance, now: UnixMillis) {
        let at = governance.collateral.at(now);
        let crls: Vec<&[u8]> = governance.collateral.crls.iter().map(Vec::as_slice).collect();
        let Ok(vek) = amd::endorse(certificate, &governance.collateral.anchors.amd, &crls, at) else { return };
        let collateral = governance.digests.collateral;
        let mut veks = self.veks.lock().unwrap_or_else(PoisonError::into_inner);
        if VEKS_MAX <= veks.len() {
            veks.retain(|(_, of), vek| *of == collateral && vek.check_current(now).is_ok());
        }
        if VEKS_MAX <= veks.len() {
            veks.pop_first();
        }
        veks.insert((vek.digest(), collateral), Arc::new(vek));
    }

    /// Intel's documents as they were verified before, if they were and still hold, else verified now.
    pub(super) fn intel(
        &self,
        platform: &PlatformCollateral,
        anchors: &[IntelAnchor],
        at: JudgedAt,
    ) -> Result<Arc<VerifiedCollateral>, Rejection> {
        let (key, now) = ((platform.digest(), at.grace_ms), at.now);
        let mut kept = self.intel.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |collateral: &&Arc<VerifiedCollateral>| {
            collateral.check_current(now).is_ok() && anchors.contains(collateral.anchor())
        };
        if let Some(collateral) = kept.get(&key).filter(holds) {
            return Ok(Arc::clone(collateral));
        }
        let collateral = Arc::new(platform.documents.endorse(anchors, at)?);
        // One for each family of platforms in force; what was before is of no use.
        kept.retain(|_, collateral| collateral.check_current(now).is_ok());
        if INTEL_MAX <= kept.len() {
            kept.pop_first();
        }
        kept.insert(key, Arc::clone(&collateral));
        Ok(collateral)
    }

    /// The quoting enclave as this very collateral endorsed it before, if it did and both hold.
    pub(super) fn quoting_enclave(
        &self,
        digest: Sha256Digest,
        collateral: &VerifiedCollateral,
        now: UnixMillis,
    ) -> Option<Arc<VerifiedQe>> {
        let kept = self.quoting_enclaves.lock().unwrap_or_else(PoisonError::into_inner);
        let qe = kept.get(&(digest, collateral.digest()))?;
        qe.check_current(collateral, now).is_ok().then(|| Arc::clone(qe))
    }

    /// Keeps the quoting enclave of a quote that was just verified. It is endorsed once more, and then not until its
    /// chain ends or the collateral changes.
    pub(super) fn keep_quoting_enclave(&self, quote: &[u8], collateral: &VerifiedCollateral, now: UnixMillis) {
        let endorse = || -> Result<VerifiedQe, Rejection> {
            let quote = Quote::parse(quote)?;
            let pck = collateral.endorse_pck(quote.pck_chain()?, now)?;
            VerifiedQe::endorse(&quote, &pck, collateral, now)
        };
        let Ok(qe) = endorse() else { return };
        let mut kept = self.quoting_enclaves.lock().unwrap_or_else(PoisonError::into_inner);
        if VEKS_MAX <= kept.len() {
            kept.retain(|(_, of), qe| *of == collateral.digest() && now <= qe.valid_until());
        }
        if VEKS_MAX <= kept.len() {
            kept.pop_first();
        }
        kept.insert((qe.digest(), collateral.digest()), Arc::new(qe));
    }

    /// What lists said of a TPM's endorsement before, if they still count.
    pub(super) fn endorsement(
        &self,
        key: (Sha256Digest, Sha256Digest),
        now: UnixMillis,
    ) -> Option<Option<ListValidity>> {
        let kept = self.endorsements.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.get(&key)?;
        list.is_none_or(|list| list.check(now).is_ok()).then_some(*list)
    }

    /// Keeps what lists say of it.
    pub(super) fn keep_endorsement(&self, key: (Sha256Digest, Sha256Digest), list: Option<ListValidity>) {
        let mut kept = self.endorsements.lock().unwrap_or_else(PoisonError::into_inner);
        if VEKS_MAX <= kept.len() {
            kept.retain(|(_, collateral), _| *collateral == key.1);
        }
        if VEKS_MAX <= kept.len() {
            kept.pop_first();
        }
        kept.insert(key, list);
    }

    /// What this event log said of these PCR values before.
    pub(super) fn boot(&self, host: &HostId, log: Sha256Digest, tpm: &TpmClaims) -> Option<BootClaims> {
        let mut boots = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = boots.get(host).filter(|kept| kept.log == log)?;
        let kept_pcrs =
            kept.pcrs.iter().flat_map(|(hash, bank)| bank.iter().map(|(index, value)| (*hash, *index, value)));
        kept_pcrs.eq(boot_pcrs(tpm)).then(|| kept.boot.clone())
    }

    /// Keeps what an event log says of PCR values.
    pub(super) fn keep_boot(&self, host: &HostId, log: Sha256Digest, tpm: &TpmClaims, boot: &BootClaims) {
        let mut pcrs: BTreeMap<PcrHash, PcrBank> = BTreeMap::new();
        for (hash, index, value) in boot_pcrs(tpm) {
            pcrs.entry(hash).or_default().insert(index, value.clone());
        }
        let kept = KeptBoot { log, pcrs, boot: boot.clone() };
        self.boots.lock().unwrap_or_else(PoisonError::into_inner).insert(host.clone(), kept);
    }

    /// Forgets a removed host.
    pub(super) fn forget(&self, host: &HostId) {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
        self.tpms.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}
