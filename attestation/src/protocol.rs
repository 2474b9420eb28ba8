//! The messages between a host and the broker (HTTP/JSON over TLS 1.3, `/v1`). Unknown members are refused.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::claims::PcrHash;
use crate::digest::Sha256Digest;
use crate::evidence::bundle::Collection;
use crate::time::UnixMillis;

/// Bytes that travel as base64url without padding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Base64Bytes(pub Vec<u8>);

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        URL_SAFE_NO_PAD
            .decode(&text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("expected base64url without padding (RFC 4648, section 5)"))
    }
}

/// A host's name in its trust domain: 1 to 63 characters of `a-z`, `0-9`, `-` and `.`, starting and ending with a
/// letter or digit, so that it is a SPIFFE path segment and never `.` or `..`. Clones share it: a broker names each
/// host in many places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(Arc<str>);

impl Serialize for HostId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl HostId {
    /// The id that `text` spells, if it is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let well_formed = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'.'))
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && !text.contains("..");
        well_formed.then(|| Self(Arc::from(text)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HostId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("expected a host id: 1 to 63 of a-z, 0-9, '-' and '.', ends alphanumeric")
        })
    }
}

/// Most intermediates a host may send along.
pub const INTERMEDIATES_MAX: usize = 8;

/// Who says that the host's TPM is one, and by which key it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Endorsement {
    /// The TPM's manufacturer, by its EK. The EK opens a secret for the AK (TPM2_ActivateCredential).
    EndorsementKey {
        /// EK certificate, DER.
        certificate: Base64Bytes,
        /// EK public area, TPMT_PUBLIC; its key is the certificate's.
        public: Base64Bytes,
        /// Certificates between it and the pinned root, DER, in any order; none is ever fetched.
        intermediates: Vec<Base64Bytes>,
    },
    /// A cloud or a device manufacturer, by the AK itself, which signs a nonce.
    AkCertificate {
        /// AK certificate, DER; its key is the request's AK.
        certificate: Base64Bytes,
        /// As for an EK.
        intermediates: Vec<Base64Bytes>,
    },
    /// A device manufacturer, by its initial attestation key, which certifies the AK (TCG TPM 2.0 Keys for Device
    /// Identity and Attestation).
    InitialAttestationKey {
        /// IAK certificate, DER.
        certificate: Base64Bytes,
        /// IAK public area, TPMT_PUBLIC; its key is the certificate's.
        public: Base64Bytes,
        /// As for an EK.
        intermediates: Vec<Base64Bytes>,
    },
}

/// `POST /v1/enrollments`: a host names its TPM and AK. Anyone may ask; only the TPM that holds both the endorsed key
/// and the AK can answer the challenge, and only a host an operator registered with this endorsed key is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentRequest {
    /// The id an operator registered.
    pub host: HostId,
    /// The certificate that the TPM is known by.
    pub endorsement: Endorsement,
    /// AK public area, TPMT_PUBLIC.
    pub ak_public: Base64Bytes,
    /// P-256 `SubjectPublicKeyInfo` (DER) of the key the agent will authenticate its TLS channel with.
    pub channel_key: Base64Bytes,
}

/// What the host's TPM must do to show that it holds the endorsed key and the AK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum EnrollmentTask {
    /// TPM2_ActivateCredential: TPM2_MakeCredential for this EK and AK.
    ActivateCredential {
        /// TPMS_ID_OBJECT: integrity HMAC (TPM2B) and encrypted credential, without the outer TPM2B size.
        credential_blob: Base64Bytes,
        /// Encrypted seed, without the outer TPM2B size.
        encrypted_secret: Base64Bytes,
    },
    /// TPM2_Quote by the certified AK, of any PCRs, with [`possession_data`] as qualifyingData.
    Quote {
        /// 32 bytes.
        nonce: Base64Bytes,
    },
    /// TPM2_Certify of the AK by the IAK, with [`possession_data`] as qualifyingData.
    CertifyAk {
        /// 32 bytes.
        nonce: Base64Bytes,
    },
}

/// Answer to [`EnrollmentRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollmentChallenge {
    /// Id of the enrolment, for the activation's path.
    pub enrollment: String,
    /// What to do.
    pub task: EnrollmentTask,
    /// When the enrolment is void.
    pub expires_at: UnixMillis,
}

/// `POST /v1/enrollments/{id}/activation`: proof that the TPM did its [`EnrollmentTask`]. One attempt; a wrong proof
/// voids the enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationRequest {
    /// [`activation_proof`] under the activated secret; or TPM2B_ATTEST and TPMT_SIGNATURE of the quote or
    /// certification.
    pub proof: Base64Bytes,
}

/// HMAC-SHA-256 under the activated `secret` over
/// `"countersign/v1/activation" || 0x00 || SHA-256(channel key SPKI) || enrollment id`: the secret itself never travels
/// back, and the channel key is bound to the TPM that opened it.
#[must_use]
pub fn activation_proof(secret: &[u8], enrollment: &str, channel_key_spki: &[u8]) -> [u8; 32] {
    let mut message = b"countersign/v1/activation\0".to_vec();
    message.extend_from_slice(&Sha256Digest::of(&[channel_key_spki]).0);
    message.extend_from_slice(enrollment.as_bytes());
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    let tag = aws_lc_rs::hmac::sign(&key, &message);
    let mut proof = [0; 32];
    proof.copy_from_slice(tag.as_ref());
    proof
}

