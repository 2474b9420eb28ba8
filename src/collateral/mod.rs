//! Endorsements and anchors: pinned roots as the operator keeps them on disk, and what vendors publish anew from time
//! to time, from wherever it came. Nothing is ever fetched from an address that evidence names.

pub mod anchors;
pub mod document;
pub mod fetch;
pub mod intel;
pub mod items;
pub mod schedule;
pub mod settings;

use std::path::Path;

use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance, IntelAnchor, TpmAnchor, TrustAnchors};
use countersign_attestation::claims::HexBytes;
use countersign_attestation::endorsement::tpm::TpmDenials;
use countersign_attestation::{JudgedAt, UnixMillis};
use serde::Serialize;

use crate::collateral::document::Document;
use crate::collateral::intel::{IntelDocuments, PlatformCollateral};
use crate::collateral::items::{Items, Sorted};
use crate::collateral::settings::Grace;
use crate::config::{ConfigError, DataDir, list_dir, read_bounded};

/// AMD's CRLs are under 2 KiB and vendor certificates under 4 KiB; a megabyte leaves room for a list that has grown.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything the verifier is given besides evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collateral {
    /// Pinned roots.
    pub anchors: TrustAnchors,
    /// AMD's revocation lists, DER.
    pub crls: Vec<Vec<u8>>,
    /// Revocation lists of authorities of EKs and AKs, DER.
    pub tpm_crls: Vec<Vec<u8>>,
    /// What an operator denies of TPMs whose certificates are genuine.
    pub tpm_denials: TpmDenials,
    /// What Intel says of families of platforms.
    pub intel: Vec<PlatformCollateral>,
    /// How long what vendors publish may be late.
    pub grace: Option<Grace>,
}

/// Reads what an operator decides: anchors (see [`anchors`]), `collateral/tpm/denied.json`, a [`TpmDenials`], and the
/// grace of `collateral.toml`.
///
/// # Errors
/// [`ConfigError`] when a file is unreadable or no anchor at all is pinned.
pub fn load(data: &DataDir) -> Result<Collateral, ConfigError> {
    let anchors = anchors::load(data)?;
    let tpm_denials = read_denials(&data.collateral().join("tpm").join("denied.json"))?;
    let grace = settings::Settings::load(data)?.grace;
    Ok(Collateral { anchors, tpm_denials, grace, ..Collateral::default() })
}

/// A document and the file it is in.
pub type Filed = (String, Document);

/// Reads the documents an operator put on disk: `collateral/amd/*.crl` and `collateral/tpm/*.crl`, lists in DER;
/// `collateral/intel/*.json`, [`IntelDocuments`].
///
/// # Errors
/// [`ConfigError`] when a file is unreadable.
pub fn filed(data: &DataDir) -> Result<Vec<Filed>, ConfigError> {
    let name = |path: &Path| format!("file:{}", path.file_name().unwrap_or_default().to_string_lossy());
    let list = |path: &Path| read_bounded(path, FILE_BYTES_MAX).map(HexBytes);
    let mut filed = Vec::new();
    for path in list_dir(&data.collateral().join("amd"))? {
        filed.push((name(&path), Document::AmdCrl { list: list(&path)? }));
    }
    for path in list_dir(&data.collateral().join("tpm"))? {
        if path.extension().is_some_and(|extension| extension == "crl") {
            filed.push((name(&path), Document::TpmCrl { list: list(&path)? }));
        }
    }
    for path in list_dir(&data.collateral().join("intel"))? {
        let bytes = read_bounded(&path, FILE_BYTES_MAX)?;
        let documents: IntelDocuments = serde_json::from_slice(&bytes)
            .map_err(|error| ConfigError::content(&path, "the parts of DCAP's quote collateral, version 3", error))?;
        filed.extend(<[Document; 4]>::from(documents).map(|document| (name(&path), document)));
    }
    Ok(filed)
}

