//! Which kind of evidence a file holds, told from its content and never from its name.
//!
//! Every kind has one recogniser, and all are asked: exactly one must say yes. In order, and what each looks for:
//!
//! 1. `bundle`: a JSON object with the member `__cmwc_t`
//! 2. `token`: three base64url words with dots between them, the first a JSON object (RFC 7515)
//! 3. `certificate`: PEM `CERTIFICATE`, or one DER certificate, with padding as a TPM's NV index has it
//! 4. `attest`: TPM_GENERATED_VALUE (`ff 54 43 47`), first or after a TPM2B size
//! 5. `snp-report`: 1184 bytes of a known version with ECDSA P-384 as signature algorithm
//! 6. `event-log`: TCG_PCR_EVENTs from the first byte to the last, or to padding
//! 7. `ima-list`: an entry of the kernel's ASCII list on the first line, or of its binary list at the start
//! 8. `hcl-report`: `HCLA`
//! 9. `tee-quote`: a quote's version, and the vendor id of Intel's quoting enclave
//! 10. `cc-log`: events with SHA-384 alone, into MRTD and RTMRs alone; or dstack's JSON of such
//! 11. `tcb-info`, `qe-identity`: JSON with the members of Intel's documents
//! 12. `public`: a TPMT_PUBLIC or TPM2B_PUBLIC to the last byte
//! 13. `signature`: a TPMT_SIGNATURE to the last byte

use clap::ValueEnum;

use super::{InspectError, bundle, ccel, certificate, dcap, eventlog, hcl, ima, intel, quote, snp, token};

/// A kind of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Evidence bundle: a CMW collection in JSON.
    Bundle,
    /// Attestation result or another signed token: compact JWS.
    Token,
    /// X.509 certificates: of an EK or AK (DER, PEM, or an NV index with its padding), VCEK, or an SVID.
    Certificate,
    /// What a TPM attests: TPMS_ATTEST or TPM2B_ATTEST, with TPMT_SIGNATURE or without.
    Attest,
    /// Event log of measured boot, binary (`/sys/kernel/security/tpm0/binary_bios_measurements`).
    EventLog,
    /// IMA measurement list (`/sys/kernel/security/ima/*_runtime_measurements`), binary or ASCII.
    ImaList,
    /// AMD SEV-SNP attestation report.
    SnpReport,
    /// Report of Azure's paravisor (HCL), as NV index 0x01400001 holds it.
    HclReport,
    /// Quote of a trust domain (TDX) or an enclave (SGX).
    TeeQuote,
    /// Event log of a trust domain: CCEL (`/sys/firmware/acpi/tables/data/CCEL`), or dstack's JSON.
    CcLog,
    /// Intel's TCB info, with its signature or without.
    TcbInfo,
    /// Identity of Intel's quoting enclave, likewise.
    QeIdentity,
    /// Public area of a TPM key: TPMT_PUBLIC or TPM2B_PUBLIC.
    Public,
    /// Signature by a TPM: TPMT_SIGNATURE.
    Signature,
}

impl Kind {
    /// Every kind, in the order of the recognisers.
    pub const ALL: [Self; 14] = [
        Self::Bundle,
        Self::Token,
        Self::Certificate,
        Self::Attest,
        Self::SnpReport,
        Self::EventLog,
        Self::ImaList,
        Self::HclReport,
        Self::TeeQuote,
        Self::CcLog,
        Self::TcbInfo,
        Self::QeIdentity,
        Self::Public,
        Self::Signature,
    ];

