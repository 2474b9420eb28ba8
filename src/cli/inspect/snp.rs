//! AMD SEV-SNP attestation reports (SEV-SNP Firmware ABI 1.58, table "ATTESTATION_REPORT Structure"), field by field.

use countersign_attestation::reader::{ReadError, Reader};

use super::Unreadable;
use super::document::{Fields, Part, Standing, Value};

/// The whole report.
const REPORT_BYTES: usize = 0x4a0;

/// POLICY (ABI, table "Guest Policy").
const POLICY: [(u32, &str); 9] = [
    (16, "SMT"),
    (18, "MIGRATE_MA"),
    (19, "DEBUG"),
    (20, "SINGLE_SOCKET"),
    (21, "CXL_ALLOW"),
    (22, "MEM_AES_256_XTS"),
    (23, "RAPL_DIS"),
    (24, "CIPHERTEXT_HIDING_DRAM"),
    (25, "PAGE_SWAP_DISABLE"),
];

/// PLATFORM_INFO.
const PLATFORM_INFO: [(u32, &str); 7] = [
    (0, "SMT_EN"),
    (1, "TSME_EN"),
    (2, "ECC_EN"),
    (3, "RAPL_DIS"),
    (4, "CIPHERTEXT_HIDING_DRAM_EN"),
    (5, "ALIAS_CHECK_COMPLETE"),
    (7, "TIO_EN"),
];

/// The size, a known version, and ECDSA P-384 with SHA-384 as SIGNATURE_ALGO.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    let version = bytes.first_chunk().copied().map(u32::from_le_bytes);
    bytes.len() == REPORT_BYTES
        && version.is_some_and(|version| (2..=5).contains(&version))
        && bytes.get(0x34..0x38) == Some(&[1, 0, 0, 0])
}

/// ATTESTATION_REPORT.
pub(super) fn report(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let fields = report_fields(&mut reader).map_err(|error| format!("ATTESTATION_REPORT: {error}"))?;
    let signature = signature_fields(&mut reader).map_err(|error| format!("SIGNATURE: {error}"))?;
    reader.finish().map_err(|error| error.to_string())?;
    let signed = "the chip's VCEK or the provider's VLEK signs bytes 0 to 0x29f";
    let because = "it is the signature; with which key it verifies, and whether, is open";
    Ok(vec![
        Part { fields, ..Part::new("ATTESTATION_REPORT", Standing::SignedNotChecked, signed) },
        Part { fields: signature, ..Part::new("SIGNATURE", Standing::Claimed, because) },
    ])
}

fn report_fields(reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let version = reader.u32_le()?;
    let mut fields = Fields::default().with("VERSION", version).with("GUEST_SVN", reader.u32_le()?);
    let policy = reader.u64_le()?;
    let [minor, major, ..] = policy.to_le_bytes();
    fields.add("POLICY", format!("{policy:#x} (ABI {major}.{minor}; {})", bits(policy, &POLICY)));
    fields.add("FAMILY_ID", Value::hex(reader.bytes(16)?));
    fields.add("IMAGE_ID", Value::hex(reader.bytes(16)?));
    fields.add("VMPL", reader.u32_le()?);
    fields.add("SIGNATURE_ALGO", reader.u32_le()?);
    fields.add("CURRENT_TCB", tcb(reader)?);
    let platform = reader.u64_le()?;
    fields.add("PLATFORM_INFO", format!("{platform:#x} ({})", bits(platform, &PLATFORM_INFO)));
    let key_info = reader.u32_le()?;
    fields.add("AUTHOR_KEY_EN", key_info & 1 == 1);
    fields.add("MASK_CHIP_KEY", key_info >> 1 & 1 == 1);
    fields.add("SIGNING_KEY", signing_key(key_info >> 2 & 7));
    let _reserved = reader.bytes(4)?;
    for (name, size) in [
        ("REPORT_DATA", 64),
        ("MEASUREMENT", 48),
        ("HOST_DATA", 32),
        ("ID_KEY_DIGEST", 48),
        ("AUTHOR_KEY_DIGEST", 48),
        ("REPORT_ID", 32),
        ("REPORT_ID_MA", 32),
    ] {
        fields.add(name, Value::hex(reader.bytes(size)?));
    }
    fields.add("REPORTED_TCB", tcb(reader)?);
    let [family, model, stepping] = reader.array()?;
    if 3 <= version {
        fields.add("CPUID_FAM_ID", format!("{family:#04x}"));
        fields.add("CPUID_MOD_ID", format!("{model:#04x}"));
        fields.add("CPUID_STEP", format!("{stepping:#04x}"));
    }
    let _reserved = reader.bytes(21)?;
    fields.add("CHIP_ID", Value::hex(reader.bytes(64)?));
    fields.add("COMMITTED_TCB", tcb(reader)?);
    fields.add("CURRENT_VERSION", firmware(reader)?);
    fields.add("COMMITTED_VERSION", firmware(reader)?);
    fields.add("LAUNCH_TCB", tcb(reader)?);
    let (launch, current) = (reader.u64_le()?, reader.u64_le()?);
    if 5 <= version {
        fields.add("LAUNCH_MIT_VECTOR", format!("{launch:#x}"));
        fields.add("CURRENT_MIT_VECTOR", format!("{current:#x}"));
    }
    let _reserved = reader.bytes(0x98)?;
    Ok(fields)
}

/// r and s, little-endian fields of 72 bytes, written big-endian and without the zeros above.
fn signature_fields(reader: &mut Reader<'_>) -> Result<Fields, ReadError> {
    let mut fields = Fields::default();
    for name in ["R", "S"] {
        let scalar: Vec<u8> = reader.bytes(72)?.iter().rev().copied().skip_while(|byte| *byte == 0).collect();
        fields.add(name, Value::hex(&scalar));
    }
    let _reserved = reader.bytes(REPORT_BYTES - 0x2a0 - 144)?;
    Ok(fields)
}

/// TCB_VERSION, raw: which byte is which component depends on the product line.
fn tcb(reader: &mut Reader<'_>) -> Result<Value, ReadError> {
    reader.bytes(8).map(Value::hex)
}

fn firmware(reader: &mut Reader<'_>) -> Result<String, ReadError> {
    let [build, minor, major, _reserved] = reader.array()?;
    Ok(format!("{major}.{minor}.{build}"))
}

fn signing_key(number: u32) -> String {
    match number {
        0 => "VCEK".to_owned(),
        1 => "VLEK".to_owned(),
        7 => "none".to_owned(),
        other => format!("reserved ({other})"),
    }
}

fn bits(word: u64, names: &[(u32, &str)]) -> String {
    let set: Vec<&str> = names.iter().filter(|(bit, _)| word >> bit & 1 == 1).map(|(_, name)| *name).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(", ") }
}
