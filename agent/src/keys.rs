//! The keys of a host and their templates: EK, storage primary, AK, credential key.
//!
//! The agent stores nothing in the TPM. EK and storage primary are made again from their templates, and the AK and the
//! credential key are kept as blobs that only this TPM, under this primary, can load.

use countersign_attestation::binder::{Binder, ChannelBinding, Nonce, Role};
use countersign_attestation::digest::Sha256Digest;
use tss_esapi::abstraction::{AsymmetricAlgorithmSelection, KeyCustomization, ek, nv};
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::constants::CapabilityType;
use tss_esapi::constants::tss::{TPM2_RH_NULL, TPM2_ST_HASHCHECK};
use tss_esapi::handles::{KeyHandle, NvIndexTpmHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth, Provision};
use tss_esapi::structures::{
    CapabilityData, Digest, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Private, Public,
    PublicBuilder, PublicEccParameters, PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder,
    RsaExponent, RsaScheme, SymmetricDefinitionObject,
};
use tss_esapi::structures::{HashcheckTicket, Signature, SignatureScheme};
use tss_esapi::traits::{Marshall as _, UnMarshall as _};
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

use crate::der;
use crate::device::{Refused as _, Session, TpmError};

/// Which Endorsement Key a host enrols with; the manufacturer certified one or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EkKind {
    /// Template L-1 (TCG EK Credential Profile 2.5, B.3.3).
    Rsa2048,
    /// Template H-6 (B.4.9).
    Rsa3072,
    /// Template L-2 (B.3.4).
    #[value(name = "ecc-p256")]
    #[serde(rename = "ecc-p256")]
    EccP256,
    /// Template H-3 (B.4.5).
    #[value(name = "ecc-p384")]
    #[serde(rename = "ecc-p384")]
    EccP384,
    /// Template H-1 (B.4.3): RSA-2048 where the manufacturer certified the high range only.
    #[value(name = "rsa2048-high")]
    #[serde(rename = "rsa2048-high")]
    Rsa2048High,
    /// Template H-2 (B.4.4).
    #[value(name = "ecc-p256-high")]
    #[serde(rename = "ecc-p256-high")]
    EccP256High,
}

/// PolicyB with SHA-256 (TCG EK Credential Profile 2.5, B.6.5): PolicyOR of PolicyA, the endorsement hierarchy's
/// authorisation, and PolicyC, which an NV index may replace.
pub const POLICY_B_SHA256: [u8; 32] = [
    0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3, 0xa3, 0x85, 0xd4,
    0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
];

/// What the high-range template differs in from the low-range one of the same key (B.4.1): its user may authorise it
/// with the empty password, its policy is PolicyB, and its `unique` is empty.
struct HighRange(PublicAlgorithm);

impl KeyCustomization for HighRange {
    fn attributes(&self, builder: ObjectAttributesBuilder) -> ObjectAttributesBuilder {
        builder.with_user_with_auth(true)
    }

    fn template(&self, builder: PublicBuilder) -> PublicBuilder {
        // A digest of 32 bytes is always one; were it not, the TPM would refuse the template without a policy.
        let builder = builder.with_auth_policy(Digest::try_from(POLICY_B_SHA256.as_slice()).unwrap_or_default());
        if self.0 == PublicAlgorithm::Rsa {
            builder.with_rsa_unique_identifier(PublicKeyRsa::default())
        } else {
            builder.with_ecc_unique_identifier(EccPoint::default())
        }
    }
}

impl EkKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Rsa2048, Self::EccP256, Self::Rsa2048High, Self::EccP256High, Self::EccP384, Self::Rsa3072];

    /// NV index of the certificate (TCG EK Credential Profile 2.5, 2.2.1.4 and 2.2.1.5).
    #[must_use]
    pub const fn nv_index(self) -> u32 {
        match self {
            Self::Rsa2048 => 0x01c0_0002,
            Self::EccP256 => 0x01c0_000a,
            Self::Rsa2048High => 0x01c0_0012,
            Self::EccP256High => 0x01c0_0014,
            Self::EccP384 => 0x01c0_0016,
            Self::Rsa3072 => 0x01c0_001c,
        }
    }

    fn template(self) -> tss_esapi::Result<Public> {
        let (selection, high) = match self {
            Self::Rsa2048 => (AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048), None),
            Self::Rsa2048High => {
                (AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048), Some(HighRange(PublicAlgorithm::Rsa)))
            }
            Self::Rsa3072 => (AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa3072), None),
            Self::EccP256 => (AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256), None),
            Self::EccP256High => {
                (AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256), Some(HighRange(PublicAlgorithm::Ecc)))
            }
            Self::EccP384 => (AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384), None),
        };
        match high {
            Some(high) => ek::create_ek_public_from_default_template_2(selection, high),
            None => ek::create_ek_public_from_default_template_2(selection, None),
        }
    }

    /// Whether the template lets an empty password authorise the key: the high-range ones do (B.4), the low-range ones
    /// want PolicySecret of the endorsement hierarchy (B.3).
    #[must_use]
    pub const fn user_with_auth(self) -> bool {
        match self {
            Self::Rsa2048 | Self::EccP256 => false,
            Self::Rsa2048High | Self::EccP256High | Self::Rsa3072 | Self::EccP384 => true,
        }
    }
}

