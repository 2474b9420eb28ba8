//! Templates: which fields an entry has, and what its template data says.

use super::ImaReason;
use crate::evidence::tpm::algorithm::TpmHash;
use crate::reader::Reader;
use crate::rejection::Rejection;

/// Most fields of a template (`TEMPLATE_NUM_FIELDS_MAX`).
const FIELDS_MAX: usize = 15;

/// Bytes of a template name: 15 field ids of at most 16 bytes, with separators.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// The legacy template, whose layout is its own.
pub(super) const LEGACY: &[u8] = b"ima";

/// The template of nearly every list.
pub(super) const IMA_NG: &[u8] = b"ima-ng";

/// Bytes of the `d` field, and of the digest in the legacy layout (`IMA_DIGEST_SIZE`).
pub(super) const LEGACY_DIGEST_BYTES: usize = 20;

/// Bytes of a name in the legacy layout, without the terminating zero (`IMA_EVENT_NAME_LEN_MAX`).
pub(super) const LEGACY_NAME_BYTES_MAX: usize = 255;

/// A template field (`supported_fields` of `ima_template.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `d`: SHA-1 or MD5 digest.
    D,
    /// `n`: name, at most 255 bytes.
    N,
    /// `d-ng`: `algorithm:\0digest`.
    DNg,
    /// `d-ngv2`: `kind:algorithm:\0digest`.
    DNgV2,
    /// `n-ng`: name.
    NNg,
    /// `sig`: `security.ima` signature.
    Sig,
    /// `buf`: a measured buffer.
    Buf,
    /// `d-modsig`: digest without the appended signature.
    DModsig,
    /// `modsig`: the appended signature.
    Modsig,
    /// `evmsig`: portable EVM signature.
    Evmsig,
    /// `iuid`: owner.
    Iuid,
    /// `igid`: group.
    Igid,
    /// `imode`: mode.
    Imode,
    /// `xattrnames`.
    XattrNames,
    /// `xattrlengths`.
    XattrLengths,
    /// `xattrvalues`.
    XattrValues,
}

const FIELDS: [(&[u8], Field); 16] = [
    (b"d", Field::D),
    (b"n", Field::N),
    (b"d-ng", Field::DNg),
    (b"d-ngv2", Field::DNgV2),
    (b"n-ng", Field::NNg),
    (b"sig", Field::Sig),
    (b"buf", Field::Buf),
    (b"d-modsig", Field::DModsig),
    (b"modsig", Field::Modsig),
    (b"evmsig", Field::Evmsig),
    (b"iuid", Field::Iuid),
    (b"igid", Field::Igid),
    (b"imode", Field::Imode),
    (b"xattrnames", Field::XattrNames),
    (b"xattrlengths", Field::XattrLengths),
    (b"xattrvalues", Field::XattrValues),
];

// The named templates (`builtin_templates` of `ima_template.c`).
const IMA: [Field; 2] = [Field::D, Field::N];
const NG: [Field; 2] = [Field::DNg, Field::NNg];
const IMA_SIG: [Field; 3] = [Field::DNg, Field::NNg, Field::Sig];
const IMA_NGV2: [Field; 2] = [Field::DNgV2, Field::NNg];
const IMA_SIGV2: [Field; 3] = [Field::DNgV2, Field::NNg, Field::Sig];
const IMA_BUF: [Field; 3] = [Field::DNg, Field::NNg, Field::Buf];
const IMA_MODSIG: [Field; 5] = [Field::DNg, Field::NNg, Field::Sig, Field::DModsig, Field::Modsig];
const EVM_SIG: [Field; 9] = [
    Field::DNg,
    Field::NNg,
    Field::Evmsig,
    Field::XattrNames,
    Field::XattrLengths,
    Field::XattrValues,
    Field::Iuid,
    Field::Igid,
    Field::Imode,
];

/// The fields of one template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Those of a named template.
    Named(&'static [Field]),
    /// Those of a list of field ids, and how many.
    Listed([Field; FIELDS_MAX], usize),
}

impl Fields {
    /// The fields of the template with this name: a named one, or field ids with `|` between them.
    ///
    /// # Errors
    /// [`ImaReason::Template`].
    pub fn of(name: &[u8]) -> Result<Self, Rejection> {
        // A match on bytes costs less than a search, and this is done for every entry.
        let named: Option<&'static [Field]> = match name {
            IMA_NG => Some(&NG),
            b"ima-sig" => Some(&IMA_SIG),
            LEGACY => Some(&IMA),
            b"ima-ngv2" => Some(&IMA_NGV2),
            b"ima-sigv2" => Some(&IMA_SIGV2),
            b"ima-buf" => Some(&IMA_BUF),
            b"ima-modsig" => Some(&IMA_MODSIG),
            b"evm-sig" => Some(&EVM_SIG),
            _ => None,
        };
        if let Some(fields) = named {
            return Ok(Self::Named(fields));
        }
        let (mut fields, mut count) = ([Field::D; FIELDS_MAX], 0_usize);
        for id in name.split(|byte| *byte == b'|') {
            let field = FIELDS.iter().find(|(known, _)| *known == id).map(|(_, field)| *field);
            // Twice the same would leave open which one counts.
            let field = field.filter(|field| !fields.iter().take(count).any(|before| before == field));
            let (Some(slot), Some(field)) = (fields.get_mut(count), field) else {
                return Err(
                    ImaReason::Template.because("a template of the kernel, or field ids once each", shown(name))
                );
            };
            *slot = field;
            count = count.saturating_add(1);
        }
        Ok(Self::Listed(fields, count))
    }

    /// The fields in their order.
    #[must_use]
    pub fn all(&self) -> &[Field] {
        match self {
            Self::Named(fields) => fields,
            Self::Listed(fields, count) => fields.get(..*count).unwrap_or_default(),
        }
    }
}

