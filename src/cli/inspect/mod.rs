//! `countersign inspect`: makes one file of evidence readable, for people or for machines.
//!
//! The kind of file is told from its content ([`detect`]). What a signature covers, what is only claimed and what was
//! computed here is said of each part; nothing is verified, because there is no trusted key, nonce or time to do it by:
//! that is `countersign verify` and the broker.

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use countersign_attestation::digest::Sha256Digest;

use super::Output;

mod algorithm;
pub mod bundle;
pub mod ccel;
pub mod certificate;
pub mod dcap;
pub mod detect;
pub mod document;
pub mod eventlog;
pub mod hcl;
pub mod ima;
pub mod intel;
mod narrative;
pub mod quote;
pub mod snp;
pub mod token;
mod uefi;

use detect::Kind;
use document::{FORMAT, Inspection, Part};

/// Bytes of a file. Event logs, IMA lists and bundles of them are the largest, and the broker takes no larger ones.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Show what a file of evidence says: quote, event log, IMA list, certificate, SNP report, TDX or SGX quote,
/// paravisor's report, Intel's TCB info, bundle or credential.
///
/// For each part it says whether a signature covers it or it is merely claimed. Nothing is verified: for that there are
/// `countersign verify` and the broker.
#[derive(Args, Clone, Debug)]
pub struct InspectArgs {
    /// The file; it may lie in /sys, and - is standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Reads the file as this kind instead of telling the kind from its content.
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Why a file cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Beyond the limit.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; no evidence is", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// No kind has this content.
    #[error("this is none of the known kinds (tried: {tried}); name one with --kind to see why it is not")]
    Unknown {
        /// The kinds.
        tried: String,
    },
    /// More than one kind has.
    #[error("this may be {kinds}; choose with --kind")]
    Ambiguous {
        /// The kinds.
        kinds: String,
    },
    /// The content is not of its kind.
    #[error("not readable as {kind}: {why}")]
    Unreadable {
        /// As which kind it was read.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The result cannot be printed.
    #[error("cannot print")]
    Print(std::io::Error),
    /// The result cannot be written as JSON.
    #[error("cannot write as JSON")]
    Encode(#[from] serde_json::Error),
}

/// What reading one structure fails with: what is wrong, for people.
pub(super) type Unreadable = String;

/// Reads a file and prints what it says.
///
/// # Errors
/// [`InspectError`] when it cannot be read or is of no known kind.
pub fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<(), InspectError> {
    let bytes = read(&args.file)?;
    let inspection = inspect(&bytes, args.kind)?;
    let printed = match args.output {
        Output::Table => inspection.print(out),
        Output::Json => writeln!(out, "{}", serde_json::to_string(&inspection)?),
    };
    match printed {
        // Who reads on the other side has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(InspectError::Print),
    }
}

/// Makes a file readable: as `kind`, or as the kind its content is of.
///
/// # Errors
/// [`InspectError::Unknown`], [`InspectError::Ambiguous`] or [`InspectError::Unreadable`].
pub fn inspect(bytes: &[u8], kind: Option<Kind>) -> Result<Inspection, InspectError> {
    if FILE_BYTES_MAX < bytes.len() {
        return Err(InspectError::TooLarge { path: PathBuf::from("input") });
    }
    let kind = match kind {
        Some(kind) => kind,
        None => detect::detect(bytes)?,
    };
    let parts = parts(kind, bytes).map_err(|why| {
        let why = document::Text::new(&why).as_str().to_owned();
        InspectError::Unreadable { kind: kind.title(), why }
    })?;
    Ok(Inspection {
        format: FORMAT,
        kind: kind.name(),
        title: kind.title(),
        bytes: bytes.len(),
        sha256: Sha256Digest::of(&[bytes]),
        verified: false,
        not_checked: kind.not_checked().to_vec(),
        parts,
    })
}

fn parts(kind: Kind, bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    match kind {
        Kind::Attest => quote::attest(bytes),
        Kind::Signature => quote::signature(bytes),
        Kind::Public => quote::public(bytes),
        Kind::Certificate => certificate::certificates(bytes),
        Kind::SnpReport => snp::report(bytes),
        Kind::Bundle => bundle::bundle(bytes),
        Kind::Token => token::token(bytes),
        Kind::EventLog => eventlog::event_log(bytes),
        Kind::ImaList => ima::list(bytes),
        Kind::HclReport => hcl::report(bytes),
        Kind::TeeQuote => dcap::quote(bytes),
        Kind::CcLog => ccel::register_log(bytes),
        Kind::TcbInfo => intel::tcb_info(bytes),
        Kind::QeIdentity => intel::qe_identity(bytes),
    }
}

/// Files in /sys do not say how long they are: read to the end, and no further than the limit.
fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(failed)?;
    }
    if FILE_BYTES_MAX < bytes.len() {
        return Err(InspectError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}
