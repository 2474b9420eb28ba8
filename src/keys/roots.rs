//! The roots of the workload authority: one, or two while one follows the other.
//!
//! `public/trust-bundle.pem` says which there are, oldest first; replacing it is what makes and ends a root. A key file
//! whose root is not in it is what a crash left. The new root signs issuing certificates only after the overlap, in
//! which relying parties are given the new bundle; the old one stays until the last issuing certificate under it ended.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::x509::Certificate;
use rcgen::{Issuer, PublicKeyData as _};

use super::offline::check_root;
use super::pkcs11::Uri;
use super::signing::SigningKey;
use super::workload::{Generation, Workload};
use super::{BACKDATE_MS, KeyError, WORKLOAD, certificates_der, not_signed, root_params, unusable};
use crate::config::{DataDir, list_dir, read_bounded, replace};

const BUNDLE_BYTES_MAX: u64 = 32_768;

/// One root, with its key where that is on this machine.
pub(super) struct Root {
    pub(super) der: Vec<u8>,
    pub(super) issuer: Option<Issuer<'static, SigningKey>>,
    pub(super) not_after: UnixMillis,
    made: UnixMillis,
}

impl Root {
    pub(super) fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.der])
    }
}

/// The key files of roots, whichever root they are of.
fn key_files(data: &DataDir) -> Result<Vec<PathBuf>, KeyError> {
    let is_root = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(WORKLOAD) && name.ends_with(".key.pem")
    };
    Ok(list_dir(&data.keys())?.into_iter().filter(is_root).collect())
}

/// The bundle's text.
pub(super) fn bundle(data: &DataDir) -> Result<String, KeyError> {
    let bytes = read_bounded(&super::root_path(data, WORKLOAD), BUNDLE_BYTES_MAX)?;
    String::from_utf8(bytes).map_err(unusable("read the CA roots"))
}

/// Reads the roots of a bundle, each with its key where it is here.
pub(super) fn read(data: &DataDir, bundle: &str) -> Result<Vec<Arc<Root>>, KeyError> {
    let mut keys = Vec::new();
    for path in key_files(data)? {
        // A key that cannot be had now, in a token that is away, makes its root one of another machine until it can.
        match SigningKey::load(&path) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::error!(path = %path.display(), %error, "a root's key cannot be used"),
        }
    }
    let mut roots = Vec::new();
    for der in certificates_der(bundle).map_err(unusable("read the CA roots"))? {
        let certificate = Certificate::parse(&der).map_err(unusable("read a CA root"))?;
        let (made, not_after) = (certificate.not_before().plus(BACKDATE_MS), certificate.not_after());
        let position = keys.iter().position(|key| key.subject_public_key_info() == certificate.spki());
        let issuer = match position.map(|position| keys.swap_remove(position)) {
            Some(key) => {
                let der = rustls_pki_types::CertificateDer::from(der.clone());
                Some(Issuer::from_ca_cert_der(&der, key).map_err(unusable("read a CA root"))?)
            }
            None => None,
        };
        roots.push(Arc::new(Root { der, issuer, not_after, made }));
    }
    if roots.is_empty() { Err(unusable("read the CA roots")("the bundle is empty")) } else { Ok(roots) }
}

/// The root that signs issuing certificates at `now`: the newest that has been published for the overlap.
pub(super) fn active(roots: &[Arc<Root>], overlap_ms: u64, now: UnixMillis) -> Result<Arc<Root>, KeyError> {
    let known = roots.iter().skip(1).rev().find(|root| root.made.plus(overlap_ms) <= now);
    known.or(roots.first()).cloned().ok_or_else(|| unusable("read the CA roots")("there is none"))
}

impl Workload {
    /// Adds a root beside the one there is: made here, in a file or where `key` says, or the certificate of one on
    /// another machine. The bundle holds both from then on.
    ///
    /// # Errors
    /// [`KeyError`], also while one root already follows another.
    pub fn rotate_root(&self, key: Option<&Uri>, elsewhere: Option<&str>, now: UnixMillis) -> Result<(), KeyError> {
        let data = self.data();
        let bundle = bundle(data)?;
        let refused = unusable::<&str>("add a root");
        if read(data, &bundle)?.len() != 1 {
            return Err(refused("one root already follows another: wait until the old one has left the bundle"));
        }
        let next = match elsewhere {
            Some(pem) => {
                check_root(pem, now)?;
                pem.to_owned()
            }
            None => {
                let path = data.keys().join(format!("{WORKLOAD}-{}.key.pem", now.0));
                let key = SigningKey::create(&path, key.map(|uri| uri.with_suffix(&now.0.to_string())).as_ref())?;
                // Another name than the root before: paths are found by names.
                let name = format!("{} workloads {}", self.trust_domain(), now.seconds());
                root_params(&name, 1, now)?.self_signed(&key).map_err(not_signed)?.pem()
            }
        };
        if bundle.contains(next.trim()) {
            return Err(refused("it is the root that is there"));
        }
        // A crash before this leaves a key of no root.
        let both = format!("{}\n{}\n", bundle.trim_end(), next.trim_end());
        Ok(replace(&super::root_path(data, WORKLOAD), both.as_bytes())?)
    }

    /// Ends the old root once the new one signs and nothing lives that the old one signed; and the keys of ended roots.
    pub(super) fn end_old_root(&self, now: UnixMillis) -> Result<(), KeyError> {
        let (data, generations) = (self.data(), self.held());
        let bundle = bundle(data)?;
        let roots = read(data, &bundle)?;
        let [old, _] = roots.as_slice() else { return Ok(()) };
        let active = active(&roots, self.settings().root_overlap_ms, now)?.digest();
        let lives = |generation: &Arc<Generation>| generation.root() == old.digest() && now < generation.not_after();
        let moved = generations.iter().any(|generation| generation.root() == active && now < generation.not_after());
        if active == old.digest() || !moved || generations.iter().any(lives) {
            return Ok(());
        }
        let end = "-----END CERTIFICATE-----";
        let rest = bundle.split_once(end).map(|(_, rest)| rest.trim_start()).unwrap_or_default();
        replace(&super::root_path(data, WORKLOAD), rest.as_bytes())?;
        tracing::info!("the old root has left the bundle");
        // A crash here leaves a key that certifies nothing anybody trusts; the operator sees it beside the others.
        for path in key_files(data)? {
            if SigningKey::load(&path)?.subject_public_key_info() == old_spki(old)? {
                SigningKey::destroy(&path)?;
            }
        }
        Ok(())
    }
}

fn old_spki(root: &Root) -> Result<Vec<u8>, KeyError> {
    Ok(Certificate::parse(&root.der).map_err(unusable("read a CA root"))?.spki().to_vec())
}
