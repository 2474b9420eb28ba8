//! Intel, simulated: a root, the CAs of platforms and processors, a signer of TCBs, a platform's PCK, a quoting enclave
//! and its attestation key, all fresh; the collateral they sign, and quotes of every version and body. Everything has
//! Intel's shape (P-256, the SGX extensions, TCB info 3) and leads to no root of Intel.
//!
//! Included by `#[path]` where it is needed, with or without `std`; nothing that is shipped can reach it.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    reason = "files that include it differ in what they use"
)]
#![allow(clippy::expect_used, clippy::as_conversions, clippy::indexing_slicing, reason = "test code")]
#![allow(clippy::arithmetic_side_effects, missing_docs, missing_debug_implementations, reason = "likewise")]

extern crate alloc;

use alloc::borrow::ToOwned as _;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::anchor::{Assurance, IntelAnchor};
use countersign_attestation::endorsement::intel::IntelCollateral;

/// Every certificate and list is valid from here (UTCTime) ...
pub const NOT_BEFORE: &str = "250101000000Z";
/// ... to here.
pub const NOT_AFTER: &str = "450101000000Z";
/// issueDate of TCB info and identities ...
pub const ISSUE_DATE: &str = "2025-01-01T00:00:00Z";
/// ... and their nextUpdate.
pub const NEXT_UPDATE: &str = "2045-01-01T00:00:00Z";

/// FMSPC of the platform.
pub const FMSPC: [u8; 6] = [0x50, 0x80, 0x6f, 0, 0xaa, 0];
/// PPID of the platform.
pub const PPID: [u8; 16] = [0x71; 16];
/// Components of the platform's TCB.
pub const COMPONENTS: [u8; 16] = [5, 5, 2, 2, 3, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
/// PCESVN of the platform.
pub const PCE_SVN: u8 = 13;
/// TEE_TCB_SVN: TDX module 1, ISVSVN 6.
pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// MRSIGNER of the simulated quoting enclaves.
pub const QE_MR_SIGNER: [u8; 32] = [0xdc; 32];

/// Content octets of 1.2.840.113741.1.13.1.
const SGX_EXTENSIONS: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1];
const INTEL_VENDOR_ID: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// One element of DER.
#[must_use]
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match content.len() {
        short if short < 0x80 => element.push(short as u8),
        long => {
            let octets: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect();
            element.push(0x80 | octets.len() as u8);
            element.extend(octets);
        }
    }
    element.extend(content);
    element
}

/// A SEQUENCE of elements.
#[must_use]
pub fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &elements.concat())
}

/// A small INTEGER.
#[must_use]
pub fn integer(value: u8) -> Vec<u8> {
    if value < 0x80 { tlv(2, &[value]) } else { tlv(2, &[0, value]) }
}

/// ecdsa-with-SHA256.
fn ecdsa_sha256() -> Vec<u8> {
    sequence(&[&tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])])
}

/// A Name with Intel's attributes and this common name.
#[must_use]
pub fn name(common_name: &str) -> Vec<u8> {
    let attribute =
        |arc: u8, tag: u8, text: &str| tlv(0x31, &sequence(&[&tlv(6, &[0x55, 4, arc]), &tlv(tag, text.as_bytes())]));
    sequence(&[
        &attribute(3, 12, common_name),
        &attribute(10, 12, "Intel Corporation"),
        &attribute(7, 12, "Santa Clara"),
        &attribute(8, 12, "CA"),
        &attribute(6, 19, "US"),
    ])
}

/// SubjectPublicKeyInfo of a point on P-256.
#[must_use]
pub fn spki(point: &[u8]) -> Vec<u8> {
    let algorithm =
        sequence(&[&tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7])]);
    sequence(&[&algorithm, &tlv(3, &[&[0], point].concat())])
}

/// An extension: OID content octets, critical, value.
pub type Extension = (Vec<u8>, bool, Vec<u8>);

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Profile {
    pub serial: Vec<u8>,
    pub subject: Vec<u8>,
    pub not_before: String,
    pub not_after: String,
    pub spki: Vec<u8>,
    pub extensions: Vec<Extension>,
}

impl Profile {
    fn new(serial: u8, common_name: &str, point: &[u8], extensions: Vec<Extension>) -> Self {
        Self {
            serial: vec![1, 0, serial],
            subject: name(common_name),
            not_before: NOT_BEFORE.to_owned(),
            not_after: NOT_AFTER.to_owned(),
            spki: spki(point),
            extensions,
        }
    }
}

