//! ID block and ID authentication information (SEV-SNP Firmware ABI, AMD 56860 rev. 1.58, 8.18, tables "Structure of the
//! ID Block" and "Structure of the ID Authentication Information"): what the owner of a guest signed before its launch.
//! The firmware checked them when it launched the guest; here they are checked again as an operator keeps them, so that
//! a report can be compared with the block it was launched with.

use alloc::vec::Vec;

use aws_lc_rs::digest::{self, SHA384};

use super::SnpReason;
use super::report::{SCALAR_BYTES, SCALAR_FIELD_BYTES, read_scalars};
use crate::claims::{HexBytes, Presented, SnpClaims};
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;
use crate::signature::{PublicKey, Scheme};
use crate::verified::Verified;

/// LD to POLICY.
pub const ID_BLOCK_BYTES: usize = 96;

/// A page.
pub const ID_AUTH_BYTES: usize = 4096;

/// A public key: CURVE, QX, QY, reserved (ABI, chapter 10).
const KEY_BYTES: usize = 0x404;

/// R, S, reserved.
const SIGNATURE_BYTES: usize = 512;

/// ECDSA P-384 with SHA-384 (ABI, table "Encodings for the Asymmetric Algorithm").
const ECDSA_P384_SHA384: u32 = 1;

/// CURVE of P-384.
const CURVE_P384: u32 = 2;

/// An ID block whose ID key signed it, and whose author key signed the ID key where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedIdBlock {
    block: Verified<IdBlock>,
    id_key_digest: [u8; 48],
    author_key_digest: Presented<HexBytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdBlock {
    launch_digest: [u8; 48],
    family_id: [u8; 16],
    image_id: [u8; 16],
    guest_svn: u32,
    policy: u64,
}

/// Checks an ID block with its authentication information: two structures as SNP_LAUNCH_FINISH takes them.
///
/// # Errors
/// [`SnpReason::IdBlock`] for a form that the ABI does not define, [`SnpReason::IdBlockSignature`] for a signature.
pub fn verify_id_block(id_block: &[u8], id_auth: &[u8]) -> Result<VerifiedIdBlock, Rejection> {
    if id_block.len() != ID_BLOCK_BYTES {
        return Err(SnpReason::IdBlock.because(format_args!("an ID block of {ID_BLOCK_BYTES} bytes"), id_block.len()));
    }
    if id_auth.len() != ID_AUTH_BYTES {
        let expected = format_args!("ID authentication information of {ID_AUTH_BYTES} bytes");
        return Err(SnpReason::IdBlock.because(expected, id_auth.len()));
    }
    let auth = IdAuth::read(id_auth)?;
    if auth.id_key_algo != ECDSA_P384_SHA384 {
        return Err(SnpReason::IdBlock.because("ID_KEY_ALGO 1", auth.id_key_algo));
    }
    let id_key = read_key(auth.id_key)?;
    let signature = read_signature(auth.id_block_signature)?;
    let signed = id_key
        .verify(id_block, &signature)
        .map_err(|_| SnpReason::IdBlockSignature.because("a signature over the ID block by the ID key", "another"))?;
    Ok(VerifiedIdBlock {
        block: Verified::read(signed, IdBlock::read)?,
        id_key_digest: key_digest(auth.id_key),
        author_key_digest: author(&auth)?,
    })
}

/// The digest of the author key, which signed the ID key with everything around it.
fn author(auth: &IdAuth<'_>) -> Result<Presented<HexBytes>, Rejection> {
    let absent = auth.author_key.iter().chain(auth.id_key_signature).all(|byte| *byte == 0);
    match (auth.author_key_algo, absent) {
        (0, true) => Ok(Presented::NotPresented),
        (ECDSA_P384_SHA384, false) => {
            let signature = read_signature(auth.id_key_signature)?;
            read_key(auth.author_key)?.verify(auth.id_key, &signature).map_err(|_| {
                SnpReason::IdBlockSignature.because("a signature over the ID key by the author key", "another")
            })?;
            Ok(Presented::Verified(HexBytes(key_digest(auth.author_key).to_vec())))
        }
        (algo, _) => Err(SnpReason::IdBlock.because("AUTH_KEY_ALGO 1 with an author key, or 0 and none", algo)),
    }
}

impl VerifiedIdBlock {
    /// LD: the measurement the guest must have.
    #[must_use]
    pub fn launch_digest(&self) -> [u8; 48] {
        self.block.launch_digest
    }

    /// ID_KEY_DIGEST of the report.
    #[must_use]
    pub const fn id_key_digest(&self) -> [u8; 48] {
        self.id_key_digest
    }

    /// AUTHOR_KEY_DIGEST of the report, where an author key signed.
    #[must_use]
    pub const fn author_key_digest(&self) -> &Presented<HexBytes> {
        &self.author_key_digest
    }

    /// GUEST_SVN.
    #[must_use]
    pub fn guest_svn(&self) -> u32 {
        self.block.guest_svn
    }

    /// POLICY.
    #[must_use]
    pub fn policy(&self) -> u64 {
        self.block.policy
    }