/// Algorithm of the Attestation Key. The scheme is part of the key: a verifier never takes it from a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AkKind {
    /// ECDSA with SHA-256 on P-256.
    #[value(name = "ecc-p256")]
    EccP256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, 2048 bits.
    Rsa2048,
}

/// A key that only its TPM can load: public area and wrapped private area.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// TPMT_PUBLIC.
    #[serde(with = "hex_text")]
    pub public: Vec<u8>,
    /// The buffer of TPM2B_PRIVATE, encrypted by the parent.
    #[serde(with = "hex_text")]
    pub private: Vec<u8>,
}

mod hex_text {
    use serde::Deserialize as _;

    pub(super) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map_err(serde::de::Error::custom)
    }
}

impl WrappedKey {
    /// The P-256 point of the key, uncompressed; coordinates are padded, since TPMs may leave out leading zeros.
    ///
    /// # Errors
    /// [`TpmError::Answer`] when the key is not on P-256.
    pub fn p256_point(&self) -> Result<Vec<u8>, TpmError> {
        let wrong = |found: &str| TpmError::Answer { command: "TPM2_Create", found: found.to_owned() };
        let public = Public::unmarshall(&self.public).refused("read a public area")?;
        let Public::Ecc { parameters, unique, .. } = public else { return Err(wrong("not an ECC key")) };
        if parameters.ecc_curve() != EccCurve::NistP256 {
            return Err(wrong("a curve other than P-256"));
        }
        let mut point = vec![4];
        for coordinate in [unique.x(), unique.y()] {
            let padding = 32_usize.checked_sub(coordinate.value().len()).ok_or_else(|| wrong("a long coordinate"))?;
            point.resize(point.len().saturating_add(padding), 0);
            point.extend_from_slice(coordinate.value());
        }
        Ok(point)
    }

    /// `SubjectPublicKeyInfo` of a P-256 key, DER.
    ///
    /// # Errors
    /// [`TpmError::Answer`] when the key is not on P-256.
    pub fn p256_spki(&self) -> Result<Vec<u8>, TpmError> {
        self.p256_point().map(|point| der::p256_spki(&point))
    }

    /// TPM2B_PUBLIC: size and TPMT_PUBLIC.
    #[must_use]
    pub fn tpm2b_public(&self) -> Vec<u8> {
        tpm2b(&self.public)
    }

    /// The key as a `TSS2 PRIVATE KEY` PEM (draft-bottomley-tpm2-keys, section 3), which OpenSSL's tpm2 provider loads:
    /// loadable key, empty authorisation, parent `TPM_RH_OWNER`. A provider makes the owner primary again from the
    /// template of [`storage_primary`].
    #[must_use]
    pub fn to_tss2_pem(&self) -> String {
        // id-loadablekey 2.23.133.10.1.3
        const LOADABLE_KEY: [u8; 8] = [0x06, 0x06, 0x67, 0x81, 0x05, 0x0a, 0x01, 0x03];
        // [0] EXPLICIT BOOLEAN TRUE
        const EMPTY_AUTH: [u8; 5] = [0xa0, 0x03, 0x01, 0x01, 0xff];
        const TPM_RH_OWNER: u32 = 0x4000_0001;
        let parent = der::unsigned(&TPM_RH_OWNER.to_be_bytes());
        let public = der::value(der::OCTET_STRING, &[&self.tpm2b_public()]);
        let private = der::value(der::OCTET_STRING, &[&tpm2b(&self.private)]);
        let key = der::value(der::SEQUENCE, &[&LOADABLE_KEY, &EMPTY_AUTH, &parent, &public, &private]);
        der::pem("TSS2 PRIVATE KEY", &key)
    }

