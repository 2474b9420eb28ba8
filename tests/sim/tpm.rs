//! A software stand-in for a TPM 2.0 and its manufacturer: the bytes a TPM would give, and whatever a hostile one
//! might. Included by path where a test or benchmark needs it; nothing shipped knows it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::std_instead_of_core,
    reason = "a test aid: each test that includes it uses its own part, and one that cannot go on fails"
)]

use std::collections::BTreeMap;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{cipher, digest, hmac, rsa};
use countersign_attestation::anchor::{Assurance, TpmAnchor};
use countersign_attestation::claims::{ClockInfo, PcrHash};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::PcrSelection;

/// Key type of the attestation key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AkKind {
    /// RSA-2048, RSASSA with SHA-256.
    Rsa2048,
    /// RSA-3072, RSAPSS with SHA-384.
    RsaPss3072,
    /// RSA-4096, RSASSA with SHA-512.
    Rsa4096,
    /// ECDSA P-256 with SHA-256.
    P256,
    /// ECDSA P-384 with SHA-384.
    P384,
    /// ECDSA P-521 with SHA-512.
    P521,
}

impl AkKind {
    /// TPM_ALG_ID of the scheme's hash, and the hash.
    const fn hash(self) -> (u8, &'static digest::Algorithm) {
        match self {
            Self::Rsa2048 | Self::P256 => (0x0b, &digest::SHA256),
            Self::RsaPss3072 | Self::P384 => (0x0c, &digest::SHA384),
            Self::Rsa4096 | Self::P521 => (0x0d, &digest::SHA512),
        }
    }

    /// TPM_ALG_ID of the scheme, and its hash's.
    const fn scheme(self) -> [u8; 4] {
        let (hash, _) = self.hash();
        match self {
            Self::Rsa2048 | Self::Rsa4096 => [0, 0x14, 0, hash],
            Self::RsaPss3072 => [0, 0x16, 0, hash],
            Self::P256 | Self::P384 | Self::P521 => [0, 0x18, 0, hash],
        }
    }
}

/// Attributes of the TCG templates: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth and what the key is for.
pub(crate) const AK_ATTRIBUTES: u32 = 0x0005_0072;
pub(crate) const EK_ATTRIBUTES: u32 = 0x0003_00b2;
pub(crate) const SIGNING_KEY_ATTRIBUTES: u32 = 0x0004_0072;

/// PolicyA of the EK templates: PolicySecret(TPM_RH_ENDORSEMENT) with SHA-256.
const EK_POLICY: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

enum Signer {
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecc(EcdsaKeyPair),
}

/// One software TPM with an EK, an AK, and two PCR banks.
pub(crate) struct SimTpm {
    ek: rsa::OaepPrivateDecryptingKey,
    ek_public: Vec<u8>,
    ak_kind: AkKind,
    ak: Signer,
    ak_public: Vec<u8>,
    pcrs: BTreeMap<PcrHash, [Vec<u8>; 24]>,
    /// What the next attestation says of the clock.
    pub(crate) clock: ClockInfo,
    /// What the next attestation says of the firmware.
    pub(crate) firmware_version: u64,
}

