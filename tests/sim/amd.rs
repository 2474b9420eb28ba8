//! AMD, simulated: an ARK, ASK and ASVK of a product line with fresh keys, the VCEKs and VLEKs they issue, their
//! revocation lists, and reports signed like the firmware's. Everything has AMD's shape (RSA-4096 with PSS and SHA-384,
//! P-384, the custom extensions) and leads to no root of AMD.
//!
//! Included by `#[path]` where it is needed; nothing that is shipped can reach it.
#![allow(
    clippy::allow_attributes,
    dead_code,
    unreachable_pub,
    reason = "files that include it differ in what they use"
)]
#![allow(clippy::expect_used, clippy::as_conversions, clippy::indexing_slicing, reason = "test code")]
#![allow(clippy::arithmetic_side_effects, missing_docs, missing_debug_implementations, reason = "likewise")]

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384};
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::evidence::bundle::SnpEvidence;

/// Bytes of a report under its signature.
pub const SIGNED_BYTES: usize = 0x2a0;

/// Every certificate and list is valid from here (UTCTime) ...
pub const NOT_BEFORE: &str = "250101000000Z";
/// ... to here.
pub const NOT_AFTER: &str = "450101000000Z";

/// Content octets of 1.3.6.1.4.1.3704.1, to which the extensions add one or two arcs.
const AMD: [u8; 8] = [0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1];

/// Arcs of the custom extensions below 1.3.6.1.4.1.3704.1.
pub mod arc {
    pub const STRUCT_VERSION: &[u8] = &[1];
    pub const PRODUCT_NAME: &[u8] = &[2];
    pub const BL_SPL: &[u8] = &[3, 1];
    pub const TEE_SPL: &[u8] = &[3, 2];
    pub const SNP_SPL: &[u8] = &[3, 3];
    pub const SPL_4: &[u8] = &[3, 4];
    pub const UCODE_SPL: &[u8] = &[3, 8];
    pub const FMC_SPL: &[u8] = &[3, 9];
    pub const HWID: &[u8] = &[4];
    pub const CSP_ID: &[u8] = &[5];
}

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

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes: what AMD signs with.
#[must_use]
pub fn pss_sha384() -> Vec<u8> {
    let sha384 = sequence(&[&tlv(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]), &[5, 0]]);
    let mgf1 = sequence(&[&tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8]), &sha384]);
    let parameters = sequence(&[&tlv(0xa0, &sha384), &tlv(0xa1, &mgf1), &tlv(0xa2, &integer(48))]);
    sequence(&[&tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10]), &parameters])
}

/// A Name with AMD's attributes and this common name.
#[must_use]
pub fn name(common_name: &str) -> Vec<u8> {
    let attribute =
        |arc: u8, tag: u8, text: &str| tlv(0x31, &sequence(&[&tlv(6, &[0x55, 4, arc]), &tlv(tag, text.as_bytes())]));
    sequence(&[
        &attribute(11, 12, "Engineering"),
        &attribute(6, 19, "US"),
        &attribute(7, 12, "Santa Clara"),
        &attribute(8, 12, "CA"),
        &attribute(10, 12, "Advanced Micro Devices"),
        &attribute(3, 12, common_name),
    ])
}

/// An extension: OID content octets, critical, value.
pub type Extension = (Vec<u8>, bool, Vec<u8>);

/// An AMD extension.
#[must_use]
pub fn amd_extension(arc: &[u8], value: Vec<u8>) -> Extension {
    ([&AMD[..], arc].concat(), false, value)
}

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

/// An RSA-4096 key with a name.
pub struct Authority {
    key: RsaKeyPair,
    name: Vec<u8>,
}

