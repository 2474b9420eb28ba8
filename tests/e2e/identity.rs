//! Which TPM a host is: enrolment by a certified AK or IAK, the immutable record of it, and keys an operator no longer
//! believes.

use std::fs;

use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::{Base64Bytes, Endorsement, PcrSelection};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::{AkKind, SimManufacturer, SimTpm};

/// A fleet that pins one maker for EKs and another for AKs.
pub(crate) fn fleet(folder: &tempfile::TempDir, eks: &SimManufacturer, aks: &SimManufacturer) -> Fleet {
    let mut fleet = Fleet::start(&[anchor(eks, folder.path())]);
    let pinned = fleet.data().join("anchors/ak/simulated/cloud");
    fs::create_dir_all(&pinned).unwrap();
    fs::write(pinned.join("root.der"), aks.anchor().root).unwrap();
    fleet.kill_broker();
    fleet.restart_broker();
    fleet
}

fn spki(public: &[u8]) -> Vec<u8> {
    Public::read(public).unwrap().spki()
}

fn ak_certificate(maker: &SimManufacturer, public: &[u8]) -> Base64Bytes {
    Base64Bytes(maker.certificate(&spki(public), |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
    }))
}

fn quote(tpm: &SimTpm, data: &[u8]) -> Vec<u8> {
    tpm.signed(&tpm.quote_attest(&[PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0] }], data))
}

fn shown(fleet: &Fleet, id: &str) -> Value {
    serde_json::from_str(&fleet.operator_ok(&["hosts", "show", id, "-o", "json"])).unwrap()
}

#[test]
fn a7_a8_a_certified_ak_enrols_its_own_tpm_and_is_the_only_key_that_attests() {
    let folder = tempfile::tempdir().unwrap();
    let (eks, clouds) = (SimManufacturer::new(), SimManufacturer::new());
    let fleet = fleet(&folder, &eks, &clouds);
    register_golden(&fleet, "golden");
    let mut host = SimHost::new(&fleet, &eks, "host-a");
    let by = |certificate| Endorsement::AkCertificate { certificate, intermediates: Vec::new() };
    let certificate = ak_certificate(&clouds, host.tpm.ak_public());
    let honest = |host: &SimHost| host.enroll_by(&fleet, by(certificate.clone()), |data| quote(&host.tpm, data));

    // Registered by the EK, as others are: a certified AK is another key.
    host.register(&fleet);
    assert_eq!(honest(&host).problem().code, "enrollment.ek.not_registered");
    fleet.operator_ok(&["hosts", "remove", "host-a"]);
    host.register_by(&fleet, Sha256Digest::of(&[&spki(host.tpm.ak_public())]));
    let refused = |endorsement: Endorsement, sign: &dyn Fn(&[u8; 32]) -> Vec<u8>| {
        host.enroll_by(&fleet, endorsement, sign).problem().code
    };
    // An authority for EKs does not vouch for AKs, nor does an EK's certificate.
    let by_eks = ak_certificate(&eks, host.tpm.ak_public());
    assert_eq!(refused(by(by_eks), &|data| quote(&host.tpm, data)), "x509.signature");
    let ek_certificate = Base64Bytes(host.ek_certificate.clone());
    assert_eq!(refused(by(ek_certificate), &|data| quote(&host.tpm, data)), "tpm.ak.certificate");
    // The certificate is public: whoever copies it has no AK that signs.
    let thief = SimTpm::new(AkKind::P256);
    assert_eq!(refused(by(certificate.clone()), &|data| quote(&thief, data)), "tpm.signature.invalid");
    assert_eq!(refused(by(certificate.clone()), &|_| quote(&host.tpm, &[7; 32])), "binding.qualifying_data");
    let others = ak_certificate(&clouds, thief.ak_public());
    assert_eq!(refused(by(others), &|data| quote(&host.tpm, data)), "tpm.ak.key");
    let many =
        Endorsement::AkCertificate { certificate: certificate.clone(), intermediates: vec![certificate.clone(); 9] };
    assert_eq!(refused(many, &|data| quote(&host.tpm, data)), "request.malformed");

    assert_eq!(honest(&host).status, 200);
    assert_eq!(honest(&host).problem().code, "enrollment.host.already_enrolled");
    host.attest_ok(&fleet);
    let enrolled = &shown(&fleet, "host-a")["enrolled"];
    assert_eq!(enrolled["endorsed_by"], "ak_certificate");
    assert_eq!(enrolled["identity"]["manufacturer"], "00001014");
    assert_eq!(enrolled["identity"]["kind"], "simulated");
    let table = fleet.operator_ok(&["hosts", "list"]);
    assert!(table.contains("00001014 sim 00010001 (simulated)"), "{table}");
    // A8: the record of the enrolment names the AK; another one, from this maker or not, attests nothing.
    let enrolled_tpm = std::mem::replace(&mut host.tpm, thief);
    assert_eq!(host.attest(&fleet).problem().code, "tpm.signature.invalid");
    host.tpm = enrolled_tpm;
    host.attest_ok(&fleet);
}

