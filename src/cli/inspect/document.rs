//! What inspecting a file yields: parts, each with its standing, in one shape for people and for machines.

use std::io::Write;

use countersign_attestation::digest::Sha256Digest;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of the JSON shape; a change that readers notice changes it.
pub const FORMAT: &str = "countersign-inspect/1";

/// Said of every file.
const NOTHING_VERIFIED: &str =
    "nothing here is verified: inspecting has no trusted key, no nonce and no time to judge by";

/// A file, made readable.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// See [`FORMAT`].
    pub format: &'static str,
    /// What the file is, as `--kind` names it.
    pub kind: &'static str,
    /// The same in words.
    pub title: &'static str,
    /// Size of the file.
    pub bytes: usize,
    /// SHA-256 of the file.
    pub sha256: Sha256Digest,
    /// Always false: a judgement needs trusted keys and a nonce.
    pub verified: bool,
    /// What would have to be checked elsewhere before any of this is believed.
    pub not_checked: Vec<&'static str>,
    /// The file's parts, in the order they lie in it.
    pub parts: Vec<Part>,
}

/// How much a part's bytes are worth before anybody checks anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A signature covers these bytes; whether it is good was not checked here.
    SignedNotChecked,
    /// A signature covers these bytes where they come from, and it is not in this file.
    SignedElsewhere,
    /// No signature covers these bytes; whoever held the file can have written them.
    Claimed,
    /// Computed here from the file, by the specification.
    ComputedHere,
}

impl Standing {
    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::SignedNotChecked => "SIGNED, signature not checked here",
            Self::SignedElsewhere => "SIGNED ELSEWHERE, the signature is not in this file",
            Self::Claimed => "CLAIMED, no signature covers it",
            Self::ComputedHere => "COMPUTED HERE from the file",
        }
    }
}

/// One structure of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Name of the structure in its specification.
    pub name: Text,
    /// What its bytes are worth.
    pub standing: Standing,
    /// Why.
    pub because: &'static str,
    /// Its fields, by their names in the specification.
    pub fields: Fields,
    /// What it tells, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub story: Vec<Text>,
    /// Its lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
}

impl Part {
    /// A part without fields.
    pub(super) fn new(name: &str, standing: Standing, because: &'static str) -> Self {
        let name = Text::new(name);
        let (fields, story, tables) = (Fields::default(), Vec::new(), Vec::new());
        Self { name, standing, because, fields, story, tables }
    }

    /// The part with one more field.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.add(name, value);
        self
    }
}

/// A list of things that have the same fields.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it lists.
    pub name: &'static str,
    /// Names of the fields.
    pub columns: &'static [&'static str],
    /// One value for each column.
    pub rows: Vec<Vec<Value>>,
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut table = serializer.serialize_map(Some(2))?;
        table.serialize_entry("name", self.name)?;
        table.serialize_entry("rows", &Rows(self))?;
        table.end()
    }
}

/// Each row as an object of its columns.
struct Rows<'a>(&'a Table);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.0.rows.len()))?;
        for row in &self.0.rows {
            rows.serialize_element(&Row(self.0.columns, row))?;
        }
        rows.end()
    }
}

struct Row<'a>(&'static [&'static str], &'a [Value]);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

/// Text that a terminal only shows: whatever it would obey is written out. The only constructors escape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text(String);

impl Text {
    /// `text`, harmless.
    pub(super) fn new(text: &str) -> Self {
        let mut shown = String::with_capacity(text.len());
        for character in text.chars() {
            if obeyed(character) {
                shown.extend(character.escape_unicode());
            } else {
                shown.push(character);
            }
        }
        Self(shown)
    }

    /// Bytes that ought to be text; those that are not are written as `\xNN`.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        let mut shown = String::new();
        for chunk in bytes.utf8_chunks() {
            shown.push_str(&Self::new(chunk.valid()).0);
            for byte in chunk.invalid() {
                shown.push_str(&format!("\\x{byte:02x}"));
            }
        }
        Self(shown)
    }

    /// The text and more of it, which was escaped before.
    pub(super) fn then(mut self, escaped: &str) -> Self {
        self.0.push_str(escaped);
        self
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Control characters (C0, DEL, C1), and the invisible ones that reorder or hide what stands around them
/// (Unicode TR 36, 2.5: bidirectional text spoofing).
fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A field's value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Absent, where the specification allows it.
    Absent,
    /// Yes or no.
    Flag(bool),
    /// A count.
    Number(u64),
    /// Text, and bytes as hex.
    Text(Text),
    /// Several values.
    List(Vec<Self>),
    /// A structure.
    Object(Fields),
}

impl Value {
    /// Bytes, as lower-case hex.
    pub(super) fn hex(bytes: &[u8]) -> Self {
        Self::Text(Text(hex::encode(bytes)))
    }