    /// Checks that the guest which these claims speak of was launched with this block: every field it put into the
    /// report is the block's.
    ///
    /// The block is signed by whoever holds its ID key. Trust in that key is the caller's to have, by its digest.
    ///
    /// # Errors
    /// [`SnpReason::IdBlockOther`].
    pub fn check_launched(&self, claims: &SnpClaims) -> Result<(), Rejection> {
        let block = &self.block;
        let author: &[u8] = match &self.author_key_digest {
            Presented::Verified(HexBytes(digest)) => digest,
            Presented::NotPresented => &[0; 48],
        };
        let fields: [(&str, &[u8], &[u8]); 7] = [
            ("MEASUREMENT", &block.launch_digest, &claims.measurement.0),
            ("FAMILY_ID", &block.family_id, &claims.family_id.0),
            ("IMAGE_ID", &block.image_id, &claims.image_id.0),
            ("POLICY", &block.policy.to_be_bytes(), &claims.policy.0),
            ("GUEST_SVN", &block.guest_svn.to_be_bytes(), &claims.guest_svn.to_be_bytes()),
            ("ID_KEY_DIGEST", &self.id_key_digest, &claims.id_key_digest.0),
            ("AUTHOR_KEY_DIGEST", author, &claims.author_key_digest.0),
        ];
        for (name, expected, found) in fields {
            if expected != found {
                let expected = format_args!("{name} {}", hex::encode(expected));
                return Err(SnpReason::IdBlockOther.because(expected, hex::encode(found)));
            }
        }
        let author_key_en = matches!(self.author_key_digest, Presented::Verified(_));
        if author_key_en == claims.author_key_en {
            Ok(())
        } else {
            let expected = format_args!("AUTHOR_KEY_EN {author_key_en}");
            Err(SnpReason::IdBlockOther.because(expected, claims.author_key_en))
        }
    }
}

/// ID_KEY_DIGEST and AUTHOR_KEY_DIGEST: SHA-384 of the key as it stands in the structure.
fn key_digest(key: &[u8]) -> [u8; 48] {
    let mut digest = [0; 48];
    digest.copy_from_slice(digest::digest(&SHA384, key).as_ref());
    digest
}

fn short(error: ReadError) -> Rejection {
    SnpReason::IdBlock.because("a whole structure", error)
}

fn zero(bytes: &[u8], what: &str) -> Result<(), Rejection> {
    if bytes.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(SnpReason::IdBlock.because(format_args!("zero bytes {what}"), "others"))
    }
}

impl IdBlock {
    fn read(bytes: &[u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let launch_digest = reader.array().map_err(short)?;
        let family_id = reader.array().map_err(short)?;
        let image_id = reader.array().map_err(short)?;
        let version = reader.u32_le().map_err(short)?;
        if version != 1 {
            return Err(SnpReason::IdBlock.because("VERSION 1", version));
        }
        let (guest_svn, policy) = (reader.u32_le().map_err(short)?, reader.u64_le().map_err(short)?);
        reader.finish().map_err(short)?;
        Ok(Self { launch_digest, family_id, image_id, guest_svn, policy })
    }
}

/// ID authentication information.
struct IdAuth<'a> {
    id_key_algo: u32,
    author_key_algo: u32,
    id_block_signature: &'a [u8],
    id_key: &'a [u8],
    id_key_signature: &'a [u8],
    author_key: &'a [u8],
}

impl<'a> IdAuth<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let mut reader = Reader::new(bytes);
        let id_key_algo = reader.u32_le().map_err(short)?;
        let author_key_algo = reader.u32_le().map_err(short)?;
        zero(reader.bytes(0x38).map_err(short)?, "at 8h")?;
        let id_block_signature = reader.bytes(SIGNATURE_BYTES).map_err(short)?;
        let id_key = reader.bytes(KEY_BYTES).map_err(short)?;
        zero(reader.bytes(0x3c).map_err(short)?, "at 644h")?;
        let id_key_signature = reader.bytes(SIGNATURE_BYTES).map_err(short)?;
        let author_key = reader.bytes(KEY_BYTES).map_err(short)?;
        zero(reader.bytes(0x37c).map_err(short)?, "at C84h")?;
        reader.finish().map_err(short)?;
        Ok(Self { id_key_algo, author_key_algo, id_block_signature, id_key, id_key_signature, author_key })
    }
}

/// QX and QY, each a little-endian field of 72 bytes, as an uncompressed point.
fn read_key(key: &[u8]) -> Result<PublicKey, Rejection> {
    let mut reader = Reader::new(key);
    let curve = reader.u32_le().map_err(short)?;
    if curve != CURVE_P384 {
        return Err(SnpReason::IdBlock.because("CURVE 2, P-384", curve));
    }
    let coordinates = reader.bytes(2 * SCALAR_FIELD_BYTES).map_err(short)?;
    zero(reader.bytes(KEY_BYTES - 4 - 2 * SCALAR_FIELD_BYTES).map_err(short)?, "after QY")?;
    let mut point = Vec::with_capacity(1 + 2 * SCALAR_BYTES);
    point.push(4);
    let coordinates = read_scalars(coordinates);
    point.extend(coordinates.ok_or_else(|| SnpReason::IdBlock.because("zero above 384 bits of QX and QY", "others"))?);
    Ok(PublicKey::new(Scheme::EcdsaP384Sha384, point))
}

fn read_signature(field: &[u8]) -> Result<[u8; 2 * SCALAR_BYTES], Rejection> {
    let (scalars, rest) = field.split_at_checked(2 * SCALAR_FIELD_BYTES).unwrap_or((&[], &[]));
    zero(rest, "after S")?;
    read_scalars(scalars).ok_or_else(|| SnpReason::IdBlock.because("zero above 384 bits of R and S", "others"))
}