#[test]
fn a7_an_initial_attestation_key_enrols_the_ak_that_it_certified() {
    let folder = tempfile::tempdir().unwrap();
    let (eks, makers) = (SimManufacturer::new(), SimManufacturer::new());
    let fleet = fleet(&folder, &eks, &makers);
    register_golden(&fleet, "golden");
    let mut host = SimHost::new(&fleet, &eks, "host-a");
    let iak = SimTpm::new(AkKind::Rsa2048);
    host.register_by(&fleet, Sha256Digest::of(&[&spki(iak.ak_public())]));
    let endorsement = || Endorsement::InitialAttestationKey {
        certificate: ak_certificate(&makers, iak.ak_public()),
        public: Base64Bytes(iak.ak_public().to_vec()),
        intermediates: Vec::new(),
    };
    let certified = |name: &[u8], data: &[u8; 32]| iak.signed(&iak.certify_attest(name, data));
    let code = |sign: &dyn Fn(&[u8; 32]) -> Vec<u8>| host.enroll_by(&fleet, endorsement(), sign).problem().code;
    let (name, other) = (host.tpm.ak_name(), SimTpm::new(AkKind::P256));
    assert_eq!(code(&|data| certified(&other.ak_name(), data)), "tpm.certify.name");
    assert_eq!(code(&|_| certified(&name, &[7; 32])), "binding.qualifying_data");
    assert_eq!(code(&|data| other.signed(&other.certify_attest(&name, data))), "tpm.signature.scheme");
    assert_eq!(code(&|data| quote(&iak, data)), "tpm.attest.type");
    assert_eq!(code(&|data| certified(&name, data)[1..].to_vec()), "tpm.malformed");
    let answer = host.enroll_by(&fleet, endorsement(), |data| certified(&name, data));
    assert_eq!(answer.status, 200, "{}", answer.text());
    host.attest_ok(&fleet);
    assert_eq!(shown(&fleet, "host-a")["enrolled"]["endorsed_by"], "initial_attestation_key");
}