    /// As `--kind` and the JSON name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Attest => "attest",
            Self::SnpReport => "snp-report",
            Self::EventLog => "event-log",
            Self::ImaList => "ima-list",
            Self::HclReport => "hcl-report",
            Self::TeeQuote => "tee-quote",
            Self::CcLog => "cc-log",
            Self::TcbInfo => "tcb-info",
            Self::QeIdentity => "qe-identity",
            Self::Public => "public",
            Self::Signature => "signature",
        }
    }

    /// In words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bundle => "evidence bundle (CMW collection)",
            Self::Token => "signed token (compact JWS)",
            Self::Certificate => "X.509 certificate",
            Self::Attest => "TPM attestation (TPMS_ATTEST)",
            Self::SnpReport => "AMD SEV-SNP attestation report",
            Self::EventLog => "event log of measured boot (TCG)",
            Self::ImaList => "IMA measurement list",
            Self::HclReport => "report of Azure's paravisor (HCL)",
            Self::TeeQuote => "quote of a TEE (Intel DCAP)",
            Self::CcLog => "event log of a trust domain (CCEL)",
            Self::TcbInfo => "Intel TCB info",
            Self::QeIdentity => "Intel enclave identity",
            Self::Public => "TPM public area (TPMT_PUBLIC)",
            Self::Signature => "TPM signature (TPMT_SIGNATURE)",
        }
    }

    /// What a verifier checks of such a file and nothing here does.
    pub(super) const fn not_checked(self) -> &'static [&'static str] {
        match self {
            Self::Bundle => &[
                "the signatures: the enrolled attestation key and the vendors' roots decide",
                "freshness: only the broker knows the challenge",
                "that the records belong together: their binder covers the challenge and the credential key",
            ],
            Self::Token => &["the signature: the broker's key decides", "time, audience and revocation"],
            Self::Certificate => &[
                "the issuer's signature and the way to a trusted root",
                "time and revocation",
                "that whoever shows the certificate holds its key",
            ],
            Self::Attest => &[
                "the signature: the attestation key decides, and whether it lives in a TPM",
                "freshness: extraData means something only to whoever chose the nonce",
                "the PCR values: only their digest is in here",
            ],
            Self::SnpReport => &[
                "the signature: the VCEK or VLEK certificate decides, and AMD's root above it",
                "freshness: REPORT_DATA means something only to whoever chose it",
            ],
            Self::EventLog => &[
                "that the events happened: replay them to PCR values of a verified quote",
                "that events of PCRs which no quote covers are not invented",
            ],
            Self::ImaList => &[
                "that the kernel measured this: replay it to PCR values of a verified quote",
                "whether the files are the right ones: a policy decides",
                "file signatures: registered keys decide",
            ],
            Self::HclReport => &[
                "the hardware report: its signature, or the TD quote that says the same",
                "that a virtual TPM holds HCLAkPub: a quote under that very key decides",
                "freshness: the report was made when the machine started",
            ],
            Self::TeeQuote => &[
                "the signatures: attestation key, QE and PCK, up to Intel's root",
                "the TCB: Intel's TCB info, QE identity and revocation lists decide",
                "freshness: REPORTDATA means something only to whoever chose it",
            ],
            Self::CcLog => &[
                "that the events happened: they count where they give the RTMRs of a verified quote",
                "registers that no event extends: any log gives a zero",
            ],
            Self::TcbInfo | Self::QeIdentity => &[
                "the signature: Intel's TCB signing certificate decides, and Intel's root above it",
                "time, and whether a newer edition was issued",
            ],
            Self::Public => &["that a TPM holds the private key, and which"],
            Self::Signature => &["over what, and by which key"],
        }
    }

    fn recognises(self, bytes: &[u8]) -> bool {
        match self {
            Self::Bundle => bundle::recognise(bytes),
            Self::Token => token::recognise(bytes),
            // A quote has certificates in it.
            Self::Certificate => certificate::recognise(bytes) && !dcap::recognise(bytes),
            Self::Attest => quote::recognise_attest(bytes),
            Self::SnpReport => snp::recognise(bytes),
            Self::EventLog => eventlog::recognise(bytes) && !ccel::recognise(bytes),
            Self::ImaList => ima::recognise(bytes),
            Self::HclReport => hcl::recognise(bytes),
            Self::TeeQuote => dcap::recognise(bytes),
            Self::CcLog => ccel::recognise(bytes),
            Self::TcbInfo => intel::recognise_tcb_info(bytes),
            Self::QeIdentity => intel::recognise_qe_identity(bytes),
            Self::Public => quote::recognise_public(bytes),
            Self::Signature => quote::recognise_signature(bytes),
        }
    }
}

/// The one kind whose recogniser says yes.
///
/// # Errors
/// [`InspectError::Unknown`] when none does, [`InspectError::Ambiguous`] when several do.
pub fn detect(bytes: &[u8]) -> Result<Kind, InspectError> {
    let names = |kinds: &[Kind]| kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let found: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| kind.recognises(bytes)).collect();
    match found.as_slice() {
        [kind] => Ok(*kind),
        [] => Err(InspectError::Unknown { tried: names(&Kind::ALL) }),
        several => Err(InspectError::Ambiguous { kinds: names(several) }),
    }
}