    /// A list.
    pub(super) fn list<T: Into<Self>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }

    /// On one line.
    fn line(&self) -> String {
        match self {
            Self::Absent => "-".to_owned(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.0.clone(),
            Self::List(items) => items.iter().map(Self::line).collect::<Vec<_>>().join(", "),
            Self::Object(fields) => {
                let shown = fields.0.iter().map(|(name, value)| format!("{} {}", name.0, value.line()));
                shown.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<u8> for Value {
    fn from(number: u8) -> Self {
        Self::Number(u64::from(number))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Text::new(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Text::new(&text))
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Self::Text(text)
    }
}

impl From<Fields> for Value {
    fn from(fields: Fields) -> Self {
        Self::Object(fields)
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

/// JSON that came with the file, as it says.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.to_string().into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.to_string().into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Absent)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            fields.0.push((Text::new(&name), value));
        }
        Ok(Value::Object(fields))
    }
}

/// Fields in the order of their structure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(Text, Value)>);

impl Fields {
    /// Adds a field.
    pub(super) fn add(&mut self, name: impl AsRef<str>, value: impl Into<Value>) {
        self.0.push((Text::new(name.as_ref()), value.into()));
    }

    /// The first field of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(found, _)| found.0 == name).map(|(_, value)| value)
    }

    /// Every field but those of this name.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(found, _)| found.0 != name);
        self
    }

    /// The fields with one more.
    pub(super) fn with(mut self, name: impl AsRef<str>, value: impl Into<Value>) -> Self {
        self.add(name, value);
        self
    }

    fn print(&self, depth: usize, out: &mut dyn Write) -> std::io::Result<()> {
        let indent = "  ".repeat(depth);
        let width = self.0.iter().map(|(name, _)| name.0.chars().count()).max().unwrap_or_default();
        for (name, value) in &self.0 {
            match value {
                Value::Object(fields) if !fields.0.is_empty() => {
                    writeln!(out, "{indent}{}", name.0)?;
                    fields.print(depth.saturating_add(1), out)?;
                }
                Value::List(items) if items.iter().any(|item| matches!(item, Value::Object(_))) => {
                    writeln!(out, "{indent}{}", name.0)?;
                    for item in items {
                        writeln!(out, "{indent}  - {}", item.line())?;
                    }
                }
                Value::Absent
                | Value::Flag(_)
                | Value::Number(_)
                | Value::Text(_)
                | Value::List(_)
                | Value::Object(_) => writeln!(out, "{indent}{:width$}  {}", name.0, value.line())?,
            }
        }
        Ok(())
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (&name.0, value)))
    }
}

impl Inspection {
    /// Prints it for people.
    ///
    /// # Errors
    /// Whatever printing fails with.
    pub fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "{}: {} bytes, SHA-256 {}", self.title, self.bytes, self.sha256)?;
        writeln!(out, "{NOTHING_VERIFIED}")?;
        for unchecked in &self.not_checked {
            writeln!(out, "  not checked here: {unchecked}")?;
        }
        for part in &self.parts {
            writeln!(out, "\n{}  [{}: {}]", part.name.0, part.standing.words(), part.because)?;
            part.fields.print(1, out)?;
            for sentence in &part.story {
                writeln!(out, "  * {}", sentence.0)?;
            }
            for table in &part.tables {
                table.print(out)?;
            }
        }
        Ok(())
    }
}

impl Table {
    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(Value::line));
        }
        writeln!(out, "  {} ({})", self.name, self.rows.len())?;
        for line in table.to_string().lines() {
            writeln!(out, "   {}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Text, Value};

    #[test]
    fn a_terminal_obeys_nothing() {
        let hostile = "a\u{1b}]0;owned\u{7}\u{9b}2J\r\n\u{202e}txt\u{7f}é\\";
        let shown = Text::new(hostile);
        assert_eq!(shown.as_str(), r"a\u{1b}]0;owned\u{7}\u{9b}2J\u{d}\u{a}\u{202e}txt\u{7f}é\");
        assert_eq!(Text::of_bytes(b"ok\xff\x1b[m").as_str(), r"ok\xff\u{1b}[m");
    }

    #[test]
    fn foreign_json_keeps_its_order_and_is_escaped() {
        let value: Value = serde_json::from_str(r#"{"b":[1,-2,1.5,null,true],"a":{"\u001b[1m":"\u009b"}}"#).unwrap();
        let inner = Fields::default().with("\u{1b}[1m", "\u{9b}");
        let list = Value::List(vec![1_u64.into(), "-2".into(), "1.5".into(), Value::Absent, true.into()]);
        assert_eq!(value, Value::Object(Fields::default().with("b", list).with("a", inner)));
        let written = serde_json::to_string(&value).unwrap();
        assert_eq!(written, r#"{"b":[1,"-2","1.5",null,true],"a":{"\\u{1b}[1m":"\\u{9b}"}}"#);
    }
}
