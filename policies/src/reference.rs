//! Reference Values: the measurements an operator registered as good, one manifest per golden state of a fleet.
//!
//! ```json
//! {
//!   "id": "inference-2026.11",
//!   "description": "golden image of November",
//!   "tpm": { "pcrs": { "sha256": { "0": ["<hex>", "<hex>"], "4": ["<hex>"] } } },
//!   "snp": {
//!     "measurement": ["<hex>"], "host_data": ["<hex>"], "id_key_digest": ["<hex>"],
//!     "min_tcb": { "genoa": { "bootloader": 9, "tee": 0, "snp": 21, "microcode": 72 } },
//!     "min_mitigations": { "genoa": [0], "turin": [] }
//!   },
//!   "tdx": {
//!     "mr_td": ["<hex>"], "rtmr0": ["<hex>"], "rtmr1": ["<hex>"], "rtmr2": ["<hex>"], "rtmr3": ["<hex>"],
//!     "mr_seam": ["<hex>"], "mr_signer_seam": ["<hex>"], "min_module_svn": { "TDX_01": 5 },
//!     "mr_config_id": ["<hex>"], "mr_owner": ["<hex>"], "mr_owner_config": ["<hex>"], "mr_service_td": ["<hex>"],
//!     "td_attributes": ["<hex>"], "xfam": ["<hex>"], "boot": { "secure_boot": "on" }
//!   },
//!   "paravisor": { "hardware": "snp", "vm_ids": ["<id>"], "vm_configuration": { "secure-boot": true } },
//!   "acpi": "measured",
//!   "version": 2, "until": "2027-06-01T00:00:00Z",
//!   "artifacts": {
//!     "kernel-6.1.0-28": { "kind": "kernel", "values": ["<hex>"], "until": "2026-12-24T00:00:00Z",
//!                          "replaced_by": "kernel-6.1.0-31" },
//!     "kernel-6.1.0-31": { "kind": "kernel", "values": ["<hex>"] }
//!   },
//!   "provenance": { "build": "image pipeline 4711", "sources": { "vmlinuz-6.1.0-31": "<sha256>" } }
//! }
//! ```
//!
//! A manifest names the kinds of evidence that its hosts have: a host that lacks one of them does not match. Of `tdx`,
//! `mr_td` is mandatory, and `boot` is about the trust domain's own event log (CCEL), replayed to its RTMRs.
//!
//! Of `snp`, `min_mitigations` names bits that must be set in both mitigation vectors of the report, product by
//! product; a product without any lists none, and one that is not listed does not match.
//!
//! `acpi` says what becomes of the ACPI tables that the host gives the guest: `measured`, `igvm` or `sandboxed`. It is
//! the operator's knowledge of the image and compared with nothing; policies may demand it.
//!
//! A host matches a manifest when every value the manifest names was presented and is one of those listed. What a host
//! presents beyond a manifest does not make it match. From `until` on, no host matches the manifest, and the values of
//! an artifact count as not listed from the artifact's `until` on. Of one id, a broker registers rising versions only.

mod lifecycle;
mod set;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{HexBytes, PcrHash, SnpTcb};
use countersign_attestation::digest::Sha256Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::boot::{BootReference, WrittenBoot};
use crate::finding::{Finding, PolicyReason};
use crate::ima::ImaRules;
use crate::json::Members;
use crate::mitigation::{Mitigations, read_mitigations};
use crate::paravisor::{ParavisorReference, WrittenParavisor};
use crate::tdx::{TdxReference, WrittenTdx};

use lifecycle::{Lifecycle, WrittenArtifact, WrittenProvenance};

pub(crate) use set::InForce;
pub use set::ReferenceSet;

/// An allow-list of the files of a server image fits: some 60,000. Without one, a manifest is a few kilobytes.
pub const MANIFEST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Values accepted for one measurement: more than any fleet keeps images in use.
pub(crate) const VALUES_MAX: usize = 256;
/// Longest id of a manifest, a policy file or a policy: it is part of file names, log lines and credentials.
const NAME_BYTES_MAX: usize = 128;
/// PCRs that a TPM resets on the request of any software (PC Client Platform TPM Profile 1.05, 4.6).
pub(crate) const RESETTABLE: [u8; 2] = [16, 23];
/// The last PCR of a PC Client TPM.
const PCR_MAX: u8 = 23;
/// The last of the PCRs that the firmware is sure to extend, with a separator at least.
const FIRMWARE_PCR_MAX: u8 = 7;
/// What to quote while nothing is registered: firmware and its configuration (0-7), boot loader, kernel and command
/// line (8, 9, 11, 12), system extensions (13) and the shim's keys (14). PCR 10 grows while Linux runs (IMA) and 15
/// differs per machine, so neither has a golden value of a fleet.
const FIRST_SELECTION: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

