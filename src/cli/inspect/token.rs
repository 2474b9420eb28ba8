//! Signed tokens: an attestation result (EAR), a pulse, a status list, or anybody's compact JWS (RFC 7515).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Unreadable;
use super::document::{Part, Standing, Value};

/// Longest token shown. A status list of a large fleet is the longest that is made.
const TOKEN_BYTES_MAX: usize = 1024 * 1024;

/// Three words, the first of them a JSON object in base64url: `eyJ` and on.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii();
    let dots = text.iter().filter(|byte| **byte == b'.').count();
    dots == 2
        && text.starts_with(b"ey")
        && text.iter().all(|byte| matches!(byte, b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'))
}

/// Header, payload and signature.
pub(super) fn token(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let text = std::str::from_utf8(bytes.trim_ascii()).map_err(|error| error.to_string())?;
    if TOKEN_BYTES_MAX < text.len() {
        return Err(format!("a token of at most {TOKEN_BYTES_MAX} bytes"));
    }
    let words: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = words.as_slice() else { return Err("header.payload.signature".to_owned()) };
    let signature = decode(signature)?;
    let signed = "the signature covers it as it is encoded";
    let because = "it is the signature; with which key it verifies, and whether, is open";
    Ok(vec![
        json_part("JOSE header", signed, header)?,
        json_part("payload", signed, payload)?,
        Part::new("signature", Standing::Claimed, because).with("signature", Value::hex(&signature)),
    ])
}

fn json_part(name: &str, because: &'static str, word: &str) -> Result<Part, Unreadable> {
    let value: Value = serde_json::from_slice(&decode(word)?).map_err(|error| format!("{name}: {error}"))?;
    match value {
        Value::Object(fields) => Ok(Part { fields, ..Part::new(name, Standing::SignedNotChecked, because) }),
        Value::Absent | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => {
            Err(format!("{name}: no JSON object"))
        }
    }
}

fn decode(word: &str) -> Result<Vec<u8>, Unreadable> {
    URL_SAFE_NO_PAD.decode(word).map_err(|error| format!("base64url: {error}"))
}
