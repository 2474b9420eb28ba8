//! What an operator needs to register a host.

use std::path::Path;

use crate::certificate::KeyCertificate;
use crate::config::{IdentityArgs, Output};
use crate::device::Tpm;
use crate::error::AgentError;
use crate::files::At as _;

/// Reads the key and renders what the operator asked for.
///
/// # Errors
/// [`AgentError`].
pub async fn identity(args: &IdentityArgs) -> Result<String, AgentError> {
    let by = args.by.endorser();
    let name = by.name();
    let key = Tpm::new(&args.tcti)?.run(move |session| by.read(session)).await?;
    if let Some(path) = &args.write_certificate {
        write_certificate(path, &key.certificate)?;
    }
    Ok(render(name, &key.described, args.output))
}

/// A certificate is public: default permissions, and an existing file is replaced.
fn write_certificate(path: &Path, der: &[u8]) -> Result<(), AgentError> {
    std::fs::write(path, der).at("write", path).map_err(AgentError::from)
}

fn render(name: &str, key: &KeyCertificate, output: Output) -> String {
    match output {
        Output::Json => serde_json::to_string_pretty(key).unwrap_or_default(),
        Output::Text => format!(
            "{:15} {}\nsubject         {}\nissuer          {}\nserial          {}\nnot after       {}",
            format!("{name} fingerprint"),
            key.fingerprint,
            if key.subject.is_empty() { "(empty)" } else { &key.subject },
            key.issuer,
            key.serial,
            key.not_after
        ),
    }
}