impl SimTpm {
    /// A new TPM whose firmware measured into PCR 0 to 7 of its SHA-256 and SHA-384 banks.
    pub(crate) fn new(kind: AkKind) -> Self {
        let ek = RsaKeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
        let ek_public = rsa_public(EK_ATTRIBUTES, &hex::decode(EK_POLICY).unwrap(), &AES_128_CFB, &NULL, &modulus(&ek));
        let pkcs8 = aws_lc_rs::encoding::AsDer::<Pkcs8V1Der<'_>>::as_der(&ek).unwrap();
        let ek = rsa::PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).unwrap();
        let (ak, ak_public) = new_ak(kind, AK_ATTRIBUTES);
        let pcrs = [PcrHash::Sha256, PcrHash::Sha384].map(|bank| (bank, std::array::from_fn(|_| vec![0; bank.size()])));
        let clock = ClockInfo { clock: 12_345, reset_count: 7, restart_count: 0, safe: true };
        let ek = rsa::OaepPrivateDecryptingKey::new(ek).unwrap();
        let pcrs = BTreeMap::from(pcrs);
        let mut tpm =
            Self { ek, ek_public, ak_kind: kind, ak, ak_public, pcrs, clock, firmware_version: 0x2019_1023_0016_3636 };
        for bank in [PcrHash::Sha256, PcrHash::Sha384] {
            for index in 0..8 {
                tpm.extend(bank, index, b"firmware");
            }
        }
        tpm
    }

    /// EK public area, TPMT_PUBLIC.
    pub(crate) fn ek_public(&self) -> &[u8] {
        &self.ek_public
    }

    /// AK public area, TPMT_PUBLIC.
    pub(crate) fn ak_public(&self) -> &[u8] {
        &self.ak_public
    }

    /// Replaces the AK by one with other attributes.
    pub(crate) fn with_ak_attributes(mut self, kind: AkKind, attributes: u32) -> Self {
        self.ak_kind = kind;
        (self.ak, self.ak_public) = new_ak(kind, attributes);
        self
    }

    /// TPM2_PCR_Extend with the digest of `event`.
    pub(crate) fn extend(&mut self, bank: PcrHash, index: u8, event: &[u8]) {
        let algorithm = algorithm(bank);
        let value = &mut self.pcrs.get_mut(&bank).unwrap()[usize::from(index)];
        value.extend_from_slice(digest::digest(algorithm, event).as_ref());
        *value = digest::digest(algorithm, value).as_ref().to_vec();
    }

    /// Sets a PCR back to zero, as a TPM reset does.
    pub(crate) fn reset_pcr(&mut self, bank: PcrHash, index: u8) {
        self.pcrs.get_mut(&bank).unwrap()[usize::from(index)].fill(0);
    }

    /// The value of a PCR.
    pub(crate) fn pcr(&self, bank: PcrHash, index: u8) -> &[u8] {
        &self.pcrs[&bank][usize::from(index)]
    }

    /// TPM2_Quote: the bundle's quote and PCR records.
    pub(crate) fn quote(&self, selection: &[PcrSelection], qualifying_data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let attest = self.quote_attest(selection, qualifying_data);
        (self.signed(&attest), self.pcr_record(selection))
    }

    /// The PCR record for a selection.
    pub(crate) fn pcr_record(&self, selection: &[PcrSelection]) -> Vec<u8> {
        self.values(selection).flat_map(tpm2b).collect()
    }

    fn values<'a>(&'a self, selection: &'a [PcrSelection]) -> impl Iterator<Item = &'a [u8]> {
        selection.iter().flat_map(|entry| entry.pcrs.iter().map(|index| self.pcr(entry.bank, *index)))
    }

    /// The TPMS_ATTEST of a quote.
    pub(crate) fn quote_attest(&self, selection: &[PcrSelection], qualifying_data: &[u8]) -> Vec<u8> {
        let mut attest = self.attest_head(0x8018, qualifying_data);
        attest.extend_from_slice(&u32::try_from(selection.len()).unwrap().to_be_bytes());
        for entry in selection {
            let id: u16 = match entry.bank {
                PcrHash::Sha256 => 0x000b,
                PcrHash::Sha384 => 0x000c,
                PcrHash::Sha512 => 0x000d,
            };
            attest.extend_from_slice(&id.to_be_bytes());
            let bitmap = entry.pcrs.iter().fold(0_u32, |map, index| map | 1 << index);
            attest.push(3);
            attest.extend_from_slice(&bitmap.to_le_bytes()[..3]);
        }
        let values = self.values(selection).collect::<Vec<_>>().concat();
        let (_, hash) = self.ak_kind.hash();
        attest.extend(tpm2b(digest::digest(hash, &values).as_ref()));
        attest
    }

    fn attest_head(&self, kind: u16, qualifying_data: &[u8]) -> Vec<u8> {
        let mut attest = b"\xffTCG".to_vec();
        attest.extend_from_slice(&kind.to_be_bytes());
        attest.extend(tpm2b(&self.ak_name()));
        attest.extend(tpm2b(qualifying_data));
        attest.extend_from_slice(&self.clock.clock.to_be_bytes());
        attest.extend_from_slice(&self.clock.reset_count.to_be_bytes());
        attest.extend_from_slice(&self.clock.restart_count.to_be_bytes());
        attest.push(u8::from(self.clock.safe));
        attest.extend_from_slice(&self.firmware_version.to_be_bytes());
        attest
    }

    /// Name of the AK.
    pub(crate) fn ak_name(&self) -> Vec<u8> {
        name(&self.ak_public)
    }

    /// TPM2_Certify of `key`: the bundle's certification record.
    pub(crate) fn certify(&self, key: &CredentialKey, qualifying_data: &[u8]) -> Vec<u8> {
        let attest = self.certify_attest(&name(&key.public), qualifying_data);
        [self.signed(&attest), tpm2b(&key.public)].concat()
    }

    /// The TPMS_ATTEST of a certification.
    pub(crate) fn certify_attest(&self, certified_name: &[u8], qualifying_data: &[u8]) -> Vec<u8> {
        let mut attest = self.attest_head(0x8017, qualifying_data);
        attest.extend(tpm2b(certified_name));
        attest.extend(tpm2b(certified_name));
        attest
    }

    /// TPM2_CertifyCreation of a key: TPMS_ATTEST over its Name and the digest of its creation data.
    pub(crate) fn creation_attest(&self, name: &[u8], creation_hash: &[u8], qualifying_data: &[u8]) -> Vec<u8> {
        let mut attest = self.attest_head(0x801a, qualifying_data);
        attest.extend(tpm2b(name));
        attest.extend(tpm2b(creation_hash));
        attest
    }

    /// TPM2B_ATTEST and TPMT_SIGNATURE over any bytes, which a real restricted key would refuse.
    pub(crate) fn signed(&self, attest: &[u8]) -> Vec<u8> {
        [tpm2b(attest), self.sign(attest)].concat()
    }

    /// TPMT_SIGNATURE.
    pub(crate) fn sign(&self, attest: &[u8]) -> Vec<u8> {
        let head = self.ak_kind.scheme().to_vec();
        match &self.ak {
            Signer::Rsa(key, padding) => [head, tpm2b(&rsa_sign(key, *padding, attest))],
            Signer::Ecc(key) => {
                let fixed = key.sign(&SystemRandom::new(), attest).unwrap();
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                [head, [tpm2b(r), tpm2b(s)].concat()]
            }
        }
        .concat()
    }

    /// The bare RSA signature in another padding, for scheme confusion.
    pub(crate) fn sign_rsa(&self, padding: &'static dyn signature::RsaEncoding, attest: &[u8]) -> Vec<u8> {
        match &self.ak {
            Signer::Rsa(key, _) => rsa_sign(key, padding, attest),
            Signer::Ecc(_) => panic!("an RSA AK"),
        }
    }

    /// TPM2_ActivateCredential: the secret, if the credential is for this EK and AK.
    pub(crate) fn activate(&self, credential_blob: &[u8], encrypted_secret: &[u8]) -> Option<Vec<u8>> {
        let mut seed = vec![0; self.ek.min_output_size()];
        let seed =
            self.ek.decrypt(&rsa::OAEP_SHA256_MGF1SHA256, encrypted_secret, &mut seed, Some(b"IDENTITY\0")).ok()?;
        let (integrity, encrypted) = credential_blob.strip_prefix(&[0, 32])?.split_at_checked(32)?;
        let protected = [encrypted, &self.ak_name()].concat();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &kdfa(seed, b"INTEGRITY", &[], 256));
        hmac::verify(&key, &protected, integrity).ok()?;
        let key = kdfa(seed, b"STORAGE", &self.ak_name(), 128);
        let key = cipher::UnboundCipherKey::new(&cipher::AES_128, &key).ok()?;
        let context = cipher::DecryptionContext::Iv128([0; 16].into());
        let mut decryptor = cipher::StreamingDecryptingKey::cfb128(key, context).ok()?;
        let mut plain = vec![0; encrypted.len() + 16];
        let mut written = decryptor.update(encrypted, &mut plain).ok()?.written().len();
        let last = decryptor.finish(&mut plain[written..]).ok()?.written().len();
        written += last;
        plain.truncate(written);
        let size = usize::from(u16::from_be_bytes(plain.get(..2)?.try_into().ok()?));
        (plain.len() == size + 2).then(|| plain[2..].to_vec())
    }
}