impl Authority {
    /// A fresh key under this common name.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        Self { key: RsaKeyPair::generate(KeySize::Rsa4096).expect("an RSA key"), name: name(common_name) }
    }

    /// SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.key.public_key().as_der().expect("SubjectPublicKeyInfo").as_ref().to_vec()
    }

    /// This authority's name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Signs a TBSCertificate or TBSCertList: the whole signed structure.
    #[must_use]
    pub fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PSS_SHA384, &SystemRandom::new(), tbs, &mut signature).expect("a signature");
        sequence(&[tbs, &pss_sha384(), &tlv(3, &[&[0], &signature[..]].concat())])
    }

    /// Issues a certificate.
    #[must_use]
    pub fn issue(&self, profile: &Profile) -> Vec<u8> {
        let extensions: Vec<u8> = profile
            .extensions
            .iter()
            .flat_map(|(oid, critical, value)| {
                let critical = if *critical { tlv(1, &[0xff]) } else { Vec::new() };
                sequence(&[&tlv(6, oid), &critical, &tlv(4, value)])
            })
            .collect();
        let validity = sequence(&[&tlv(0x17, profile.not_before.as_bytes()), &tlv(0x17, profile.not_after.as_bytes())]);
        let explicit = if extensions.is_empty() { Vec::new() } else { tlv(0xa3, &tlv(0x30, &extensions)) };
        self.sign(&sequence(&[
            &tlv(0xa0, &integer(2)),
            &tlv(2, &profile.serial),
            &pss_sha384(),
            &self.name,
            &validity,
            &profile.subject,
            &profile.spki,
            &explicit,
        ]))
    }

    /// Issues a revocation list of these serial numbers. An empty `next_update` leaves nextUpdate out.
    #[must_use]
    pub fn revoke(&self, serials: &[&[u8]], this_update: &str, next_update: &str) -> Vec<u8> {
        self.revoke_numbered(1, serials, this_update, next_update)
    }

    /// [`Authority::revoke`] with a cRLNumber.
    #[must_use]
    pub fn revoke_numbered(&self, number: u8, serials: &[&[u8]], this_update: &str, next_update: &str) -> Vec<u8> {
        let entries: Vec<u8> = serials
            .iter()
            .flat_map(|serial| sequence(&[&tlv(2, serial), &tlv(0x17, this_update.as_bytes())]))
            .collect();
        let entries = if serials.is_empty() { Vec::new() } else { tlv(0x30, &entries) };
        let next = if next_update.is_empty() { Vec::new() } else { tlv(0x17, next_update.as_bytes()) };
        let number = sequence(&[&tlv(6, &[0x55, 0x1d, 20]), &tlv(4, &integer(number))]);
        self.sign(&sequence(&[
            &integer(1),
            &pss_sha384(),
            &self.name,
            &tlv(0x17, this_update.as_bytes()),
            &next,
            &entries,
            &tlv(0xa0, &tlv(0x30, &number)),
        ]))
    }
}

/// The extensions of AMD's authorities: critical basicConstraints and keyUsage.
#[must_use]
pub fn authority_extensions(path_length: Option<u8>, key_usage: [u8; 2]) -> Vec<Extension> {
    let length = path_length.map(integer).unwrap_or_default();
    vec![
        (vec![0x55, 0x1d, 19], true, sequence(&[&tlv(1, &[0xff]), &length])),
        (vec![0x55, 0x1d, 15], true, tlv(3, &key_usage)),
    ]
}

/// keyCertSign and cRLSign, as a BIT STRING's content.
pub const ROOT_USAGE: [u8; 2] = [1, 6];
/// keyCertSign.
pub const INTERMEDIATE_USAGE: [u8; 2] = [2, 4];

/// TCB components in the order fmc, bootloader, tee, snp, microcode; fmc counts on Turin alone.
pub type Tcb = [u8; 5];

/// The TCB of a simulated chip.
pub const TCB: Tcb = [1, 4, 2, 24, 219];

/// TCB_VERSION in a product line's byte order.
#[must_use]
pub fn tcb_version(product: AmdProduct, [fmc, bootloader, tee, snp, microcode]: Tcb) -> [u8; 8] {
    match product {
        AmdProduct::Milan | AmdProduct::Genoa => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        AmdProduct::Turin => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
    }
}

/// A P-384 key that signs reports, and its certificate.
pub struct Vek {
    key: EcdsaKeyPair,
    pub der: Vec<u8>,
}

impl Vek {
    /// Another certificate for the same key, after `change`.
    #[must_use]
    pub fn reissue(&self, issuer: &Authority, product: AmdProduct, change: impl FnOnce(&mut Profile)) -> Vec<u8> {
        certify(issuer, "SEV-VCEK", &self.key, vcek_extensions(product, TCB), change)
    }

    /// Signs bytes 0 to 2A0h as the firmware does: r and s little-endian in fields of 72 bytes, zeros to 4A0h.
    #[must_use]
    pub fn sign(&self, signed: &[u8; SIGNED_BYTES]) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), signed).expect("a signature");
        let (r, s) = signature.as_ref().split_at(48);
        let mut report = signed.to_vec();
        for scalar in [r, s] {
            report.extend(scalar.iter().rev());
            report.extend([0; 24]);
        }
        report.resize(0x4a0, 0);
        report
    }
}