/// A key with a name, which signs certificates and lists.
pub struct Authority {
    key: EcdsaKeyPair,
    name: Vec<u8>,
}

impl Authority {
    /// A fresh key under this common name.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        Self { key, name: name(common_name) }
    }

    fn point(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), tbs).expect("a signature");
        sequence(&[tbs, &ecdsa_sha256(), &tlv(3, &[&[0], signature.as_ref()].concat())])
    }

    /// Issues a certificate.
    #[must_use]
    pub fn issue(&self, profile: &Profile) -> Vec<u8> {
        let extension = |(oid, critical, value): &Extension| {
            let critical = if *critical { tlv(1, &[0xff]) } else { Vec::new() };
            sequence(&[&tlv(6, oid), &critical, &tlv(4, value)])
        };
        let extensions: Vec<u8> = profile.extensions.iter().flat_map(extension).collect();
        let validity = sequence(&[&tlv(0x17, profile.not_before.as_bytes()), &tlv(0x17, profile.not_after.as_bytes())]);
        let explicit = if extensions.is_empty() { Vec::new() } else { tlv(0xa3, &tlv(0x30, &extensions)) };
        self.sign(&sequence(&[
            &tlv(0xa0, &integer(2)),
            &tlv(2, &profile.serial),
            &ecdsa_sha256(),
            &self.name,
            &validity,
            &profile.subject,
            &profile.spki,
            &explicit,
        ]))
    }

    /// Issues a revocation list with this number, of these serial numbers.
    #[must_use]
    pub fn revoke(&self, number: u8, serials: &[&[u8]], this_update: &str, next_update: &str) -> Vec<u8> {
        let entry = |serial: &&[u8]| sequence(&[&tlv(2, serial), &tlv(0x17, this_update.as_bytes())]);
        let entries: Vec<u8> = serials.iter().flat_map(entry).collect();
        let entries = if serials.is_empty() { Vec::new() } else { tlv(0x30, &entries) };
        let number = sequence(&[&tlv(6, &[0x55, 0x1d, 20]), &tlv(4, &integer(number))]);
        self.sign(&sequence(&[
            &integer(1),
            &ecdsa_sha256(),
            &self.name,
            &tlv(0x17, this_update.as_bytes()),
            &tlv(0x17, next_update.as_bytes()),
            &entries,
            &tlv(0xa0, &tlv(0x30, &number)),
        ]))
    }
}

fn authority_extensions(path_length: u8) -> Vec<Extension> {
    vec![
        (vec![0x55, 0x1d, 15], true, tlv(3, &[1, 6])),
        (vec![0x55, 0x1d, 19], true, sequence(&[&tlv(1, &[0xff]), &integer(path_length)])),
    ]
}

/// keyUsage digitalSignature, and no authority.
fn signer_extensions() -> Vec<Extension> {
    vec![(vec![0x55, 0x1d, 15], true, tlv(3, &[6, 0xc0])), (vec![0x55, 0x1d, 19], true, sequence(&[]))]
}

/// Intel's extension of a PCK certificate, for these components and PCESVN.
#[must_use]
pub fn sgx_extension(components: [u8; 16], pce_svn: u8) -> Extension {
    let member = |arcs: &[u8], value: &[u8]| sequence(&[&tlv(6, &[&SGX_EXTENSIONS[..], arcs].concat()), value]);
    let mut tcb: Vec<u8> = Vec::new();
    for (component, arc) in components.iter().zip(1..) {
        tcb.extend(member(&[2, arc], &integer(*component)));
    }
    tcb.extend(member(&[2, 17], &integer(pce_svn)));
    tcb.extend(member(&[2, 18], &tlv(4, &components)));
    let value = sequence(&[
        &member(&[1], &tlv(4, &PPID)),
        &member(&[2], &tlv(0x30, &tcb)),
        &member(&[3], &tlv(4, &[0, 0])),
        &member(&[4], &tlv(4, &FMSPC)),
        &member(&[5], &tlv(10, &[1])),
        &member(&[6], &tlv(4, &[0x1d; 16])),
    ]);
    (SGX_EXTENSIONS.to_vec(), false, value)
}

