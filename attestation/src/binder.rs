//! The binder ties every part of a bundle to one challenge and one credential key, so that parts of different hosts,
//! moments or keys do not compose.

use aws_lc_rs::digest as engine;

use crate::digest::Sha256Digest;
use crate::rejection::reasons;

reasons! {
    /// Why a part of a bundle is not bound to this challenge and key.
    BindingReason {
        /// Compared whole: a prefix is not a match.
        QualifyingData = "binding.qualifying_data",
            "the TPM statement is not about this challenge and credential key",
            "request a fresh challenge and quote with qualifyingData = SHA-256(binder) of that challenge and key";
        /// All 64 bytes.
        ReportData = "binding.report_data",
            "the report is not about this challenge and credential key",
            "request a fresh challenge and ask for the report with REPORT_DATA = binder of that challenge and key";
        /// The key in the request, the key certified by the TPM and the key in the credential are one.
        CredentialKey = "binding.credential_key",
            "the certified key is not the key a credential was asked for",
            "certify the credential key itself and send its SubjectPublicKeyInfo unchanged";
    }
}

/// Who speaks in a bundle; part of the binder so that one party's evidence cannot be reflected as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An inference host that asks for an execution credential.
    Host,
}

impl Role {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Host => b"host",
        }
    }
}

/// A broker's challenge: 32 random bytes, used once.
pub type Nonce = [u8; 32];

/// `SHA-512("countersign/v1/binder" || 0x00 || role || nonce || SHA-256(SPKI of the credential key))`.
///
/// Nonce and key digest have fixed sizes at the end, so the role is delimited without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binder([u8; 64]);

impl Binder {
    /// The binder for `nonce` and the DER `SubjectPublicKeyInfo` of the credential key.
    #[must_use]
    pub fn new(role: Role, nonce: &Nonce, credential_key_spki: &[u8]) -> Self {
        let mut context = engine::Context::new(&engine::SHA512);
        context.update(b"countersign/v1/binder\0");
        context.update(role.label());
        context.update(nonce);
        context.update(&Sha256Digest::of(&[credential_key_spki]).0);
        let mut binder = [0; 64];
        binder.copy_from_slice(context.finish().as_ref());
        Self(binder)
    }

    /// What a TPM quote or certification carries as `qualifyingData`: SHA-256 of the binder.
    #[must_use]
    pub fn qualifying_data(&self) -> [u8; 32] {
        Sha256Digest::of(&[&self.0]).0
    }

    /// What an SEV-SNP report carries as `REPORT_DATA`: the binder.
    #[must_use]
    pub const fn report_data(&self) -> &[u8; 64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Binder, Role};

    #[test]
    fn binder_is_the_documented_hash() {
        // python3: sha512(b"countersign/v1/binder\0host" + bytes(32) + sha256(b"key").digest())
        let binder = Binder::new(Role::Host, &[0; 32], b"key");
        assert_eq!(
            hex::encode(binder.report_data()),
            "03be2a09de4d952f09baebed1e1fa8130a6d64a1af2df4fdcb7eea7e0d2f829c9375376e54d6c0d30b97698f558a1ea732345215d23095bfe5c434623d68b817"
        );
        assert_ne!(binder, Binder::new(Role::Host, &[1; 32], b"key"));
        assert_ne!(binder, Binder::new(Role::Host, &[0; 32], b"kez"));
    }
}