/// The accepted values of one measurement.
pub(crate) type Values = BTreeSet<HexBytes>;

/// One golden state. [`ReferenceManifest::parse`] is the only constructor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReferenceManifest {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<TpmReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snp: Option<SnpReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx: Option<TdxReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paravisor: Option<ParavisorReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<BootReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ima: Option<ImaReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acpi: Option<Acpi>,
    #[serde(flatten)]
    pub(crate) lifecycle: Lifecycle,
}

/// What becomes of ACPI tables: their code runs in the guest's kernel, and who runs the machine writes them
/// (GHSA-g9ww-x58f-9g6m).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Acpi {
    /// They are in the launch measurement, a PCR or an RTMR that the manifest names.
    Measured,
    /// They come with the measured IGVM file.
    Igvm,
    /// The guest's kernel keeps their code away from its memory.
    Sandboxed,
}

impl Acpi {
    fn read(text: &str) -> Result<Self, Finding> {
        match text {
            "measured" => Ok(Self::Measured),
            "igvm" => Ok(Self::Igvm),
            "sandboxed" => Ok(Self::Sandboxed),
            _ => Err(PolicyReason::ManifestAcpi.because("measured, igvm or sandboxed", format_args!("`{text}`"))),
        }
    }
}

/// What a manifest says about the TPM: at least one PCR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TpmReference {
    pub(crate) pcrs: BTreeMap<PcrHash, BTreeMap<u8, Values>>,
}

/// What a manifest says about the confidential VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SnpReference {
    pub(crate) measurement: Values,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_data: Option<Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id_key_digest: Option<Values>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_tcb: Option<BTreeMap<AmdProduct, MinTcb>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_mitigations: Option<Mitigations>,
}

/// Lowest accepted component of each TCB; compared component by component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MinTcb {
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    fmc: Option<u8>,
}

impl MinTcb {
    /// Every component a minimum names: its name, the minimum, and what `tcb` holds.
    pub(crate) fn components(self, tcb: SnpTcb) -> impl Iterator<Item = (&'static str, u8, Option<u8>)> {
        [
            ("bootloader", Some(self.bootloader), Some(tcb.bootloader)),
            ("tee", Some(self.tee), Some(tcb.tee)),
            ("snp", Some(self.snp), Some(tcb.snp)),
            ("microcode", Some(self.microcode), Some(tcb.microcode)),
            ("fmc", self.fmc, tcb.fmc),
        ]
        .into_iter()
        .filter_map(|(name, minimum, found)| minimum.map(|minimum| (name, minimum, found)))
    }
}

impl MinTcb {
    /// Whether a component of this name may be as low as `found`.
    pub(crate) fn admits(self, component: &str, found: Option<u8>) -> bool {
        let least = match component {
            "bootloader" => Some(self.bootloader),
            "tee" => Some(self.tee),
            "snp" => Some(self.snp),
            "microcode" => Some(self.microcode),
            "fmc" => self.fmc,
            _ => None,
        };
        least.zip(found).is_some_and(|(least, found)| least <= found)
    }
}

