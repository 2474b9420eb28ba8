//! Writes the seeds of the fuzz targets: sound structures of simulated hardware. Run it when a format changes:
//! `cargo run -p countersign-attestation --example fuzz_seeds`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a tool of the tests: one that cannot go on fails"
)]

use std::path::PathBuf;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::lineage::checkpoint::note_text;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::lineage::tile::encode_bundle;
use countersign_attestation::lineage::tree::TreeHead;
use countersign_attestation::protocol::{HostId, PcrSelection};
use countersign_attestation::result::svid::{CredentialExtension, KeyProtection};
use countersign_attestation::status_list::StatusList;

#[path = "../../tests/sim/amd.rs"]
mod amd;
#[path = "../../tests/sim/eventlog.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with tests that use more of it")]
mod eventlog;
#[path = "../../tests/sim/hcl.rs"]
mod hcl;
#[path = "../../tests/sim/ima.rs"]
mod ima;
#[path = "../../tests/sim/ovmf.rs"]
mod ovmf;
#[path = "../../tests/sim/tpm.rs"]
mod tpm;

use tpm::{AkKind, CredentialKey, SimManufacturer, SimTpm};

/// The point G of P-384 as SubjectPublicKeyInfo: the key whose private part is 1.
const VEK: &str = "3076301006072a8648ce3d020106052b8104002203620004\
    aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7\
    3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f";

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz")).join(target);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn seed(target: &str, name: &str, bytes: &[u8]) {
    write(&format!("corpus/{target}"), name, bytes);
}

fn main() {
    tpm_seeds();
    snp_seeds();
    launch_seeds();
    token_seeds();
    lineage_seeds();
    ima_seeds();
    eventlog_seeds();
    paravisor_seeds();
    register_log_seeds();
}

fn paravisor_seeds() {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let runtime = hcl::runtime(tpm.ak_public(), tpm.ek_public());
    seed("hcl", "runtime", &runtime);
    seed("hcl", "runtime-ak", &hcl::runtime_of(&[hcl::jwk("HCLAkPub", "sign", tpm.ak_public())]));
    let amd = amd::AmdSimulator::new(AmdProduct::Milan);
    seed("hcl", "snp", &hcl::snp_nv(&amd.evidence(&hcl::report_data(&runtime)).report, &runtime));
    let mut body = vec![7; 584];
    body.splice(520.., hcl::report_data(&runtime));
    seed("hcl", "tdx", &hcl::tdx_nv(&hcl::tdreport(&body), &runtime));
}

