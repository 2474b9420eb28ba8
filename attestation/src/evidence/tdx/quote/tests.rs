//! Layouts made here, and every recorded quote where the recordings are at hand.

#![expect(clippy::as_conversions, clippy::string_slice, reason = "sizes and names made here")]

extern crate std;

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use std::path::PathBuf;
use std::{fs, println};

use super::super::body::{Body, BodyKind};
use super::{INTEL_VENDOR_ID, QUOTE_BYTES_MAX, Quote, Tee, Version};

/// A quote whose parts say where they are: every byte of a field is the field's number.
struct Layout {
    version: u16,
    tee: u32,
    body: Vec<u8>,
    inner_kind: u16,
    chain: Vec<u8>,
    auth_data: Vec<u8>,
}

fn td(version: u16, kind: BodyKind) -> Layout {
    Layout {
        version,
        tee: 0x81,
        body: (0..kind.size()).map(|at| (at % 251) as u8).collect(),
        inner_kind: 5,
        chain: b"chain\0".to_vec(),
        auth_data: vec![9; 32],
    }
}

fn sgx(version: u16) -> Layout {
    Layout { tee: 0, body: vec![3; 384], ..td(version, BodyKind::Sgx) }
}

impl Layout {
    fn header(&self) -> Vec<u8> {
        let mut header = [self.version.to_le_bytes(), 2_u16.to_le_bytes()].concat();
        header.extend(self.tee.to_le_bytes());
        header.extend([6, 0, 13, 0]);
        header.extend(INTEL_VENDOR_ID);
        header.extend([8; 20]);
        header
    }

    /// The QE's report, its signature, authenticated data and certification.
    fn qe(&self) -> Vec<u8> {
        let mut qe = [vec![4; 384], vec![5; 64]].concat();
        qe.extend((self.auth_data.len() as u16).to_le_bytes());
        qe.extend(&self.auth_data);
        qe.extend(self.inner_kind.to_le_bytes());
        qe.extend((self.chain.len() as u32).to_le_bytes());
        qe.extend(&self.chain);
        qe
    }

    fn bytes(&self) -> Vec<u8> {
        let qe = self.qe();
        let qe = match self.version {
            3 => qe,
            _ => [&6_u16.to_le_bytes()[..], &(qe.len() as u32).to_le_bytes(), &qe].concat(),
        };
        self.around(&[&[6; 64][..], &[7; 64], &qe].concat())
    }

    fn around(&self, data: &[u8]) -> Vec<u8> {
        let mut quote = self.header();
        if self.version == 5 {
            let number: u16 = match (self.tee, self.body.len()) {
                (0, _) => 1,
                (_, 584) => 2,
                (_, 648) => 3,
                _ => 4,
            };
            quote.extend(number.to_le_bytes());
            quote.extend((self.body.len() as u32).to_le_bytes());
        }
        quote.extend(&self.body);
        quote.extend((data.len() as u32).to_le_bytes());
        quote.extend(data);
        quote
    }
}

fn code(bytes: &[u8]) -> &'static str {
    Quote::parse(bytes).map(|_| "read").unwrap_or_else(|rejection| rejection.code())
}

#[test]
fn every_version_and_body_is_read_field_by_field() {
    for (layout, kind, types) in [
        (sgx(3), BodyKind::Sgx, &[5][..]),
        (sgx(4), BodyKind::Sgx, &[6, 5]),
        (sgx(5), BodyKind::Sgx, &[6, 5]),
        (td(4, BodyKind::Td10), BodyKind::Td10, &[6, 5]),
        (td(5, BodyKind::Td10), BodyKind::Td10, &[6, 5]),
        (td(5, BodyKind::Td15), BodyKind::Td15, &[6, 5]),
        (td(5, BodyKind::Td15Ex), BodyKind::Td15Ex, &[6, 5]),
    ] {
        let bytes = layout.bytes();
        let quote = Quote::parse(&bytes).expect("a quote");
        let signed = quote.unverified();
        assert_eq!((signed.kind, quote.certification_types().as_slice()), (kind, types));
        assert_eq!((signed.qe_svn, signed.pce_svn, signed.user_data), (6, 13, [8; 20]));
        let descriptor = if layout.version == 5 { 6 } else { 0 };
        assert_eq!(quote.signed_bytes, &bytes[..48 + descriptor + kind.size()], "the body's descriptor is signed too");
        assert_eq!((quote.signature, quote.attestation_key), (&[6; 64], &[7; 64]));
        assert_eq!((quote.qe().report, quote.qe().signature), (&[4; 384], &[5; 64]));
        assert_eq!((quote.qe().auth_data, quote.pck_chain().expect("a chain")), (&[9; 32][..], &b"chain"[..]));
    }
}

