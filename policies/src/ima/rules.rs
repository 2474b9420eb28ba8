//! Rules as they are written, read once.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::ima::{DigestKind, HashAlgorithm, ImaKey};
use serde::Deserialize;

use super::excludes::Excludes;
use super::table::{Listed, Table, Templates};
use crate::finding::{Finding, PolicyReason};
use crate::json::Members;

/// Rules of a large distribution with every package installed are about 20 MB.
const RULES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Keys that sign files of one fleet.
pub(super) const KEYS_MAX: usize = 64;
/// Digests of one file, or of a directory: each is compared, one after the other.
const DIGESTS_MAX: usize = 4096;
/// The PCR of IMA.
const IMA_PCR: u8 = 10;
/// A PEM block's limit: certificates are far smaller.
const PEM_BYTES_MAX: usize = 16 * 1024;

/// Whether something weaker counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Weaker {
    /// It is an offence.
    #[default]
    Refused,
    /// It is counted, and no offence.
    Admitted,
}

/// What a host's kernel may measure. [`ImaRules::parse`] and [`ImaRules::parse_keylime`] are the only constructors.
#[derive(Clone, Debug)]
pub struct ImaRules {
    pub(super) digest: Sha256Digest,
    pub(super) files: Table,
    /// Of `files`.
    pub(super) templates: Templates,
    pub(super) buffers: Table,
    pub(super) ignored_buffers: BTreeSet<Vec<u8>>,
    pub(super) excludes: Excludes,
    pub(super) keys: Vec<ImaKey>,
    pub(super) violations: Weaker,
    pub(super) padded_sha1: Weaker,
    pub(super) pcrs: BTreeSet<u8>,
}

/// Equal when they were read from the same text.
impl PartialEq for ImaRules {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for ImaRules {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    files: Option<Members<Vec<String>>>,
    #[serde(default)]
    excludes: Vec<String>,
    #[serde(default)]
    signature_keys: Vec<String>,
    #[serde(default)]
    buffers: Option<Members<Vec<String>>>,
    #[serde(default)]
    violations: Weaker,
    #[serde(default)]
    padded_sha1: Weaker,
    #[serde(default)]
    sha1_digests: Weaker,
    #[serde(default)]
    pcrs: Option<BTreeSet<u8>>,
}

impl ImaRules {
    /// Reads rules.
    ///
    /// # Errors
    /// A finding that says what is not acceptable, what would be, and how to correct it.
    pub fn parse(json: &[u8]) -> Result<Self, Finding> {
        check_size(json)?;
        let written: Written = serde_json::from_slice(json)
            .map_err(|error| PolicyReason::ImaRulesSyntax.because("IMA rules in JSON", error))?;
        let sha1 = written.sha1_digests;
        let (files, templates) = read_table(written.files, |text| read_digest(text, sha1), true)?;
        let keys = written.signature_keys.iter().map(|pem| read_pem_key(pem.as_bytes())).collect::<Result<_, _>>()?;
        let pcrs = written.pcrs.unwrap_or_else(|| BTreeSet::from([IMA_PCR]));
        // 10 is where IMA measures; 16 and 23 can be reset (PC Client Platform TPM Profile 1.05, 4.6).
        if !pcrs.contains(&IMA_PCR) || pcrs.iter().any(|pcr| !(8..=14).contains(pcr)) {
            return Err(PolicyReason::ImaRulesPcr.because("PCR 10, and others of 8 to 14", format_args!("{pcrs:?}")));
        }
        Self {
            digest: Sha256Digest::of(&[b"countersign/v1/ima-rules\0", json]),
            files,
            templates,
            buffers: read_table(written.buffers, |text| read_digest(text, sha1), false)?.0,
            ignored_buffers: BTreeSet::new(),
            excludes: Excludes::read(&written.excludes)?,
            keys,
            violations: written.violations,
            padded_sha1: written.padded_sha1,
            pcrs,
        }
        .checked()
    }

    /// What holds for rules of every form.
    pub(super) fn checked(mut self) -> Result<Self, Finding> {
        if KEYS_MAX < self.keys.len() {
            return Err(PolicyReason::ImaRulesKey.because(format_args!("at most {KEYS_MAX} keys"), self.keys.len()));
        }
        if self.files.is_empty() && self.keys.is_empty() {
            return Err(PolicyReason::ImaRulesEmpty.because("a listed file or a signature key", "neither"));
        }
        self.keys = ImaKey::sorted(self.keys);
        Ok(self)
    }

    /// The PCRs that must be quoted for these rules.
    #[must_use]
    pub const fn pcrs(&self) -> &BTreeSet<u8> {
        &self.pcrs
    }