/// What a digest is of (`d-ngv2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestKind {
    /// The file's content.
    File,
    /// fs-verity's digest of the file.
    Verity,
}

/// A hash algorithm by the kernel's name (`hash_algo_name` of `crypto/hash_info.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashAlgorithm {
    /// MD5: readable, never matched.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// SM3.
    Sm3,
    /// Any other of the kernel's, by its name.
    Other,
}

impl HashAlgorithm {
    /// Its name, as far as it has one here.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Sm3 => "sm3",
            Self::Other => "other",
        }
    }

    /// The same hash of a TPM, where it is one that is trusted.
    #[must_use]
    pub const fn bank(self) -> Option<TpmHash> {
        match self {
            Self::Sha256 => Some(TpmHash::Sha256),
            Self::Sha384 => Some(TpmHash::Sha384),
            Self::Sha512 => Some(TpmHash::Sha512),
            Self::Md5 | Self::Sha1 | Self::Sha224 | Self::Sm3 | Self::Other => None,
        }
    }

    /// By the kernel's name and the digest's size.
    fn read(name: &[u8], size: usize) -> Option<Self> {
        let (algorithm, bytes) = match name {
            b"sha256" => (Self::Sha256, 32),
            b"sha1" => (Self::Sha1, 20),
            b"sha384" => (Self::Sha384, 48),
            b"sha512" => (Self::Sha512, 64),
            b"sha224" => (Self::Sha224, 28),
            b"md5" => (Self::Md5, 16),
            b"sm3" | b"sm3-256" | b"sm3_256" => (Self::Sm3, 32),
            b"md4" | b"rmd128" | b"tgr128" => (Self::Other, 16),
            b"rmd160" | b"tgr160" => (Self::Other, 20),
            b"tgr192" => (Self::Other, 24),
            b"rmd256" | b"wp256" | b"streebog256" | b"sha3-256" => (Self::Other, 32),
            b"rmd320" => (Self::Other, 40),
            b"wp384" | b"sha3-384" => (Self::Other, 48),
            b"wp512" | b"streebog512" | b"sha3-512" => (Self::Other, 64),
            _ => return None,
        };
        (size == bytes).then_some(algorithm)
    }
}

/// A file's digest as the kernel measured it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigest<'a> {
    /// What it is of.
    pub kind: DigestKind,
    /// Its algorithm.
    pub algorithm: HashAlgorithm,
    /// The digest.
    pub digest: &'a [u8],
}

impl<'a> FileDigest<'a> {
    /// `d`: the algorithm is only told by the size.
    fn read_plain(bytes: &'a [u8]) -> Option<Self> {
        let algorithm = match bytes.len() {
            20 => HashAlgorithm::Sha1,
            16 => HashAlgorithm::Md5,
            _ => return None,
        };
        Some(Self { kind: DigestKind::File, algorithm, digest: bytes })
    }

    /// `d-ng` and `d-modsig`: `algorithm:\0digest`.
    fn read_ng(bytes: &'a [u8]) -> Option<Self> {
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let (name, rest) = bytes.split_at_checked(colon)?;
        let digest = rest.strip_prefix(b":\0")?;
        Some(Self { kind: DigestKind::File, algorithm: HashAlgorithm::read(name, digest.len())?, digest })
    }

    /// `d-ngv2`: `kind:algorithm:\0digest`.
    fn read_ngv2(bytes: &'a [u8]) -> Option<Self> {
        if let Some(rest) = bytes.strip_prefix(b"ima:") {
            return Self::read_ng(rest);
        }
        let verity = Self::read_ng(bytes.strip_prefix(b"verity:")?)?;
        Some(Self { kind: DigestKind::Verity, ..verity })
    }
}

/// What the template data of one entry says. A field that the template has not, or that is empty, is `None` or empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplateData<'a> {
    /// `d`, `d-ng` or `d-ngv2`.
    pub digest: Option<FileDigest<'a>>,
    /// `n` or `n-ng`, without its terminating zero.
    pub name: Option<&'a [u8]>,
    /// `sig`.
    pub signature: &'a [u8],
    /// `buf`: `Some` when the template has the field, however empty.
    pub buffer: Option<&'a [u8]>,
    /// `d-modsig`.
    pub modsig_digest: Option<FileDigest<'a>>,
    /// `modsig`.
    pub modsig: &'a [u8],
    /// `evmsig`.
    pub evm_signature: &'a [u8],
}