#[test]
fn td_report_fields_stand_where_the_specification_puts_them() {
    let bytes = td(5, BodyKind::Td15Ex).bytes();
    let quote = Quote::parse(&bytes).expect("a quote");
    let Body::Td(td) = quote.unverified().body else { panic!("a TD report") };
    let first = |at: usize| (at % 251) as u8;
    let (td15, ex) = (td.td15.expect("1.5"), td.td15_ex.expect("1.5 extended"));
    for (field, offset) in [
        (td.tee_tcb_svn[0], 0),
        (td.mr_seam[0], 16),
        (td.mr_signer_seam[0], 64),
        (td.seam_attributes[0], 112),
        (td.td_attributes[0], 120),
        (td.xfam[0], 128),
        (td.mr_td[0], 136),
        (td.mr_config_id[0], 184),
        (td.mr_owner[0], 232),
        (td.mr_owner_config[0], 280),
        (td.rtmrs[0][0], 328),
        (td.rtmrs[3][0], 472),
        (td.report_data[0], 520),
        (td15.tee_tcb_svn2[0], 584),
        (td15.mr_service_td[0], 600),
        (ex.vm_id, 648),
        (ex.td_id[0], 649),
        (ex.dev_info[0], 681),
        (ex.init_service_td_hash[0], 729),
        (ex.init_service_td_attributes[0], 777),
        (ex.init_cpu_svn[0], 785),
        (ex.init_tee_tcb_svn[0], 801),
        (ex.init_tee_fmspc[0], 817),
        (ex.current_service_td_hash[0], 829),
        (ex.current_service_td_attributes[0], 877),
    ] {
        assert_eq!(field, first(offset), "at {offset}");
    }
}

#[test]
fn enclave_report_fields_stand_where_the_specification_puts_them() {
    let mut layout = sgx(3);
    layout.body = (0..384_usize).map(|at| (at % 251) as u8).collect();
    let bytes = layout.bytes();
    let Body::Sgx(report) = Quote::parse(&bytes).expect("a quote").unverified().body else { panic!("an enclave") };
    let first = |at: usize| (at % 251) as u8;
    for (field, offset) in [
        (report.cpu_svn[0], 0),
        (report.misc_select.to_le_bytes()[0], 16),
        (report.isv_ext_prod_id[0], 32),
        (report.attributes[0], 48),
        (report.mr_enclave[0], 64),
        (report.mr_signer[0], 128),
        (report.config_id[0], 192),
        (report.isv_prod_id.to_le_bytes()[0], 256),
        (report.isv_svn.to_le_bytes()[0], 258),
        (report.config_svn.to_le_bytes()[0], 260),
        (report.isv_family_id[0], 304),
        (report.report_data[0], 320),
    ] {
        assert_eq!(field, first(offset), "at {offset}");
    }
}

#[test]
fn headers_of_other_kinds_are_refused() {
    let with = |at: usize, value: u8| {
        let mut bytes = td(4, BodyKind::Td10).bytes();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(&with(0, 2)), "tdx.header.version");
    assert_eq!(code(&with(0, 6)), "tdx.header.version");
    assert_eq!(code(&with(1, 4)), "tdx.header.version");
    assert_eq!(code(&with(2, 3)), "tdx.header.key_type");
    assert_eq!(code(&with(4, 0x82)), "tdx.header.tee_type");
    assert_eq!(code(&with(7, 0x80)), "tdx.header.tee_type");
    let mut of_td = sgx(3);
    of_td.tee = 0x81;
    assert_eq!(code(&of_td.bytes()), "tdx.header.tee_type", "version 3 is of SGX alone");
}