/// A key that signs bytes, r || s, and its certificate.
pub struct Signer {
    key: EcdsaKeyPair,
    pub der: Vec<u8>,
}

impl Signer {
    fn key() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
    }
}

/// A chain in PEM, as Intel writes it.
#[must_use]
pub fn pem(chain: &[&[u8]]) -> String {
    let mut text = String::new();
    for der in chain {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            text.push_str(core::str::from_utf8(line).expect("base64"));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// What collateral is made of, before it is signed.
#[derive(Clone, Debug)]
pub struct CollateralProfile {
    pub tcb_info: String,
    pub qe_identity: String,
    /// Serial numbers on the platform CA's list.
    pub revoked_pcks: Vec<Vec<u8>>,
    /// Serial numbers on the root's list.
    pub revoked_authorities: Vec<Vec<u8>>,
    pub this_update: String,
    pub next_update: String,
    pub crl_number: u8,
}

/// Signed collateral.
#[derive(Clone, Debug)]
pub struct Collateral {
    pub pck_crl_issuer_chain: String,
    pub root_ca_crl: Vec<u8>,
    pub pck_crl: Vec<u8>,
    pub tcb_info_issuer_chain: String,
    pub tcb_info: String,
    pub tcb_info_signature: Vec<u8>,
    pub qe_identity_issuer_chain: String,
    pub qe_identity: String,
    pub qe_identity_signature: Vec<u8>,
}

impl Collateral {
    /// As the verifier takes it.
    #[must_use]
    pub fn parts(&self) -> IntelCollateral<'_> {
        IntelCollateral {
            pck_crl_issuer_chain: &self.pck_crl_issuer_chain,
            root_ca_crl: &self.root_ca_crl,
            pck_crl: &self.pck_crl,
            tcb_info_issuer_chain: &self.tcb_info_issuer_chain,
            tcb_info: &self.tcb_info,
            tcb_info_signature: &self.tcb_info_signature,
            qe_identity_issuer_chain: &self.qe_identity_issuer_chain,
            qe_identity: &self.qe_identity,
            qe_identity_signature: &self.qe_identity_signature,
        }
    }
}

/// Version and body of a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuoteKind {
    Sgx3,
    Sgx4,
    Td4,
    Td10In5,
    Td15In5,
    Td15ExIn5,
}

impl QuoteKind {
    const fn version(self) -> u16 {
        match self {
            Self::Sgx3 => 3,
            Self::Sgx4 | Self::Td4 => 4,
            Self::Td10In5 | Self::Td15In5 | Self::Td15ExIn5 => 5,
        }
    }

    #[must_use]
    pub const fn is_sgx(self) -> bool {
        matches!(self, Self::Sgx3 | Self::Sgx4)
    }

    /// Where REPORTDATA starts in the body.
    #[must_use]
    pub const fn report_data(self) -> usize {
        if self.is_sgx() { 320 } else { 520 }
    }
}

/// What a quote is made of, before it is signed.
#[derive(Clone, Debug)]
pub struct QuoteProfile {
    pub header: [u8; 48],
    /// Type and size of version 5.
    pub descriptor: Vec<u8>,
    pub body: Vec<u8>,
    /// The QE's report, over the attestation key and the authentication data.
    pub qe_report: [u8; 384],
    pub auth_data: Vec<u8>,
    pub certification_type: u16,
    pub chain: Vec<u8>,
}

/// Intel, one platform, and its quoting enclave.
pub struct IntelSimulator {
    pub root: Authority,
    pub platform_ca: Authority,
    pub processor_ca: Authority,
    pub root_der: Vec<u8>,
    pub platform_ca_der: Vec<u8>,
    pub processor_ca_der: Vec<u8>,
    /// Signer of TCB info and identities.
    pub signer: Signer,
    /// The platform's PCK.
    pub pck: Signer,
    attestation: Signer,
}

impl Default for IntelSimulator {
    fn default() -> Self {
        Self::new()
    }
}

