//! Endorsements and anchors as the operator keeps them on disk: pinned roots under `anchors/`, revocation lists under
//! `collateral/`. Read at start-up; nothing is ever fetched from an address that evidence names.

pub mod intel;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance, IntelAnchor, TpmAnchor, TrustAnchors};
use countersign_attestation::claims::HexBytes;
use countersign_attestation::endorsement::tpm::TpmDenials;
use countersign_attestation::x509::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;

use crate::collateral::intel::{IntelDocuments, PlatformCollateral};
use crate::config::{ConfigError, DataDir, list_dir, read_bounded};

/// AMD's CRLs are under 2 KiB and vendor certificates under 4 KiB; a megabyte leaves room for a list that has grown.
const FILE_BYTES_MAX: u64 = 1 << 20;

const PRODUCTS: [(AmdProduct, &str); 3] =
    [(AmdProduct::Milan, "milan"), (AmdProduct::Genoa, "genoa"), (AmdProduct::Turin, "turin")];

/// Folders of TPM anchors by what a root in them is worth.
const CLASSES: [(&str, Assurance); 2] = [("hardware", Assurance::Hardware), ("simulated", Assurance::Simulated)];

/// The vendor roots this binary ships, as they lie in `firmware-refs/anchors`.
#[derive(Debug, rust_embed::Embed)]
#[folder = "firmware-refs/anchors"]
struct Shipped;

/// Everything the verifier is given besides evidence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collateral {
    /// Pinned roots.
    pub anchors: TrustAnchors,
    /// Revocation lists, DER.
    pub crls: Vec<Vec<u8>>,
    /// What an operator denies of TPMs whose certificates are genuine.
    pub tpm_denials: TpmDenials,
    /// What Intel says of families of platforms.
    pub intel: Vec<PlatformCollateral>,
}

/// Writes the shipped roots into a data directory, where an operator may remove some and add others.
///
/// # Errors
/// [`ConfigError`] when a file cannot be written.
pub fn install_shipped_anchors(data: &DataDir) -> Result<(), ConfigError> {
    for name in Shipped::iter() {
        let Some(file) = Shipped::get(&name) else { continue };
        let path = data.anchors().join(name.as_ref());
        if let Some(parent) = path.parent() {
            crate::config::create_private_dir(parent)?;
        }
        fs::write(&path, &file.data).map_err(ConfigError::file(&path))?;
    }
    Ok(())
}

/// Reads anchors and collateral.
///
/// Layout: `anchors/amd/<product>/{ark,ask}.der` (and `asvk.der` for VLEKs) with class hardware,
/// `anchors/amd-simulated/<product>/…` with class simulated; `anchors/tpm/<class>/<vendor>/root*.{pem,der}`, with the
/// intermediates that may lead to these beside them; `anchors/ak/<class>/<vendor>/` likewise for AK certificates;
/// `anchors/intel/root*.der` with class hardware and `anchors/intel-simulated/root*.der` with class simulated;
/// `collateral/amd/*.crl`; `collateral/intel/*.json`, [`IntelDocuments`]; `collateral/tpm/denied.json`, a
/// [`TpmDenials`].
///
/// # Errors
/// [`ConfigError`] when a file is unreadable or no anchor at all is pinned: an empty set would only ever deny.
pub fn load(data: &DataDir) -> Result<Collateral, ConfigError> {
    let mut anchors = TrustAnchors::default();
    for (folder, assurance) in [("amd", Assurance::Hardware), ("amd-simulated", Assurance::Simulated)] {
        for (product, name) in PRODUCTS {
            let dir = data.anchors().join(folder).join(name);
            if let Some((root, intermediates)) = read_anchor(&dir, "ark")? {
                anchors.amd.push(AmdAnchor { product, assurance, ark: root, intermediates });
            }
        }
    }
    for (folder, assurance) in CLASSES {
        for dir in list_dir(&data.anchors().join("tpm").join(folder))? {
            anchors.tpm.extend(read_tpm_anchors(&dir, assurance)?);
        }
        for dir in list_dir(&data.anchors().join("ak").join(folder))? {
            anchors.ak.extend(read_tpm_anchors(&dir, assurance)?);
        }
    }
    for (folder, assurance) in [("intel", Assurance::Hardware), ("intel-simulated", Assurance::Simulated)] {
        let files = list_dir(&data.anchors().join(folder))?;
        for path in files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "der" || kind == "pem")) {
            let name = format!("{folder}/{}", path.file_stem().unwrap_or_default().to_string_lossy());
            let roots = read_certificates(path)?.into_iter();
            anchors.intel.extend(roots.map(|root| IntelAnchor { name: name.clone(), assurance, root }));
        }
    }
    if anchors == TrustAnchors::default() {
        return Err(ConfigError::content(&data.anchors(), "at least one pinned root", "none"));
    }
    let crls = list_dir(&data.collateral().join("amd"))?
        .iter()
        .map(|path| read_bounded(path, FILE_BYTES_MAX))
        .collect::<Result<_, _>>()?;
    let intel =
        list_dir(&data.collateral().join("intel"))?.iter().map(|path| read_intel(path)).collect::<Result<_, _>>()?;
    let tpm_denials = read_denials(&data.collateral().join("tpm").join("denied.json"))?;
    Ok(Collateral { anchors, crls, tpm_denials, intel })
}