/// A real TPM with a P-384 EK, under a manufacturer of whom the operator pinned the root alone.
#[test]
fn an_ecc_ek_enrols_with_the_intermediates_its_host_sends() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(folder.path());
    let [issuer, root] = machine.tpm.ca_certificates();
    let fleet = Fleet::start(&[root]);
    let ek = ["--ek", "ecc-p384"];
    let mut identity = machine.agent(&["identity", "--output", "json"]);
    let identity: Value = serde_json::from_slice(&identity.args(ek).output().unwrap().stdout).unwrap();
    let fingerprint = identity["fingerprint"].as_str().unwrap();
    fleet.operator_ok(&["hosts", "add", "host-a", "--ek-sha256", fingerprint]);
    let enroll = |more: &[&std::ffi::OsStr]| {
        let mut agent = machine.agent(&["enroll", "--host", "host-a", "--broker", &fleet.url(), "--broker-ca"]);
        let output = agent.arg(fleet.broker_ca()).args(ek).args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = enroll(&[]);
    assert!(code == Some(3) && said.contains("x509.path.none"), "{said}");
    let (code, said) = enroll(&["--intermediates".as_ref(), issuer.as_os_str()]);
    assert_eq!(code, Some(0), "{said}");
    let enrolled = &shown(&fleet, "host-a")["enrolled"];
    assert_eq!(enrolled["endorsed_by"], "endorsement_key");
    assert_eq!((&enrolled["identity"]["model"], &enrolled["identity"]["kind"]), (&json!("swtpm"), &json!("simulated")));
    // Nothing is known good yet; what it shows is.
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");
    let (code, said) = machine.attest_once();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a17_a_denied_ek_neither_enrols_nor_attests_and_firmware_has_a_floor() {
    let folder = tempfile::tempdir().unwrap();
    let maker = SimManufacturer::new();
    let mut fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    register_golden(&fleet, "golden");
    let mut leaked = SimHost::enrolled(&fleet, &maker, "leaked");
    let mut old = SimHost::enrolled(&fleet, &maker, "old");
    let new = SimHost::new(&fleet, &maker, "new");
    new.register(&fleet);
    for host in [&mut leaked, &mut old] {
        host.tpm.firmware_version = 0x0003_005a_0000_0005;
        host.attest_ok(&fleet);
    }
    let list = fleet.data().join("collateral/tpm");
    fs::create_dir_all(&list).unwrap();
    let deny = |fleet: &mut Fleet, denied: Value| {
        fs::write(list.join("denied.json"), denied.to_string()).unwrap();
        fleet.kill_broker();
        fleet.restart_broker();
    };
    let floor = |version: &str| json!([{"manufacturer": "00001014", "version": version}]);
    deny(&mut fleet, json!({"minimum_firmware": floor("3.90.0.5")}));
    leaked.attest_ok(&fleet);
    old.attest_ok(&fleet);
    let keys = [leaked.ek_sha256(), new.ek_sha256()];
    deny(&mut fleet, json!({"endorsement_keys": keys, "minimum_firmware": floor("3.90.0.6")}));
    // Genuine evidence that is no longer believed: the broker judges it again without the hosts' help.
    for (id, host, code) in [("leaked", &mut leaked, "tpm.ek.denied"), ("old", &mut old, "tpm.firmware.below_minimum")]
    {
        assert_eq!(fleet.host_until(id, "revoked").trust.reasons, [code], "{id}");
        assert_eq!(host.attest(&fleet).problem().code, "trust.revoked", "{id}");
        fleet.operator_ok(&["hosts", "readmit", id]);
        host.renew();
        assert_eq!(host.attest(&fleet).problem().code, code, "{id}");
    }
    assert_eq!(new.begin(&fleet).problem().code, "tpm.ek.denied");
}

/// TPMA_OBJECT of a key that signs what its TPM made, in tpm2-tools' words.
const ATTESTING: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign";

/// A primary key of this algorithm kept at `handle`; its `SubjectPublicKeyInfo`, and the template it was made of.
pub(crate) fn persist(
    machine: &Machine,
    folder: &std::path::Path,
    algorithm: &str,
    handle: &str,
) -> (Vec<u8>, Vec<u8>) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let tool = |name: &str, args: &[&str]| {
        let output = machine.tpm.tool(name, args);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (context, template, public) = (path("key.ctx"), path("key.template"), path("key.der"));
    let (template_data, save) = (format!("--template-data={template}"), ["-c", &context]);
    let make = ["-C", "e", "-G", algorithm, "-a", ATTESTING, &template_data, save[0], save[1]];
    tool("tpm2_createprimary", &make);
    tool("tpm2_readpublic", &["-c", &context, "-f", "der", "-o", &public]);
    tool("tpm2_evictcontrol", &["-C", "o", "-c", &context, handle]);
    tool("tpm2_flushcontext", &["-t"]);
    (fs::read(public).unwrap(), fs::read(template).unwrap())
}

pub(crate) fn ak_certificate_of(maker: &SimManufacturer, spki: &[u8]) -> Vec<u8> {
    maker.certificate(spki, |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
    })
}