/// The operator's deny list; empty where there is none.
fn read_denials(path: &Path) -> Result<TpmDenials, ConfigError> {
    if !path.exists() {
        return Ok(TpmDenials::default());
    }
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    let expected = "an object of endorsement_keys and minimum_firmware, as JSON";
    // serde reads a list as a structure's members in their order, which nobody means.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ConfigError::content(path, expected, "something else"));
    }
    serde_json::from_slice(&bytes).map_err(|error| ConfigError::content(path, expected, error))
}

/// Anchors and lists as they are archived with a decision: what the verifier was given, bit for bit.
#[derive(Serialize)]
struct Archived {
    amd: Vec<(AmdProduct, Assurance, HexBytes, Vec<HexBytes>)>,
    tpm: Vec<(String, Assurance, HexBytes, Vec<HexBytes>)>,
    ak: Vec<(String, Assurance, HexBytes, Vec<HexBytes>)>,
    crls: Vec<HexBytes>,
    tpm_denials: TpmDenials,
    intel_anchors: Vec<(String, Assurance, HexBytes)>,
    intel: Vec<IntelDocuments>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tpm_crls: Vec<HexBytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<Grace>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ArchivedText {
    amd: Vec<(AmdProduct, Assurance, String, Vec<String>)>,
    tpm: Vec<(String, Assurance, String, Vec<String>)>,
    /// Absent in what was archived before AK certificates were.
    #[serde(default)]
    ak: Vec<(String, Assurance, String, Vec<String>)>,
    crls: Vec<String>,
    /// Absent in what was archived before there was such a list.
    #[serde(default)]
    tpm_denials: TpmDenials,
    /// Absent in what was archived before TDX was.
    #[serde(default)]
    intel_anchors: Vec<(String, Assurance, HexBytes)>,
    #[serde(default)]
    intel: Vec<IntelDocuments>,
    /// Absent where there are none.
    #[serde(default)]
    tpm_crls: Vec<String>,
    #[serde(default)]
    grace: Option<Grace>,
}

impl Collateral {
    /// The same with the documents of `items` that count under the anchors.
    #[must_use]
    pub fn with(self, items: &mut Items) -> Self {
        items.settle(&self.anchors);
        let Sorted { amd, tpm, intel } = Sorted::of(items);
        Self { crls: amd, tpm_crls: tpm, intel, ..self }
    }

    /// The moment `now`, judged with the grace in force.
    #[must_use]
    pub fn at(&self, now: UnixMillis) -> JudgedAt {
        Grace::at(self.grace.as_ref(), now)
    }

    /// The bytes that are archived.
    #[must_use]
    pub fn to_archive(&self) -> Vec<u8> {
        let hex = |bytes: &Vec<u8>| HexBytes(bytes.clone());
        let all = |list: &Vec<Vec<u8>>| list.iter().map(hex).collect();
        let amd = self.anchors.amd.iter().map(|a| (a.product, a.assurance, hex(&a.ark), all(&a.intermediates)));
        let named = |t: &TpmAnchor| (t.name.clone(), t.assurance, hex(&t.root), all(&t.intermediates));
        let (tpm, ak) = (self.anchors.tpm.iter().map(named), self.anchors.ak.iter().map(named));
        let tpm_denials = self.tpm_denials.clone();
        let (amd, tpm, ak) = (amd.collect(), tpm.collect(), ak.collect());
        let intel_anchors = self.anchors.intel.iter().map(|a| (a.name.clone(), a.assurance, hex(&a.root))).collect();
        let intel = self.intel.iter().map(|collateral| collateral.documents.clone()).collect();
        let (crls, tpm_crls, grace) = (all(&self.crls), all(&self.tpm_crls), self.grace.clone());
        let archived = Archived { amd, tpm, ak, crls, tpm_denials, intel_anchors, intel, tpm_crls, grace };
        // Strings, numbers and lists always serialize.
        serde_json::to_vec(&archived).unwrap_or_default()
    }

