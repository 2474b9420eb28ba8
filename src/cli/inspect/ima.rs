//! IMA measurement lists of the Linux kernel, binary and ASCII: what was measured, and the PCR values it leads to.

use std::borrow::Cow;
use std::collections::BTreeMap;

use countersign_attestation::evidence::ima::{
    DigestKind, Extension, FileDigest, HashAlgorithm, ImaEntry, ImaList, Replay, ascii,
};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;

use super::Unreadable;
use super::document::{Part, Standing, Table, Text, Value};

/// Entries shown from the start and from the end of a list; a list has tens of thousands.
const ENTRIES_SHOWN: usize = 12;

/// Violations shown.
const VIOLATIONS_SHOWN: usize = 24;

/// Banks that a list is replayed to.
const BANKS: [TpmHash; 3] = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384];

/// The first line of an ASCII list, or the first entry of a binary one.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    if is_text(first) {
        return ascii::to_binary(first).is_ok();
    }
    // Reading an entry demands a template that is known.
    ImaList::new(bytes).entries().next().is_some_and(|entry| entry.is_ok())
}

/// A binary list may start with a line end too: that is PCR 10.
fn is_text(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b' '..)) && 40 < line.len()
}

/// Counts, the first and last entries, violations, and replayed PCRs.
pub(super) fn list(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    let (binary, hash, form) = if is_text(first) {
        let (binary, hash) = ascii::to_binary(bytes).map_err(|rejection| rejection.to_string())?;
        (Cow::Owned(binary), hash, "ascii")
    } else {
        (Cow::Borrowed(bytes), TpmHash::Sha1, "binary")
    };
    binary_list(&binary, hash, form, 0)
}

/// A list in its binary form whose first entry has this index.
pub(super) fn binary_list(bytes: &[u8], hash: TpmHash, form: &'static str, from: u64) -> Result<Vec<Part>, Unreadable> {
    let list = ImaList::with_hash(bytes, hash);
    let read: Result<Vec<_>, _> = list.entries().collect();
    let entries = read.map_err(|rejection| rejection.to_string())?;
    let because = "it counts as far as it replays to PCR values that a TPM quoted";
    let mut part = Part::new("IMA measurement list", Standing::Claimed, because)
        .with("form", form)
        .with("entries", entries.len())
        .with("templateHash", hash.name());
    let broken = entries.iter().filter(|entry| entry.check_template_hash(hash).is_err()).count();
    let violations: Vec<usize> =
        entries.iter().enumerate().filter(|(_, entry)| entry.is_violation()).map(|(at, _)| at).collect();
    let signed = entries.iter().filter(|entry| !entry.data().signature.is_empty()).count();
    part = part
        .with("violations", violations.len())
        .with("with a file signature", signed)
        .with("template hash wrong", broken);
    part.tables.push(templates(&entries));
    let numbered: Vec<(u64, &ImaEntry<'_>)> = (from..).zip(&entries).collect();
    let tail = numbered.len().saturating_sub(ENTRIES_SHOWN).max(ENTRIES_SHOWN);
    part.tables.push(table("first entries", numbered.iter().take(ENTRIES_SHOWN)));
    part.tables.push(table("last entries", numbered.iter().skip(tail)));
    let violating = violations.iter().take(VIOLATIONS_SHOWN).filter_map(|at| numbered.get(*at));
    part.tables.push(table("violations (what they say is covered by nothing, not even by the PCR)", violating));
    Ok(vec![part, replayed(list, from)])
}

/// How many entries of each PCR and template.
fn templates(entries: &[ImaEntry<'_>]) -> Table {
    let mut counted: BTreeMap<(u8, &[u8]), u64> = BTreeMap::new();
    for entry in entries {
        let count = counted.entry((entry.pcr(), entry.template())).or_default();
        *count = count.saturating_add(1);
    }
    let row =
        |((pcr, template), count): ((u8, &[u8]), u64)| vec![pcr.into(), Text::of_bytes(template).into(), count.into()];
    let rows = counted.into_iter().map(row).collect();
    Table { name: "entries by template", columns: &["pcr", "template", "entries"], rows }
}

fn table<'e>(name: &'static str, entries: impl Iterator<Item = &'e (u64, &'e ImaEntry<'e>)>) -> Table {
    let rows = entries.map(|(index, entry)| row(*index, entry)).collect();
    Table { name, columns: &["entry", "pcr", "template", "digest", "name", "signature"], rows }
}

fn row(index: u64, entry: &ImaEntry<'_>) -> Vec<Value> {
    let signature = entry.data().signature;
    let signature = if signature.is_empty() { Value::Absent } else { format!("{} bytes", signature.len()).into() };
    let digest = entry.data().digest.as_ref().map(digest_text);
    vec![
        index.into(),
        entry.pcr().into(),
        Text::of_bytes(entry.template()).into(),
        digest.into(),
        Text::of_bytes(entry.name()).into(),
        signature,
    ]
}

fn digest_text(digest: &FileDigest<'_>) -> String {
    let kind = match digest.kind {
        DigestKind::Verity => "verity:",
        DigestKind::File => "",
    };
    let algorithm = match digest.algorithm {
        HashAlgorithm::Md5 => "md5",
        HashAlgorithm::Sha1 => "sha1",
        HashAlgorithm::Sha224 => "sha224",
        HashAlgorithm::Sha256 => "sha256",
        HashAlgorithm::Sha384 => "sha384",
        HashAlgorithm::Sha512 => "sha512",
        HashAlgorithm::Sm3 => "sm3",
        HashAlgorithm::Other => "another",
    };
    format!("{kind}{algorithm}:{}", hex::encode(digest.digest))
}

/// What the kernel would have extended, bank by bank.
fn replayed(list: ImaList<'_>, from: u64) -> Part {
    let because =
        "what a TPM of a kernel since Linux 5.8 would hold after these entries; compare with a verified quote";
    let part = Part::new("Replayed PCRs", Standing::ComputedHere, because);
    if from != 0 {
        return part.with("from", from).with("not replayed", "the list does not start at the boot's first entry");
    }
    match Replay::of(list, &BANKS, Extension::TemplateHash) {
        Ok(replay) => {
            let values = replay.values.into_iter().flat_map(|(pcr, banks)| {
                banks.into_iter().map(move |(bank, value)| vec![bank.into(), pcr.into(), Value::hex(&value.0)])
            });
            let tables = vec![Table { name: "values", columns: &["bank", "pcr", "value"], rows: values.collect() }];
            Part { tables, ..part }
        }
        Err(rejection) => part.with("not replayed", rejection.to_string()),
    }
}
