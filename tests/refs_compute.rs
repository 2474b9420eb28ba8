//! `countersign refs compute`, as an operator runs it: offline, from files, without a credential.
#![expect(clippy::expect_used, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_policies::reference::ReferenceManifest;
use serde_json::Value;

#[path = "sim/ovmf.rs"]
mod ovmf;

/// The measurement that sev-snp-measure 0.0.13 computes of this image, 4 CPUs of EPYC-Milan and features 21h.
const MILAN: &str = "515c17d22eb0356ddba20212397ee33e0e4b3d2287cbd656ce80d0d10eb5e7bc0998986d190c05f765d1b297f3cf66aa";
/// Of 2 CPUs of EPYC-Genoa-v1 with a kernel.
const GENOA: &str = "275a730eea74c06748387b33a929510c17647e00962ff8eaf796a09436c199d5347d1563c4863eb2ff639a0013cca720";
/// MRTD of the image for TDX.
const MR_TD: &str = "f73e8e49bf925800846c8bd1067f70d582a408a6b45504b8ad46dcf0b669906a9a5bf989d2fac69994eed6957b364e2a";
/// RTMR2 after a command line and an initial file system.
const RTMR2: &str = "8df12e8852dbefc4990441727587784d458eaebd424a7449df4cac5ff5c5697136089e5d23371935abdd67d6e7cc1bb7";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().expect("a folder") };
        files.write("sev.fd", &ovmf::Image::sev().build());
        files.write("tdx.fd", &ovmf::Image::tdx().build());
        files.write("kernel", b"kernel");
        files.write("initrd", b"initrd");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    /// Runs `refs compute` in the folder.
    fn compute(&self, arguments: &[&str]) -> Output {
        compute(self.folder.path(), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.compute(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn compute(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.current_dir(folder).args(["refs", "compute"]).args(arguments);
    command.env_remove("COUNTERSIGN_OPERATOR").env_remove("COUNTERSIGN_BROKER");
    command.output().expect("the program")
}

const SNP: [&str; 7] = ["snp", "--ovmf", "sev.fd", "--vcpus", "4", "--vcpu-type", "EPYC-Milan"];

#[test]
fn snp_measurements_are_printed_for_people_programs_and_the_broker() {
    let files = Files::new();
    let milan = [&SNP[..], &["--guest-features", "0x21"]].concat();
    let facts = files.json(&milan);
    assert_eq!(facts["measurement"], MILAN);
    assert_eq!((&facts["vcpu_signature"], &facts["guest_features"]), (&Value::from("0xa00f11"), &Value::from("0x21")));
    let unmeasured = facts["not_measured"].as_array().expect("a list").len();
    let kernel = ["--kernel", "kernel", "--initrd", "initrd", "--append", "console=ttyS0"];
    let genoa = [&["snp", "--ovmf", "sev.fd", "--vcpus", "2", "--vcpu-signature", "a10f10"], &kernel[..]].concat();
    let facts = files.json(&genoa);
    assert_eq!(facts["measurement"], GENOA);
    assert_eq!(facts["not_measured"].as_array().expect("a list").len() + 1, unmeasured, "the kernel is measured");
    let table = files.compute(&milan);
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.lines().any(|line| line.starts_with("measurement ") && line.ends_with(MILAN)), "{table}");
    let manifest = files.compute(&[&milan[..], &["--manifest", "golden"]].concat());
    let parsed = ReferenceManifest::parse(&manifest.stdout).expect("a manifest the broker takes");
    assert_eq!(parsed.id(), "golden");
    let manifest: Value = serde_json::from_slice(&manifest.stdout).expect("JSON");
    assert_eq!(manifest["snp"]["measurement"], Value::from(vec![MILAN]));
}

#[test]
fn tdx_registers_are_printed_as_far_as_they_are_determined() {
    let files = Files::new();
    let events = ["--event", "2:options:console=ttyS0 initrd=initrd", "--event", "2:file:initrd"];
    let facts = files.json(&[&["tdx", "--firmware", "tdx.fd"], &events[..]].concat());
    assert_eq!((&facts["mr_td"], &facts["rtmr2"]), (&Value::from(MR_TD), &Value::from(RTMR2)));
    assert_eq!(facts["not_determined"], Value::from(vec!["rtmr0", "rtmr1", "rtmr3"]));
    assert!(facts.get("rtmr0").is_none(), "not zero: not known");
    let sections = files.json(&["tdx", "--firmware", "tdx.fd", "--page-order", "section"]);
    assert_ne!(sections["mr_td"], facts["mr_td"]);
}

#[test]
fn what_cannot_be_computed_says_why() {
    let files = Files::new();
    files.write("half.fd", &[0; 2048]);
    let auth = vec![0; 4096];
    files.write("auth", &auth);
    for (arguments, expected) in [
        (&["snp", "--ovmf", "half.fd", "--vcpus", "1", "--vcpu-type", "EPYC"][..], "launch.firmware.size"),
        (&["snp", "--ovmf", "tdx.fd", "--vcpus", "1", "--vcpu-type", "EPYC"], "launch.firmware.metadata"),
        (&["snp", "--ovmf", "sev.fd", "--vcpus", "0", "--vcpu-type", "EPYC"], "launch.vcpus"),
        (&["snp", "--ovmf", "sev.fd", "--vcpus", "1", "--vcpu-type", "host"], "no CPU model host; known: EPYC-Rome"),
        (&["snp", "--ovmf", "absent", "--vcpus", "1", "--vcpu-type", "EPYC"], "absent"),
        (&["snp", "--ovmf", "sev.fd", "--vcpus", "1"], "--vcpu-type"),
        (&["snp", "--ovmf", "sev.fd", "--vcpus", "1", "--vcpu-type", "EPYC", "--initrd", "initrd"], "--kernel"),
        (&["snp", "--ovmf", "sev.fd", "--vcpus", "1", "--vcpu-type", "EPYC", "--id-block", "kernel"], "--id-auth"),
        (&["tdx", "--firmware", "sev.fd"], "launch.firmware.metadata"),
        (&["tdx", "--firmware", "tdx.fd", "--event", "4:text:x"], "launch.rtmr"),
        (&["tdx", "--firmware", "tdx.fd", "--event", "2:digest:00"], "96 hex digits"),
        (&["tdx", "--firmware", "tdx.fd", "--event", "2:other:x"], "no kind other"),
        (&["tdx", "--firmware", "tdx.fd", "--event", "2"], "RTMR:KIND:WHAT"),
    ] {
        let output = files.compute(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: no value");
    }
    let with_block = [&SNP[..], &["--id-block", "kernel", "--id-auth", "auth"]].concat();
    let output = files.compute(&with_block);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("snp.id_block.form"), "{said}");
}
