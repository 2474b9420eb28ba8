//! Waivers: what an operator accepts for a while although a policy or manifest refuses it. Signed by that operator, for
//! a named scope, until a named moment, for a written reason; and shown by every credential that would not exist
//! without.
//!
//! ```json
//! {
//!   "id": "psp-2026-12",
//!   "trust_domain": "fleet.example",
//!   "scope": { "hosts": ["gpu-17"], "labels": { "pool": "confidential" } },
//!   "accepts": [
//!     { "snp_min_tcb": { "genoa": { "bootloader": 9, "tee": 0, "snp": 20, "microcode": 72 } } },
//!     { "snp_mitigations": { "genoa": [0] } },
//!     { "tcb_status": "OutOfDate" }, { "advisory": "INTEL-SA-00960" }, { "generation": { "amd_product": "milan" } }
//!   ],
//!   "until": "2026-12-24T00:00:00Z",
//!   "reason": "firmware 1.56 arrives with the maintenance of 23 December, CHG-4711"
//! }
//! ```
//!
//! The text travels as a signed note (C2SP signed-note, Ed25519): the signature is over the exact bytes of the text,
//! and the signer's name holds trust domain and operator. A waiver never makes evidence valid: it is asked only after
//! every signature, chain and binding held.

mod scope;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{Claims, HexBytes, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_attestation::lineage::checkpoint::NoteKey;
use countersign_attestation::protocol::HostId;
use serde::{Deserialize, Serialize};

use crate::decision::HostFacts;
use crate::finding::{Finding, PolicyReason};
use crate::json::Members;
use crate::mitigation::{Bits, Mitigations, listed, read_mitigations};
use crate::moment;
use crate::reference::{MinTcb, NAME_RULE, is_name, read_min_tcb};

use scope::{Scope, WrittenScope, check_fmspc};

/// A signed waiver is a page of text, of which scope is the most.
pub const WAIVER_BYTES_MAX: usize = 32 * 1024;
/// Waivers in force at one time: each host is compared with all of them.
pub const WAIVERS_MAX: usize = 256;
/// Waivers that one credential may stand on: it names them all, and what needs more is no exception.
pub const WAIVERS_PER_GRANT_MAX: usize = 8;
/// Longest time from its registration to a waiver's end: a quarter. What is to be tolerated longer is a policy.
pub const WAIVER_LIFE_MAX_MS: u64 = 92 * 86_400_000;
/// Values in one list of a waiver.
const LIST_MAX: usize = 256;
const REASON_BYTES_MAX: usize = 512;

/// A waiver whose signature was checked: [`Waiver::open`] is the only constructor.
///
/// ```compile_fail
/// let forged: countersign_policies::waiver::Waiver = serde_json::from_str("{}").unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    id: String,
    signer: String,
    scope: Scope,
    accepts: Vec<Accepts>,
    until: UnixMillis,
    reason: String,
    signed: SignedWaiver,
    digest: Sha256Digest,
}

/// A waiver's text with its signature, and the key it was checked with: what is stored and archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedWaiver {
    /// The signed note.
    pub note: String,
    /// The signer's verifier key, `<name>+<id>+<base64>`.
    pub key: String,
}

impl SignedWaiver {
    /// The one form that is hashed, stored and archived.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        crate::decision::canonical(self)
    }
}

/// The name under which an operator of a trust domain signs.
#[must_use]
pub fn signer_name(trust_domain: &str, operator: &HostId) -> String {
    format!("{trust_domain}{OPERATORS}{operator}")
}

/// What stands between trust domain and operator in a signer's name.
const OPERATORS: &str = "/countersign/operator/";

/// What a waiver accepts: a closed set, so that nobody waives what nobody thought of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Accepts {
    TcbStatus(WaivableStatus),
    Advisory(String),
    SnpMinTcb(BTreeMap<AmdProduct, MinTcb>),
    /// Bits that may be lacking, not a lower minimum: what a manifest demands next year is not waived along.
    SnpMitigations(Mitigations),
    AmdProduct(AmdProduct),
    Fmspc(HexBytes),
}

