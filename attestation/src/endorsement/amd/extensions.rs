//! What AMD's own extensions of a VEK certificate say (AMD 57230, table "VCEK Certificate Custom Extensions").

use alloc::string::{String, ToString as _};

use crate::anchor::AmdProduct;
use crate::claims::{HexBytes, Presented, SnpSigningKey, SnpTcb};
use crate::evidence::snp::SnpReason;
use crate::rejection::Rejection;
use crate::x509::der::{Der, NotDer, integer_u64, tag};
use crate::x509::{Certificate, Oid};

macro_rules! amd_oids {
    ($($name:ident = $label:literal, [$($arc:literal),+];)+) => {
        $(const $name: Oid = Oid::new(&[0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1, $($arc),+], $label);)+
    };
}

// AMD 57230, table "VCEK Certificate Custom Extensions": 1.3.6.1.4.1.3704.1.
amd_oids! {
    STRUCT_VERSION = "structVersion", [1];
    PRODUCT_NAME = "productName", [2];
    BL_SPL = "blSPL", [3, 1];
    TEE_SPL = "teeSPL", [3, 2];
    SNP_SPL = "snpSPL", [3, 3];
    SPL_4 = "spl_4", [3, 4];
    SPL_5 = "spl_5", [3, 5];
    SPL_6 = "spl_6", [3, 6];
    SPL_7 = "spl_7", [3, 7];
    UCODE_SPL = "ucodeSPL", [3, 8];
    FMC_SPL = "fmcSPL", [3, 9];
    HWID = "hwID", [4];
    CSP_ID = "cspID", [5];
}

/// productName: "Milan-B0" on Milan VCEKs, the product line alone elsewhere. structVersion: 1 on Turin, else 0.
pub(super) fn check_product_name<'a>(certificate: &Certificate<'a>, product: AmdProduct) -> Result<&'a str, Rejection> {
    let struct_version = spl(certificate, STRUCT_VERSION)?;
    let expected_version = match product {
        AmdProduct::Milan | AmdProduct::Genoa => 0,
        AmdProduct::Turin => 1,
    };
    if struct_version != expected_version {
        return Err(SnpReason::VekExtensionMalformed
            .because(format_args!("{STRUCT_VERSION} {expected_version} for {product}"), struct_version));
    }
    let found = ia5_string(certificate, PRODUCT_NAME)?;
    let (line, _stepping) = found.split_once('-').unwrap_or((found, ""));
    if line == product.to_string() { Ok(found) } else { Err(SnpReason::VekProduct.because(product, found)) }
}

/// hwID names the chip of a VCEK, cspID the provider of a VLEK; neither has the other's.
pub(super) fn identity(
    certificate: &Certificate<'_>,
    kind: SnpSigningKey,
    product: AmdProduct,
) -> Result<(Presented<HexBytes>, Presented<String>), Rejection> {
    let (demanded, forbidden) = match kind {
        SnpSigningKey::Vcek => (HWID, CSP_ID),
        SnpSigningKey::Vlek => (CSP_ID, HWID),
    };
    if certificate.extension(forbidden).is_some() {
        return Err(SnpReason::VekExtensionMalformed.because(format_args!("{demanded} alone"), forbidden));
    }
    match kind {
        SnpSigningKey::Vcek => {
            // Raw octets: the value has no inner OCTET STRING.
            let hwid = value(certificate, HWID)?;
            let size = hwid_size(product);
            if hwid.len() != size || hwid.iter().all(|byte| *byte == 0) {
                return Err(SnpReason::VekExtensionMalformed
                    .because(format_args!("{HWID} of {size} bytes, not all zero"), hex::encode(hwid)));
            }
            Ok((Presented::Verified(HexBytes(hwid.to_vec())), Presented::NotPresented))
        }
        SnpSigningKey::Vlek => {
            let csp_id = ia5_string(certificate, CSP_ID)?;
            Ok((Presented::NotPresented, Presented::Verified(csp_id.to_string())))
        }
    }
}

/// Bytes of hwID (AMD 57230): CHIP_ID is padded with zeros where it is shorter than 64.
pub(crate) const fn hwid_size(product: AmdProduct) -> usize {
    match product {
        AmdProduct::Milan | AmdProduct::Genoa => 64,
        AmdProduct::Turin => 8,
    }
}

/// The TCB in the certificate. The reserved SPLs are zero where they are there, like the reserved bytes of
/// TCB_VERSION.
pub(super) fn certificate_tcb(certificate: &Certificate<'_>, product: AmdProduct) -> Result<SnpTcb, Rejection> {
    for reserved in [SPL_4, SPL_5, SPL_6, SPL_7] {
        if certificate.extension(reserved).is_some() && spl(certificate, reserved)? != 0 {
            return Err(SnpReason::VekExtensionMalformed.because(format_args!("{reserved} 0"), "another value"));
        }
    }
    let fmc = match product {
        AmdProduct::Turin => Some(spl(certificate, FMC_SPL)?),
        AmdProduct::Milan | AmdProduct::Genoa if certificate.extension(FMC_SPL).is_some() => {
            return Err(SnpReason::VekExtensionMalformed.because(format_args!("no {FMC_SPL} on {product}"), FMC_SPL));
        }
        AmdProduct::Milan | AmdProduct::Genoa => None,
    };
    Ok(SnpTcb {
        fmc,
        bootloader: spl(certificate, BL_SPL)?,
        tee: spl(certificate, TEE_SPL)?,
        snp: spl(certificate, SNP_SPL)?,
        microcode: spl(certificate, UCODE_SPL)?,
    })
}

fn value<'a>(certificate: &Certificate<'a>, oid: Oid) -> Result<&'a [u8], Rejection> {
    certificate
        .extension(oid)
        .map(|extension| extension.value)
        .ok_or_else(|| SnpReason::VekExtensionMissing.because(oid, "no such extension"))
}

/// An INTEGER of 0 to 255.
fn spl(certificate: &Certificate<'_>, oid: Oid) -> Result<u8, Rejection> {
    let value = value(certificate, oid)?;
    let read = || -> Result<u8, NotDer> {
        let mut outer = Der::new(value);
        let number = integer_u64(outer.content(tag::INTEGER)?)?;
        outer.finish()?;
        u8::try_from(number).map_err(|_| NotDer)
    };
    read().map_err(|NotDer| {
        SnpReason::VekExtensionMalformed.because(format_args!("{oid} as INTEGER 0 to 255"), hex::encode(value))
    })
}

fn ia5_string<'a>(certificate: &Certificate<'a>, oid: Oid) -> Result<&'a str, Rejection> {
    let value = value(certificate, oid)?;
    let read = || -> Result<&'a str, NotDer> {
        let mut outer = Der::new(value);
        let text = outer.content(tag::IA5_STRING)?;
        outer.finish()?;
        if text.is_ascii() { core::str::from_utf8(text).map_err(|_| NotDer) } else { Err(NotDer) }
    };
    read().map_err(|NotDer| {
        SnpReason::VekExtensionMalformed.because(format_args!("{oid} as IA5String"), hex::encode(value))
    })
}
