//! Names of TPM algorithm identifiers (TPM 2.0 Part 2, 6.3 and 6.4), as tpm2-tools writes them.

const NAMES: [(u16, &str); 33] = [
    (0x0001, "rsa"),
    (0x0004, "sha1"),
    (0x0005, "hmac"),
    (0x0006, "aes"),
    (0x0007, "mgf1"),
    (0x0008, "keyedhash"),
    (0x000a, "xor"),
    (0x000b, "sha256"),
    (0x000c, "sha384"),
    (0x000d, "sha512"),
    (0x0010, "null"),
    (0x0012, "sm3_256"),
    (0x0013, "sm4"),
    (0x0014, "rsassa"),
    (0x0015, "rsaes"),
    (0x0016, "rsapss"),
    (0x0017, "oaep"),
    (0x0018, "ecdsa"),
    (0x0019, "ecdh"),
    (0x001a, "ecdaa"),
    (0x001b, "sm2"),
    (0x001c, "ecschnorr"),
    (0x0020, "kdf1_sp800_56a"),
    (0x0021, "kdf2"),
    (0x0022, "kdf1_sp800_108"),
    (0x0023, "ecc"),
    (0x0025, "symcipher"),
    (0x0027, "sha3_256"),
    (0x0028, "sha3_384"),
    (0x0029, "sha3_512"),
    (0x0042, "cbc"),
    (0x0043, "cfb"),
    (0x0044, "ecb"),
];

/// The algorithm's name; its number where it has none here.
pub(super) fn name(id: u16) -> String {
    let known = NAMES.iter().find(|(known, _)| *known == id);
    known.map_or_else(|| format!("TPM_ALG_ID {id:#06x}"), |(_, name)| (*name).to_owned())
}

/// The curve's name (TPM_ECC_CURVE).
pub(super) fn curve(id: u16) -> String {
    match id {
        3 => "nist_p256".to_owned(),
        4 => "nist_p384".to_owned(),
        5 => "nist_p521".to_owned(),
        0x10 => "bn_p256".to_owned(),
        0x20 => "sm2_p256".to_owned(),
        other => format!("TPM_ECC_CURVE {other:#06x}"),
    }
}