    /// The binder of this key for a broker's nonce, on the connection that the evidence will be sent on.
    ///
    /// # Errors
    /// [`TpmError::Answer`] when the key is not on P-256.
    pub fn binder(&self, nonce: &Nonce, channel: &ChannelBinding) -> Result<Binder, TpmError> {
        Ok(Binder::new(Role::Host, nonce, &self.p256_spki()?, channel))
    }

    /// Loads the key under `parent`.
    ///
    /// # Errors
    /// The TPM's refusal, as after TPM2_Clear or on another machine.
    pub fn load(&self, session: &mut Session, parent: KeyHandle) -> Result<KeyHandle, TpmError> {
        let public = Public::unmarshall(&self.public).refused("read a public area")?;
        let private = Private::try_from(self.private.clone()).refused("read a private area")?;
        session.authorized("TPM2_Load", |context| context.load(parent, private, public))
    }
}

/// The AK of a host.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ak {
    /// One that the agent made.
    Wrapped(WrappedKey),
    /// One that was in the TPM before.
    Persistent(PersistentKey),
}

impl Ak {
    /// TPMT_PUBLIC.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        match self {
            Self::Wrapped(key) => &key.public,
            Self::Persistent(key) => &key.public,
        }
    }

    /// Makes it usable, until [`Ak::unload`].
    ///
    /// # Errors
    /// The TPM's refusal; [`TpmError::Answer`] when another key is at its handle.
    pub fn load(&self, session: &mut Session) -> Result<KeyHandle, TpmError> {
        match self {
            Self::Wrapped(key) => {
                let parent = attestation_primary(session)?;
                let loaded = key.load(session, parent)?;
                session.flush(parent)?;
                Ok(loaded)
            }
            Self::Persistent(key) => {
                let opened = PersistentKey::open(session, key.handle)?;
                let name = session.plain().tr_get_name(opened.into()).refused("read the AK's Name")?;
                if name.value() != key.name {
                    let found = format!("another key at {:#010x} than the one that was enrolled", key.handle);
                    return Err(TpmError::Answer { command: "load the AK", found });
                }
                Ok(opened)
            }
        }
    }

    /// Gives back what [`Ak::load`] took.
    ///
    /// # Errors
    /// The TPM's refusal.
    pub fn unload(&self, session: &mut Session, loaded: KeyHandle) -> Result<(), TpmError> {
        match self {
            Self::Wrapped(_) => session.flush(loaded),
            Self::Persistent(_) => PersistentKey::close(session, loaded),
        }
    }
}

/// A key at a persistent handle.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistentKey {
    /// The handle (TPM 2.0 Part 2, 7.8).
    pub handle: u32,
    /// Its Name (TPM 2.0 Part 1, 16).
    #[serde(with = "hex_text")]
    pub name: Vec<u8>,
    /// TPMT_PUBLIC.
    #[serde(with = "hex_text")]
    pub public: Vec<u8>,
}

impl PersistentKey {
    /// The key at `handle`.
    ///
    /// # Errors
    /// The TPM's refusal, as when nothing is there.
    pub fn at(session: &mut Session, handle: u32) -> Result<Self, TpmError> {
        let key = Self::open(session, handle)?;
        let (public, name, _) = session.plain().read_public(key).refused("TPM2_ReadPublic")?;
        Self::close(session, key)?;
        Ok(Self { handle, name: name.value().to_vec(), public: public.marshall().refused("write a public area")? })
    }

    /// Makes the primary key of the template in an NV index and keeps it at `handle`, unless a key is there already. So
    /// GCE leaves its AKs: TPMT_PUBLIC templates for the endorsement hierarchy.
    ///
    /// # Errors
    /// The TPM's refusal.
    pub fn make(session: &mut Session, handle: u32, template_nv: u32) -> Result<(), TpmError> {
        let persistent = PersistentTpmHandle::new(handle).refused("persistent handle")?;
        let wanted = TpmHandle::Persistent(persistent);
        let there = session.plain().get_capability(CapabilityType::Handles, handle, 1);
        let (there, _) = there.refused("TPM2_GetCapability")?;
        if matches!(there, CapabilityData::Handles(handles) if handles.contains(&wanted)) {
            return Ok(());
        }
        let command = "read the AK's template";
        let template = nv_contents(session, command, template_nv)?;
        let template = Public::unmarshall(&template).refused(command)?;
        let made = session.authorized("TPM2_CreatePrimary of the AK", |context| {
            context.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
        })?;
        session.authorized("TPM2_EvictControl", |context| {
            context.evict_control(Provision::Owner, made.key_handle.into(), Persistent::Persistent(persistent))
        })?;
        session.flush(made.key_handle)
    }