/// TCB statuses of Intel's collateral that somebody may want to live with for a while. `UpToDate` needs no waiver and
/// `Revoked` gets none: a revoked platform's keys may be anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaivableStatus {
    /// The workload must be hardened against the advisories.
    SWHardeningNeeded,
    /// The platform's configuration must change.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// The platform's firmware or microcode is old.
    OutOfDate,
    /// And its configuration must change.
    OutOfDateConfigurationNeeded,
    /// The TDX module was updated, and the TD was started before.
    TDRelaunchAdvised,
    /// And the platform's configuration must change.
    TDRelaunchAdvisedConfigurationNeeded,
}

impl WaivableStatus {
    const fn of(status: TcbStatus) -> Option<Self> {
        match status {
            TcbStatus::UpToDate | TcbStatus::Revoked => None,
            TcbStatus::SWHardeningNeeded => Some(Self::SWHardeningNeeded),
            TcbStatus::ConfigurationNeeded => Some(Self::ConfigurationNeeded),
            TcbStatus::ConfigurationAndSWHardeningNeeded => Some(Self::ConfigurationAndSWHardeningNeeded),
            TcbStatus::OutOfDate => Some(Self::OutOfDate),
            TcbStatus::OutOfDateConfigurationNeeded => Some(Self::OutOfDateConfigurationNeeded),
            TcbStatus::TDRelaunchAdvised => Some(Self::TDRelaunchAdvised),
            TcbStatus::TDRelaunchAdvisedConfigurationNeeded => Some(Self::TDRelaunchAdvisedConfigurationNeeded),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    trust_domain: String,
    scope: WrittenScope,
    accepts: Vec<WrittenAccepts>,
    until: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenAccepts {
    TcbStatus(WaivableStatus),
    Advisory(String),
    SnpMinTcb(Members<MinTcb>),
    SnpMitigations(Members<Vec<u8>>),
    Generation(WrittenGeneration),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WrittenGeneration {
    AmdProduct(AmdProduct),
    Fmspc(HexBytes),
}

impl Waiver {
    /// Opens a signed waiver with the key of the operator it is said to be of.
    ///
    /// # Errors
    /// A finding that says what is not acceptable: the signature, the form, a scope that is empty or a pattern, an end
    /// that is missing or no moment, an empty reason.
    pub fn open(note: &str, key: &NoteKey) -> Result<Self, Finding> {
        if WAIVER_BYTES_MAX < note.len() {
            return Err(PolicyReason::WaiverSize
                .because(format_args!("at most {WAIVER_BYTES_MAX} bytes"), format_args!("{} bytes", note.len())));
        }
        let signed = key.open(note).map_err(|rejection| {
            PolicyReason::WaiverSignature.because(format_args!("a signature of {}", key.name()), rejection)
        })?;
        let written: Written = serde_json::from_slice(signed.bytes())
            .map_err(|error| PolicyReason::WaiverSyntax.because("a waiver in JSON", error))?;
        if !is_name(&written.id) {
            return Err(PolicyReason::WaiverId.because(NAME_RULE, format_args!("`{}`", written.id)));
        }
        let domain = key.name().split_once(OPERATORS).map(|(domain, _)| domain);
        if domain != Some(written.trust_domain.as_str()) {
            let expected = domain.unwrap_or("an operator of a trust domain");
            return Err(PolicyReason::WaiverDomain.because(expected, format_args!("`{}`", written.trust_domain)));
        }
        let until = moment::parse(&written.until).ok_or_else(|| {
            PolicyReason::WaiverUntil
                .because("a moment such as 2026-12-24T00:00:00Z", format_args!("`{}`", written.until))
        })?;
        let reason = written.reason.trim();
        let plain = !reason.is_empty() && reason.len() <= REASON_BYTES_MAX && !reason.chars().any(char::is_control);
        if !plain {
            let expected = format_args!("1 to {REASON_BYTES_MAX} bytes of text");
            return Err(PolicyReason::WaiverReason.because(expected, format_args!("{} bytes", reason.len())));
        }
        let signed = SignedWaiver { note: note.to_string(), key: key.vkey() };
        Ok(Self {
            digest: Sha256Digest::of(&[&signed.to_json()]),
            id: written.id,
            signer: key.name().to_string(),
            scope: Scope::read(written.scope)?,
            accepts: read_accepts(written.accepts)?,
            until,
            reason: reason.to_string(),
            signed,
        })
    }

    /// Opens what was stored or archived, by the key that was kept with it.
    ///
    /// # Errors
    /// As [`Waiver::open`].
    pub fn from_json(json: &[u8]) -> Result<Self, Finding> {
        let signed: SignedWaiver = serde_json::from_slice(json)
            .map_err(|error| PolicyReason::WaiverSyntax.because("a signed waiver in JSON", error))?;
        let key = NoteKey::parse(&signed.key)
            .map_err(|rejection| PolicyReason::WaiverSignature.because("an operator's key", rejection))?;
        Self::open(&signed.note, &key)
    }

    /// Whether the waiver may be registered at `now`: its end is to come, and soon enough.
    ///
    /// # Errors
    /// [`PolicyReason::WaiverUntil`].
    pub fn check_term(&self, now: UnixMillis) -> Result<(), Finding> {
        let latest = now.plus(WAIVER_LIFE_MAX_MS);
        if now < self.until && self.until <= latest {
            return Ok(());
        }
        Err(PolicyReason::WaiverUntil.because(format_args!("after {now} and by {latest}"), self.until))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who signed, as [`signer_name`] writes it.
    #[must_use]
    pub fn signer(&self) -> &str {
        &self.signer
    }

    /// Its end: nothing stands on it from this moment on.
    #[must_use]
    pub const fn until(&self) -> UnixMillis {
        self.until
    }

    /// Why the operator accepts it.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What it accepts, for people.
    pub fn accepts(&self) -> impl Iterator<Item = String> {
        self.accepts.iter().map(ToString::to_string)
    }

    /// Text and signature.
    #[must_use]
    pub const fn signed(&self) -> &SignedWaiver {
        &self.signed
    }

    /// SHA-256 of [`SignedWaiver::to_json`].
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Whether it accepts something that these claims show. One that does not is left aside.
    fn touches(&self, claims: &Claims) -> bool {
        self.accepts.iter().any(|accepts| accepts.touches(claims))
    }
}

impl fmt::Display for Accepts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcbStatus(status) => write!(f, "TCB status {status:?}"),
            Self::Advisory(advisory) => write!(f, "advisory {advisory}"),
            Self::SnpMinTcb(floors) => {
                let products: Vec<String> = floors.keys().map(ToString::to_string).collect();
                write!(f, "a lower minimum TCB of {}", products.join(" and "))
            }
            Self::SnpMitigations(mitigations) => {
                let products: Vec<String> =
                    mitigations.iter().map(|(product, bits)| format!("{} of {product}", listed(bits))).collect();
                write!(f, "no mitigation {}", products.join(", "))
            }
            Self::AmdProduct(product) => write!(f, "generation {product}"),
            Self::Fmspc(fmspc) => write!(f, "generation FMSPC {fmspc}"),
        }
    }
}

impl Accepts {
    fn touches(&self, claims: &Claims) -> bool {
        let product = match &claims.snp {
            Presented::Verified(snp) => Some(snp.product),
            Presented::NotPresented => None,
        };
        let tdx = match &claims.tdx {
            Presented::Verified(tdx) => Some(tdx),
            Presented::NotPresented => None,
        };
        match self {
            Self::SnpMinTcb(floors) => product.is_some_and(|product| floors.contains_key(&product)),
            Self::SnpMitigations(mitigations) => product.is_some_and(|product| mitigations.contains_key(&product)),
            Self::AmdProduct(waived) => product == Some(*waived),
            Self::TcbStatus(status) => tdx.is_some_and(|tdx| WaivableStatus::of(tdx.tcb.status) == Some(*status)),
            Self::Advisory(advisory) => tdx.is_some_and(|tdx| tdx.tcb.advisory_ids.contains(advisory)),
            Self::Fmspc(fmspc) => tdx.is_some_and(|tdx| tdx.platform.fmspc == *fmspc),
        }
    }
}

fn read_accepts(written: Vec<WrittenAccepts>) -> Result<Vec<Accepts>, Finding> {
    if written.is_empty() || LIST_MAX < written.len() {
        let expected = format_args!("1 to {LIST_MAX} of what can be waived in `accepts`");
        return Err(PolicyReason::WaiverAccepts.because(expected, written.len()));
    }
    let accepts = written.into_iter().map(|written| match written {
        WrittenAccepts::TcbStatus(status) => Ok(Accepts::TcbStatus(status)),
        WrittenAccepts::Advisory(advisory) => {
            check_advisory(&advisory)?;
            Ok(Accepts::Advisory(advisory))
        }
        WrittenAccepts::SnpMinTcb(floors) => Ok(Accepts::SnpMinTcb(read_min_tcb(floors)?)),
        WrittenAccepts::SnpMitigations(mitigations) => read_waived(mitigations).map(Accepts::SnpMitigations),
        WrittenAccepts::Generation(WrittenGeneration::AmdProduct(product)) => Ok(Accepts::AmdProduct(product)),
        WrittenAccepts::Generation(WrittenGeneration::Fmspc(fmspc)) => {
            check_fmspc(&fmspc)?;
            Ok(Accepts::Fmspc(fmspc))
        }
    });
    accepts.collect()
}

fn read_waived(written: Members<Vec<u8>>) -> Result<Mitigations, Finding> {
    let mitigations = read_mitigations("snp_mitigations", written)?;
    if mitigations.values().any(BTreeSet::is_empty) {
        return Err(
            PolicyReason::WaiverAccepts.because("at least one bit of each product in `snp_mitigations`", "none")
        );
    }
    Ok(mitigations)
}

/// As vendors write them: `INTEL-SA-00960`.
fn check_advisory(advisory: &str) -> Result<(), Finding> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=64).contains(&advisory.len()) && advisory.bytes().all(plain) {
        return Ok(());
    }
    Err(PolicyReason::WaiverAccepts.because("an advisory's id, as INTEL-SA-00960", format_args!("`{advisory}`")))
}