impl IntelSimulator {
    /// Fresh keys for everything.
    #[must_use]
    pub fn new() -> Self {
        let root = Authority::new("Intel SGX Root CA");
        let platform_ca = Authority::new("Intel SGX PCK Platform CA");
        let processor_ca = Authority::new("Intel SGX PCK Processor CA");
        let authority = |serial, common_name: &str, authority: &Authority, path_length| {
            root.issue(&Profile::new(serial, common_name, authority.point(), authority_extensions(path_length)))
        };
        let root_der = authority(0, "Intel SGX Root CA", &root, 1);
        let platform_ca_der = authority(1, "Intel SGX PCK Platform CA", &platform_ca, 0);
        let processor_ca_der = authority(2, "Intel SGX PCK Processor CA", &processor_ca, 0);
        let signer = Signer::key();
        let profile = Profile::new(3, "Intel SGX TCB Signing", signer.public_key().as_ref(), signer_extensions());
        let signer = Signer { der: root.issue(&profile), key: signer };
        let pck = Signer::key();
        let pck = Signer { der: platform_ca.issue(&pck_profile(pck.public_key().as_ref())), key: pck };
        let attestation = Signer { key: Signer::key(), der: Vec::new() };
        Self { root, platform_ca, processor_ca, root_der, platform_ca_der, processor_ca_der, signer, pck, attestation }
    }

    /// The root, as an operator pins simulated hardware.
    #[must_use]
    pub fn anchor(&self) -> IntelAnchor {
        IntelAnchor { name: "simulated".to_owned(), assurance: Assurance::Simulated, root: self.root_der.clone() }
    }

    /// What the root says of itself.
    #[must_use]
    pub fn root_profile(&self) -> Profile {
        Profile::new(0, "Intel SGX Root CA", self.root.point(), authority_extensions(1))
    }

    /// What the root says of the platform CA.
    #[must_use]
    pub fn platform_ca_profile(&self) -> Profile {
        Profile::new(1, "Intel SGX PCK Platform CA", self.platform_ca.point(), authority_extensions(0))
    }

    /// The PCK's chain, leaf first.
    #[must_use]
    pub fn pck_chain(&self) -> String {
        pem(&[&self.pck.der, &self.platform_ca_der, &self.root_der])
    }

    /// The platform's PCK certificate as `authority` would have issued it after `change`.
    #[must_use]
    pub fn pck_with(&self, authority: &Authority, change: impl FnOnce(&mut Profile)) -> Vec<u8> {
        let mut profile = pck_profile(self.pck.key.public_key().as_ref());
        change(&mut profile);
        authority.issue(&profile)
    }

    /// Another certificate of the key that signs TCB info and identities.
    #[must_use]
    pub fn signer_by(&self, authority: &Authority, serial: u8) -> Vec<u8> {
        let point = self.signer.key.public_key().as_ref();
        authority.issue(&Profile::new(serial, "Intel SGX TCB Signing", point, signer_extensions()))
    }

    /// Current collateral for TDX.
    #[must_use]
    pub fn collateral(&self) -> Collateral {
        self.collateral_with(|_| {})
    }

    /// Collateral for TDX, signed after `change`.
    #[must_use]
    pub fn collateral_with(&self, change: impl FnOnce(&mut CollateralProfile)) -> Collateral {
        self.sign_collateral(tcb_info(true), qe_identity(true), change)
    }

    /// Collateral for SGX, signed after `change`.
    #[must_use]
    pub fn sgx_collateral_with(&self, change: impl FnOnce(&mut CollateralProfile)) -> Collateral {
        self.sign_collateral(tcb_info(false), qe_identity(false), change)
    }

    fn sign_collateral(
        &self,
        tcb_info: String,
        qe_identity: String,
        change: impl FnOnce(&mut CollateralProfile),
    ) -> Collateral {
        let mut profile = CollateralProfile {
            tcb_info,
            qe_identity,
            revoked_pcks: Vec::new(),
            revoked_authorities: Vec::new(),
            this_update: NOT_BEFORE.to_owned(),
            next_update: NOT_AFTER.to_owned(),
            crl_number: 1,
        };
        change(&mut profile);
        let serials = |list: &[Vec<u8>]| list.to_vec();
        let list = |authority: &Authority, revoked: &[Vec<u8>]| {
            let revoked = serials(revoked);
            let revoked: Vec<&[u8]> = revoked.iter().map(Vec::as_slice).collect();
            authority.revoke(profile.crl_number, &revoked, &profile.this_update, &profile.next_update)
        };
        let signer_chain = pem(&[&self.signer.der, &self.root_der]);
        Collateral {
            pck_crl_issuer_chain: pem(&[&self.platform_ca_der, &self.root_der]),
            root_ca_crl: list(&self.root, &profile.revoked_authorities),
            pck_crl: list(&self.platform_ca, &profile.revoked_pcks),
            tcb_info_issuer_chain: signer_chain.clone(),
            tcb_info_signature: self.signer.sign(profile.tcb_info.as_bytes()),
            tcb_info: profile.tcb_info,
            qe_identity_issuer_chain: signer_chain,
            qe_identity_signature: self.signer.sign(profile.qe_identity.as_bytes()),
            qe_identity: profile.qe_identity,
        }
    }