    /// The library's handle for it, until [`PersistentKey::close`].
    pub(crate) fn open(session: &mut Session, handle: u32) -> Result<KeyHandle, TpmError> {
        let persistent = PersistentTpmHandle::new(handle).refused("persistent handle")?;
        let object = session.plain().tr_from_tpm_public(TpmHandle::Persistent(persistent));
        object.map(KeyHandle::from).refused("find the key at a persistent handle")
    }

    pub(crate) fn close(session: &mut Session, key: KeyHandle) -> Result<(), TpmError> {
        session.plain().tr_close(&mut key.into()).refused("let a persistent key go")
    }
}

/// A TPM2B: 16-bit size and content. Structures of a TPM are far below 64 KiB.
fn tpm2b(content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes(), content].concat()
}

/// The Endorsement Key, made again from its template.
///
/// # Errors
/// The TPM's refusal.
pub fn endorsement_key(session: &mut Session, kind: EkKind) -> Result<KeyHandle, TpmError> {
    let public = kind.template().refused("EK template")?;
    let created = session.authorized("TPM2_CreatePrimary of the EK", |context| {
        context.create_primary(Hierarchy::Endorsement, public, None, None, None, None)
    })?;
    Ok(created.key_handle)
}

/// The EK certificate the manufacturer left in NV memory.
///
/// # Errors
/// The TPM's refusal, as when the manufacturer left none of this kind.
pub fn endorsement_certificate(session: &mut Session, kind: EkKind) -> Result<Vec<u8>, TpmError> {
    certificate_in_nv(session, kind.nv_index())
}

/// A certificate in NV memory, without the padding behind it.
///
/// # Errors
/// The TPM's refusal, as when nothing is there.
pub fn certificate_in_nv(session: &mut Session, index: u32) -> Result<Vec<u8>, TpmError> {
    let command = "read a certificate from NV memory";
    let stored = nv_contents(session, command, index)?;
    let der = der::first_value(&stored).map(<[u8]>::to_vec);
    der.ok_or_else(|| TpmError::Answer { command, found: format!("{} bytes that are no DER", stored.len()) })
}

/// All of an NV index.
///
/// # Errors
/// The refusal of `command`.
pub fn nv_contents(session: &mut Session, command: &'static str, index: u32) -> Result<Vec<u8>, TpmError> {
    let handle = NvIndexTpmHandle::new(index).refused(command)?;
    session.authorized(command, |context| nv::read_full(context, NvAuth::Owner, handle))
}

/// TPMT_PUBLIC of a loaded key.
///
/// # Errors
/// The TPM's refusal.
pub fn public_area(session: &mut Session, key: KeyHandle) -> Result<Vec<u8>, TpmError> {
    let (public, _, _) = session.plain().read_public(key).refused("TPM2_ReadPublic")?;
    public.marshall().refused("write a public area")
}

/// The parent of the AK, in the endorsement hierarchy: quotes of any other key carry resetCount, restartCount and
/// firmwareVersion obfuscated by a secret of the TPM (TPM 2.0 Part 1, 36.7), which no policy could compare.
///
/// # Errors
/// The TPM's refusal.
pub fn attestation_primary(session: &mut Session) -> Result<KeyHandle, TpmError> {
    primary(session, Hierarchy::Endorsement)
}

/// The parent of the credential key: the owner primary that OpenSSL's tpm2 provider makes for a key file whose
/// parent is `TPM_RH_OWNER`. Seed and template give the same key every time. If one attribute differed, key files
/// would load nowhere.
///
/// # Errors
/// The TPM's refusal.
pub fn storage_primary(session: &mut Session) -> Result<KeyHandle, TpmError> {
    primary(session, Hierarchy::Owner)
}