fn read_intel(path: &Path) -> Result<PlatformCollateral, ConfigError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    let documents: IntelDocuments = serde_json::from_slice(&bytes)
        .map_err(|error| ConfigError::content(path, "the parts of DCAP's quote collateral, version 3", error))?;
    PlatformCollateral::new(documents).map_err(|error| ConfigError::content(path, "documents of Intel's", error))
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

/// A root certificate and what lies beside it, DER.
type RootAndIntermediates = (Vec<u8>, Vec<Vec<u8>>);

/// The roots of one TPM manufacturer's folder: each file whose name starts with `root` is one (its first certificate,
/// where a PEM file holds several), and every other certificate only helps to find the way to them.
fn read_tpm_anchors(dir: &Path, assurance: Assurance) -> Result<Vec<TpmAnchor>, ConfigError> {
    let vendor = dir.file_name().unwrap_or_default().to_string_lossy();
    let mut files = Vec::new();
    for path in list_dir(dir)? {
        let extension = path.extension().unwrap_or_default();
        if extension == "der" || extension == "pem" {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let certificates = read_certificates(&path)?;
            for certificate in &certificates {
                // An anchor that nothing can lead to would be missed only when a host is denied.
                Certificate::parse(certificate)
                    .map_err(|rejection| ConfigError::content(&path, "certificates that can be read", rejection))?;
            }
            files.push((stem, certificates));
        }
    }
    let anchors = tpm_anchors(&vendor, assurance, files);
    if anchors.is_empty() && !list_dir(dir)?.is_empty() {
        return Err(ConfigError::content(dir, "root*.der or root*.pem", "no root certificate"));
    }
    Ok(anchors)
}

/// Anchors of a vendor from its files: stem and certificates.
fn tpm_anchors(vendor: &str, assurance: Assurance, files: Vec<(String, Vec<Vec<u8>>)>) -> Vec<TpmAnchor> {
    let mut roots = Vec::new();
    let mut intermediates = Vec::new();
    for (stem, mut certificates) in files {
        if stem.starts_with("root") && !certificates.is_empty() {
            roots.push((format!("{vendor}/{stem}"), certificates.remove(0)));
        }
        intermediates.append(&mut certificates);
    }
    let anchor = |(name, root)| TpmAnchor { name, assurance, root, intermediates: intermediates.clone() };
    roots.into_iter().map(anchor).collect()
}

/// The TPM manufacturers' roots this binary ships.
#[must_use]
pub fn shipped_tpm_anchors() -> Vec<TpmAnchor> {
    let mut vendors: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for name in Shipped::iter() {
        let Some((vendor, file)) = name.strip_prefix("tpm/hardware/").and_then(|path| path.split_once('/')) else {
            continue;
        };
        if let (Some(stem), Some(data)) = (file.strip_suffix(".der"), Shipped::get(&name)) {
            vendors.entry(vendor.to_owned()).or_default().push((stem.to_owned(), vec![data.data.into_owned()]));
        }
    }
    vendors.into_iter().flat_map(|(vendor, files)| tpm_anchors(&vendor, Assurance::Hardware, files)).collect()
}

/// The root named `root_stem` and every other certificate of a folder; `None` when the folder is not there.
fn read_anchor(dir: &Path, root_stem: &str) -> Result<Option<RootAndIntermediates>, ConfigError> {
    let mut root = None;
    let mut intermediates = Vec::new();
    let files = list_dir(dir)?;
    for path in &files {
        let extension = path.extension().unwrap_or_default();
        if extension != "der" && extension != "pem" {
            continue;
        }
        for certificate in read_certificates(path)? {
            if path.file_stem().is_some_and(|stem| stem == root_stem) && root.is_none() {
                root = Some(certificate);
            } else {
                intermediates.push(certificate);
            }
        }
    }
    match root {
        Some(root) => Ok(Some((root, intermediates))),
        None if files.is_empty() => Ok(None),
        None => Err(ConfigError::content(dir, format!("{root_stem}.der or {root_stem}.pem"), "no root certificate")),
    }
}

/// The certificates of a DER or PEM file.
///
/// # Errors
/// [`ConfigError`] when the file is unreadable or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<Vec<u8>>, ConfigError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    if !bytes.starts_with(b"-----") {
        return Ok(vec![bytes]);
    }
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&bytes).map(|item| item.map(|certificate| certificate.to_vec())).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(ConfigError::content(path, "a PEM certificate", "none")),
        Err(error) => Err(ConfigError::content(path, "PEM certificates", error)),
    }
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
}

impl Collateral {
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
        let archived = Archived { amd, tpm, ak, crls: all(&self.crls), tpm_denials, intel_anchors, intel };
        // Strings, numbers and lists always serialize.
        serde_json::to_vec(&archived).unwrap_or_default()
    }

    /// The collateral that [`Collateral::to_archive`] wrote; `None` when the bytes are not that.
    #[must_use]
    pub fn from_archive(bytes: &[u8]) -> Option<Self> {
        let text: ArchivedText = serde_json::from_slice(bytes).ok()?;
        let all = |list: Vec<String>| list.iter().map(hex::decode).collect::<Result<Vec<_>, _>>().ok();
        let mut collateral = Self { crls: all(text.crls)?, tpm_denials: text.tpm_denials, ..Self::default() };
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

    use super::{Collateral, install_shipped_anchors, load, shipped_tpm_anchors};
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
