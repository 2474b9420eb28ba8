//! A certificate as the broker issues it, beside the bare signature and the encoding of one with the same content.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use countersign::config::{AuthoritySettings, DataDir};
use countersign::keys::{Keys, LeafProfile, Places};
use countersign_attestation::UnixMillis;
use countersign_attestation::result::svid::{EXTENSION_OID, TrustDomain};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};

use crate::engine::{Ratio, compare};
use crate::sim_issuer::extension;

const DOMAIN: &str = "bench.example";
const NAME: &str = "spiffe://bench.example/host/gpu-0000001";
const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
/// About an EAR of a TPM and a CPU.
const EAR_BYTES: usize = 1500;

/// A key whose signature costs nothing: what is left is the encoding.
struct Costless(KeyPair, Vec<u8>);

impl PublicKeyData for Costless {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for Costless {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.1.clone())
    }
}

pub(crate) fn measure() -> anyhow::Result<Ratio> {
    let folder = tempfile::tempdir()?;
    let (data, domain) = (DataDir::at(folder.path()), TrustDomain::parse(DOMAIN).ok_or_else(|| anyhow::anyhow!("no"))?);
    Keys::create(&data, DOMAIN, &Places::default(), NOW)?;
    let keys = Keys::load(&data, &domain, &AuthoritySettings::default(), NOW)?;
    let subject = KeyPair::generate()?;
    let spki = subject.subject_public_key_info();
    let extensions =
        vec![(EXTENSION_OID.to_vec(), extension(7).encode()), (vec![1, 3, 6, 1, 5, 5, 7, 1, 35], vec![7; EAR_BYTES])];
    let profile = LeafProfile {
        uri: Some(NAME.to_owned()),
        names: vec![],
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        extensions: extensions.clone(),
        serial: vec![7; 16],
        not_after: NOW.plus(300_000),
    };
    let ours = || keys.workload.sign(&spki, profile.clone(), NOW).map(drop).map_err(Into::into);

    let raw_key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let random = SystemRandom::new();
    let message = vec![7; EAR_BYTES + 500];
    let signature = raw_key.sign(&random, &message)?.as_ref().to_vec();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names.push(SanType::URI(NAME.to_owned().try_into()?));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = profile.usages.clone();
    params.custom_extensions =
        extensions.into_iter().map(|(oid, content)| CustomExtension::from_oid_content(&oid, content)).collect();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&[7; 16]));
    let issuer = Issuer::new(CertificateParams::default(), Costless(KeyPair::generate()?, signature));
    let raw = || -> anyhow::Result<()> {
        raw_key.sign(&random, &message)?;
        drop(params.signed_by(&subject, &issuer)?);
        Ok(())
    };
    compare(8, &ours, &raw)
}
