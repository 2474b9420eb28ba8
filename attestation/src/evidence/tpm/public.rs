//! Public areas (TPM 2.0 Part 2, 12.2.4, TPMT_PUBLIC) of RSA and ECC keys, read strictly and borrowed.

use alloc::vec::Vec;

use aws_lc_rs::digest;

use super::TpmReason;
use super::algorithm::{Alg, TpmHash, id};
use super::malformed;
use crate::reader::Reader;
use crate::rejection::Rejection;
use crate::x509::oid;

/// The exponent that TPM_ALG_RSA means by zero (Part 2, 12.2.3.5), and the only one that is taken.
const RSA_EXPONENT: u32 = 65_537;

/// TPMA_OBJECT (Part 2, 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectAttributes(u32);

impl ObjectAttributes {
    const FIXED_TPM: u32 = 1 << 1;
    const FIXED_PARENT: u32 = 1 << 4;
    const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    const USER_WITH_AUTH: u32 = 1 << 6;
    const RESTRICTED: u32 = 1 << 16;
    const DECRYPT: u32 = 1 << 17;
    const SIGN: u32 = 1 << 18;
    /// Bits 0, 3, 12 to 15 and 20 to 31 shall be zero.
    const RESERVED: u32 = 0xfff0_f009;

    const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The bits as the TPM writes them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The key never leaves its TPM.
    #[must_use]
    pub const fn fixed_tpm(self) -> bool {
        self.has(Self::FIXED_TPM)
    }

    /// The key never gets another parent.
    #[must_use]
    pub const fn fixed_parent(self) -> bool {
        self.has(Self::FIXED_PARENT)
    }

    /// The TPM made the private part.
    #[must_use]
    pub const fn sensitive_data_origin(self) -> bool {
        self.has(Self::SENSITIVE_DATA_ORIGIN)
    }

    /// The key's password authorizes its use, whatever its policy says.
    #[must_use]
    pub const fn user_with_auth(self) -> bool {
        self.has(Self::USER_WITH_AUTH)
    }

    /// The key signs only what the TPM made, or decrypts only structures the TPM knows.
    #[must_use]
    pub const fn restricted(self) -> bool {
        self.has(Self::RESTRICTED)
    }

    /// The key decrypts.
    #[must_use]
    pub const fn decrypt(self) -> bool {
        self.has(Self::DECRYPT)
    }

    /// The key signs.
    #[must_use]
    pub const fn sign(self) -> bool {
        self.has(Self::SIGN)
    }
}

/// TPMT_SYM_DEF_OBJECT of a storage or endorsement key: AES in CFB mode, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symmetric {
    /// TPM_ALG_NULL.
    Null,
    /// AES-128-CFB.
    Aes128Cfb,
    /// AES-256-CFB.
    Aes256Cfb,
}

/// The scheme of a key (TPMT_RSA_SCHEME, TPMT_ECC_SCHEME).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyScheme {
    /// TPM_ALG_NULL: the caller of the TPM chooses.
    Null,
    /// TPM_ALG_RSASSA.
    RsaSsa(TpmHash),
    /// TPM_ALG_RSAPSS.
    RsaPss(TpmHash),
    /// TPM_ALG_ECDSA.
    Ecdsa(TpmHash),
    /// TPM_ALG_RSAES.
    RsaEs,
    /// TPM_ALG_OAEP.
    Oaep(TpmHash),
    /// TPM_ALG_ECDH.
    Ecdh(TpmHash),
    /// TPM_ALG_ECMQV.
    EcMqv(TpmHash),
}

/// TPM_ECC_CURVE (Part 2, 6.4), the NIST curves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// TPM_ECC_NIST_P256.
    P256,
    /// TPM_ECC_NIST_P384.
    P384,
    /// TPM_ECC_NIST_P521.
    P521,
}

impl Curve {
    /// Bytes in a coordinate.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// The key itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// An RSA key; the public exponent is 65537.
    Rsa {
        /// Big-endian, as long as keyBits says, top bit set.
        modulus: &'a [u8],
    },
    /// A point on a curve.
    Ecc {
        /// The curve.
        curve: Curve,
        /// At most as long as the field; a TPM may leave out leading zeros.
        x: &'a [u8],
        /// Likewise.
        y: &'a [u8],
    },
}

/// A public area that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public<'a> {
    bytes: &'a [u8],
    name_alg: TpmHash,
    attributes: ObjectAttributes,
    auth_policy: &'a [u8],
    symmetric: Symmetric,
    scheme: KeyScheme,
    key: Key<'a>,
}