fn primary(session: &mut Session, hierarchy: Hierarchy) -> Result<KeyHandle, TpmError> {
    let template = || {
        let attributes = ObjectAttributesBuilder::new()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_sensitive_data_origin(true)
            .with_user_with_auth(true)
            .with_no_da(true)
            .with_restricted(true)
            .with_decrypt(true)
            .build()?;
        let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
            SymmetricDefinitionObject::AES_128_CFB,
            EccCurve::NistP256,
        )
        .build()?;
        ecc(attributes, parameters)
    };
    let public = template().refused("storage primary template")?;
    let created = session.authorized("TPM2_CreatePrimary of the storage primary", |context| {
        context.create_primary(hierarchy, public, None, None, None, None)
    })?;
    Ok(created.key_handle)
}

/// A new AK under `parent`: restricted, so that it signs only what its TPM made (TPM 2.0 Part 1, 25.1.4).
///
/// # Errors
/// The TPM's refusal.
pub fn create_attestation_key(session: &mut Session, parent: KeyHandle, kind: AkKind) -> Result<WrappedKey, TpmError> {
    let template = || {
        let attributes = signing_attributes(true)?;
        match kind {
            AkKind::EccP256 => ecc(attributes, signing_parameters()?),
            AkKind::Rsa2048 => PublicBuilder::new()
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_rsa_parameters(
                    PublicRsaParametersBuilder::new()
                        .with_symmetric(SymmetricDefinitionObject::Null)
                        .with_scheme(RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)))
                        .with_key_bits(RsaKeyBits::Rsa2048)
                        .with_exponent(RsaExponent::default())
                        .with_is_signing_key(true)
                        .with_restricted(true)
                        .build()?,
                )
                .with_rsa_unique_identifier(PublicKeyRsa::default())
                .build(),
        }
    };
    create(session, parent, template().refused("AK template")?)
}

/// A new credential key under `parent`: P-256, ECDSA with SHA-256, born in this TPM and never leaving it, not
/// restricted, since it signs TLS handshakes.
///
/// # Errors
/// The TPM's refusal.
pub fn create_credential_key(session: &mut Session, parent: KeyHandle) -> Result<WrappedKey, TpmError> {
    let template = || ecc(signing_attributes(false)?, signing_parameters()?);
    create(session, parent, template().refused("credential key template")?)
}

/// An ECDSA signature of a P-256 key over the SHA-256 of `message`: r || s.
///
/// # Errors
/// The TPM's refusal; [`TpmError::Answer`] for a signature of another kind.
pub fn sign(session: &mut Session, key: KeyHandle, message: &[u8]) -> Result<[u8; 64], TpmError> {
    let digest = Digest::try_from(Sha256Digest::of(&[message]).0.as_slice()).refused("a digest")?;
    // A key that is not restricted signs any digest: the ticket says nothing (TPM 2.0 Part 3, 20.2).
    let ticket = TPMT_TK_HASHCHECK { tag: TPM2_ST_HASHCHECK, hierarchy: TPM2_RH_NULL, digest: TPM2B_DIGEST::default() };
    let ticket = HashcheckTicket::try_from(ticket).refused("a ticket")?;
    let signature =
        session.authorized("TPM2_Sign", |context| context.sign(key, digest, SignatureScheme::Null, ticket))?;
    let other = || TpmError::Answer { command: "TPM2_Sign", found: "no ECDSA signature of 64 bytes".to_owned() };
    let Signature::EcDsa(signature) = &signature else { return Err(other()) };
    let mut both = [0; 64];
    // TPMs leave out leading zeros.
    for (half, number) in both.chunks_exact_mut(32).zip([signature.signature_r(), signature.signature_s()]) {
        let at = half.len().checked_sub(number.len()).ok_or_else(other)?;
        half.get_mut(at..).ok_or_else(other)?.copy_from_slice(number.value());
    }
    Ok(both)
}

fn signing_attributes(restricted: bool) -> tss_esapi::Result<ObjectAttributes> {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(restricted)
        .with_sign_encrypt(true)
        .build()
}

fn signing_parameters() -> tss_esapi::Result<PublicEccParameters> {
    PublicEccParametersBuilder::new()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_is_signing_key(true)
        .build()
}

fn ecc(attributes: ObjectAttributes, parameters: PublicEccParameters) -> tss_esapi::Result<Public> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

fn create(session: &mut Session, parent: KeyHandle, template: Public) -> Result<WrappedKey, TpmError> {
    let created =
        session.authorized("TPM2_Create", |context| context.create(parent, template, None, None, None, None))?;
    let public = created.out_public.marshall().refused("write a public area")?;
    Ok(WrappedKey { public, private: created.out_private.value().to_vec() })
}
