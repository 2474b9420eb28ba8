//! Reports of paravisors: any bytes as the NV index, and as the runtime data that a simulated chip did report.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::paravisor::{Hardware, HclReport, azure};

use crate::snp::{NOW, VEK, sign};

/// A good report of SNP, without signature and with no REPORT_DATA yet.
const REPORT: &[u8; 0x2a0] = include_bytes!("../corpus/snp_report/v3");

/// An NV index: as it comes, and with its bytes as runtime data.
pub fn hcl(bytes: &[u8]) {
    let (vek, pair) = &*VEK;
    if let Ok(report) = HclReport::parse(bytes) {
        assert!(report.runtime_bytes().len() + report.padding() < bytes.len());
        let _ = report.runtime_data();
        assert!(azure::verify(&report, Hardware::Snp(vek), NOW).is_err(), "nobody has the key");
    }
    let nv = nv(bytes, |report| sign(report, pair));
    let Ok(report) = HclReport::parse(&nv) else { return };
    let read = report.runtime_data();
    let verified = azure::verify(&report, Hardware::Snp(vek), NOW);
    assert_eq!(read.is_ok(), verified.is_ok(), "runtime data that can be read, and that the chip reported");
    let (Ok(read), Ok(verified)) = (read, verified) else { return };
    assert_eq!(verified.ak_spki(), read.ak().spki());
    assert_eq!(verified.claims().ak, Sha256Digest::of(&[read.ak().spki()]));
    assert!(serde_json::to_vec(verified.claims()).is_ok());
    assert!(verified.check_ak_spki(&[]).is_err());
}

/// The NV index around runtime data.
fn nv(runtime: &[u8], sign: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let mut report = REPORT.to_vec();
    report[0x50..0x90].fill(0);
    report[0x50..0x70].copy_from_slice(&Sha256Digest::of(&[runtime]).0);
    let mut nv = b"HCLA".to_vec();
    for field in [number(1), number(32 + 1184 + 20 + runtime.len()), number(2)] {
        nv.extend(field);
    }
    nv.extend([0; 16]);
    nv.extend(sign(report));
    for field in [number(20 + runtime.len()), number(1), number(2), number(1), number(runtime.len())] {
        nv.extend(field);
    }
    nv.extend(runtime);
    nv
}
