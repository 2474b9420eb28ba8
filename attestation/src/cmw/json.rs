//! Wrappers in JSON (RFC 9999, 3): arrays are records, objects are collections. Each member is there once.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{COLLECTION_TYPE, Cmw, CmwReason, Collection, ContentType, Label, Record, check_depth, check_indicator};
use crate::rejection::Rejection;

pub(super) fn decode(bytes: &[u8]) -> Result<Cmw, Rejection> {
    // What is refused for its content is kept here; the parser's own error has a line and a column alone.
    let mut refused = None;
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let read = Wrapper { depth: 1, refused: &mut refused }.deserialize(&mut parser);
    let read = read.and_then(|cmw| parser.end().map(|()| cmw));
    read.map_err(|error| {
        refused.unwrap_or_else(|| CmwReason::Form.because("a JSON array or object of RFC 9999", error.to_string()))
    })
}

/// A record or a collection.
struct Wrapper<'r> {
    depth: usize,
    refused: &'r mut Option<Rejection>,
}

impl Wrapper<'_> {
    fn keep<T, E: serde::de::Error>(&mut self, read: Result<T, Rejection>) -> Result<T, E> {
        read.map_err(|rejection| {
            let error = E::custom(rejection.code());
            *self.refused = Some(rejection);
            error
        })
    }
}

impl<'de> DeserializeSeed<'de> for Wrapper<'_> {
    type Value = Cmw;

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<Cmw, D::Error> {
        self.keep(check_depth(self.depth))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wrapper<'_> {
    type Value = Cmw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record or a collection")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Cmw, A::Error> {
        let missing = |what: &str| CmwReason::Form.because("[type, value] or [type, value, indicator]", what);
        let content: Option<JsonType> = items.next_element()?;
        let content = self.keep(content.ok_or_else(|| missing("no type")))?;
        let content = self.keep(match content {
            JsonType::Name(name) => ContentType::media_type(&name),
            JsonType::Number(number) => ContentType::content_format(number),
        })?;
        let value: Option<String> = items.next_element()?;
        let value = self.keep(value.ok_or_else(|| missing("no value")).and_then(|text| decode_value(&text)))?;
        let indicator = match items.next_element::<u64>()? {
            Some(indicator) => Some(self.keep(check_indicator(indicator))?),
            None => None,
        };
        if items.next_element::<serde::de::IgnoredAny>()?.is_some() {
            self.keep(Err(missing("more than three items")))?;
        }
        Ok(Cmw::Record(Record { content, value, indicator }))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Cmw, A::Error> {
        let mut collection = Collection::default();
        while let Some(label) = members.next_key::<String>()? {
            if label == COLLECTION_TYPE {
                let text: String = members.next_value()?;
                self.keep(collection.set_type(&text))?;
                continue;
            }
            let depth = self.depth.saturating_add(1);
            let entry = members.next_value_seed(Wrapper { depth, refused: &mut *self.refused })?;
            self.keep(collection.insert(Label::Text(label), entry))?;
        }
        self.keep(collection.complete())
    }
}

fn decode_value(text: &str) -> Result<Vec<u8>, Rejection> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|error| CmwReason::Value.because("base64url without padding", error.to_string()))
}

/// A media type or a content format; a number with a fraction is neither.
enum JsonType {
    Name(String),
    Number(u64),
}

impl<'de> serde::Deserialize<'de> for JsonType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TypeVisitor;
        impl Visitor<'_> for TypeVisitor {
            type Value = JsonType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a media type or a content format")
            }

            fn visit_u64<E>(self, number: u64) -> Result<JsonType, E> {
                Ok(JsonType::Number(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<JsonType, E> {
                Err(E::custom(format!("the content format {number}")))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<JsonType, E> {
                Ok(JsonType::Name(name.to_string()))
            }
        }
        deserializer.deserialize_any(TypeVisitor).map_err(D::Error::custom)
    }
}