/// qualifyingData of a proof of possession at enrolment: SHA-256 over
/// `"countersign/v1/enrollment" || 0x00 || nonce || SHA-256(channel key SPKI) || enrollment id`, so that the channel
/// key is bound to the TPM that signs, and no quote of an attestation proves an enrolment.
#[must_use]
pub fn possession_data(nonce: &[u8; 32], enrollment: &str, channel_key_spki: &[u8]) -> [u8; 32] {
    let channel_key = Sha256Digest::of(&[channel_key_spki]);
    Sha256Digest::of(&[b"countersign/v1/enrollment\0", nonce, &channel_key.0, enrollment.as_bytes()]).0
}

/// Answer to [`ActivationRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationResponse {
    /// The enrolled host.
    pub host: HostId,
    /// Client certificate for the host routes, PEM; it authenticates the channel and grants no trust.
    pub channel_certificate: String,
}

/// One bank of a PCR selection. PCR indexes are ascending and distinct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrSelection {
    /// The bank.
    pub bank: PcrHash,
    /// PCR indexes, 0 to 23, ascending.
    pub pcrs: Vec<u8>,
}

/// Answer to `POST /v1/challenges` (empty body; the channel names the host).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Opaque, authenticated by the broker, bound to the host, redeemed once.
    pub challenge: String,
    /// The nonce the binder is made with, 32 bytes.
    pub nonce: Base64Bytes,
    /// The challenge is void from this moment.
    pub expires_at: UnixMillis,
    /// The selection to quote: exactly this, banks in this order.
    pub pcr_selection: Vec<PcrSelection>,
    /// The boot whose log the broker has verified; none before the host's first attestation, and whenever the broker
    /// wants all logs from their beginning.
    pub known_boot: Option<KnownBoot>,
}

/// The boot that the host was in at its last attestation. A host whose quote has the same counts sends no event log,
/// and IMA entries from `ima_entries` on; any other host sends its event log whole and IMA entries from 0. (Not those
/// of TPM2_ReadClock: a key outside the endorsement hierarchy signs others.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownBoot {
    /// TPMS_CLOCK_INFO.resetCount.
    pub reset_count: u32,
    /// TPMS_CLOCK_INFO.restartCount.
    pub restart_count: u32,
    /// Entries of this boot's IMA list that the broker has verified.
    pub ima_entries: u64,
}

/// `POST /v1/attestations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationRequest {
    /// [`Challenge::challenge`], unchanged.
    pub challenge: String,
    /// P-256 `SubjectPublicKeyInfo` (DER) of the credential key.
    pub credential_key: Base64Bytes,
    /// The bundle.
    pub evidence: Collection,
    /// Whom JWT-SVIDs are wanted for, at most [`AUDIENCES_MAX`](crate::result::jwt_svid::AUDIENCES_MAX).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// A key of the host's workloads, for which a new credential is wanted too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_key: Option<WorkloadKey>,
}

/// A key in memory that the credential key vouches for; see [`workload_key`](crate::workload_key).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadKey {
    /// P-256 `SubjectPublicKeyInfo` (DER).
    pub key: Base64Bytes,
    /// The credential key's signature over [`message`](crate::workload_key::message): ECDSA with SHA-256, r || s.
    pub endorsement: Base64Bytes,
    /// The workload key's own, likewise.
    pub possession: Base64Bytes,
}

/// Answer to a granted [`AttestationRequest`]. A denial is a problem document with status 403.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationResponse {
    /// Hash of the decision's leaf in the lineage log: the decision id.
    pub decision: Sha256Digest,
    /// Index of that leaf.
    pub log_index: u64,
    /// How long the host is trusted without another proof.
    pub lease_until: UnixMillis,
    /// When the agent should attest again, at the latest.
    pub attest_again_in_ms: u64,
    /// A new credential, when the credential key is new; `null` when a live credential for this key goes on.
    pub credential: Option<IssuedCredential>,
}

/// An execution credential: an X.509-SVID and an EAR with the same decision id and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedCredential {
    /// X.509-SVID, then its intermediates, PEM.
    pub certificate_chain: String,
    /// EAR as a JWT (ES256), holder-of-key by `cnf.jkt`.
    pub ear: String,
    /// JWT-SVIDs, one for each audience that was asked for, in that order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_svids: Vec<IssuedToken>,
    /// X.509-SVID for the [`WorkloadKey`] that was offered, then its intermediates, PEM: of the same decision, status
    /// and end. Absent where none was offered, or where the broker issues none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_chain: Option<String>,
    /// WIT-SVID for the credential key: of the same decision and end, worth nothing without a proof for each request.
    /// Absent unless the broker's settings say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wit_svid: Option<String>,
    /// SPIFFE bundle roots, PEM.
    pub trust_bundle: String,
    /// Serial number, hex.
    pub serial: String,
    /// The credential is not valid from this moment.
    pub not_after: UnixMillis,
    /// When to renew: attest with a new credential key.
    pub renew_at: UnixMillis,
}

/// A JWT-SVID of an [`IssuedCredential`]: with the same decision, key and end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedToken {
    /// For whom.
    pub audience: String,
    /// The token (ES256), holder-of-key by `cnf.jkt`.
    pub token: String,
}

/// A problem document (RFC 9457) with our stable reason code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:countersign:reason:` and the code.
    #[serde(rename = "type")]
    pub problem_type: String,
    /// One sentence.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// The stable reason code.
    pub code: String,
    /// What would have been accepted. Left out where the host must not learn it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What to do about it.
    pub remedy: String,
    /// The decision's id where one was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Sha256Digest>,
}

#[cfg(test)]
mod tests {
    use super::HostId;

    #[test]
    fn host_ids_are_path_segments() {
        for good in ["a", "gpu-17", "rack4.gpu-17", "0"] {
            assert!(HostId::parse(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", "a..b", "-a", "a-", "A", "a/b", "a%2fb", "é", &"a".repeat(64)] {
            assert!(HostId::parse(bad).is_none(), "{bad}");
        }
    }
}