    /// A quote of the platform with this REPORTDATA: what an agent would send.
    #[must_use]
    pub fn quote(&self, kind: QuoteKind, report_data: &[u8; 64]) -> Vec<u8> {
        self.quote_with(kind, |profile| {
            profile.body[kind.report_data()..][..64].copy_from_slice(report_data);
        })
    }

    /// A quote of the platform, signed after `change`.
    #[must_use]
    pub fn quote_with(&self, kind: QuoteKind, change: impl FnOnce(&mut QuoteProfile)) -> Vec<u8> {
        let mut profile = QuoteProfile {
            header: header(kind),
            descriptor: Vec::new(),
            body: body(kind),
            qe_report: [0; 384],
            auth_data: (0..32).collect(),
            certification_type: 5,
            chain: [self.pck_chain().as_bytes(), &[0]].concat(),
        };
        let number: Option<u16> = match kind {
            QuoteKind::Sgx3 | QuoteKind::Sgx4 | QuoteKind::Td4 => None,
            QuoteKind::Td10In5 => Some(2),
            QuoteKind::Td15In5 => Some(3),
            QuoteKind::Td15ExIn5 => Some(4),
        };
        if let Some(number) = number {
            profile.descriptor = [&number.to_le_bytes()[..], &(profile.body.len() as u32).to_le_bytes()].concat();
        }
        let point = &self.attestation.key.public_key().as_ref()[1..];
        profile.qe_report = qe_report(kind);
        let bound = digest(&SHA256, &[point, &profile.auth_data].concat());
        profile.qe_report[320..352].copy_from_slice(bound.as_ref());
        change(&mut profile);
        let signed = [&profile.header[..], &profile.descriptor, &profile.body].concat();
        let mut qe = [&profile.qe_report[..], &self.pck.sign(&profile.qe_report)].concat();
        qe.extend((profile.auth_data.len() as u16).to_le_bytes());
        qe.extend(&profile.auth_data);
        qe.extend(profile.certification_type.to_le_bytes());
        qe.extend((profile.chain.len() as u32).to_le_bytes());
        qe.extend(&profile.chain);
        if kind.version() != 3 {
            qe = [&6_u16.to_le_bytes()[..], &(qe.len() as u32).to_le_bytes(), &qe].concat();
        }
        let data = [&self.attestation.sign(&signed)[..], point, &qe].concat();
        [&signed[..], &(data.len() as u32).to_le_bytes(), &data].concat()
    }
}

fn pck_profile(point: &[u8]) -> Profile {
    let mut extensions = signer_extensions();
    extensions.push(sgx_extension(COMPONENTS, PCE_SVN));
    Profile::new(9, "Intel SGX PCK Certificate", point, extensions)
}

fn header(kind: QuoteKind) -> [u8; 48] {
    let tee: u32 = if kind.is_sgx() { 0 } else { 0x81 };
    let mut header = [0; 48];
    header[..2].copy_from_slice(&kind.version().to_le_bytes());
    header[2..4].copy_from_slice(&2_u16.to_le_bytes());
    header[4..8].copy_from_slice(&tee.to_le_bytes());
    header[12..28].copy_from_slice(&INTEL_VENDOR_ID);
    header
}

