//! The subjectAltName of an EK certificate (TCG EK Credential Profile 2.6, 3.1.2 and 3.2.9): a directoryName with
//! tpmManufacturer, tpmModel and tpmVersion.

use alloc::string::{String, ToString as _};

use crate::evidence::tpm::TpmReason;
use crate::rejection::Rejection;
use crate::x509::der::{Der, Element, NotDer, tag};
use crate::x509::oid::{self, Oid};

use super::identity::TpmIdentity;
use crate::x509::Certificate;

/// tcg-at-tpmManufacturer, tpmModel and tpmVersion: 2.23.133.2.1 to .3.
const ATTRIBUTES: [Oid; 3] = [
    Oid::new(&[0x67, 0x81, 0x05, 2, 1], "tpmManufacturer"),
    Oid::new(&[0x67, 0x81, 0x05, 2, 2], "tpmModel"),
    Oid::new(&[0x67, 0x81, 0x05, 2, 3], "tpmVersion"),
];

/// Context tag of GeneralName.directoryName, explicit.
const DIRECTORY_NAME: u8 = 0xa4;
/// SET.
const SET: u8 = 0x31;
/// The string types that manufacturers write (X.690, 8.23): UTF8String, PrintableString, TeletexString and IA5String.
const STRINGS: [u8; 4] = [0x0c, 0x13, 0x14, tag::IA5_STRING];
/// BMPString: UTF-16, big-endian.
const BMP_STRING: u8 = 0x1e;

/// Genuine values have under twenty characters.
const TEXT_BYTES_MAX: usize = 256;

/// What the subjectAltName says of the TPM: each attribute, where it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TpmName([Option<String>; 3]);

impl TpmName {
    /// The attributes in the certificate's subjectAltName; none of them where it has no such extension.
    pub(super) fn of(certificate: &Certificate<'_>) -> Result<Self, Rejection> {
        let Some(name) = certificate.extension(oid::SUBJECT_ALT_NAME) else { return Ok(Self::default()) };
        let mut found = Self::default();
        let mut twice = None;
        let read = each(name.value, |attribute, text| {
            let known = ATTRIBUTES.iter().zip(&mut found.0).find(|(known, _)| known.octets() == attribute);
            if let Some((known, value)) = known {
                let text = text_of(text)?;
                if value.as_ref().is_some_and(|value| *value != text) {
                    twice = Some(*known);
                }
                *value = Some(text);
            }
            Ok(())
        });
        let reason = TpmReason::EkCertificate;
        read.map_err(|NotDer| reason.because("a readable subjectAltName", "one that is not"))?;
        match twice {
            Some(attribute) => Err(reason.because(format_args!("one {attribute}"), "two that differ")),
            None => Ok(found),
        }
    }

    /// The identity, where all three attributes are there and say something.
    pub(super) fn identity(&self) -> Result<TpmIdentity, Rejection> {
        let said = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        match &self.0 {
            [Some(manufacturer), Some(model), Some(version)] if self.0.iter().all(said) => {
                Ok(TpmIdentity::from_attributes(manufacturer, model, version))
            }
            attributes => {
                let missing = ATTRIBUTES.iter().zip(attributes).find(|(_, value)| !said(value));
                let name = missing.map_or("", |(known, _)| known.name());
                Err(TpmReason::EkCertificate.because(name, "a subjectAltName without it"))
            }
        }
    }
}

/// Calls `visit` with each attribute of each directoryName. Manufacturers put them in one RDN or several, in any order;
/// the SET OF of one RDN is not always sorted as DER demands.
fn each<'a>(
    general_names: &'a [u8],
    mut visit: impl FnMut(&'a [u8], Element<'a>) -> Result<(), NotDer>,
) -> Result<(), NotDer> {
    let mut outer = Der::new(general_names);
    let mut names = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag != DIRECTORY_NAME {
            continue;
        }
        let mut explicit = Der::new(name.content);
        let mut rdns = explicit.inner(tag::SEQUENCE)?;
        explicit.finish()?;
        while !rdns.is_empty() {
            let mut attributes = rdns.inner(SET)?;
            while !attributes.is_empty() {
                let mut attribute = attributes.inner(tag::SEQUENCE)?;
                let kind = attribute.content(tag::OID)?;
                let value = attribute.any()?;
                attribute.finish()?;
                visit(kind, value)?;
            }
        }
    }
    Ok(())
}

/// The text of a DirectoryString, without what a terminal would act on.
fn text_of(value: Element<'_>) -> Result<String, NotDer> {
    if TEXT_BYTES_MAX < value.content.len() {
        return Err(NotDer);
    }
    let text = if value.tag == BMP_STRING && value.content.len().is_multiple_of(2) {
        let units = value.content.chunks_exact(2).filter_map(|unit| unit.try_into().ok().map(u16::from_be_bytes));
        char::decode_utf16(units).collect::<Result<String, _>>().map_err(|_| NotDer)?
    } else if STRINGS.contains(&value.tag) {
        core::str::from_utf8(value.content).map_err(|_| NotDer)?.to_string()
    } else {
        return Err(NotDer);
    };
    Ok(text.chars().filter(|character| !character.is_control()).collect())
}
