//! Intel's collateral as it lies on disk: for each family of platforms and CA of PCKs, the documents and lists that
//! DCAP hands to a verifier, exactly as they were fetched.

use countersign_attestation::anchor::IntelAnchor;
use countersign_attestation::claims::HexBytes;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::intel::{IntelCollateral, TcbInfo, UnverifiedPlatform, VerifiedCollateral};
use countersign_attestation::x509::Crl;
use countersign_attestation::{JudgedAt, Rejection, UnixMillis};
use serde::{Deserialize, Serialize};

/// The parts of DCAP's quote collateral, version 3; lists and signatures in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntelDocuments {
    /// CA that issued the PCKs and their list, and the root; PEM.
    pub pck_crl_issuer_chain: String,
    /// List of the root.
    pub root_ca_crl: HexBytes,
    /// List of the CA.
    pub pck_crl: HexBytes,
    /// Signer of the TCB info, and the root; PEM.
    pub tcb_info_issuer_chain: String,
    /// TCB info, exactly as signed.
    pub tcb_info: String,
    /// Its signature, r || s.
    pub tcb_info_signature: HexBytes,
    /// Signer of the QE identity, and the root; PEM.
    pub qe_identity_issuer_chain: String,
    /// QE identity, exactly as signed.
    pub qe_identity: String,
    /// Its signature, r || s.
    pub qe_identity_signature: HexBytes,
}

impl IntelDocuments {
    /// The parts as the verifier takes them.
    #[must_use]
    pub fn parts(&self) -> IntelCollateral<'_> {
        IntelCollateral {
            pck_crl_issuer_chain: &self.pck_crl_issuer_chain,
            root_ca_crl: &self.root_ca_crl.0,
            pck_crl: &self.pck_crl.0,
            tcb_info_issuer_chain: &self.tcb_info_issuer_chain,
            tcb_info: &self.tcb_info,
            tcb_info_signature: &self.tcb_info_signature.0,
            qe_identity_issuer_chain: &self.qe_identity_issuer_chain,
            qe_identity: &self.qe_identity,
            qe_identity_signature: &self.qe_identity_signature.0,
        }
    }

    /// Checks all of it under `anchors`.
    ///
    /// # Errors
    /// Why a part of it is not believed.
    pub fn endorse(&self, anchors: &[IntelAnchor], at: impl Into<JudgedAt>) -> Result<VerifiedCollateral, Rejection> {
        VerifiedCollateral::endorse(&self.parts(), anchors, at)
    }
}

/// Documents, and which platforms they say they are of. Nothing is believed for it: see [`IntelDocuments::endorse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformCollateral {
    /// The documents.
    pub documents: IntelDocuments,
    digest: Sha256Digest,
    platform: UnverifiedPlatform,
    /// Later documents come first.
    age: (u32, UnixMillis),
}

impl PlatformCollateral {
    /// Reads which platforms the documents say they are of.
    ///
    /// # Errors
    /// When TCB info or list cannot be read.
    pub fn new(documents: IntelDocuments) -> Result<Self, Rejection> {
        let info = TcbInfo::read(&documents.tcb_info)?;
        let issuer = Crl::parse(&documents.pck_crl.0)?.issuer().to_vec();
        let platform = UnverifiedPlatform { fmspc: info.fmspc, issuer };
        let (digest, age) = (documents.parts().digest(), (info.evaluation_data_number, info.issue_date));
        Ok(Self { documents, digest, platform, age })
    }

    /// SHA-256 of the documents: see [`IntelCollateral::digest`].
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Of `all`, what is about `platform` with the newest TCB info.
    pub fn newest<'a>(all: &'a [Self], platform: &UnverifiedPlatform) -> Option<&'a Self> {
        all.iter().filter(|collateral| collateral.platform == *platform).max_by_key(|collateral| collateral.age)
    }
}
