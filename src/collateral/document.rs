//! What vendors publish anew from time to time, one document at a time, as it was published.

use countersign_attestation::anchor::TrustAnchors;
use countersign_attestation::claims::HexBytes;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::issue::Issue;
use countersign_attestation::{Rejection, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::collateral::intel::IntelDocuments;

/// One list, TCB info or identity, with the chain of whoever signed it. Nothing of it is believed for being here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Document {
    /// Revocation list of an ARK (AMD 57230, 4.3).
    AmdCrl {
        /// DER.
        list: HexBytes,
    },
    /// Revocation list of an authority that certifies EKs or AKs.
    TpmCrl {
        /// DER.
        list: HexBytes,
    },
    /// Revocation list of Intel's root.
    IntelRootCrl {
        /// DER.
        list: HexBytes,
    },
    /// Revocation list of a CA of PCKs.
    IntelPckCrl {
        /// DER.
        list: HexBytes,
        /// CA and root, PEM.
        issuer_chain: String,
    },
    /// TCB info of a family of Intel's platforms.
    IntelTcbInfo {
        /// Exactly as signed.
        tcb_info: String,
        /// r || s.
        signature: HexBytes,
        /// Signer and root, PEM.
        issuer_chain: String,
    },
    /// Identity of a quoting enclave of Intel's.
    IntelQeIdentity {
        /// Exactly as signed.
        qe_identity: String,
        /// r || s.
        signature: HexBytes,
        /// Signer and root, PEM.
        issuer_chain: String,
    },
}

impl Document {
    /// Which issue of what it is, once its signature was checked under a pinned anchor.
    ///
    /// # Errors
    /// Why it is not taken for anything.
    pub fn issue(&self, anchors: &TrustAnchors, now: UnixMillis) -> Result<Issue, Rejection> {
        match self {
            Self::AmdCrl { list } => Issue::of_amd_crl(&list.0, &anchors.amd, now),
            Self::TpmCrl { list } => Issue::of_tpm_crl(&list.0, &anchors.tpm, now)
                .or_else(|rejection| Issue::of_tpm_crl(&list.0, &anchors.ak, now).map_err(|_| rejection)),
            Self::IntelRootCrl { list } => Issue::of_intel_root_crl(&list.0, &anchors.intel, now),
            Self::IntelPckCrl { list, issuer_chain } => {
                Issue::of_intel_pck_crl(&list.0, issuer_chain, &anchors.intel, now)
            }
            Self::IntelTcbInfo { tcb_info, signature, issuer_chain } => {
                Issue::of_tcb_info(tcb_info, &signature.0, issuer_chain, &anchors.intel, now)
            }
            Self::IntelQeIdentity { qe_identity, signature, issuer_chain } => {
                Issue::of_qe_identity(qe_identity, &signature.0, issuer_chain, &anchors.intel, now)
            }
        }
    }

    /// As it is stored, archived and exported.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// SHA-256 of [`Document::to_json`]: its name in the archive.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.to_json()])
    }
}

impl From<IntelDocuments> for [Document; 4] {
    fn from(documents: IntelDocuments) -> Self {
        [
            Document::IntelRootCrl { list: documents.root_ca_crl },
            Document::IntelPckCrl { list: documents.pck_crl, issuer_chain: documents.pck_crl_issuer_chain },
            Document::IntelTcbInfo {
                tcb_info: documents.tcb_info,
                signature: documents.tcb_info_signature,
                issuer_chain: documents.tcb_info_issuer_chain,
            },
            Document::IntelQeIdentity {
                qe_identity: documents.qe_identity,
                signature: documents.qe_identity_signature,
                issuer_chain: documents.qe_identity_issuer_chain,
            },
        ]
    }
}