/// `null` is not "absent": it is a value nobody should have to guess the meaning of.
pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The manifest as written, before its values are understood.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: String,
    #[serde(default, deserialize_with = "not_null")]
    description: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    tpm: Option<WrittenTpm>,
    #[serde(default, deserialize_with = "not_null")]
    snp: Option<WrittenSnp>,
    #[serde(default, deserialize_with = "not_null")]
    tdx: Option<WrittenTdx>,
    #[serde(default, deserialize_with = "not_null")]
    paravisor: Option<WrittenParavisor>,
    #[serde(default, deserialize_with = "not_null")]
    boot: Option<WrittenBoot>,
    #[serde(default, deserialize_with = "not_null")]
    ima: Option<WrittenIma>,
    #[serde(default, deserialize_with = "not_null")]
    acpi: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    version: Option<u32>,
    #[serde(default, deserialize_with = "not_null")]
    until: Option<String>,
    #[serde(default, deserialize_with = "not_null")]
    artifacts: Option<Members<WrittenArtifact>>,
    #[serde(default, deserialize_with = "not_null")]
    provenance: Option<WrittenProvenance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTpm {
    pcrs: Members<Members<Vec<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSnp {
    measurement: Vec<String>,
    #[serde(default, deserialize_with = "not_null")]
    host_data: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    id_key_digest: Option<Vec<String>>,
    #[serde(default, deserialize_with = "not_null")]
    min_tcb: Option<Members<MinTcb>>,
    #[serde(default, deserialize_with = "not_null")]
    min_mitigations: Option<Members<Vec<u8>>>,
}

impl ReferenceManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// A finding that says what is not acceptable, what would be, and how to correct it.
    pub fn parse(json: &[u8]) -> Result<Self, Finding> {
        if MANIFEST_BYTES_MAX < json.len() {
            return Err(PolicyReason::ManifestSize
                .because(format_args!("at most {MANIFEST_BYTES_MAX} bytes"), format_args!("{} bytes", json.len())));
        }
        let written: Written = serde_json::from_slice(json)
            .map_err(|error| PolicyReason::ManifestSyntax.because("a reference manifest in JSON", error))?;
        if !is_name(&written.id) {
            return Err(PolicyReason::ManifestId.because(NAME_RULE, format_args!("`{}`", written.id)));
        }
        let Written { version, until, artifacts, provenance, .. } = written;
        let lifecycle = lifecycle::Written { version, until, artifacts, provenance };
        let compared = [
            written.tpm.is_some(),
            written.snp.is_some(),
            written.tdx.is_some(),
            written.paravisor.is_some(),
            written.boot.is_some(),
            written.ima.is_some(),
        ];
        if !compared.contains(&true) {
            let expected = "`tpm`, `snp`, `tdx`, `paravisor`, `boot` or `ima`";
            return Err(PolicyReason::ManifestEmpty.because(expected, "none of them"));
        }
        // What a paravisor says of the machine says nothing of what runs there.
        if written.paravisor.is_some() && written.tpm.is_none() && written.snp.is_none() && written.tdx.is_none() {
            return Err(PolicyReason::ManifestEmpty.because("`tpm`, `snp` or `tdx` beside `paravisor`", "none of them"));
        }
        // The list is the kernel's word; something must vouch for the kernel.
        if written.ima.is_some() && written.tpm.is_none() && written.boot.is_none() {
            return Err(PolicyReason::ImaUnanchored.because("`tpm` or `boot` beside `ima`", "neither"));
        }
        let mut manifest = Self {
            id: written.id,
            description: written.description,
            tpm: written.tpm.map(TpmReference::read).transpose()?,
            snp: written.snp.map(SnpReference::read).transpose()?,
            tdx: written.tdx.map(TdxReference::read).transpose()?,
            paravisor: written.paravisor.map(ParavisorReference::read).transpose()?,
            boot: written.boot.map(BootReference::read).transpose()?,
            ima: written.ima.map(ImaReference::read).transpose()?,
            acpi: written.acpi.as_deref().map(Acpi::read).transpose()?,
            lifecycle: Lifecycle::read(lifecycle)?,
        };
        let listed: Values = manifest.values_mut().flat_map(|values| values.iter().cloned()).collect();
        manifest.lifecycle.check_listed(&listed)?;
        Ok(manifest)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What an operator wrote about it.
    #[must_use]
    pub fn description(&self) -> &str {
        self.description.as_deref().unwrap_or_default()
    }

    /// Its version: 1 where it names none.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.lifecycle.version
    }

    /// From when on no host matches it.
    #[must_use]
    pub const fn until(&self) -> Option<UnixMillis> {
        self.lifecycle.until
    }

    /// Whether the manifest may be registered at `now`: its end is to come.
    ///
    /// # Errors
    /// [`PolicyReason::ManifestUntil`].
    pub fn check_term(&self, now: UnixMillis) -> Result<(), Finding> {
        match self.until().filter(|until| *until <= now) {
            None => Ok(()),
            Some(until) => Err(PolicyReason::ManifestUntil.because(format_args!("after {now}"), until)),
        }
    }

    /// The first moment after `at` from which it lists less, or nothing.
    #[must_use]
    pub fn next_end(&self, at: UnixMillis) -> Option<UnixMillis> {
        self.lifecycle.ends().into_iter().chain(self.until()).filter(|end| at < *end).min()
    }

    /// Artifacts that have ended at `at`, for people.
    pub(crate) fn ended_artifacts(&self, at: UnixMillis) -> String {
        self.lifecycle.ended_artifacts(at)
    }

    /// What is left without these values. A list may be empty then: nothing matches it.
    fn without(&self, ended: &Values) -> Self {
        let mut left = self.clone();
        for values in left.values_mut() {
            values.retain(|value| !ended.contains(value));
        }
        left
    }

    /// Every list of values.
    fn values_mut(&mut self) -> impl Iterator<Item = &mut Values> {
        let tpm = self.tpm.iter_mut().flat_map(|tpm| tpm.pcrs.values_mut().flat_map(BTreeMap::values_mut));
        let snp = self.snp.iter_mut().flat_map(|snp| {
            core::iter::once(&mut snp.measurement).chain(&mut snp.host_data).chain(&mut snp.id_key_digest)
        });
        let boot = self.boot.iter_mut().flat_map(BootReference::values_mut);
        tpm.chain(snp).chain(self.tdx.iter_mut().flat_map(TdxReference::values_mut)).chain(boot)
    }

    /// The one canonical form: members in fixed order, values sorted, hexadecimal in lower case.
    /// [`ReferenceManifest::parse`] reads it back.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        crate::decision::canonical(self)
    }

    /// SHA-256 of [`ReferenceManifest::to_json`].
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.to_json()])
    }
}

