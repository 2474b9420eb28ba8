//! `ascii_runtime_measurements` (`ima_ascii_measurements_show` of `ima_fs.c`), turned into the binary form:
//!
//! ```text
//! 10 91f34b5c671d73504b274a919661cf80dab1e127 ima-ng sha256:1801e1… boot_aggregate
//! ```
//!
//! One space stands between fields; an empty field is nothing between its spaces. The kernel writes underscores for
//! spaces in names, older ones did not: all that is between the fields before and after a name is the name. What is
//! read wrongly here fails its template hash.

use alloc::vec::Vec;

use super::ImaReason;
use super::template::{Field, Fields, LEGACY, shown};
use crate::evidence::tpm::algorithm::TpmHash;
use crate::rejection::Rejection;

/// The binary form of an ASCII list, and the hash of its template hashes, which is told by their length.
///
/// # Errors
/// An [`ImaReason`]: a line is not an entry, or the lines' template hashes have different lengths.
pub fn to_binary(text: &[u8]) -> Result<(Vec<u8>, TpmHash), Rejection> {
    let mut binary = Vec::with_capacity(text.len());
    let mut hash = None;
    // The last line ends as every other does; a file may lack its line end.
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for line in text.split(|byte| *byte == b'\n') {
        let of_line = write_line(line, &mut binary)
            .ok_or_else(|| ImaReason::Malformed.because("`PCR hash template fields` on every line", shown(line)))??;
        if *hash.get_or_insert(of_line) != of_line {
            return Err(ImaReason::Malformed.because("template hashes of one length", shown(line)));
        }
    }
    let hash = hash.ok_or_else(|| ImaReason::Malformed.because("a line", "none"))?;
    Ok((binary, hash))
}

/// Writes one line's entry. `None`: it is not of the form.
fn write_line(line: &[u8], binary: &mut Vec<u8>) -> Option<Result<TpmHash, Rejection>> {
    // `%2d`: one space before a single digit.
    let (pcr, rest) = split(line.strip_prefix(b" ").unwrap_or(line))?;
    let (template_hash, rest) = split(rest)?;
    let (template, rest) = split(rest)?;
    let pcr: u32 = core::str::from_utf8(pcr).ok().filter(|text| is_number(text))?.parse().ok()?;
    let template_hash = hex::decode(template_hash).ok()?;
    let known = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512];
    let hash = known.into_iter().find(|hash| hash.size() == template_hash.len())?;
    binary.extend_from_slice(&pcr.to_le_bytes());
    binary.extend_from_slice(&template_hash);
    write_sized(template, binary)?;
    let fields = match Fields::of(template) {
        Ok(fields) => fields,
        Err(rejection) => return Some(Err(rejection)),
    };
    if template == LEGACY {
        let (digest, name) = split(rest)?;
        binary.extend_from_slice(&hex::decode(digest).ok().filter(|digest| digest.len() == 20)?);
        write_sized(name, binary)?;
    } else {
        let mut data = Vec::with_capacity(rest.len());
        write_fields(&fields, rest, &mut data)?;
        write_sized(&data, binary)?;
    }
    Some(Ok(hash))
}

fn write_fields(fields: &Fields, text: &[u8], data: &mut Vec<u8>) -> Option<()> {
    let is_name = |field: &Field| matches!(field, Field::N | Field::NNg);
    let fields = fields.all();
    let spaces = text.iter().filter(|byte| **byte == b' ').count();
    // Spaces beyond the separators can only be a name's.
    let in_name = spaces.checked_sub(fields.len().checked_sub(1)?)?;
    if in_name != 0 && !fields.iter().any(is_name) {
        return None;
    }
    let mut parts = text.split(|byte| *byte == b' ');
    let mut name = Vec::new();
    for field in fields {
        let part = parts.next()?;
        if !is_name(field) {
            write_field(*field, part, data)?;
            continue;
        }
        name.extend_from_slice(part);
        for _ in 0..in_name {
            name.push(b' ');
            name.extend_from_slice(parts.next()?);
        }
        name.push(0);
        write_sized(&name, data)?;
    }
    Some(())
}

fn write_field(field: Field, text: &[u8], data: &mut Vec<u8>) -> Option<()> {
    if text.is_empty() {
        return write_sized(&[], data);
    }
    match field {
        Field::D | Field::Sig | Field::Buf | Field::Modsig | Field::Evmsig => {
            write_sized(&hex::decode(text).ok()?, data)
        }
        Field::XattrLengths | Field::XattrValues => write_sized(&hex::decode(text).ok()?, data),
        Field::DNg | Field::DNgV2 | Field::DModsig => {
            let colon = text.iter().rposition(|byte| *byte == b':')?;
            let (prefix, digest) = text.split_at_checked(colon.checked_add(1)?)?;
            let mut bytes = prefix.to_vec();
            bytes.push(0);
            bytes.extend_from_slice(&hex::decode(digest).ok()?);
            write_sized(&bytes, data)
        }
        Field::XattrNames => {
            let mut names = text.to_vec();
            names.push(0);
            write_sized(&names, data)
        }
        Field::Iuid | Field::Igid => write_sized(&number(text)?.to_le_bytes(), data),
        Field::Imode => write_sized(&u16::try_from(number(text)?).ok()?.to_le_bytes(), data),
        // Written where the spaces in it are known.
        Field::N | Field::NNg => None,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    core::str::from_utf8(text).ok().filter(|text| is_number(text))?.parse().ok()
}

/// Digits alone: no sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn write_sized(bytes: &[u8], to: &mut Vec<u8>) -> Option<()> {
    to.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
    to.extend_from_slice(bytes);
    Some(())
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let (part, rest) = text.split_at_checked(space)?;
    Some((part, rest.strip_prefix(b" ")?))
}
