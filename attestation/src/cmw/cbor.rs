//! Wrappers in CBOR (RFC 9999, 3 and 4): arrays are records, maps are collections, and a tag that is computed from a
//! content format holds the value alone. Definite lengths only: an attester knows what it sends.

#![expect(clippy::wildcard_enum_match_arm, reason = "the decoder's types: every one that is not named is refused")]

use alloc::format;
use alloc::string::String;
use alloc::string::ToString as _;

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use super::{
    COLLECTION_TYPE, Cmw, CmwReason, Collection, ContentType, ENTRIES_MAX, Label, Record, check_depth, check_indicator,
};
use crate::rejection::Rejection;

/// TN(0) (RFC 9277, appendix B): the tag of content format 0.
const TAG_FIRST: u64 = 1_668_546_817;

/// Content formats from 65025 on have no tag.
const TAGGED_FORMATS: u64 = 65_025;

/// Tags count content formats in groups of 255, so that no byte of them is zero.
const FORMATS_A_GROUP: u64 = 255;

pub(super) fn decode(bytes: &[u8]) -> Result<Cmw, Rejection> {
    let mut decoder = Decoder::new(bytes);
    let cmw = wrapper(&mut decoder, 1)?;
    let left = bytes.len().saturating_sub(decoder.position());
    if left != 0 {
        return Err(CmwReason::Form.because("nothing after the wrapper", format!("{left} bytes")));
    }
    Ok(cmw)
}

fn wrapper(decoder: &mut Decoder<'_>, depth: usize) -> Result<Cmw, Rejection> {
    check_depth(depth)?;
    match decoder.datatype().map_err(unreadable)? {
        Type::Array => record(decoder).map(Cmw::Record),
        Type::Map => collection(decoder, depth),
        Type::Tag => tagged(decoder).map(Cmw::Record),
        other => Err(CmwReason::Form.because("an array, a map or a tag of definite length", other)),
    }
}

fn record(decoder: &mut Decoder<'_>) -> Result<Record, Rejection> {
    let items = decoder.array().map_err(unreadable)?.unwrap_or_default();
    if !(2..=3).contains(&items) {
        return Err(CmwReason::Form.because("[type, value] or [type, value, indicator]", format!("{items} items")));
    }
    let content = match decoder.datatype().map_err(unreadable)? {
        Type::String => ContentType::media_type(decoder.str().map_err(unreadable)?)?,
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
            ContentType::content_format(decoder.u64().map_err(unreadable)?)?
        }
        other => return Err(CmwReason::Type.because("a text or an unsigned integer", other)),
    };
    let value = value(decoder)?;
    let indicator = if items == 3 {
        let bits = decoder.u64().map_err(|error| CmwReason::Indicator.because("an unsigned integer", error))?;
        Some(check_indicator(bits)?)
    } else {
        None
    };
    Ok(Record { content, value, indicator })
}

fn value(decoder: &mut Decoder<'_>) -> Result<alloc::vec::Vec<u8>, Rejection> {
    match decoder.datatype().map_err(unreadable)? {
        Type::Bytes => Ok(decoder.bytes().map_err(unreadable)?.to_vec()),
        other => Err(CmwReason::Value.because("a byte string of definite length", other)),
    }
}

/// RFC 9277, appendix B: `TN(ct) = 0x63740101 + (ct / 255) * 256 + ct % 255`.
fn tagged(decoder: &mut Decoder<'_>) -> Result<Record, Rejection> {
    let tag = decoder.tag().map_err(unreadable)?.as_u64();
    let format = tag
        .checked_sub(TAG_FIRST)
        .filter(|offset| offset % 256 < FORMATS_A_GROUP)
        .map(|offset| (offset / 256).saturating_mul(FORMATS_A_GROUP).saturating_add(offset % 256))
        .filter(|format| *format < TAGGED_FORMATS)
        .ok_or_else(|| CmwReason::Type.because("a tag that stands for a content format", tag))?;
    Ok(Record { content: ContentType::content_format(format)?, value: value(decoder)?, indicator: None })
}

fn collection(decoder: &mut Decoder<'_>, depth: usize) -> Result<Cmw, Rejection> {
    let members = decoder.map().map_err(unreadable)?.unwrap_or_default();
    if u64::try_from(ENTRIES_MAX).is_ok_and(|most| most < members) {
        return Err(CmwReason::Collection.because(format!("at most {ENTRIES_MAX} entries"), members));
    }
    let mut collection = Collection::default();
    for _ in 0..members {
        let label = label(decoder)?;
        if label == Label::Text(String::from(COLLECTION_TYPE)) {
            collection.set_type(decoder.str().map_err(unreadable)?)?;
            continue;
        }
        let entry = wrapper(decoder, depth.saturating_add(1))?;
        collection.insert(label, entry)?;
    }
    collection.complete()
}

fn label(decoder: &mut Decoder<'_>) -> Result<Label, Rejection> {
    match decoder.datatype().map_err(unreadable)? {
        Type::String => Ok(Label::Text(decoder.str().map_err(unreadable)?.to_string())),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 => {
            decoder.i64().map(Label::Integer).map_err(unreadable)
        }
        other => Err(CmwReason::Collection.because("a label that is a text or an integer", other)),
    }
}

pub(super) fn unreadable(error: Error) -> Rejection {
    CmwReason::Form.because("CBOR of RFC 9999", error)
}