impl<'a> Public<'a> {
    /// Reads a TPMT_PUBLIC: all of `bytes`.
    ///
    /// # Errors
    /// [`TpmReason::Malformed`] or [`TpmReason::Algorithm`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let public = Self::read_fields(bytes, &mut reader)?;
        reader.finish().map_err(malformed("TPMT_PUBLIC"))?;
        Ok(public)
    }

    fn read_fields(bytes: &'a [u8], reader: &mut Reader<'a>) -> Result<Self, Rejection> {
        let short = malformed("TPMT_PUBLIC");
        let kind = reader.u16_be().map_err(short)?;
        let name_alg = TpmHash::from_id(reader.u16_be().map_err(short)?)?;
        let attributes = ObjectAttributes(reader.u32_be().map_err(short)?);
        if attributes.0 & ObjectAttributes::RESERVED != 0 {
            return Err(TpmReason::Malformed.because("reserved TPMA_OBJECT bits clear", format_args!("{attributes:?}")));
        }
        let policy = reader.tpm2b().map_err(short)?;
        // Part 2, 12.2.4: authPolicy is empty or a digest of nameAlg.
        if !policy.is_empty() && policy.len() != name_alg.size() {
            return Err(TpmReason::Malformed.because("an authPolicy of nameAlg's size", policy.len()));
        }
        let symmetric = read_symmetric(reader)?;
        let (scheme, key) = match kind {
            id::RSA => read_rsa(reader)?,
            id::ECC => read_ecc(reader)?,
            other => return Err(TpmReason::Algorithm.because("an RSA or ECC key", Alg(other))),
        };
        Ok(Self { bytes, name_alg, attributes, auth_policy: policy, symmetric, scheme, key })
    }

    /// The TPMT_PUBLIC itself.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// nameAlg.
    #[must_use]
    pub const fn name_alg(&self) -> TpmHash {
        self.name_alg
    }

    /// objectAttributes.
    #[must_use]
    pub const fn attributes(&self) -> ObjectAttributes {
        self.attributes
    }

    /// authPolicy: empty, or a digest of nameAlg.
    #[must_use]
    pub const fn auth_policy(&self) -> &'a [u8] {
        self.auth_policy
    }

    /// The symmetric definition under which the key protects others.
    #[must_use]
    pub const fn symmetric(&self) -> Symmetric {
        self.symmetric
    }

    /// The scheme the key is limited to.
    #[must_use]
    pub const fn scheme(&self) -> KeyScheme {
        self.scheme
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> Key<'a> {
        self.key
    }

    /// The key's Name (Part 1, 16): nameAlg || H_nameAlg(TPMT_PUBLIC).
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let mut name = self.name_alg.id().to_be_bytes().to_vec();
        name.extend_from_slice(digest::digest(self.name_alg.digest(), self.bytes).as_ref());
        name
    }

    /// The key in the form our signature engine takes: DER RSAPublicKey, or an uncompressed SEC1 point.
    #[must_use]
    pub fn engine_key(&self) -> Vec<u8> {
        self.key.engine_key()
    }

    /// `SubjectPublicKeyInfo`, DER (RFC 3279, 2.3.1; RFC 5480, 2).
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.key.spki()
    }
}

impl Key<'_> {
    /// The key in the form our signature engine takes: DER RSAPublicKey, or an uncompressed SEC1 point.
    #[must_use]
    pub fn engine_key(&self) -> Vec<u8> {
        match *self {
            Key::Rsa { modulus } => {
                let exponent = der(0x02, &[&[1, 0, 1]]);
                // The top bit is set, so a zero keeps the INTEGER positive.
                der(0x30, &[&der(0x02, &[&[0], modulus]), &exponent])
            }
            Key::Ecc { curve, x, y } => {
                let mut point = Vec::from([4]);
                for coordinate in [x, y] {
                    let zeros = curve.size().saturating_sub(coordinate.len());
                    point.extend(core::iter::repeat_n(0, zeros));
                    point.extend_from_slice(coordinate);
                }
                point
            }
        }
    }

    /// `SubjectPublicKeyInfo`, DER (RFC 3279, 2.3.1; RFC 5480, 2).
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        let oid = |oid: oid::Oid| der(0x06, &[oid.octets()]);
        let algorithm = match *self {
            Key::Rsa { .. } => der(0x30, &[&oid(oid::RSA_ENCRYPTION), &[5, 0]]),
            Key::Ecc { curve: Curve::P256, .. } => der(0x30, &[&oid(oid::EC_PUBLIC_KEY), &oid(oid::P256)]),
            Key::Ecc { curve: Curve::P384, .. } => der(0x30, &[&oid(oid::EC_PUBLIC_KEY), &oid(oid::P384)]),
            Key::Ecc { curve: Curve::P521, .. } => der(0x30, &[&oid(oid::EC_PUBLIC_KEY), &oid(oid::P521)]),
        };
        der(0x30, &[&algorithm, &der(0x03, &[&[0], &self.engine_key()])])
    }
}

/// A TPM2B_PUBLIC at the reader's position: its size and the public area that fills it.
pub(super) fn read_tpm2b_public<'a>(reader: &mut Reader<'a>) -> Result<Public<'a>, Rejection> {
    Public::read(reader.tpm2b().map_err(malformed("TPM2B_PUBLIC"))?)
}