/// A body that a strict policy admits; each measurement is a byte of its own, RTMR3 and everything of an owner zero.
fn body(kind: QuoteKind) -> Vec<u8> {
    if kind.is_sgx() {
        let mut report = vec![0; 384];
        report[..16].copy_from_slice(&COMPONENTS);
        report[48..64].copy_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0]);
        report[64..96].fill(0x64);
        report[128..160].fill(0x80);
        return report;
    }
    let mut report = vec![0; 584];
    report[..16].copy_from_slice(&TEE_TCB_SVN);
    report[16..64].fill(0x5e);
    // SEPT_VE_DISABLE.
    report[120..128].copy_from_slice(&0x1000_0000_u64.to_le_bytes());
    report[128..136].copy_from_slice(&0x6_00e7_u64.to_le_bytes());
    report[136..184].fill(0x7d);
    for (register, byte) in [0xa0, 0xa1, 0xa2].into_iter().enumerate() {
        report[328 + 48 * register..][..48].fill(byte);
    }
    if matches!(kind, QuoteKind::Td15In5 | QuoteKind::Td15ExIn5) {
        report.extend(TEE_TCB_SVN);
        report.extend([0; 48]);
    }
    if kind == QuoteKind::Td15ExIn5 {
        report.extend([0; 237]);
    }
    report
}

fn qe_report(kind: QuoteKind) -> [u8; 384] {
    let mut report = [0; 384];
    report[48] = 0x11;
    report[56] = 0xe7;
    report[128..160].copy_from_slice(&QE_MR_SIGNER);
    report[256] = if kind.is_sgx() { 1 } else { 2 };
    report[258] = 8;
    report
}

fn components(values: &[u8; 16]) -> String {
    let listed: Vec<String> = values.iter().map(|svn| format!(r#"{{"svn":{svn}}}"#)).collect();
    format!("[{}]", listed.join(","))
}

/// TCB info, version 3, as Intel writes it: up to date, out of date and revoked levels of platform and TDX module 1.
#[must_use]
pub fn tcb_info(is_tdx: bool) -> String {
    let level = |sgx: [u8; 16], pce_svn: u8, tdx: [u8; 16], status: &str, advisories: &str| {
        let tdx = if is_tdx { format!(r#","tdxtcbcomponents":{}"#, components(&tdx)) } else { String::new() };
        format!(
            r#"{{"tcb":{{"sgxtcbcomponents":{},"pcesvn":{pce_svn}{tdx}}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"{status}"{advisories}}}"#,
            components(&sgx)
        )
    };
    let mut tdx = [0; 16];
    tdx[0] = 5;
    tdx[2] = 3;
    let mut lower = COMPONENTS;
    lower[0] = 4;
    let mut lowest = COMPONENTS;
    lowest[0] = 2;
    let levels = [
        level(COMPONENTS, 11, tdx, "UpToDate", ""),
        level(lower, 11, tdx, "OutOfDate", r#","advisoryIDs":["INTEL-SA-00837"]"#),
        level(lowest, 5, [0; 16], "Revoked", r#","advisoryIDs":["INTEL-SA-00615"]"#),
    ]
    .join(",");
    let (zeros, module) = ("0".repeat(96), r#""attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF""#);
    let modules = format!(
        r#""tdxModule":{{"mrsigner":"{zeros}",{module}}},"tdxModuleIdentities":[{{"id":"TDX_01","mrsigner":"{zeros}",{module},"tcbLevels":[{{"tcb":{{"isvsvn":4}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":2}},"tcbDate":"2023-08-09T00:00:00Z","tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-01036"]}}]}}],"#
    );
    let (id, modules) = if is_tdx { ("TDX", modules) } else { ("SGX", String::new()) };
    format!(
        r#"{{"id":"{id}","version":3,"issueDate":"{ISSUE_DATE}","nextUpdate":"{NEXT_UPDATE}","fmspc":"50806F00AA00","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,{modules}"tcbLevels":[{levels}]}}"#
    )
}

/// Identity of the quoting enclave of TDX or SGX, version 2.
#[must_use]
pub fn qe_identity(is_tdx: bool) -> String {
    let (id, product) = if is_tdx { ("TD_QE", 2) } else { ("QE", 1) };
    let signer = "DC".repeat(32);
    format!(
        r#"{{"id":"{id}","version":2,"issueDate":"{ISSUE_DATE}","nextUpdate":"{NEXT_UPDATE}","tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{signer}","isvprodid":{product},"tcbLevels":[{{"tcb":{{"isvsvn":8}},"tcbDate":"2024-03-13T00:00:00Z","tcbStatus":"UpToDate"}},{{"tcb":{{"isvsvn":6}},"tcbDate":"2021-11-10T00:00:00Z","tcbStatus":"OutOfDate","advisoryIDs":["INTEL-SA-00615"]}}]}}"#
    )
}
