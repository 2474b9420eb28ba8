//! Object identifiers, as the content octets of their DER.

use core::fmt;

/// An object identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Oid {
    octets: &'static [u8],
    name: &'static str,
}

impl Oid {
    /// An identifier from its content octets and the name it is explained with.
    #[must_use]
    pub const fn new(octets: &'static [u8], name: &'static str) -> Self {
        Self { octets, name }
    }

    /// Content octets of the DER.
    #[must_use]
    pub const fn octets(self) -> &'static [u8] {
        self.octets
    }

    /// The name the identifier is explained with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! oids {
    ($($(#[$doc:meta])* $name:ident = $label:literal, [$($octet:literal),+];)+) => {
        $($(#[$doc])* #[doc = concat!("`", $label, "`")] pub const $name: Oid = Oid::new(&[$($octet),+], $label);)+
    };
}

oids! {
    /// 1.2.840.113549.1.1.1,
    RSA_ENCRYPTION = "rsaEncryption", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    /// 1.2.840.113549.1.1.7,
    RSAES_OAEP = "id-RSAES-OAEP", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7];
    /// 1.2.840.113549.1.1.8,
    MGF1 = "id-mgf1", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
    /// 1.2.840.113549.1.1.10,
    RSASSA_PSS = "id-RSASSA-PSS", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    /// 1.2.840.113549.1.1.11,
    SHA256_WITH_RSA = "sha256WithRSAEncryption", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    /// 1.2.840.113549.1.1.12,
    SHA384_WITH_RSA = "sha384WithRSAEncryption", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
    /// 1.2.840.113549.1.1.13,
    SHA512_WITH_RSA = "sha512WithRSAEncryption", [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
    /// 1.2.840.10045.4.3.2,
    ECDSA_WITH_SHA256 = "ecdsa-with-SHA256", [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    /// 1.2.840.10045.4.3.3,
    ECDSA_WITH_SHA384 = "ecdsa-with-SHA384", [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    /// 1.2.840.10045.4.3.4,
    ECDSA_WITH_SHA512 = "ecdsa-with-SHA512", [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
    /// 2.16.840.1.101.3.4.2.1,
    SHA256 = "id-sha256", [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
    /// 2.16.840.1.101.3.4.2.2,
    SHA384 = "id-sha384", [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
    /// 2.16.840.1.101.3.4.2.3,
    SHA512 = "id-sha512", [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];
    /// 1.2.840.10045.2.1,
    EC_PUBLIC_KEY = "id-ecPublicKey", [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    /// 1.2.840.10045.3.1.7,
    P256 = "secp256r1", [0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    /// 1.3.132.0.34,
    P384 = "secp384r1", [0x2b, 0x81, 4, 0, 0x22];
    /// 1.3.132.0.35,
    P521 = "secp521r1", [0x2b, 0x81, 4, 0, 0x23];
    /// 1.3.101.112,
    ED25519 = "id-Ed25519", [0x2b, 0x65, 0x70];
    /// 2.5.4.3,
    COMMON_NAME = "commonName", [0x55, 4, 3];
    /// 2.5.29.15,
    KEY_USAGE = "keyUsage", [0x55, 0x1d, 15];
    /// 2.5.29.17,
    SUBJECT_ALT_NAME = "subjectAltName", [0x55, 0x1d, 17];
    /// 2.5.29.19,
    BASIC_CONSTRAINTS = "basicConstraints", [0x55, 0x1d, 19];
    /// 2.5.29.20,
    CRL_NUMBER = "cRLNumber", [0x55, 0x1d, 20];
    /// 2.5.29.30,
    NAME_CONSTRAINTS = "nameConstraints", [0x55, 0x1d, 30];
    /// 2.5.29.32,
    CERTIFICATE_POLICIES = "certificatePolicies", [0x55, 0x1d, 32];
    /// 2.5.29.37,
    EXTENDED_KEY_USAGE = "extKeyUsage", [0x55, 0x1d, 37];
}