/// A P-256 signing key in the TPM.
pub(crate) struct CredentialKey {
    key: EcdsaKeyPair,
    /// TPMT_PUBLIC.
    pub(crate) public: Vec<u8>,
}

impl CredentialKey {
    /// A new key with the attributes of a key that only this TPM can use.
    pub(crate) fn new() -> Self {
        Self::with_attributes(SIGNING_KEY_ATTRIBUTES)
    }

    /// A new key with any attributes.
    pub(crate) fn with_attributes(attributes: u32) -> Self {
        let key = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let public = ecc_public(attributes, &AkKind::P256.scheme(), 3, key.public_key().as_ref());
        Self { key, public }
    }

    /// `SubjectPublicKeyInfo`, DER, as the engine writes it.
    pub(crate) fn spki(&self) -> Vec<u8> {
        let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = self.key.public_key().as_der().unwrap();
        spki.as_ref().to_vec()
    }

    /// What TPM2_Sign makes of a message: r || s.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// PKCS#8 of the private key, for a TLS client.
    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        self.key.to_pkcs8v1().unwrap().as_ref().to_vec()
    }
}

impl Default for CredentialKey {
    fn default() -> Self {
        Self::new()
    }
}

/// A manufacturer: issues EK certificates under its own root.
pub(crate) struct SimManufacturer {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    root: Vec<u8>,
}

