//! docs/operators.md, every command of it in its order, against a fleet that does what the text says it does.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use countersign_attestation::claims::PcrHash;
use tempfile::TempDir;

use crate::fleet::{Fleet, TRUST_DOMAIN, succeed, wait_until};
use crate::sim_host::{SimHost, anchor};
use crate::tpm::SimManufacturer;

const GUIDE: &str = include_str!("../../docs/operators.md");

/// A section of the guide: its blocks of commands.
struct Section {
    title: &'static str,
    blocks: Vec<&'static str>,
}

fn sections() -> Vec<Section> {
    let parts = GUIDE.split("\n## ").map(|part| part.split_once('\n').unwrap());
    let blocks = |text: &'static str| {
        text.split("```sh\n").skip(1).map(|block| block.split_once("```").unwrap().0).collect::<Vec<_>>()
    };
    parts.map(|(title, text)| Section { title, blocks: blocks(text) }).collect()
}

/// Runs a section's blocks as an operator would, and gives what each printed.
struct Reader<'a> {
    fleet: &'a Fleet,
    sections: std::vec::IntoIter<Section>,
    preamble: String,
}

impl<'a> Reader<'a> {
    fn new(fleet: &'a Fleet) -> Self {
        symlink(fleet.data(), fleet.path().join("broker")).unwrap();
        let mut sections = sections().into_iter();
        let first = sections.next().unwrap();
        let [preamble] = first.blocks[..] else { panic!("one block before the first section") };
        let preamble = preamble.replace("https://localhost:8443", &fleet.url());
        Self { fleet, sections, preamble }
    }

    fn section(&mut self, title: &str) -> std::vec::IntoIter<&'static str> {
        let section = self.sections.next().unwrap();
        assert_eq!(section.title, title);
        section.blocks.into_iter()
    }

    fn run(&self, block: Option<&str>) -> String {
        let script = format!("{}{}", self.preamble, block.unwrap().replace("example.org", TRUST_DOMAIN));
        let bin = Path::new(env!("CARGO_BIN_EXE_countersign")).parent().unwrap();
        let script = format!("PATH={}:$PATH\n{script}", bin.display());
        succeed(Command::new("bash").args(["-eu", "-c", &script]).current_dir(self.fleet.path()))
    }
}

fn standing(fleet: &Fleet, id: &str) -> String {
    fleet.host(id).trust.standing
}

#[test]
fn every_command_of_the_operators_guide_does_what_it_says() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start_with(&[anchor(&maker, folder.path())], |config| config.lease_ms = 200_000);
    let mut reader = Reader::new(&fleet);
    let enrolled = |id: &str| SimHost::enrolled(&fleet, &maker, id);
    let (mut first, mut canary, mut leaked) = (enrolled("gpu-17"), enrolled("gpu-18"), enrolled("gpu-19"));

    let mut blocks = reader.section("Register a host type");
    assert_eq!(first.attest(&fleet).problem().code, "reference.none");
    let said = reader.run(blocks.next());
    assert!(said.contains(r#""id": "image-41""#) && said.contains("1 passing, which now fail on: gpu-17"), "{said}");
    for host in [&mut first, &mut canary, &mut leaked] {
        host.attest_ok(&fleet);
    }
    let said = reader.run(blocks.next());
    assert!(said.contains("granted of gpu-17") && said.contains("matches manifest image-41"), "{said}");
    assert!(blocks.next().is_none());

    let mut blocks = reader.section("Roll a kernel update without an outage");
    canary.tpm.extend(PcrHash::Sha256, 4, b"the new kernel");
    assert_eq!(canary.attest(&fleet).problem().code, "reference.pcr_mismatch");
    let said = reader.run(blocks.next());
    assert!(said.contains("expected sha256 PCR 4") && said.contains("(manifest image-41)"), "{said}");
    let said = reader.run(blocks.next());
    assert!(said.contains("- tpm.pcrs.sha256.4 ") && said.contains("+ tpm.pcrs.sha256.4 "), "{said}");
    assert!(said.contains("1 passing, which now fail on: gpu-18"), "{said}");
    let said = reader.run(blocks.next());
    assert!(said.contains("gpu-18"), "{said}");
    canary.renew();
    canary.attest_ok(&fleet);
    first.attest_ok(&fleet);
    assert!(blocks.next().is_none());

    let mut blocks = reader.section("Retire the old kernel");
    let said = reader.run(blocks.next());
    assert!(said.contains("2 lost: gpu-17, gpu-19"), "{said}");
    for host in [&mut first, &mut leaked] {
        host.tpm.extend(PcrHash::Sha256, 4, b"the new kernel");
        host.attest_ok(&fleet);
    }
    let said = reader.run(blocks.next());
    assert!(said.contains(r#""revoked_hosts":0"#), "{said}");
    assert_eq!(standing(&fleet, "gpu-17"), "trusted");
    assert!(blocks.next().is_none());
    exceptions(&fleet, &mut reader);

    let mut blocks = reader.section("Change a policy");
    let said = reader.run(blocks.next());
    assert!(said.contains("0 hosts would lose trust") && said.contains("rack-5-is-closed"), "{said}");
    first.attest_ok(&fleet);
    assert!(blocks.next().is_none());

    let mut blocks = reader.section("Show it to somebody else");
    let newest = fleet.host("gpu-17").trust.last_entry;
    wait_until("the newest decision is published", || {
        let checkpoint = std::fs::read_to_string(fleet.data().join("log/checkpoint")).unwrap();
        newest < checkpoint.lines().nth(1).unwrap().parse().unwrap()
    });
    let said = reader.run(blocks.next());
    assert!(said.contains("signature verified") && said.contains("identical"), "{said}");
    assert!(fleet.path().join("decision.json").is_file());
    let registered: Vec<&str> =
        said.lines().filter(|line| line.contains(r#""event":"reference_registered""#)).collect();
    assert_eq!(registered.len(), 2, "{said}");
    let none = fleet.operator_ok(&["log", "search", "--reason", "no.such.", "--output", "json"]);
    assert_eq!(none, "");
    let refused = fleet.operator(&["log", "search", "--event", "granteed"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("one of broker_started, "), "no silence for a typo");
    let revoked = fleet.operator_ok(&["log", "search", "--event", "revoked", "--reason", "instance.denied"]);
    assert!(revoked.lines().count() == 1 && revoked.contains("gpu-19"), "{revoked}");
    assert!(blocks.next().is_none() && reader.sections.next().is_none());
}

fn exceptions(fleet: &Fleet, reader: &mut Reader<'_>) {
    let mut blocks = reader.section("Waive an advisory for a week");
    let said = reader.run(blocks.next());
    assert!(said.contains("sa-00960-rack-4") && said.contains("INTEL-SA-00960"), "{said}");
    let said = reader.run(blocks.next());
    assert!(said.contains(r#""revoked_hosts":0"#), "{said}");
    assert!(blocks.next().is_none());

    let mut blocks = reader.section("Revoke a leaked chip");
    let said = reader.run(blocks.next());
    assert!(said.contains("revoked of gpu-19") && said.contains("instance.denied"), "{said}");
    assert!(said.contains("its key was published"), "{said}");
    assert_eq!((standing(fleet, "gpu-19"), standing(fleet, "gpu-17")), ("revoked".into(), "trusted".into()));
    let said = reader.run(blocks.next());
    assert!(said.contains("gpu-17") && said.contains("gpu-18") && !said.contains("gpu-19"), "{said}");
    assert_eq!(standing(fleet, "gpu-18"), "trusted", "a dry run");
    assert!(blocks.next().is_none());
}