#[test]
fn c4_another_vendor_is_refused() {
    for at in 12..28 {
        let mut bytes = td(4, BodyKind::Td10).bytes();
        bytes[at] ^= 1;
        assert_eq!(code(&bytes), "tdx.header.vendor");
    }
}

#[test]
fn a_body_is_of_its_type_and_size_and_of_the_headers_tee() {
    let with = |number: u16, size: u32| {
        let mut bytes = td(5, BodyKind::Td15).bytes();
        bytes[48..50].copy_from_slice(&number.to_le_bytes());
        bytes[50..54].copy_from_slice(&size.to_le_bytes());
        bytes
    };
    assert_eq!(code(&with(3, 648)), "read");
    assert_eq!(code(&with(2, 648)), "tdx.body.size");
    assert_eq!(code(&with(3, 647)), "tdx.body.size");
    assert_eq!(code(&with(3, 0xffff_fff0)), "tdx.body.size");
    for number in [0, 5, 9, 0x0103] {
        assert_eq!(code(&with(number, 648)), "tdx.body.type");
    }
    assert_eq!(code(&with(1, 384)), "tdx.body.type", "an enclave is no trust domain");
    let mut enclave = sgx(5).bytes();
    enclave[4] = 0x81;
    assert_eq!(code(&enclave), "tdx.body.type");
}

#[test]
fn c12_the_flat_layout_of_version_3_is_none_of_version_4() {
    let layout = td(4, BodyKind::Td10);
    let qe = layout.qe();
    let flat = layout.around(&[&[6; 64][..], &[7; 64], &qe].concat());
    assert_eq!(code(&flat), "tdx.certification.type");
    // The chain beside the attestation key, without the QE's report between them.
    let chain = [&5_u16.to_le_bytes()[..], &6_u32.to_le_bytes(), b"chain\0"].concat();
    assert_eq!(code(&layout.around(&[&[6; 64][..], &[7; 64], &chain].concat())), "tdx.certification.type");
    // And the wrapped one is none of version 3.
    let wrapped = [&6_u16.to_le_bytes()[..], &(qe.len() as u32).to_le_bytes(), &qe].concat();
    assert!(Quote::parse(&sgx(3).around(&[&[6; 64][..], &[7; 64], &wrapped].concat())).is_err());
}

#[test]
fn every_part_is_as_long_as_it_says() {
    for layout in [sgx(3), td(4, BodyKind::Td10), td(5, BodyKind::Td15)] {
        let bytes = layout.bytes();
        for end in 0..bytes.len() {
            assert_eq!(code(&bytes[..end]), "tdx.length", "cut at {end}");
        }
        // One byte more or less than is there, in each size field, from outside to inside.
        let data = bytes.len() - Quote::parse(&bytes).expect("a quote").qe_bytes.len() - 64 - 4;
        let mut sizes = vec![(data, 4), (bytes.len() - 6 - 4, 4), (bytes.len() - 6 - 4 - 2 - 32 - 2, 2)];
        if layout.version != 3 {
            sizes.push((data + 4 + 128 + 2, 4));
        }
        for (at, width) in sizes {
            for change in [-1_i64, 1] {
                let mut changed = bytes.clone();
                let mut size = [0; 8];
                size[..width].copy_from_slice(&bytes[at..at + width]);
                let stated = u64::from_le_bytes(size).checked_add_signed(change).expect("no overflow");
                changed[at..at + width].copy_from_slice(&stated.to_le_bytes()[..width]);
                assert_ne!(code(&changed), "read", "size at {at} by {change}");
            }
            let mut changed = bytes.clone();
            changed[at..at + width].fill(0xff);
            assert_eq!(code(&changed), "tdx.length", "size at {at}");
        }
    }
}