/// The waivers that were registered and have not been ended, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaiverSet {
    waivers: BTreeMap<String, Waiver>,
    digest: Sha256Digest,
}

impl WaiverSet {
    /// The set of these waivers; of two with one id the later counts. The empty set accepts nothing.
    #[must_use]
    pub fn new(waivers: impl IntoIterator<Item = Waiver>) -> Self {
        let waivers: BTreeMap<_, _> = waivers.into_iter().map(|waiver| (waiver.id.clone(), waiver)).collect();
        // Digests have one length, so their sequence is unambiguous; each covers its waiver's id.
        let mut input = b"countersign/v1/waivers\0".to_vec();
        for waiver in waivers.values() {
            input.extend_from_slice(&waiver.digest.0);
        }
        Self { digest: Sha256Digest::of(&[&input]), waivers }
    }

    /// The waiver with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Waiver> {
        self.waivers.get(id)
    }

    /// Every waiver, by id.
    pub fn waivers(&self) -> impl Iterator<Item = &Waiver> {
        self.waivers.values()
    }

    /// SHA-256 over the digests of the waivers in the order of their ids.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// What is accepted of this host at `now`, before it is known what is needed.
    #[must_use]
    pub fn accepted(&self, claims: &Claims, host: &HostFacts<'_>, now: UnixMillis) -> Accepted<'_> {
        let applies =
            |waiver: &&Waiver| now < waiver.until && waiver.touches(claims) && waiver.scope.covers(claims, host);
        let mut waivers: Vec<&Waiver> = self.waivers().filter(applies).collect();
        // Earliest end first: those are tried to be done without first. The sort is stable, so ids decide the rest.
        waivers.sort_by_key(|waiver| waiver.until);
        Accepted { waivers }
    }
}