impl<'a> TemplateData<'a> {
    /// Reads the data of the legacy layout.
    pub(super) fn legacy(digest: &'a [u8], name: &'a [u8]) -> Result<Self, Rejection> {
        // `strlen` wrote the length, so no zero can be among the bytes.
        if LEGACY_NAME_BYTES_MAX < name.len() || name.contains(&0) {
            return Err(ImaReason::TemplateData.because("a name of at most 255 bytes", shown(name)));
        }
        Ok(Self { digest: FileDigest::read_plain(digest), name: Some(name), ..Self::default() })
    }

    /// Reads `u32 length, bytes` for each field.
    #[inline]
    pub(super) fn read(fields: &Fields, data: &'a [u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(data);
        let mut read = Self::default();
        for field in fields.all() {
            let short = |error| ImaReason::TemplateData.because("every field whole", error);
            let length = usize::try_from(reader.u32_le().map_err(short)?).unwrap_or(usize::MAX);
            let bytes = reader.bytes(length).map_err(short)?;
            read.set(*field, bytes)
                .ok_or_else(|| ImaReason::TemplateData.because(format_args!("a {field:?} field"), shown(bytes)))?;
        }
        reader.finish().map_err(|error| ImaReason::TemplateData.because("nothing after the last field", error))?;
        Ok(read)
    }

    #[inline]
    fn set(&mut self, field: Field, bytes: &'a [u8]) -> Option<()> {
        let none_yet = |digest: Option<FileDigest<'_>>| digest.is_none().then_some(());
        match field {
            Field::D => {
                none_yet(self.digest)?;
                self.digest = Some(FileDigest::read_plain(bytes)?);
            }
            Field::DNg => {
                none_yet(self.digest)?;
                self.digest = Some(FileDigest::read_ng(bytes)?);
            }
            Field::DNgV2 => {
                none_yet(self.digest)?;
                self.digest = Some(FileDigest::read_ngv2(bytes)?);
            }
            Field::N | Field::NNg => {
                let (zero, name) = bytes.split_last()?;
                if *zero != 0 || name.contains(&0) || self.name.is_some() {
                    return None;
                }
                self.name = Some(name);
            }
            Field::Sig => self.signature = bytes,
            Field::Buf => self.buffer = Some(bytes),
            Field::DModsig if bytes.is_empty() => {}
            Field::DModsig => self.modsig_digest = Some(FileDigest::read_ng(bytes)?),
            Field::Modsig => self.modsig = bytes,
            Field::Evmsig => self.evm_signature = bytes,
            Field::Iuid | Field::Igid if matches!(bytes.len(), 0 | 4) => {}
            Field::Imode if matches!(bytes.len(), 0 | 2) => {}
            Field::Iuid | Field::Igid | Field::Imode => return None,
            Field::XattrNames | Field::XattrLengths | Field::XattrValues => {}
        }
        Some(())
    }
}

/// Whether this is template data of `ima-ng` with a SHA-256 digest: `40 "sha256:" 0 digest, length, name 0`. What is,
/// [`TemplateData::read`] reads; what is not, it may read too.
#[inline]
pub(super) fn is_ng_sha256(data: &[u8]) -> bool {
    const HEAD: [u8; 12] = *b"\x28\0\0\0sha256:\0";
    let Some((&HEAD, rest)) = data.split_first_chunk::<12>() else { return false };
    let Some((length, name)) = rest.get(32..).and_then(|rest| rest.split_first_chunk::<4>()) else { return false };
    let Some((0, name_bytes)) = name.split_last() else { return false };
    // Without an early end, so that it is done many bytes at a time.
    let zeros = name_bytes.iter().fold(false, |zeros, byte| zeros | (*byte == 0));
    !zeros && u32::try_from(name.len()) == Ok(u32::from_le_bytes(*length))
}

/// Bytes of a name for explanations.
pub(super) fn shown(bytes: &[u8]) -> alloc::string::String {
    let first = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    alloc::string::String::from_utf8_lossy(first).into_owned()
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::{Fields, IMA_NG, TemplateData, is_ng_sha256};

    fn template(digest: [u8; 32], name: &[u8]) -> Vec<u8> {
        let length = u32::try_from(name.len()).unwrap().to_le_bytes();
        [b"\x28\0\0\0sha256:\0", &digest[..], &length, name].concat()
    }

    proptest! {
        #[test]
        fn what_is_known_at_a_glance_can_be_read(
            digest: [u8; 32],
            name in proptest::collection::vec(prop_oneof![9 => 1..=u8::MAX, 1 => Just(0)], 0..70),
            change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut data = template(digest, &name);
            if let Some((at, byte)) = change {
                let at = at.index(data.len());
                data[at] = byte;
            }
            let fields = Fields::of(IMA_NG).unwrap();
            prop_assert!(!is_ng_sha256(&data) || TemplateData::read(&fields, &data).is_ok());
        }

        #[test]
        fn an_ordinary_entry_is_known_at_a_glance(digest: [u8; 32], name in "[a-z/]{1,70}") {
            prop_assert!(is_ng_sha256(&template(digest, &[name.as_bytes(), b"\0"].concat())));
        }
    }
}