/// Registers what the agent says of its certified key, and enrols; exit code and what was said.
pub(crate) fn enroll_with(machine: &Machine, fleet: &Fleet, id: &str, key: &[&str]) -> (Option<i32>, String) {
    let identity = machine.agent(&["identity", "--output", "json"]).args(key).output().unwrap();
    let said = String::from_utf8_lossy(&identity.stderr).into_owned();
    let Ok(identity) = serde_json::from_slice::<Value>(&identity.stdout) else { return (identity.status.code(), said) };
    let fingerprint = identity["fingerprint"].as_str().unwrap();
    fleet.operator_ok(&["hosts", "add", id, "--ek-sha256", fingerprint]);
    let mut agent = machine.agent(&["enroll", "--host", id, "--broker", &fleet.url(), "--broker-ca"]);
    let output = agent.arg(fleet.broker_ca()).args(key).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// As on GCE: certificate and template of the AK lie in NV memory, and the AK is made when it is first needed.
#[test]
fn a7_an_agent_enrols_by_the_ak_that_its_cloud_certified() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(&folder.path().join("machine"));
    let (eks, clouds) = (SimManufacturer::new(), SimManufacturer::new());
    let fleet = fleet(&folder, &eks, &clouds);
    let algorithm = "rsa2048:rsassa-sha256:null";
    let (spki, template) = persist(&machine, folder.path(), algorithm, "0x81010009");
    let certificate = ak_certificate_of(&clouds, &spki);
    machine.tpm.store(0x01c1_0000, &[certificate.as_slice(), &[0; 200]].concat());
    machine.tpm.store(0x01c1_0001, &template);
    let made = ["--ak-handle", "0x8101000a", "--ak-certificate-nv", "0x01c10000", "--ak-template-nv", "0x01c10001"];
    let (code, said) = enroll_with(&machine, &fleet, "host-a", &made);
    assert_eq!(code, Some(0), "{said}");
    let enrolled = &shown(&fleet, "host-a")["enrolled"];
    assert_eq!(enrolled["endorsed_by"], "ak_certificate");
    // Each attestation is another process: what it needs is in the state and in the TPM.
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");
    for _ in 0..2 {
        let (code, said) = machine.attest_once();
        assert_eq!(code, Some(0), "{said}");
    }
    // A8: another key at the handle is found before the broker is asked.
    assert!(machine.tpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "0x8101000a"]).status.success());
    persist(&machine, folder.path(), "ecc256:ecdsa-sha256:null", "0x8101000a");
    let (code, said) = machine.attest_once();
    assert!(code == Some(1) && said.contains("another key at 0x8101000a"), "{code:?} {said}");
}

#[test]
fn a7_a_certificate_of_another_key_is_not_offered() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(&folder.path().join("machine"));
    let (eks, clouds) = (SimManufacturer::new(), SimManufacturer::new());
    let fleet = fleet(&folder, &eks, &clouds);
    persist(&machine, folder.path(), "ecc256:ecdsa-sha256:null", "0x81000003");
    let other = folder.path().join("other.der");
    fs::write(&other, ak_certificate_of(&clouds, &spki(SimTpm::new(AkKind::P256).ak_public()))).unwrap();
    let key = ["--ak-handle", "0x81000003", "--ak-certificate", other.to_str().unwrap()];
    let (code, said) = enroll_with(&machine, &fleet, "host-a", &key);
    assert!(code == Some(1) && said.contains("a certificate of another key"), "{code:?} {said}");
    let nowhere = ["--ak-handle", "0x81000004", "--ak-certificate", other.to_str().unwrap()];
    let (code, said) = enroll_with(&machine, &fleet, "host-a", &nowhere);
    assert!(code == Some(1) && said.contains("find the key at a persistent handle"), "{code:?} {said}");
    let alone = machine.agent(&["identity", "--ak-handle", "0x81000003"]).output().unwrap();
    assert!(String::from_utf8_lossy(&alone.stderr).contains("--ak-certificate"), "{alone:?}");
}

#[test]
fn a7_an_agent_enrols_by_the_initial_attestation_key_of_its_maker() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(&folder.path().join("machine"));
    let (eks, makers) = (SimManufacturer::new(), SimManufacturer::new());
    let fleet = fleet(&folder, &eks, &makers);
    let (spki, _) = persist(&machine, folder.path(), "ecc384:ecdsa-sha384:null", "0x81090000");
    let certificate = folder.path().join("iak.der");
    fs::write(&certificate, ak_certificate_of(&makers, &spki)).unwrap();
    let key = ["--iak-handle", "0x81090000", "--iak-certificate", certificate.to_str().unwrap()];
    let (code, said) = enroll_with(&machine, &fleet, "host-a", &key);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(shown(&fleet, "host-a")["enrolled"]["endorsed_by"], "initial_attestation_key");
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");
    let (code, said) = machine.attest_once();
    assert_eq!(code, Some(0), "{said}");
}