fn read_symmetric(reader: &mut Reader<'_>) -> Result<Symmetric, Rejection> {
    let short = malformed("TPMT_SYM_DEF_OBJECT");
    match reader.u16_be().map_err(short)? {
        id::NULL => Ok(Symmetric::Null),
        id::AES => match (reader.u16_be().map_err(short)?, reader.u16_be().map_err(short)?) {
            (128, id::CFB) => Ok(Symmetric::Aes128Cfb),
            (256, id::CFB) => Ok(Symmetric::Aes256Cfb),
            (bits, mode) => Err(TpmReason::Algorithm
                .because("AES-128-CFB or AES-256-CFB", format_args!("AES-{bits}, mode {mode:#06x}"))),
        },
        other => Err(TpmReason::Algorithm.because("AES-CFB or no symmetric algorithm", Alg(other))),
    }
}

/// TPMS_RSA_PARMS after the symmetric definition, then TPM2B_PUBLIC_KEY_RSA.
fn read_rsa<'a>(reader: &mut Reader<'a>) -> Result<(KeyScheme, Key<'a>), Rejection> {
    let short = malformed("TPMS_RSA_PARMS");
    let hash = |reader: &mut Reader<'a>| reader.u16_be().map_err(short).and_then(TpmHash::from_id);
    let scheme = match reader.u16_be().map_err(short)? {
        id::NULL => KeyScheme::Null,
        id::RSASSA => KeyScheme::RsaSsa(hash(reader)?),
        id::RSAPSS => KeyScheme::RsaPss(hash(reader)?),
        id::RSAES => KeyScheme::RsaEs,
        id::OAEP => KeyScheme::Oaep(hash(reader)?),
        other => return Err(TpmReason::Algorithm.because("an RSA scheme", Alg(other))),
    };
    let bits = reader.u16_be().map_err(short)?;
    let exponent = reader.u32_be().map_err(short)?;
    let modulus = reader.tpm2b().map_err(short)?;
    if ![0, RSA_EXPONENT].contains(&exponent) {
        return Err(TpmReason::Algorithm.because("exponent 65537", exponent));
    }
    // Part 2, 11.2.4.6: RSA keys under 2048 bits are not read at all; nothing here would trust one.
    if ![2048, 3072, 4096].contains(&bits) {
        return Err(TpmReason::Algorithm.because("RSA of 2048, 3072 or 4096 bits", bits));
    }
    if modulus.len() != usize::from(bits / 8) || modulus.first().is_none_or(|first| *first < 0x80) {
        return Err(TpmReason::Malformed.because(format_args!("a modulus of {bits} bits"), modulus.len()));
    }
    Ok((scheme, Key::Rsa { modulus }))
}

/// TPMS_ECC_PARMS after the symmetric definition, then TPMS_ECC_POINT.
fn read_ecc<'a>(reader: &mut Reader<'a>) -> Result<(KeyScheme, Key<'a>), Rejection> {
    let short = malformed("TPMS_ECC_PARMS");
    let hash = |reader: &mut Reader<'a>| reader.u16_be().map_err(short).and_then(TpmHash::from_id);
    let scheme = match reader.u16_be().map_err(short)? {
        id::NULL => KeyScheme::Null,
        id::ECDSA => KeyScheme::Ecdsa(hash(reader)?),
        id::ECDH => KeyScheme::Ecdh(hash(reader)?),
        id::ECMQV => KeyScheme::EcMqv(hash(reader)?),
        other => return Err(TpmReason::Algorithm.because("ECDSA, ECDH, ECMQV or no scheme", Alg(other))),
    };
    let curve = match reader.u16_be().map_err(short)? {
        3 => Curve::P256,
        4 => Curve::P384,
        5 => Curve::P521,
        other => {
            return Err(
                TpmReason::Algorithm.because("TPM_ECC_NIST_P256, P384 or P521", format_args!("curve {other:#06x}"))
            );
        }
    };
    match reader.u16_be().map_err(short)? {
        id::NULL => {}
        id::MGF1 | id::KDF1_SP800_56A | id::KDF2 | id::KDF1_SP800_108 => drop(hash(reader)?),
        other => return Err(TpmReason::Algorithm.because("a key derivation function or none", Alg(other))),
    }
    let x = reader.tpm2b().map_err(short)?;
    let y = reader.tpm2b().map_err(short)?;
    if x.is_empty() || y.is_empty() || curve.size() < x.len() || curve.size() < y.len() {
        return Err(TpmReason::Malformed.because(
            format_args!("coordinates of up to {} bytes", curve.size()),
            format_args!("{} and {}", x.len(), y.len()),
        ));
    }
    Ok((scheme, Key::Ecc { curve, x, y }))
}

/// One DER element of up to 64 KiB, which every key is far below.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let [.., high, low] = length.to_be_bytes();
    let mut element = Vec::with_capacity(length.saturating_add(4));
    element.push(tag);
    match length {
        ..=0x7f => element.push(low),
        0x80..=0xff => element.extend_from_slice(&[0x81, low]),
        _ => element.extend_from_slice(&[0x82, high, low]),
    }
    for part in parts {
        element.extend_from_slice(part);
    }
    element
}