/// AMD for one product line, and one chip.
pub struct AmdSimulator {
    pub product: AmdProduct,
    pub ark: Authority,
    pub ask: Authority,
    pub asvk: Authority,
    pub ark_der: Vec<u8>,
    pub ask_der: Vec<u8>,
    pub asvk_der: Vec<u8>,
    /// The chip's VCEK.
    pub vcek: Vek,
    /// A provider's VLEK.
    pub vlek: Vek,
}

impl AmdSimulator {
    /// Fresh keys for everything. Takes a few seconds: three RSA-4096 keys.
    #[must_use]
    pub fn new(product: AmdProduct) -> Self {
        let ark = Authority::new(&format!("ARK-{product}"));
        let ask = Authority::new(&format!("SEV-{product}"));
        let asvk = Authority::new(&format!("SEV-VLEK-{product}"));
        let profile = |of: &Authority, serial: u8, extensions| Profile {
            serial: vec![1, 0, serial],
            subject: of.name().to_vec(),
            not_before: NOT_BEFORE.to_owned(),
            not_after: NOT_AFTER.to_owned(),
            spki: of.spki(),
            extensions,
        };
        let ark_der = ark.issue(&profile(&ark, 0, authority_extensions(None, ROOT_USAGE)));
        let ask_der = ark.issue(&profile(&ask, 1, authority_extensions(Some(0), INTERMEDIATE_USAGE)));
        let asvk_der = ark.issue(&profile(&asvk, 2, authority_extensions(Some(0), INTERMEDIATE_USAGE)));
        let vcek = issue_vek(&ask, "SEV-VCEK", vcek_extensions(product, TCB), |_| {});
        let vlek = issue_vek(&asvk, "SEV-VLEK", vlek_extensions(product, TCB), |_| {});
        Self { product, ark, ask, asvk, ark_der, ask_der, asvk_der, vcek, vlek }
    }

    /// The root, as an operator pins simulated hardware.
    #[must_use]
    pub fn anchor(&self) -> AmdAnchor {
        AmdAnchor {
            product: self.product,
            assurance: Assurance::Simulated,
            ark: self.ark_der.clone(),
            intermediates: vec![self.ask_der.clone(), self.asvk_der.clone()],
        }
    }

    /// Another VCEK of the ASK, after `change`.
    #[must_use]
    pub fn vcek_with(&self, change: impl FnOnce(&mut Profile)) -> Vek {
        issue_vek(&self.ask, "SEV-VCEK", vcek_extensions(self.product, TCB), change)
    }

    /// Another VLEK of the ASVK, after `change`.
    #[must_use]
    pub fn vlek_with(&self, change: impl FnOnce(&mut Profile)) -> Vek {
        issue_vek(&self.asvk, "SEV-VLEK", vlek_extensions(self.product, TCB), change)
    }

    /// A current list of the ARK.
    #[must_use]
    pub fn crl(&self, serials: &[&[u8]]) -> Vec<u8> {
        self.ark.revoke(serials, NOT_BEFORE, NOT_AFTER)
    }

    /// A report of the chip with this REPORT_DATA under its VCEK: what an agent would send.
    #[must_use]
    pub fn evidence(&self, report_data: &[u8; 64]) -> SnpEvidence {
        let mut signed = report(self.product);
        signed[0x50..0x90].copy_from_slice(report_data);
        SnpEvidence { report: self.vcek.sign(&signed), vek: self.vcek.der.clone() }
    }

    /// A report of the chip under its VCEK, after `change` to the bytes that will be signed.
    #[must_use]
    pub fn evidence_with(&self, change: impl FnOnce(&mut [u8; SIGNED_BYTES])) -> SnpEvidence {
        let mut signed = report(self.product);
        change(&mut signed);
        SnpEvidence { report: self.vcek.sign(&signed), vek: self.vcek.der.clone() }
    }
}

/// Issues a VEK under `issuer` with a fresh key; the serial number is 0 as AMD's is.
#[must_use]
pub fn issue_vek(
    issuer: &Authority,
    common_name: &str,
    extensions: Vec<Extension>,
    change: impl FnOnce(&mut Profile),
) -> Vek {
    let key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a P-384 key");
    let der = certify(issuer, common_name, &key, extensions, change);
    Vek { key, der }
}

