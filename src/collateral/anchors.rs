//! Pinned roots as they lie on disk, under `anchors/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance, IntelAnchor, TpmAnchor, TrustAnchors};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::x509::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::collateral::FILE_BYTES_MAX;
use crate::config::{ConfigError, DataDir, list_dir, read_bounded};

const PRODUCTS: [(AmdProduct, &str); 3] =
    [(AmdProduct::Milan, "milan"), (AmdProduct::Genoa, "genoa"), (AmdProduct::Turin, "turin")];

/// Folders of TPM anchors by what a root in them is worth.
const CLASSES: [(&str, Assurance); 2] = [("hardware", Assurance::Hardware), ("simulated", Assurance::Simulated)];

/// The vendor roots this binary ships, as they lie in `firmware-refs/anchors`.
#[derive(Debug, rust_embed::Embed)]
#[folder = "firmware-refs/anchors"]
struct Shipped;

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

/// Reads anchors.
///
/// Layout: `anchors/amd/<product>/{ark,ask}.der` (and `asvk.der` for VLEKs) with class hardware,
/// `anchors/amd-simulated/<product>/…` with class simulated; `anchors/tpm/<class>/<vendor>/root*.{pem,der}`, with the
/// intermediates that may lead to these beside them; `anchors/ak/<class>/<vendor>/` likewise for AK certificates;
/// `anchors/intel/root*.der` with class hardware and `anchors/intel-simulated/root*.der` with class simulated.
///
/// # Errors
/// [`ConfigError`] when a file is unreadable or no anchor at all is pinned: an empty set would only ever deny.
pub(super) fn load(data: &DataDir) -> Result<TrustAnchors, ConfigError> {
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
    Ok(anchors)
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

/// SHA-256 of every certificate this binary ships: the vendors' own.
#[must_use]
pub fn shipped_digests() -> BTreeSet<Sha256Digest> {
    Shipped::iter().filter_map(|name| Shipped::get(&name)).map(|file| Sha256Digest::of(&[&file.data])).collect()
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