impl TpmReference {
    fn read(written: WrittenTpm) -> Result<Self, Finding> {
        if written.pcrs.0.is_empty() {
            return Err(PolicyReason::ManifestEmpty.because("at least one PCR bank in `tpm.pcrs`", "none"));
        }
        let mut pcrs = BTreeMap::new();
        for (name, indexes) in written.pcrs.0 {
            let bank = bank(&name)?;
            if indexes.0.is_empty() {
                return Err(
                    PolicyReason::ManifestEmpty.because(format_args!("at least one PCR in `tpm.pcrs.{name}`"), "none")
                );
            }
            let mut values = BTreeMap::new();
            for (index, texts) in indexes.0 {
                let index = pcr_index(&index)?;
                let at = format!("tpm.pcrs.{name}.{index}");
                values.insert(index, read_values(&at, &texts, bank.size(), index <= FIRMWARE_PCR_MAX)?);
            }
            pcrs.insert(bank, values);
        }
        Ok(Self { pcrs })
    }
}

/// What a manifest says about the IMA list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ImaReference {
    /// As they were written: a second reading must not see other rules.
    #[serde(flatten)]
    written: ImaText,
    #[serde(skip)]
    pub(crate) rules: Arc<ImaRules>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ImaText {
    Rules(#[serde(serialize_with = "as_written")] Arc<str>),
    Keylime(#[serde(serialize_with = "as_written")] Arc<str>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIma {
    #[serde(default, deserialize_with = "not_null")]
    rules: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "not_null")]
    keylime: Option<Box<RawValue>>,
}

impl ImaReference {
    fn read(written: WrittenIma) -> Result<Self, Finding> {
        let (written, rules) = match (written.rules, written.keylime) {
            (Some(text), None) => (ImaText::Rules(text.get().into()), ImaRules::parse(text.get().as_bytes())?),
            (None, Some(text)) => {
                (ImaText::Keylime(text.get().into()), ImaRules::parse_keylime(Some(text.get().as_bytes()), &[])?)
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(PolicyReason::ManifestSyntax.because("`rules` or `keylime` in `ima`", "neither or both"));
            }
        };
        Ok(Self { written, rules: Arc::new(rules) })
    }
}

fn as_written<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &RawValue = serde_json::from_str(text).map_err(serde::ser::Error::custom)?;
    raw.serialize(serializer)
}

impl SnpReference {
    fn read(written: WrittenSnp) -> Result<Self, Finding> {
        let values = |at: &str, texts: Option<Vec<String>>, size: usize| {
            texts.map(|texts| read_values(at, &texts, size, false)).transpose()
        };
        Ok(Self {
            // A guest is always measured; zero HOST_DATA and ID_KEY_DIGEST are legitimate where an operator names them.
            measurement: read_values("snp.measurement", &written.measurement, 48, true)?,
            host_data: values("snp.host_data", written.host_data, 32)?,
            id_key_digest: values("snp.id_key_digest", written.id_key_digest, 48)?,
            min_tcb: written.min_tcb.map(read_min_tcb).transpose()?,
            min_mitigations: written.min_mitigations.map(read_min_mitigations).transpose()?,
        })
    }
}

fn read_min_mitigations(written: Members<Vec<u8>>) -> Result<Mitigations, Finding> {
    let minimum = read_mitigations("snp.min_mitigations", written)?;
    // `[]` says that a product needs none; said of every product, nothing is compared.
    if minimum.values().all(BTreeSet::is_empty) {
        return Err(PolicyReason::ManifestEmpty.because("at least one bit in `snp.min_mitigations`", "none"));
    }
    Ok(minimum)
}