#[test]
fn d6_zeros_may_follow_a_quote_and_nothing_else() {
    let bytes = td(4, BodyKind::Td10).bytes();
    for size in [1, 66, 3000] {
        let mut padded = bytes.clone();
        padded.resize(bytes.len() + size, 0);
        assert_eq!(code(&padded), "read");
        for at in [bytes.len(), padded.len() - 1] {
            let mut changed = padded.clone();
            changed[at] = 1;
            assert_eq!(code(&changed), "tdx.trailing", "byte {at}");
        }
    }
    let longest = [bytes.clone(), vec![0; QUOTE_BYTES_MAX - bytes.len()]].concat();
    assert_eq!(code(&longest), "read");
    assert_eq!(code(&[longest, vec![0]].concat()), "tdx.too_large");
}

#[test]
fn d9_a_pck_that_is_only_named_is_refused_and_read() {
    for kind in 1..=4 {
        let layout = Layout { inner_kind: kind, ..sgx(3) };
        let bytes = layout.bytes();
        let quote = Quote::parse(&bytes).expect("a quote");
        assert_eq!(quote.certification_types(), [kind]);
        assert_eq!(quote.pck_chain().map_err(|rejection| rejection.code()), Err("tdx.certification.type"));
    }
    for kind in [0, 6, 7, 9, 0x0105] {
        let layout = Layout { inner_kind: kind, ..sgx(3) };
        assert_eq!(code(&layout.bytes()), "tdx.certification.type");
    }
}

#[test]
fn the_smallest_quote_has_nothing_in_its_variable_parts() {
    let smallest = Layout { chain: Vec::new(), auth_data: Vec::new(), ..sgx(3) }.bytes();
    assert_eq!((code(&smallest), smallest.len()), ("read", 48 + 384 + 4 + 64 + 64 + 384 + 64 + 2 + 2 + 4));
}

/// The recorded quotes, each with the name of its folder.
fn recorded() -> Vec<(String, Vec<u8>)> {
    let default = || String::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors"));
    #[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
    let root = PathBuf::from(std::env::var("COUNTERSIGN_VECTORS").unwrap_or_else(|_| default()));
    let Ok(folders) = fs::read_dir(root.join("tdx")) else {
        println!("no recorded quotes: skipped");
        return Vec::new();
    };
    let mut quotes = Vec::new();
    for folder in folders {
        let folder = folder.expect("a folder").path();
        let name = format!("{}", folder.file_name().expect("a name").display());
        if let Ok(quote) = fs::read(folder.join("quote.bin")) {
            quotes.push((name, quote));
        }
    }
    quotes.sort();
    quotes
}

#[test]
fn c12_every_recorded_quote_is_read() {
    let quotes = recorded();
    assert!(quotes.is_empty() || 50 <= quotes.len(), "{} quotes", quotes.len());
    for (name, mut bytes) in quotes {
        // What its library's samples hold: 39 bytes of something after the quote.
        if name == "tdx-v4-gotdxguest-3507b5" {
            assert_eq!(code(&bytes), "tdx.trailing");
            bytes.truncate(4935);
        }
        let quote = Quote::parse(&bytes).unwrap_or_else(|rejection| panic!("{name}: {rejection}"));
        let signed = quote.unverified();
        let expected = match &name[..6] {
            "sgx-v3" => (Version::V3, Tee::Sgx),
            "tdx-v4" => (Version::V4, Tee::Tdx),
            "tdx-v5" => (Version::V5, Tee::Tdx),
            other => panic!("{other}"),
        };
        assert_eq!((signed.version, signed.tee), expected, "{name}");
        assert_eq!(quote.qe().auth_data.len(), 32, "{name}: Intel's QEs authenticate 32 bytes");
        if let Ok(chain) = quote.pck_chain() {
            assert!(chain.starts_with(b"-----BEGIN CERTIFICATE-----"), "{name}");
            assert!(!chain.contains(&0), "{name}: the NUL that ends it is not of it");
        }
    }
}