    /// SHA-256 over the text they were read from.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }
}

pub(super) fn check_size(json: &[u8]) -> Result<(), Finding> {
    if RULES_BYTES_MAX < json.len() {
        return Err(PolicyReason::ImaRulesSize
            .because(format_args!("at most {RULES_BYTES_MAX} bytes"), format_args!("{} bytes", json.len())));
    }
    Ok(())
}

/// Names and their digests. With `paths`, a name is an absolute path or one word of the kernel (`boot_aggregate`).
pub(super) fn read_table(
    written: Option<Members<Vec<String>>>,
    read: impl Fn(&str) -> Result<Option<Listed>, Finding>,
    paths: bool,
) -> Result<(Table, Templates), Finding> {
    let mut listed: BTreeMap<Vec<u8>, Vec<Listed>> = BTreeMap::new();
    for (name, texts) in written.map(|members| members.0).unwrap_or_default() {
        let unreal = name.is_empty() || name.contains('\0') || (paths && (name == "/" || name.contains("//")));
        if unreal || (paths && name.contains('/') && !name.starts_with('/')) {
            return Err(PolicyReason::ImaRulesName.because("a name as the kernel writes it", format_args!("`{name}`")));
        }
        if texts.is_empty() || DIGESTS_MAX < texts.len() {
            return Err(PolicyReason::ImaRulesDigest
                .because(format_args!("1 to {DIGESTS_MAX} digests for `{name}`"), texts.len()));
        }
        let digests: Vec<Option<Listed>> = texts.iter().map(|text| read(text)).collect::<Result<_, _>>()?;
        // The kernel writes underscores for spaces (`ima_write_template_field_data`).
        let name = name.replace(' ', "_").into_bytes();
        let row: &mut Vec<Listed> = listed.entry(name).or_default();
        row.extend(digests.into_iter().flatten());
    }
    let templates = Templates::new(&listed);
    Table::new(listed).zip(templates).ok_or_else(|| PolicyReason::ImaRulesSize.because("fewer names", "too many"))
}

/// `[verity:]algorithm:hex`.
fn read_digest(text: &str, sha1: Weaker) -> Result<Option<Listed>, Finding> {
    let malformed = || {
        PolicyReason::ImaRulesDigest
            .because("`sha256:`, `sha384:` or `sha512:` and as many hex digits", format_args!("`{text}`"))
    };
    let (kind, rest) = match text.strip_prefix("verity:") {
        Some(rest) => (DigestKind::Verity, rest),
        None => (DigestKind::File, text),
    };
    let (name, digits) = rest.split_once(':').ok_or_else(malformed)?;
    let (algorithm, size) = match (name, sha1) {
        ("sha256", _) => (HashAlgorithm::Sha256, 32),
        ("sha384", _) => (HashAlgorithm::Sha384, 48),
        ("sha512", _) => (HashAlgorithm::Sha512, 64),
        ("sha1", Weaker::Admitted) => (HashAlgorithm::Sha1, 20),
        _ => return Err(malformed()),
    };
    let digest = hex::decode(digits).ok().filter(|digest| digest.len() == size).ok_or_else(malformed)?;
    if digest.iter().all(|byte| *byte == 0) {
        return Err(PolicyReason::ImaRulesDigest.because("the digest of a file", format_args!("zero, `{text}`")));
    }
    Ok(Some(Listed { kind, algorithm, digest }))
}

/// One PEM block: `PUBLIC KEY` or `CERTIFICATE`.
pub(super) fn read_pem_key(pem: &[u8]) -> Result<ImaKey, Finding> {
    let refused = |found: &str| PolicyReason::ImaRulesKey.because("one PEM public key or certificate", found);
    if PEM_BYTES_MAX < pem.len() {
        return Err(refused("more than 16 KiB"));
    }
    let text = core::str::from_utf8(pem).map_err(|_| refused("no text"))?.trim();
    let mut lines = text.lines().map(str::trim);
    let label = lines
        .next()
        .and_then(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .filter(|label| ["PUBLIC KEY", "CERTIFICATE"].contains(label))
        .ok_or_else(|| refused("another beginning"))?;
    let end = alloc::format!("-----END {label}-----");
    let mut body = String::new();
    let mut ended = false;
    for line in lines {
        if ended {
            return Err(refused("text after it"));
        }
        if line == end {
            ended = true;
        } else {
            body.push_str(line);
        }
    }
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body.as_bytes());
    let der = der.ok().filter(|_| ended).ok_or_else(|| refused("no base64, or no end"))?;
    ImaKey::from_der(&der)
        .map_err(|rejection| PolicyReason::ImaRulesKey.because(rejection.expected(), rejection.found()))
}