    /// The collateral that [`Collateral::to_archive`] wrote; `None` when the bytes are not that.
    #[must_use]
    pub fn from_archive(bytes: &[u8]) -> Option<Self> {
        let text: ArchivedText = serde_json::from_slice(bytes).ok()?;
        let all = |list: Vec<String>| list.iter().map(hex::decode).collect::<Result<Vec<_>, _>>().ok();
        let (crls, tpm_crls) = (all(text.crls)?, all(text.tpm_crls)?);
        let (tpm_denials, grace) = (text.tpm_denials, text.grace);
        let mut collateral = Self { crls, tpm_crls, tpm_denials, grace, ..Self::default() };
        let intel_anchor = |(name, assurance, root): (_, _, HexBytes)| IntelAnchor { name, assurance, root: root.0 };
        collateral.anchors.intel = text.intel_anchors.into_iter().map(intel_anchor).collect();
        let intel = text.intel.into_iter().map(PlatformCollateral::new).collect::<Result<_, _>>();
        collateral.intel = intel.ok()?;
        for (product, assurance, ark, intermediates) in text.amd {
            let (ark, intermediates) = (hex::decode(ark).ok()?, all(intermediates)?);
            collateral.anchors.amd.push(AmdAnchor { product, assurance, ark, intermediates });
        }
        for (anchors, archived) in [(&mut collateral.anchors.tpm, text.tpm), (&mut collateral.anchors.ak, text.ak)] {
            for (name, assurance, root, intermediates) in archived {
                let (root, intermediates) = (hex::decode(root).ok()?, all(intermediates)?);
                anchors.push(TpmAnchor { name, assurance, root, intermediates });
            }
        }
        Some(collateral)
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::anchor::{Assurance, TpmAnchor};
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::x509::Certificate;

    use super::anchors::{install_shipped_anchors, shipped_tpm_anchors};
    use super::{Collateral, load};
    use crate::config::DataDir;

    #[test]
    fn shipped_anchors_load_as_hardware_and_survive_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        install_shipped_anchors(&data).unwrap();
        let collateral = load(&data).unwrap();
        assert_eq!(collateral.anchors.amd.len(), 3);
        assert!(collateral.anchors.amd.iter().all(|anchor| anchor.assurance == Assurance::Hardware));
        assert!(collateral.anchors.amd.iter().all(|anchor| anchor.intermediates.len() == 1));
        assert_eq!(collateral.anchors.tpm.len(), 17);
        assert!(collateral.anchors.tpm.iter().all(|anchor| anchor.assurance == Assurance::Hardware));
        assert_eq!(collateral.anchors.tpm, shipped_tpm_anchors());
        assert_eq!(Collateral::from_archive(&collateral.to_archive()), Some(collateral));
    }

    /// The digests are those of SOURCE.md, and only what signs itself is a root; of a root that does so with SHA-1 the
    /// pinned bytes alone count.
    #[test]
    fn shipped_tpm_roots_are_the_documented_ones_and_sign_themselves() {
        let source = include_str!("../../firmware-refs/anchors/tpm/SOURCE.md");
        let mut by_sha1 = Vec::new();
        for anchor in shipped_tpm_anchors() {
            let documented = |der: &[u8]| source.contains(&Sha256Digest::of(&[der]).to_hex());
            assert!(documented(&anchor.root), "{}", anchor.name);
            let root = Certificate::parse(&anchor.root).unwrap();
            root.check_may_issue().unwrap();
            match root.check_issued_by(&root) {
                Ok(()) => {}
                Err(rejection) => {
                    assert_eq!(rejection.code(), "x509.algorithm.unsupported", "{}", anchor.name);
                    by_sha1.push(anchor.name.clone());
                }
            }
            assert_eq!(anchor.intermediates.len(), if anchor.name.starts_with("stmicro/") { 2 } else { 0 });
            assert!(anchor.intermediates.iter().all(|der| documented(der)));
        }
        assert_eq!(by_sha1, ["nuvoton/root-1013", "nuvoton/root-1014", "nuvoton/root-2010", "nuvoton/root-2011"]);
        let stmicro: Vec<_> = shipped_tpm_anchors().into_iter().filter(|a| a.name.starts_with("stmicro/")).collect();
        for intermediate in &stmicro[0].intermediates {
            let intermediate = Certificate::parse(intermediate).unwrap();
            let issues =
                |anchor: &TpmAnchor| intermediate.check_issued_by(&Certificate::parse(&anchor.root).unwrap()).is_ok();
            assert_eq!(stmicro.iter().filter(|anchor| issues(anchor)).count(), 1);
        }
    }

