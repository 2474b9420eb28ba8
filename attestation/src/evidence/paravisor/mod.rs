//! Paravisors and clouds: a virtual TPM whose attestation key is vouched for by confidential hardware, or by the cloud.
//!
//! * [`hcl`]: the report of Azure's paravisor, taken apart, with its [`runtime`] data and [`tdreport`]
//! * [`azure`]: hardware report -> runtime data -> key of the virtual TPM, for SEV-SNP and TDX
//! * [`gce`]: certificates of Google's virtual TPMs, and which instance they are of
//!
//! Keys are compared, never names: every cloud gives all its keys the same ones.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::Serialize;

use crate::anchor::Assurance;
use crate::claims::{HexBytes, Presented};
use crate::digest::Sha256Digest;
use crate::rejection::reasons;

pub mod azure;
pub mod gce;
pub mod hcl;
mod json;
pub mod runtime;
pub mod tdreport;

pub use azure::{Hardware, VerifiedParavisor};
pub use hcl::{HCL_REPORT_BYTES_MAX, HCL_REPORT_NV_INDEX, HardwareReport, HclReport};
pub use runtime::{RuntimeData, RuntimeKey, Setting};
pub use tdreport::{TDREPORT_BYTES, TdReportStruct};

reasons! {
    /// Why the report of a paravisor is not believed.
    ParavisorReason {
        /// Too short for what it says is in it, or too long for an NV index.
        Malformed = "hcl.malformed",
            "the paravisor's report does not have the parts it says",
            "send what NV index 0x01400001 holds, all of it and unchanged";
        /// HCLA, version, sizes and reserved bytes. Nothing signs them, so nothing of them is left open.
        Header = "hcl.header",
            "the header of the paravisor's report is not one that is known here",
            "send what NV index 0x01400001 holds; if it is that, use a verifier that knows this paravisor";
        /// IGVM_REQUEST_DATA.report_type.
        ReportType = "hcl.report_type",
            "the paravisor's report holds no report of confidential hardware",
            "use a confidential VM of SEV-SNP or TDX";
        /// IGVM_REQUEST_DATA.report_data_hash_type.
        HashType = "hcl.hash_type",
            "the runtime data is hashed with another hash than SHA-256",
            "use a verifier that knows this paravisor";
        /// Unsigned room.
        Padding = "hcl.padding",
            "something other than zeros is where the paravisor's report has only padding",
            "send what NV index 0x01400001 holds, unchanged";
        /// REPORT_DATA.
        Binding = "hcl.runtime.binding",
            "the hardware report was not made for this runtime data",
            "send what NV index 0x01400001 holds, unchanged";
        /// Read after its hash was checked, and then strictly.
        Runtime = "hcl.runtime.malformed",
            "the runtime data is not the strict JSON a paravisor writes",
            "send what NV index 0x01400001 holds; if it is that, use a verifier that knows this paravisor";
        /// RFC 7517.
        RuntimeKey = "hcl.runtime.key",
            "the keys of the runtime data are not those of one virtual TPM",
            "send what NV index 0x01400001 holds; if it is that, use a verifier that knows this paravisor";
        /// Names are the same in every virtual TPM; keys are not.
        AkKey = "hcl.ak.key",
            "the attestation key is another one than the hardware report vouches for",
            "quote and enrol with the attestation key of the paravisor's virtual TPM, handle 0x81000003";
        /// Intel TDX Module ABI.
        TdReport = "hcl.tdreport.malformed",
            "the TDREPORT is not that of a trust domain",
            "send what NV index 0x01400001 holds, unchanged";
        /// A TDREPORT's MAC means nothing outside of its processor.
        TdReportUnsigned = "hcl.tdreport.unsigned",
            "a TDREPORT alone is signed by nobody",
            "send the TD quote that the platform's quoting service made of it";
        /// A quote of another TD, or of another moment of this one.
        TdReportQuote = "hcl.tdreport.quote",
            "the TD quote is not of this TDREPORT",
            "have this very TDREPORT quoted, and send it with its quote";
        /// The other technology's.
        Hardware = "hcl.hardware",
            "the paravisor's report is of other hardware than what was verified",
            "send the VCEK for a report of SEV-SNP, a TD quote for one of TDX";
        /// SNP: VMPL 0. TDX: the first VM of a partitioned TD.
        Layer = "hcl.hardware.layer",
            "another layer of the virtual machine than the paravisor's had the hardware report made",
            "send what NV index 0x01400001 holds: the paravisor's own report, of VMPL 0";
        /// Google Compute Engine's extension.
        GceInstance = "gce.instance",
            "the certificate does not say which instance its virtual TPM is of",
            "send the AK certificate of the instance's virtual TPM, as NV index 0x01c10000 or 0x01c10002 holds it";
    }
}

/// Which confidential hardware is below a paravisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HardwareKind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

/// What verified hardware says about the paravisor above it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParavisorClaims {
    /// What the root of the hardware report is worth.
    pub assurance: Assurance,
    /// Which hardware.
    pub hardware: HardwareKind,
    /// Version of the HCL report.
    pub hcl_version: u32,
    /// SHA-256 of the `SubjectPublicKeyInfo` of HCLAkPub, the virtual TPM's attestation key.
    pub ak: Sha256Digest,
    /// Likewise of HCLEkPub, its endorsement key.
    pub ek: Presented<Sha256Digest>,
    /// vmUniqueId: which virtual machine the paravisor says it is in.
    pub vm_id: Presented<String>,
    /// vm-configuration: what the host set up, by the paravisor's word.
    pub vm_configuration: BTreeMap<String, Setting>,
    /// user-data: what the guest had the paravisor report. It is a claim of the guest's, and proves no freshness.
    pub user_data: HexBytes,
}
