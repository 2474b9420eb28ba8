//! What Intel signs about platforms and quoting enclaves: TCB info and QE identity, as its service and caches hand
//! them out (with their signature), or the signed text alone.

use serde_json::Value as Json;

use super::Unreadable;
use super::document::{Fields, Part, Standing, Table, Value};

/// The two documents.
#[derive(Clone, Copy)]
enum Document {
    TcbInfo,
    QeIdentity,
}

impl Document {
    /// The member that holds it beside its signature.
    const fn member(self) -> &'static str {
        match self {
            Self::TcbInfo => "tcbInfo",
            Self::QeIdentity => "enclaveIdentity",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::TcbInfo => "TCB info",
            Self::QeIdentity => "enclave identity",
        }
    }
}

/// TCB info: alone, or beside its signature.
pub(super) fn recognise_tcb_info(bytes: &[u8]) -> bool {
    read(bytes, Document::TcbInfo).is_ok()
}

/// QE identity, likewise.
pub(super) fn recognise_qe_identity(bytes: &[u8]) -> bool {
    read(bytes, Document::QeIdentity).is_ok()
}

/// TCB info.
pub(super) fn tcb_info(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    part(bytes, Document::TcbInfo)
}

/// QE identity, or that of another enclave of Intel's.
pub(super) fn qe_identity(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    part(bytes, Document::QeIdentity)
}

/// The document and its signature, where there is one.
fn read(bytes: &[u8], document: Document) -> Result<(Json, Option<String>), Unreadable> {
    let mut whole: Json = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let wrapped = whole.get_mut(document.member()).map(Json::take);
    let signature = whole.get("signature").and_then(Json::as_str).map(str::to_owned);
    let inner = wrapped.unwrap_or(whole);
    let marks: &[&str] = match document {
        Document::TcbInfo => &["fmspc", "tcbLevels", "issueDate"],
        Document::QeIdentity => &["mrsigner", "isvprodid", "tcbLevels"],
    };
    match marks.iter().find(|mark| inner.get(mark).is_none()) {
        None => Ok((inner, signature)),
        Some(mark) => Err(format!("{} has no {mark}", document.title())),
    }
}

fn part(bytes: &[u8], document: Document) -> Result<Vec<Part>, Unreadable> {
    let (inner, signature) = read(bytes, document)?;
    let (standing, because) = match &signature {
        Some(_) => (Standing::SignedNotChecked, "Intel's TCB signing key signs its exact text"),
        None => (Standing::SignedElsewhere, "Intel's TCB signing key signs its exact text"),
    };
    let mut part = Part::new(document.title(), standing, because);
    let Json::Object(members) = &inner else { return Err("a JSON object".to_owned()) };
    for (name, value) in members.iter().filter(|(name, _)| *name != "tcbLevels") {
        part.fields.add(name, shown(value));
    }
    let levels = inner.get("tcbLevels").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let rows = levels.iter().map(level).collect();
    let columns = &["status", "date", "SGX or ISV SVN", "PCE SVN", "TDX SVN", "advisories"];
    part.tables.push(Table { name: "TCB levels", columns, rows });
    let mut parts = vec![part];
    if let Some(signature) = signature {
        let because = "it is the signature; the TCB signing certificate's chain comes beside the file";
        parts.push(Part::new("signature", Standing::Claimed, because).with("r || s", signature));
    }
    Ok(parts)
}

/// One TCB level: of a platform (version 2 or 3), or of an enclave.
fn level(level: &Json) -> Vec<Value> {
    let tcb = level.get("tcb").unwrap_or(&Json::Null);
    let text = |name: &str| level.get(name).and_then(Json::as_str).map(str::to_owned);
    let svns = |name: &str| {
        let list = tcb.get(name).and_then(Json::as_array)?;
        Some(list.iter().map(|one| number(one.get("svn"))).collect::<Vec<_>>().join(" "))
    };
    let version2 = || {
        let numbered: Vec<String> = (1..=16)
            .filter_map(|index| tcb.get(format!("sgxtcbcomp{index:02}svn")))
            .map(|svn| number(Some(svn)))
            .collect();
        (!numbered.is_empty()).then(|| numbered.join(" "))
    };
    let isv = tcb.get("isvsvn").map(|svn| number(Some(svn)));
    let advisories = level.get("advisoryIDs").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    vec![
        text("tcbStatus").into(),
        text("tcbDate").into(),
        svns("sgxtcbcomponents").or_else(version2).or(isv).into(),
        tcb.get("pcesvn").map(|svn| number(Some(svn))).into(),
        svns("tdxtcbcomponents").into(),
        Value::list(advisories.iter().filter_map(Json::as_str)),
    ]
}

fn number(value: Option<&Json>) -> String {
    value.and_then(Json::as_u64).map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Any JSON, as it says.
fn shown(value: &Json) -> Value {
    match value {
        Json::Null => Value::Absent,
        Json::Bool(flag) => (*flag).into(),
        Json::Number(number) => number.as_u64().map_or_else(|| number.to_string().into(), Value::from),
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => Value::List(items.iter().map(shown).collect()),
        Json::Object(members) => {
            let mut fields = Fields::default();
            for (name, value) in members {
                fields.add(name, shown(value));
            }
            fields.into()
        }
    }
}
