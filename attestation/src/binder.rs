//! The binder ties every part of a bundle to one challenge and one credential key, so that parts of different hosts,
//! moments or keys do not compose.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use aws_lc_rs::digest as engine;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::protocol::Base64Bytes;
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

/// What the two ends of one TLS 1.3 connection can compute and nobody between them: 32 bytes of its exporter (RFC
/// 8446, 7.5; RFC 9266 does the same without role and key). Evidence is for the connection that it is sent on, so a
/// relay that ends the host's connection and opens one of its own has evidence for neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Base64Bytes", into = "Base64Bytes")]
pub struct ChannelBinding(pub [u8; Self::LENGTH]);

impl ChannelBinding {
    /// Bytes that are exported.
    pub const LENGTH: usize = 32;
    /// Exporter label.
    pub const LABEL: &[u8] = b"EXPORTER-countersign-v1-attest";

    /// Exporter context: the role, and SHA-256 of the `SubjectPublicKeyInfo` of the certificate that the role presented
    /// on this connection. The exporter alone is the same for both ends, so that one's value would do as the other's.
    #[must_use]
    pub fn context(role: Role, own_leaf: &Sha256Digest) -> Vec<u8> {
        [role.label(), &own_leaf.0].concat()
    }
}

impl TryFrom<Base64Bytes> for ChannelBinding {
    type Error = String;

    fn try_from(bytes: Base64Bytes) -> Result<Self, Self::Error> {
        let length = bytes.0.len();
        <[u8; Self::LENGTH]>::try_from(bytes.0)
            .map(Self)
            .map_err(|_| format!("a channel binding has {} bytes, found {length}", Self::LENGTH))
    }
}

impl From<ChannelBinding> for Base64Bytes {
    fn from(binding: ChannelBinding) -> Self {
        Self(binding.0.to_vec())
    }
}

/// `SHA-512("countersign/v1/binder" || 0x00 || role || nonce || SHA-256(SPKI of the credential key) || channel)`.
///
/// What follows the role has a fixed size, so the role is delimited without a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binder([u8; 64]);

impl Binder {
    /// The binder for `nonce`, the DER `SubjectPublicKeyInfo` of the credential key, and the connection that the
    /// evidence is sent on.
    #[must_use]
    pub fn new(role: Role, nonce: &Nonce, credential_key_spki: &[u8], channel: &ChannelBinding) -> Self {
        let mut context = engine::Context::new(&engine::SHA512);
        context.update(b"countersign/v1/binder\0");
        context.update(role.label());
        context.update(nonce);
        context.update(&Sha256Digest::of(&[credential_key_spki]).0);
        context.update(&channel.0);
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
    use super::{Binder, ChannelBinding, Role};
    use crate::digest::Sha256Digest;

    #[test]
    fn binder_is_the_documented_hash() {
        // python3: sha512(b"countersign/v1/binder\0host" + bytes(32) + sha256(b"key").digest() + b"\1" * 32)
        let channel = ChannelBinding([1; 32]);
        let binder = Binder::new(Role::Host, &[0; 32], b"key", &channel);
        assert_eq!(
            hex::encode(binder.report_data()),
            "576c8e97fdd0fdcc2388e3b61fdbf548595ff7414a1364c823c6b142ca5bd95e1fed7975b4406eff98a971dc97e47fa295c8bafc6be8a684bf936ebe570ce5c9"
        );
        assert_ne!(binder, Binder::new(Role::Host, &[1; 32], b"key", &channel));
        assert_ne!(binder, Binder::new(Role::Host, &[0; 32], b"kez", &channel));
        assert_ne!(binder, Binder::new(Role::Host, &[0; 32], b"key", &ChannelBinding([2; 32])));
    }

    #[test]
    fn a_channel_binding_is_archived_whole_or_not_at_all() {
        let binding = ChannelBinding([7; 32]);
        let text = serde_json::to_string(&binding).unwrap();
        assert_eq!(serde_json::from_str::<ChannelBinding>(&text).unwrap(), binding);
        for wrong in ["\"\"", "\"BwcH\"", "null", "7"] {
            assert!(serde_json::from_str::<ChannelBinding>(wrong).is_err(), "{wrong}");
        }
        let leaf = Sha256Digest([9; 32]);
        assert_eq!(ChannelBinding::context(Role::Host, &leaf), [&b"host"[..], &[9; 32]].concat());
    }
}
