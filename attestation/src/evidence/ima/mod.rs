//! Linux IMA measurement lists: what the kernel measured since boot, replayed to quoted PCRs.
//!
//! * [`template`]: what an entry says (Documentation/security/IMA-templates.rst, `ima_template_lib.c`)
//! * [`list`]: `binary_runtime_measurements` (`ima_fs.c`), borrowed, entry by entry
//! * [`ascii`]: `ascii_runtime_measurements`, turned into the binary form
//! * [`replay`]: PCR values that a list leads to
//! * [`signature`](mod@signature): file signatures (`security.ima`) and the keys that verify them
//! * [`verify`] and [`ImaState`]: a list against the PCR values that a quote signed
//!
//! What replay proves is the order and content of what the kernel measured. It does not prove that the kernel's policy
//! measures everything, that a measured file was used, or why there is a violation: the kernel extends a fixed value
//! for one, so even the path of a violation is the host's word. Nor does the template hash cover the template's name:
//! a host can relabel an entry whose data reads under another template too. So an entry counts for what its data says,
//! and data that says too little under its label counts for nothing.

use crate::reader::ReadError;
use crate::rejection::{Rejection, reasons};

pub mod ascii;
pub mod list;
pub mod replay;
pub mod signature;
pub mod template;
mod verified;

pub use list::{ImaEntry, ImaList};
pub use replay::{Extension, Replay};
pub use signature::{FileSignature, ImaKey};
pub use template::{DigestKind, FileDigest, HashAlgorithm};
pub use verified::{BootAggregate, Entries, ImaState, VerifiedIma, verify, verify_recorded};

reasons! {
    /// Why an IMA measurement list is rejected.
    ImaReason {
        /// Short, long, or not in the kernel's form.
        Malformed = "ima.list.malformed",
            "the measurement list cannot be read to its end",
            "send the bytes of the kernel's measurement list, whole entries only";
        /// TPM 2.0 PC Client: 24 PCRs.
        Pcr = "ima.entry.pcr",
            "an entry names a PCR that does not exist",
            "send the kernel's own list";
        /// IMA-templates.rst.
        Template = "ima.template.unknown",
            "an entry is of a template that is not known here",
            "measure with a template of the kernel's documentation, or with a list of its fields";
        /// `ima_template_lib.c`.
        TemplateData = "ima.template.data",
            "the fields of an entry are not what its template says",
            "send the kernel's own list";
        /// The list's own hash covers what the entry says.
        TemplateHash = "ima.template.hash",
            "an entry's template hash is not that of its template data",
            "send the kernel's own list, unchanged";
        /// Withheld entries, changed ones, or those of another boot.
        PcrMismatch = "ima.pcr.mismatch",
            "the list does not lead to the quoted PCR values",
            "send every entry of this boot up to the quote, in the kernel's order and without a gap";
        /// Whoever may extend the PCR that is not quoted may write any list.
        PcrNotQuoted = "ima.pcr.not_quoted",
            "the quote does not cover the PCR that IMA extends",
            "quote PCR 10 in a SHA-256, SHA-384 or SHA-512 bank";
        /// A PCR that nothing was measured into proves nothing.
        PcrUnextended = "ima.pcr.unextended",
            "the quoted IMA PCR was never extended",
            "boot a kernel that measures: with an IMA policy, for instance ima_policy=tcb";
        /// The state to go on from lacks a bank or PCR that is quoted now.
        State = "ima.state.incomplete",
            "the state to go on from does not cover what is quoted now",
            "send the list from its first entry";
        /// A `security.ima` or `security.evm` value.
        Signature = "ima.signature.invalid",
            "a file signature does not verify with a registered key",
            "register the key that signs the files, or sign them with a registered key";
        /// Version 1, portable EVM, unknown hashes, SHA-1.
        SignatureForm = "ima.signature.form",
            "a file signature is of a form that is not accepted",
            "sign with evmctl ima_sign (version 2) or fs-verity (version 3), with SHA-256 or stronger";
        /// Keys for file signatures.
        Key = "ima.key.unsupported",
            "the key cannot verify file signatures",
            "register an RSA key of 2048 bits or more or an ECDSA key on P-256, P-384, P-521 or secp256k1";
    }
}

fn malformed(structure: &'static str) -> impl Fn(ReadError) -> Rejection + Copy {
    move |error| ImaReason::Malformed.because(structure, error)
}