/// What waivers accept of one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted<'a> {
    waivers: Vec<&'a Waiver>,
}

impl<'a> Accepted<'a> {
    /// No waiver: what every host is judged by first.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { waivers: Vec::new() }
    }

    pub(crate) const fn is_nothing(&self) -> bool {
        self.waivers.is_empty()
    }

    pub(crate) fn waivers(&self) -> &[&'a Waiver] {
        &self.waivers
    }

    pub(crate) fn without(&self, waiver: &Waiver) -> Self {
        Self { waivers: self.waivers.iter().copied().filter(|kept| kept.id != waiver.id).collect() }
    }

    fn accepts(&self) -> impl Iterator<Item = &'a Accepts> {
        self.waivers.iter().flat_map(|waiver| &waiver.accepts)
    }

    /// The floors that waivers name for a product.
    pub(crate) fn snp_floors(&self, product: AmdProduct) -> impl Iterator<Item = MinTcb> {
        self.accepts().filter_map(move |accepts| match accepts {
            Accepts::SnpMinTcb(floors) => floors.get(&product).copied(),
            Accepts::TcbStatus(_)
            | Accepts::Advisory(_)
            | Accepts::SnpMitigations(_)
            | Accepts::AmdProduct(_)
            | Accepts::Fmspc(_) => None,
        })
    }

    /// The bits of a product's mitigation vectors that may be lacking.
    fn mitigations(&self, product: AmdProduct) -> impl Iterator<Item = &'a Bits> {
        self.accepts().filter_map(move |accepts| match accepts {
            Accepts::SnpMitigations(mitigations) => mitigations.get(&product),
            Accepts::TcbStatus(_)
            | Accepts::Advisory(_)
            | Accepts::SnpMinTcb(_)
            | Accepts::AmdProduct(_)
            | Accepts::Fmspc(_) => None,
        })
    }

    /// Whether this bit of a product's mitigation vectors may be lacking.
    pub(crate) fn mitigation(&self, product: AmdProduct, bit: u8) -> bool {
        self.mitigations(product).any(|bits| bits.contains(&bit))
    }

    /// Whether any bit of a product's mitigation vectors may be lacking.
    pub(crate) fn any_mitigation(&self, product: AmdProduct) -> bool {
        self.mitigations(product).next().is_some()
    }

    /// Whether this status is accepted.
    pub(crate) fn tcb_status(&self, status: TcbStatus) -> bool {
        WaivableStatus::of(status)
            .is_some_and(|status| self.accepts().any(|accepts| *accepts == Accepts::TcbStatus(status)))
    }

    /// Whether this advisory is accepted.
    pub(crate) fn advisory(&self, id: &str) -> bool {
        self.accepts().any(|accepts| match accepts {
            Accepts::Advisory(accepted) => accepted == id,
            Accepts::TcbStatus(_)
            | Accepts::SnpMinTcb(_)
            | Accepts::SnpMitigations(_)
            | Accepts::AmdProduct(_)
            | Accepts::Fmspc(_) => false,
        })
    }

    /// Whether a platform is accepted that a policy does not list.
    pub(crate) fn fmspc(&self, fmspc: &HexBytes) -> bool {
        self.accepts().any(|accepts| match accepts {
            Accepts::Fmspc(accepted) => accepted == fmspc,
            Accepts::TcbStatus(_)
            | Accepts::Advisory(_)
            | Accepts::SnpMinTcb(_)
            | Accepts::SnpMitigations(_)
            | Accepts::AmdProduct(_) => false,
        })
    }

    /// Whether a product line is accepted that a policy does not list.
    pub(crate) fn amd_product(&self, product: AmdProduct) -> bool {
        self.accepts().any(|accepts| *accepts == Accepts::AmdProduct(product))
    }
}

/// A waiver that a grant stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WaiverUse {
    /// Its id.
    pub id: String,
    /// Its digest.
    pub sha256: Sha256Digest,
    /// Its end.
    pub until: UnixMillis,
}

impl From<&Waiver> for WaiverUse {
    fn from(waiver: &Waiver) -> Self {
        Self { id: waiver.id.clone(), sha256: waiver.digest, until: waiver.until }
    }
}