pub(crate) fn read_min_tcb(written: Members<MinTcb>) -> Result<BTreeMap<AmdProduct, MinTcb>, Finding> {
    if written.0.is_empty() {
        return Err(PolicyReason::ManifestEmpty.because("at least one product in `snp.min_tcb`", "none"));
    }
    let mut minimums = BTreeMap::new();
    for (name, minimum) in written.0 {
        let (product, has_fmc) = match name.as_str() {
            "milan" => (AmdProduct::Milan, false),
            "genoa" => (AmdProduct::Genoa, false),
            "turin" => (AmdProduct::Turin, true),
            _ => {
                let found = format_args!("`{name}`");
                return Err(PolicyReason::ManifestSyntax.because("milan, genoa or turin in `snp.min_tcb`", found));
            }
        };
        // SNP ABI, TCB_VERSION: the FMC component came with Turin. Left out there, a component would go unjudged.
        if minimum.fmc.is_some() != has_fmc {
            let (expected, found) = if has_fmc { ("fmc", "no fmc") } else { ("no fmc", "fmc") };
            return Err(PolicyReason::MinTcbFmc
                .because(format_args!("{expected} for {name}"), format_args!("{found} in `snp.min_tcb.{name}`")));
        }
        minimums.insert(product, minimum);
    }
    Ok(minimums)
}

fn bank(name: &str) -> Result<PcrHash, Finding> {
    match name {
        "sha256" => Ok(PcrHash::Sha256),
        "sha384" => Ok(PcrHash::Sha384),
        "sha512" => Ok(PcrHash::Sha512),
        "sha1" => Err(PolicyReason::BankSha1.because("sha256, sha384 or sha512", "sha1")),
        _ => Err(PolicyReason::BankUnknown.because("sha256, sha384 or sha512", format_args!("`{name}`"))),
    }
}

fn pcr_index(text: &str) -> Result<u8, Finding> {
    let index = text.parse::<u8>().ok().filter(|index| *index <= PCR_MAX);
    // "07" and "+7" parse too, and would name one PCR twice.
    let Some(index) = index.filter(|index| text == format!("{index}")) else {
        return Err(PolicyReason::PcrIndex.because(format_args!("0 to {PCR_MAX}"), format_args!("`{text}`")));
    };
    if RESETTABLE.contains(&index) {
        return Err(PolicyReason::PcrResettable.because("0 to 15 or 17 to 22", format_args!("PCR {index}")));
    }
    Ok(index)
}

fn check_count(at: &str, texts: &[String]) -> Result<(), Finding> {
    if texts.is_empty() {
        return Err(PolicyReason::ValueListEmpty.because(format_args!("at least one value in `{at}`"), "none"));
    }
    if VALUES_MAX < texts.len() {
        return Err(PolicyReason::ValueListSize
            .because(format_args!("at most {VALUES_MAX} values in `{at}`"), format_args!("{} values", texts.len())));
    }
    Ok(())
}

pub(crate) fn read_values(at: &str, texts: &[String], size: usize, measured: bool) -> Result<Values, Finding> {
    check_count(at, texts)?;
    let mut values = Values::new();
    for text in texts {
        let value = hex::decode(text).ok().filter(|value| value.len() == size).ok_or_else(|| {
            let digits = size.saturating_mul(2);
            PolicyReason::ValueMalformed
                .because(format_args!("{digits} hex digits in `{at}`"), format_args!("`{text}`"))
        })?;
        if measured && value.iter().all(|byte| *byte == 0) {
            return Err(PolicyReason::ValueZero.because(format_args!("a measured value in `{at}`"), "all zero"));
        }
        values.insert(HexBytes(value));
    }
    Ok(values)
}

/// Values of whatever length: those of an artifact are compared with lists that say which.
fn read_values_of(at: &str, texts: &[String]) -> Result<Values, Finding> {
    let size = |text: &String| text.len().checked_div(2).unwrap_or_default();
    let mut values = Values::new();
    check_count(at, texts)?;
    for text in texts {
        values.extend(read_values(at, core::slice::from_ref(text), size(text), false)?);
    }
    Ok(values)
}

/// What [`is_name`] accepts, for people.
pub(crate) const NAME_RULE: &str = "1 to 128 of A-Z, a-z, 0-9, '-', '_' and '.', starting with a letter or digit";

/// Whether `text` may name a manifest, a policy file or a policy.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}
