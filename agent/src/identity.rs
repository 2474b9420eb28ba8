//! What an operator needs to register a host.

use std::path::Path;

use crate::certificate::EkCertificate;
use crate::config::{IdentityArgs, Output};
use crate::device::Tpm;
use crate::enroll::read_identity;
use crate::error::AgentError;
use crate::files::At as _;

/// Reads the EK and renders what the operator asked for.
///
/// # Errors
/// [`AgentError`].
pub async fn identity(args: &IdentityArgs) -> Result<String, AgentError> {
    let ek = args.ek;
    let identity = Tpm::new(&args.tcti)?.run(move |session| read_identity(session, ek)).await?;
    if let Some(path) = &args.ek_certificate {
        write_certificate(path, &identity.ek_certificate)?;
    }
    Ok(render(&identity.described, args.output))
}

/// A certificate is public: default permissions, and an existing file is replaced.
fn write_certificate(path: &Path, der: &[u8]) -> Result<(), AgentError> {
    std::fs::write(path, der).at("write", path).map_err(AgentError::from)
}

fn render(ek: &EkCertificate, output: Output) -> String {
    match output {
        Output::Json => serde_json::to_string_pretty(ek).unwrap_or_default(),
        Output::Text => format!(
            "EK fingerprint  {}\nsubject         {}\nissuer          {}\nserial          {}\nnot after       {}",
            ek.ek_fingerprint,
            if ek.subject.is_empty() { "(empty)" } else { &ek.subject },
            ek.issuer,
            ek.serial,
            ek.not_after
        ),
    }
}