impl SimManufacturer {
    /// A new root, valid from 2020 to 2050.
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = params("Simulated TPM Manufacturer Root");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    /// The root, pinned.
    pub(crate) fn anchor(&self) -> TpmAnchor {
        TpmAnchor {
            name: "simulated".into(),
            assurance: Assurance::Simulated,
            root: self.root.clone(),
            intermediates: Vec::new(),
        }
    }

    /// The EK certificate of `tpm`, DER.
    pub(crate) fn ek_certificate(&self, tpm: &SimTpm) -> Vec<u8> {
        self.certificate(&Public::read(&tpm.ek_public).unwrap().spki(), |_| {})
    }

    /// The root's list of these serial numbers, from 2026 until the beginning of a year.
    pub(crate) fn crl(&self, number: u64, serials: &[&[u8]], until_year: i32) -> Vec<u8> {
        let revoked = |serial: &&[u8]| rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(serial),
            revocation_time: rcgen::date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(until_year, 1, 1),
            crl_number: rcgen::SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A certificate for any key, with whatever `change` does to it.
    pub(crate) fn certificate(&self, spki: &[u8], change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let mut params = params("");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.custom_extensions = vec![subject_alt_name("sim")];
        change(&mut params);
        let key = rcgen::SubjectPublicKeyInfo::from_der(spki).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

impl Default for SimManufacturer {
    fn default() -> Self {
        Self::new()
    }
}

fn params(common_name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    params
}

/// Critical subjectAltName with a directoryName of tpmManufacturer, this tpmModel and tpmVersion.
pub(crate) fn subject_alt_name(model: &str) -> rcgen::CustomExtension {
    let attribute = |last: u8, text: &[u8]| {
        let oid = element(0x06, &[0x67, 0x81, 0x05, 2, last]);
        element(0x31, &element(0x30, &[oid, element(0x0c, text)].concat()))
    };
    let rdns = [attribute(1, b"id:00001014"), attribute(2, model.as_bytes()), attribute(3, b"id:00010001")].concat();
    let names = element(0x30, &element(0xa4, &element(0x30, &rdns)));
    let mut extension = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 17], names);
    extension.set_criticality(true);
    extension
}

/// A DER element shorter than 128 bytes.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80);
    [&[tag, length], content].concat()
}