fn certify(
    issuer: &Authority,
    common_name: &str,
    key: &EcdsaKeyPair,
    extensions: Vec<Extension>,
    change: impl FnOnce(&mut Profile),
) -> Vec<u8> {
    let mut profile = Profile {
        serial: vec![0],
        subject: name(common_name),
        not_before: NOT_BEFORE.to_owned(),
        not_after: NOT_AFTER.to_owned(),
        spki: key.public_key().as_der().expect("SubjectPublicKeyInfo").as_ref().to_vec(),
        extensions,
    };
    change(&mut profile);
    issuer.issue(&profile)
}

/// The chip's hwID: 8 bytes on Turin, 64 elsewhere.
#[must_use]
pub fn hwid(product: AmdProduct) -> Vec<u8> {
    let size = match product {
        AmdProduct::Milan | AmdProduct::Genoa => 64,
        AmdProduct::Turin => 8,
    };
    (0..size).map(|index| 0xa0 ^ index).collect()
}

/// Extensions of a VCEK.
#[must_use]
pub fn vcek_extensions(product: AmdProduct, tcb: Tcb) -> Vec<Extension> {
    let product_name = match product {
        AmdProduct::Milan => "Milan-B0",
        AmdProduct::Genoa => "Genoa",
        AmdProduct::Turin => "Turin",
    };
    let mut extensions = common_extensions(product, product_name, tcb);
    extensions.push(amd_extension(arc::HWID, hwid(product)));
    extensions
}

/// Extensions of a VLEK.
#[must_use]
pub fn vlek_extensions(product: AmdProduct, tcb: Tcb) -> Vec<Extension> {
    let mut extensions = common_extensions(product, &product.to_string(), tcb);
    extensions.push(amd_extension(arc::CSP_ID, tlv(0x16, b"CN=cc-simulated.example")));
    extensions
}

fn common_extensions(product: AmdProduct, product_name: &str, tcb: Tcb) -> Vec<Extension> {
    let [fmc, bootloader, tee, snp, microcode] = tcb;
    let turin = product == AmdProduct::Turin;
    let mut extensions = vec![
        amd_extension(arc::STRUCT_VERSION, integer(u8::from(turin))),
        amd_extension(arc::PRODUCT_NAME, tlv(0x16, product_name.as_bytes())),
        amd_extension(arc::BL_SPL, integer(bootloader)),
        amd_extension(arc::TEE_SPL, integer(tee)),
        amd_extension(arc::SNP_SPL, integer(snp)),
        amd_extension(arc::UCODE_SPL, integer(microcode)),
    ];
    if turin {
        extensions.push(amd_extension(arc::FMC_SPL, integer(fmc)));
    } else {
        extensions.push(amd_extension(arc::SPL_4, integer(0)));
    }
    extensions
}

/// The signed part of a good report of version 3 from the simulated chip.
#[must_use]
pub fn report(product: AmdProduct) -> [u8; SIGNED_BYTES] {
    let mut bytes = [0; SIGNED_BYTES];
    bytes[0] = 3;
    bytes[4] = 7; // GUEST_SVN
    bytes[8..16].copy_from_slice(&0x3_0000_u64.to_le_bytes()); // POLICY: SMT, bit 17
    bytes[0x34] = 1; // SIGNATURE_ALGO
    bytes[0x40] = 0x25; // PLATFORM_INFO: SMT_EN, ECC_EN, ALIAS_CHECK_COMPLETE
    bytes[0x50..0x90].fill(0xd0); // REPORT_DATA
    bytes[0x90..0xc0].fill(0x3e); // MEASUREMENT
    bytes[0xc0..0xe0].fill(0x05); // HOST_DATA
    bytes[0x140..0x160].fill(0x1d); // REPORT_ID
    bytes[0x160..0x180].fill(0xff); // REPORT_ID_MA
    let (family, model) = match product {
        AmdProduct::Milan => (0x19, 0x01),
        AmdProduct::Genoa => (0x19, 0x11),
        AmdProduct::Turin => (0x1a, 0x02),
    };
    bytes[0x188..0x18b].copy_from_slice(&[family, model, 1]);
    let hwid = hwid(product);
    bytes[0x1a0..0x1a0 + hwid.len()].copy_from_slice(&hwid);
    for offset in [0x38, 0x180, 0x1e0, 0x1f0] {
        bytes[offset..offset + 8].copy_from_slice(&tcb_version(product, TCB));
    }
    for offset in [0x1e8, 0x1ec] {
        bytes[offset..offset + 3].copy_from_slice(&[29, 55, 1]); // 1.55.29
    }
    bytes
}
