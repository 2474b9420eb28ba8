//! The subjectAltName of an EK certificate (TCG EK Credential Profile 2.6, 3.1.2 and 3.2.9): a directoryName with
//! tpmManufacturer, tpmModel and tpmVersion.

use alloc::string::String;

use crate::evidence::tpm::TpmReason;
use crate::rejection::Rejection;
use crate::x509::Certificate;
use crate::x509::der::{Der, Element, NotDer, tag};
use crate::x509::name::{SET, text};
use crate::x509::oid::{self, Oid};

use super::identity::TpmIdentity;

/// tcg-at-tpmManufacturer, tpmModel and tpmVersion: 2.23.133.2.1 to .3.
const ATTRIBUTES: [Oid; 3] = [
    Oid::new(&[0x67, 0x81, 0x05, 2, 1], "tpmManufacturer"),
    Oid::new(&[0x67, 0x81, 0x05, 2, 2], "tpmModel"),
    Oid::new(&[0x67, 0x81, 0x05, 2, 3], "tpmVersion"),
];

/// Context tag of GeneralName.directoryName, explicit.
const DIRECTORY_NAME: u8 = 0xa4;
/// Genuine values have under twenty characters.
const TEXT_BYTES_MAX: usize = 256;

/// What a certificate's subjectAltName says of the TPM, as it is written there. Claimed, not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TpmAttributes {
    /// tpmManufacturer, tpmModel, tpmVersion.
    values: [Option<String>; 3],
    single_rdn: bool,
}

impl TpmAttributes {
    /// The attributes in the certificate's subjectAltName; none of them where it has no such extension.
    ///
    /// # Errors
    /// [`TpmReason::EkCertificate`] when the extension cannot be read, or says two things.
    pub fn of(certificate: &Certificate<'_>) -> Result<Self, Rejection> {
        let Some(name) = certificate.extension(oid::SUBJECT_ALT_NAME) else { return Ok(Self::default()) };
        let mut found = Self::default();
        let mut twice = None;
        let read = each(name.value, |attribute, written, shares| {
            found.single_rdn |= shares;
            let known = ATTRIBUTES.iter().zip(&mut found.values).find(|(known, _)| known.octets() == attribute);
            if let Some((known, value)) = known {
                let text = text_of(written)?;
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

    /// tpmManufacturer, as in `id:49465800`.
    #[must_use]
    pub fn manufacturer(&self) -> Option<&str> {
        let [manufacturer, _, _] = &self.values;
        manufacturer.as_deref()
    }

    /// tpmModel.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let [_, model, _] = &self.values;
        model.as_deref()
    }

    /// tpmVersion, as in `id:0728`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        let [_, _, version] = &self.values;
        version.as_deref()
    }

    /// Whether one relative name holds several attributes.
    #[must_use]
    pub const fn single_rdn(&self) -> bool {
        self.single_rdn
    }

    /// The identity, where all three attributes are there and say something.
    pub(super) fn identity(&self) -> Result<TpmIdentity, Rejection> {
        let said = |value: &Option<String>| value.as_ref().is_some_and(|text| !text.is_empty());
        match &self.values {
            [Some(manufacturer), Some(model), Some(version)] if self.values.iter().all(said) => {
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

/// Calls `visit` with each attribute of each directoryName, and whether it shares its RDN with another. Manufacturers
/// put them in one RDN or several, in any order; the SET OF of one RDN is not always sorted as DER demands.
fn each<'a>(
    general_names: &'a [u8],
    mut visit: impl FnMut(&'a [u8], Element<'a>, bool) -> Result<(), NotDer>,
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
            let mut first = true;
            while !attributes.is_empty() {
                let mut attribute = attributes.inner(tag::SEQUENCE)?;
                let kind = attribute.content(tag::OID)?;
                let value = attribute.any()?;
                attribute.finish()?;
                visit(kind, value, !first || !attributes.is_empty())?;
                first = false;
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
    Ok(text(value)?.chars().filter(|character| !character.is_control()).collect())
}