const NULL: [u8; 2] = [0, 0x10];
const AES_128_CFB: [u8; 6] = [0, 6, 0, 0x80, 0, 0x43];

fn new_ak(kind: AkKind, attributes: u32) -> (Signer, Vec<u8>) {
    let rsa = |size, padding| {
        let key = RsaKeyPair::generate(size).unwrap();
        let public = rsa_public(attributes, &[], &NULL, &kind.scheme(), &modulus(&key));
        (Signer::Rsa(key, padding), public)
    };
    let ecc = |algorithm, curve| {
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let public = ecc_public(attributes, &kind.scheme(), curve, key.public_key().as_ref());
        (Signer::Ecc(key), public)
    };
    match kind {
        AkKind::Rsa2048 => rsa(rsa::KeySize::Rsa2048, &signature::RSA_PKCS1_SHA256),
        AkKind::RsaPss3072 => rsa(rsa::KeySize::Rsa3072, &signature::RSA_PSS_SHA384),
        AkKind::Rsa4096 => rsa(rsa::KeySize::Rsa4096, &signature::RSA_PKCS1_SHA512),
        AkKind::P256 => ecc(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, 3),
        AkKind::P384 => ecc(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, 4),
        AkKind::P521 => ecc(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, 5),
    }
}

fn public_head(kind: u16, attributes: u32, policy: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &[0, 0x0b], &attributes.to_be_bytes(), &tpm2b(policy)].concat()
}

fn rsa_public(attributes: u32, policy: &[u8], symmetric: &[u8], scheme: &[u8], modulus: &[u8]) -> Vec<u8> {
    let head = public_head(1, attributes, policy);
    let bits = u16::try_from(modulus.len() * 8).unwrap().to_be_bytes();
    [&head[..], symmetric, scheme, &bits, &[0; 4], &tpm2b(modulus)].concat()
}

fn ecc_public(attributes: u32, scheme: &[u8], curve: u8, point: &[u8]) -> Vec<u8> {
    let (x, y) = point[1..].split_at(point.len() / 2);
    let head = public_head(0x23, attributes, &[]);
    [&head[..], &NULL, scheme, &[0, curve], &NULL, &tpm2b(x), &tpm2b(y)].concat()
}

fn modulus(key: &RsaKeyPair) -> Vec<u8> {
    key.public_key().modulus().big_endian_without_leading_zero().to_vec()
}

fn rsa_sign(key: &RsaKeyPair, padding: &'static dyn signature::RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signed = vec![0; key.public_modulus_len()];
    key.sign(padding, &SystemRandom::new(), message, &mut signed).unwrap();
    signed
}

/// Name of an object whose nameAlg is SHA-256.
pub(crate) fn name(tpmt_public: &[u8]) -> Vec<u8> {
    [&[0, 0x0b], digest::digest(&digest::SHA256, tpmt_public).as_ref()].concat()
}

/// TPM2B: size and bytes.
pub(crate) fn tpm2b(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn algorithm(bank: PcrHash) -> &'static digest::Algorithm {
    match bank {
        PcrHash::Sha256 => &digest::SHA256,
        PcrHash::Sha384 => &digest::SHA384,
        PcrHash::Sha512 => &digest::SHA512,
    }
}

/// KDFa with SHA-256, for up to one block.
fn kdfa(seed: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    let input = [&1_u32.to_be_bytes(), label, &[0], context, &bits.to_be_bytes()].concat();
    let block = hmac::sign(&key, &input);
    block.as_ref()[..usize::try_from(bits / 8).unwrap()].to_vec()
}
