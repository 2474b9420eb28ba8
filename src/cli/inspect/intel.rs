//! What Intel signs about platforms and quoting enclaves: TCB info and QE identity, as its service and caches hand
//! them out (with their signature), or the signed text alone.

use super::Unreadable;
use super::document::{Fields, Part, Standing, Table, Text, Value};

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
fn read(bytes: &[u8], document: Document) -> Result<(Fields, Option<Text>), Unreadable> {
    let Value::Object(whole) = serde_json::from_slice(bytes).map_err(|error| error.to_string())? else {
        return Err("a JSON object".to_owned());
    };
    let signature = text(whole.get("signature")).cloned();
    let inner = match whole.get(document.member()) {
        Some(Value::Object(inner)) => inner.clone(),
        Some(_) | None => whole,
    };
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
    let standing = if signature.is_some() { Standing::SignedNotChecked } else { Standing::SignedElsewhere };
    let mut part = Part::new(document.title(), standing, "Intel's TCB signing key signs its exact text");
    let rows = list(inner.get("tcbLevels")).iter().map(level).collect();
    let columns = &["status", "date", "SGX or ISV SVN", "PCE SVN", "TDX SVN", "advisories"];
    part.tables.push(Table { name: "TCB levels", columns, rows });
    part.fields = inner.without("tcbLevels");
    let mut parts = vec![part];
    if let Some(signature) = signature {
        let because = "it is the signature; the TCB signing certificate's chain comes beside the file";
        parts.push(Part::new("signature", Standing::Claimed, because).with("r || s", signature));
    }
    Ok(parts)
}

/// One TCB level: of a platform (version 2 or 3), or of an enclave.
fn level(level: &Value) -> Vec<Value> {
    let tcb = member(Some(level), "tcb");
    let svns = |name: &str| {
        let found = list(member(tcb, name)).iter().map(|one| member(Some(one), "svn"));
        let found: Vec<String> = found.map(number).collect();
        (!found.is_empty()).then(|| found.join(" "))
    };
    let version2 = || {
        let names = (1..=16).map(|index| format!("sgxtcbcomp{index:02}svn"));
        let found: Vec<String> = names.filter_map(|name| member(tcb, &name)).map(|svn| number(Some(svn))).collect();
        (!found.is_empty()).then(|| found.join(" "))
    };
    let one = |name: &str| member(tcb, name).map(|svn| number(Some(svn)));
    vec![
        text(member(Some(level), "tcbStatus")).cloned().into(),
        text(member(Some(level), "tcbDate")).cloned().into(),
        svns("sgxtcbcomponents").or_else(version2).or_else(|| one("isvsvn")).into(),
        one("pcesvn").into(),
        svns("tdxtcbcomponents").into(),
        Value::List(list(member(Some(level), "advisoryIDs")).to_vec()),
    ]
}

fn member<'v>(value: Option<&'v Value>, name: &str) -> Option<&'v Value> {
    match value? {
        Value::Object(fields) => fields.get(name),
        Value::Absent | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::List(items)) => items,
        Some(Value::Absent | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::Object(_)) | None => &[],
    }
}

fn text(value: Option<&Value>) -> Option<&Text> {
    match value? {
        Value::Text(text) => Some(text),
        Value::Absent | Value::Flag(_) | Value::Number(_) | Value::List(_) | Value::Object(_) => None,
    }
}

fn number(value: Option<&Value>) -> String {
    match value {
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Absent | Value::Flag(_) | Value::Text(_) | Value::List(_) | Value::Object(_)) | None => {
            "-".to_owned()
        }
    }
}