fn register_log_seeds() {
    use eventlog::{LogBank, LogBuilder, LogEvent};
    let mut log = LogBuilder::new(&[LogBank::Sha384]);
    for (index, kind, data) in [
        (1, 0x8000_000b, b"TdxTable".as_slice()),
        (1, 4, &[0; 4]),
        (2, 0x8000_0007, b"Exit Boot Services Invocation"),
        (3, 0x0d, b"grub_cmd: linux /vmlinuz\0"),
        (4, 0x0800_0001, b"\x01\0\0\x08:app-id:\x01\x02"),
    ] {
        log.event(&LogEvent::of(index, kind, data));
    }
    seed("ccel", "boot", &log.bytes());
    seed("ccel", "padded", &[log.bytes(), vec![0xff; 40]].concat());
    let digest = hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, b"\x01\0\0\x08:app-id:\x01\x02"));
    let runtime =
        format!(r#"{{"imr":3,"event_type":134217729,"digest":"{digest}","event":"app-id","event_payload":"0102"}}"#);
    let firmware = format!(r#"{{"imr":0,"event_type":10,"digest":"{digest}","event":"","event_payload":""}}"#);
    seed("ccel", "dstack", format!("[{firmware},{runtime}]").as_bytes());
}

fn eventlog_seeds() {
    use eventlog::{LogBank, LogBuilder, LogEvent, boot_log};
    let both = [LogBank::Sha1, LogBank::Sha256];
    seed("eventlog", "boot", &boot_log(&both, true, "quiet").bytes());
    seed("eventlog", "boot-sha384", &boot_log(&[LogBank::Sha384], false, "root=/dev/sda ro").bytes());
    let mut located = LogBuilder::new(&both);
    located.startup_locality(3);
    located.event(&LogEvent::of(0, 8, b"v\0"));
    seed("eventlog", "locality", &located.bytes());
}

fn tpm_seeds() {
    let both = [
        PcrSelection { bank: PcrHash::Sha256, pcrs: (0..24).collect() },
        PcrSelection { bank: PcrHash::Sha384, pcrs: vec![0, 7] },
    ];
    let key = CredentialKey::new();
    let manufacturer = SimManufacturer::new();
    for (name, kind) in [("rsa", AkKind::Rsa2048), ("p256", AkKind::P256)] {
        let tpm = SimTpm::new(kind);
        let (quote, pcrs) = tpm.quote(&both, &[3; 32]);
        let certify = tpm.certify(&key, &[3; 32]);
        let attest = tpm.quote_attest(&both, &[3; 32]);
        seed("tpm_attest", &format!("quote-{name}"), &attest);
        seed("tpm_attest", "quote-short", &tpm.quote_attest(&both[1..], &[]));
        seed("tpm_attest", &format!("certify-{name}"), &tpm.certify_attest(&tpm::name(&key.public), &[3; 32]));
        seed("tpm_attest", "creation", &tpm.creation_attest(&tpm::name(&key.public), &[7; 32], &[3; 32]));
        seed("tpm_public", &format!("ak-{name}"), tpm.ak_public());
        seed("tpm_public", &format!("ek-{name}"), tpm.ek_public());
        seed("tpm_signature", name, &tpm.sign(&attest));
        seed("tpm_certify", name, &certify);
        seed("ek_certificate", name, &manufacturer.ek_certificate(&tpm));
        seed("x509_certificate", &format!("ek-{name}"), &manufacturer.ek_certificate(&tpm));
        let bundle = Bundle {
            tpm_quote: quote,
            tpm_pcrs: pcrs,
            tpm_certify: certify,
            event_log: None,
            ima: None,
            snp: None,
            tdx: None,
            paravisor: None,
        };
        seed("bundle", name, &serde_json::to_vec(&bundle.encode()).unwrap());
    }
    seed("tpm_public", "credential", &key.public);
    seed("x509_certificate", "tpm-root", &manufacturer.anchor().root);
    seed("ek_certificate", "root", &manufacturer.anchor().root);
}

fn snp_seeds() {
    let amd = amd::AmdSimulator::new(AmdProduct::Milan);
    let spki = hex::decode(VEK).unwrap();
    let vek = amd.vcek_with(|profile| profile.spki = spki);
    write("material", "ark.der", &amd.ark_der);
    write("material", "ask.der", &amd.ask_der);
    write("material", "vek.der", &vek.der);
    let mut signed = amd::report(AmdProduct::Milan);
    for version in [2, 3, 5] {
        signed[0] = version;
        seed("snp_report", &format!("v{version}"), &signed);
    }
    seed("x509_certificate", "ark", &amd.ark_der);
    seed("x509_certificate", "vcek", &vek.der);
    seed("x509_crl", "empty", &amd.crl(&[]));
    seed("x509_crl", "two", &amd.crl(&[&[1, 0, 1], &[2]]));
}

/// Images of one page with the tables of whole ones, and ID blocks, the second followed by a change.
fn launch_seeds() {
    let sev = ovmf::Image { pages: 1, ..ovmf::Image::sev() };
    seed("firmware", "sev", &sev.build());
    let tdx = vec![(0, 0x1000, 0xffff_f000, 0x1000, 0, 1), (0, 0, 0x81_0000, 0x2000, 3, 0)];
    let tdx = ovmf::Image { pages: 1, tdx, ..ovmf::Image::tdx() };
    seed("firmware", "tdx", &tdx.build());
    seed("firmware", "both", &ovmf::Image { tdx: tdx.tdx, ..sev }.build());
    let mut block = [[0x4d; 48], [0; 48]].concat();
    block[0x50] = 1;
    seed("snp_id_block", "block", &block);
    seed("snp_id_block", "changed", &[&block[..], &[0x40, 0, 1]].concat());
}

fn token_seeds() {
    let digest = Sha256Digest([7; 32]);
    let extension = CredentialExtension {
        status_list: 1,
        status_index: 65_537,
        generation: 300,
        decision: digest,
        log_index: 41,
        assurance: Assurance::Hardware,
        waivers: Vec::new(),
        key_protection: KeyProtection::Tpm,
    };
    seed("credential_extension", "extension", &extension.encode());
    let waived = CredentialExtension { waivers: vec!["psp-2026-12".to_owned(), "w".repeat(128)], ..extension };
    seed("credential_extension", "waivers", &waived.encode());
    seed("credential_extension", "id", b"spiffe://fleet.example/host/gpu-1");
    let zero = digest.to_hex();
    let pulse = format!(
        r#"{{"iss":"fleet.example","epoch":1,"seq":2,"basis":1795391999000,"iat":1795391999001,"exp":1795392004000,"lists":[{{"n":0,"size":4,"sha256":"{zero}"}}],"checkpoint":{{"origin":"log","size":3,"root":"{zero}"}}}}"#
    );
    seed("pulse", "pulse", pulse.as_bytes());
    let list = serde_json::to_string(&StatusList::new().encode()).unwrap();
    let token =
        format!(r#"{{"sub":"https://b.example/l/0","iat":1795391999,"exp":1795392300,"ttl":60,"status_list":{list}}}"#);
    seed("status_list", "token", token.as_bytes());
    // The thumbprint of the point G of P-256 (RFC 7638), whose private key is 1.
    let point = hex::decode(
        "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    );
    let jwk = countersign_attestation::result::jws::Jwk::from_point(&point.unwrap()).unwrap();
    let jkt = jwk.kid().to_owned();
    let ear = format!(
        r#"{{"eat_profile":"{}","iss":"fleet.example","sub":"spiffe://fleet.example/host/gpu-1","iat":1795391999,"exp":1795392300,"jti":"{zero}","cnf":{{"jkt":"{jkt}"}},"ear.verifier-id":{{"developer":"https://countersign.dev","build":"0.1.0"}},"submods":{{}},"status":{{"status_list":{{"idx":5,"uri":"https://b.example/l/0"}}}},"assurance":"hardware","generation":1,"log_index":41}}"#,
        countersign_attestation::result::ear::PROFILE
    );
    seed("ear", "ear", ear.as_bytes());
    let keys = countersign_attestation::result::jws::JwkSet::new([jwk]);
    seed("jwks", "one", keys.to_json().as_bytes());
}

fn lineage_seeds() {
    let at = UnixMillis(1_795_392_000_000);
    let entries = [
        Entry::broker_started(at, "0.1.0"),
        Entry::host_registered(at, HostId::parse("gpu-1").unwrap(), "alice", Sha256Digest([1; 32])),
        Entry::policy_activated(at, "alice", Sha256Digest([2; 32])),
    ];
    let encoded: Vec<Vec<u8>> = entries.iter().map(|entry| entry.encode().unwrap()).collect();
    for (index, entry) in encoded.iter().enumerate() {
        seed("entry", &index.to_string(), entry);
    }
    seed("tile", "bundle", &encode_bundle(&encoded[..2]).unwrap());
    seed("tile", "path", b"tile/0/x001/234.p/5");
    let head = TreeHead { size: 3, root: Sha256Digest([9; 32]) };
    seed("checkpoint", "three", note_text("log.example/fuzz", head).as_bytes());
}

fn ima_seeds() {
    use ima::{Measured, d_ng, d_ngv2, n_ng};
    let entries = [
        Measured::ng("boot_aggregate", &[1; 32]),
        Measured::sig("/usr/bin/bash", &[2; 32], &[3, 2, 4, 1, 2, 3, 4, 0, 2, 9, 9]),
        Measured::legacy("/sbin/init", &[3; 20]),
        Measured::buf(".ima", &[4; 32]),
        Measured::violation("/var/log/x"),
        Measured::of(10, "ima-sigv2", &[d_ngv2("verity", "sha512", &[5; 64]), n_ng("/opt/x"), Vec::new()]),
        Measured::of(
            10,
            "ima-modsig",
            &[d_ng("sha256", &[6; 32]), n_ng("/lib/m.ko"), Vec::new(), d_ng("sha256", &[7; 32]), vec![8; 40]],
        ),
        Measured::of(
            10,
            "evm-sig",
            &[
                d_ng("sha256", &[6; 32]),
                n_ng("/etc/x"),
                vec![5, 2, 4, 1, 2, 3, 4, 0, 1, 9],
                n_ng("security.ima"),
                vec![4, 0, 0, 0],
                vec![1, 2, 3, 4],
                vec![0; 4],
                vec![0; 4],
                vec![0; 2],
            ],
        ),
        Measured::of(10, "n-ng|d-ng|sig", &[n_ng("/a"), d_ng("sha1", &[1; 20]), Vec::new()]),
        Measured::ng("/in/another/pcr", &[9; 32]).in_pcr(11),
    ];
    seed("ima", "whole", &ima::list(&entries));
    for (index, entry) in entries.iter().enumerate() {
        seed("ima", &index.to_string(), &ima::list(&[entries[0].clone(), entry.clone()]));
    }
    let line = |fields: &str| format!("10 {} {fields}\n", "00".repeat(20));
    let digest = format!("sha256:{}", "01".repeat(32));
    let lines = [
        line(&format!("ima-ng {digest} boot_aggregate")),
        line(&format!("ima-sig {digest} /usr/bin/bash 030204")),
        line(&format!("ima {} /sbin/init", "01".repeat(20))),
        line(&format!("ima-buf {digest} .ima 0102")),
        line(&format!("evm-sig {digest} /etc/x 0502 security.ima 04 01 0 0 33188")),
    ];
    seed("ima", "ascii", lines.concat().as_bytes());
}