    #[test]
    fn tpm_anchors_of_an_operator_stand_by_their_class_and_a_file_that_is_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        let root = &shipped_tpm_anchors()[0].root;
        let vendor = data.anchors().join("tpm/simulated/mine");
        std::fs::create_dir_all(&vendor).unwrap();
        std::fs::write(vendor.join("beside.der"), root).unwrap();
        assert!(load(&data).unwrap_err().to_string().contains("root*.der"), "an intermediate alone is no anchor");
        std::fs::write(vendor.join("root-a.der"), root).unwrap();
        std::fs::write(vendor.join("root-b.der"), root).unwrap();
        let anchors = load(&data).unwrap().anchors.tpm;
        let names: Vec<_> = anchors.iter().map(|a| (a.name.as_str(), a.assurance, a.intermediates.len())).collect();
        assert_eq!(names, [("mine/root-a", Assurance::Simulated, 1), ("mine/root-b", Assurance::Simulated, 1)]);
        let clouds = data.anchors().join("ak/simulated/cloud");
        std::fs::create_dir_all(&clouds).unwrap();
        std::fs::write(clouds.join("root.der"), root).unwrap();
        let collateral = load(&data).unwrap();
        let counts = (collateral.anchors.tpm.len(), collateral.anchors.ak.len());
        assert_eq!(counts, (2, 1), "who vouches for AKs is apart from who vouches for EKs");
        assert_eq!(Collateral::from_archive(&collateral.to_archive()), Some(collateral));
        std::fs::write(vendor.join("root-c.der"), b"no certificate").unwrap();
        assert!(load(&data).unwrap_err().to_string().contains("root-c.der"));
    }

    #[test]
    fn a17_the_deny_list_is_read_archived_and_never_half_understood() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        install_shipped_anchors(&data).unwrap();
        let file = data.collateral().join("tpm/denied.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let ek = Sha256Digest([0xab; 32]);
        let text = format!(
            r#"{{"endorsement_keys": ["{ek}"], "minimum_firmware": [{{"manufacturer": "AMD", "version": "3.90.0.5"}}]}}"#
        );
        std::fs::write(&file, text).unwrap();
        let collateral = load(&data).unwrap();
        assert_eq!(collateral.tpm_denials.check_ek(ek).unwrap_err().code(), "tpm.ek.denied");
        assert_eq!(collateral.tpm_denials.minimum_firmware.len(), 1);
        assert_eq!(Collateral::from_archive(&collateral.to_archive()), Some(collateral));
        for wrong in ["", "[]", r#"{"endorsement_keys": ["ab"]}"#, r#"{"endorsment_keys": []}"#] {
            std::fs::write(&file, wrong).unwrap();
            assert!(load(&data).unwrap_err().to_string().contains("denied.json"), "{wrong}");
        }
    }

    #[test]
    fn no_anchor_or_a_folder_without_its_root_refuses_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path());
        assert!(load(&data).is_err());
        install_shipped_anchors(&data).unwrap();
        std::fs::remove_file(data.anchors().join("amd/milan/ark.der")).unwrap();
        assert!(load(&data).unwrap_err().to_string().contains("ark"));
    }
}
