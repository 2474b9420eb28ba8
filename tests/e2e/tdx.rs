//! Hosts in trust domains of TDX, and hosts whose TPM is a paravisor's.

use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::collateral::intel::IntelDocuments;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::HexBytes;
use countersign_attestation::evidence::bundle::TdxEvidence;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::amd::AmdSimulator;
use crate::firmware::Boot;
use crate::fleet::{Fleet, wait_until};
use crate::hcl;
use crate::identity::{ak_certificate_of, enroll_with, persist};
use crate::intel::{Collateral, ISSUE_DATE, IntelSimulator, QuoteKind};
use crate::machine::{KERNEL, Machine, PCRS};
use crate::sim_host::{Reports, SimHost, anchor};
use crate::tpm::SimManufacturer;

/// Where RTMR0 is in the body of a quote.
const RTMR0: usize = 328;
/// The simulator's MRTD.
const MR_TD: [u8; 48] = [0x7d; 48];
/// Where Azure keeps AK and report.
const AK_HANDLE: &str = "0x81000003";
const HCL_REPORT: u32 = 0x0140_0001;

/// Pins the roots of simulated vendors, and gives the broker Intel's collateral.
fn restart_with(fleet: &mut Fleet, intel: &IntelSimulator, name: &str, collateral: Collateral) {
    let (pinned, documents) = (fleet.data().join("anchors/intel-simulated"), fleet.data().join("collateral/intel"));
    for folder in [&pinned, &documents] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(pinned.join("root.der"), &intel.root_der).unwrap();
    let written = IntelDocuments {
        pck_crl_issuer_chain: collateral.pck_crl_issuer_chain,
        root_ca_crl: HexBytes(collateral.root_ca_crl),
        pck_crl: HexBytes(collateral.pck_crl),
        tcb_info_issuer_chain: collateral.tcb_info_issuer_chain,
        tcb_info: collateral.tcb_info,
        tcb_info_signature: HexBytes(collateral.tcb_info_signature),
        qe_identity_issuer_chain: collateral.qe_identity_issuer_chain,
        qe_identity: collateral.qe_identity,
        qe_identity_signature: HexBytes(collateral.qe_identity_signature),
    };
    fs::write(documents.join(name), serde_json::to_vec(&written).unwrap()).unwrap();
    fleet.kill_broker();
    fleet.restart_broker();
}

/// A fleet that knows simulated TPMs and this Intel.
fn fleet(folder: &TempDir, maker: &SimManufacturer, intel: &IntelSimulator) -> Fleet {
    let mut fleet = Fleet::start(&[anchor(maker, folder.path())]);
    restart_with(&mut fleet, intel, "first.json", intel.collateral());
    fleet
}

/// What a trust domain that booted so adds to a bundle.
fn trust_domain(intel: &Arc<IntelSimulator>, boot: &Boot) -> Reports {
    let (intel, boot) = (Arc::clone(intel), boot.clone());
    Box::new(move |report_data, bundle| {
        let quote = intel.quote_with(QuoteKind::Td15In5, |profile| {
            profile.body[RTMR0..][..4 * 48].copy_from_slice(&boot.rtmrs().concat());
            profile.body[QuoteKind::Td15In5.report_data()..][..64].copy_from_slice(report_data);
        });
        bundle.tdx = Some(TdxEvidence { quote, ccel: Some(boot.ccel()) });
    })
}

/// Registers the host's PCRs with a trust domain that booted so.
fn register(fleet: &Fleet, host: &SimHost, boot: &Boot) {
    let mut manifest = host.manifest("td-image");
    let [rtmr0, rtmr1, rtmr2, _] = boot.rtmrs().map(hex::encode);
    manifest["tdx"] = json!({
        "mr_td": [hex::encode(MR_TD)], "rtmr0": [rtmr0], "rtmr1": [rtmr1], "rtmr2": [rtmr2],
        "min_module_svn": { "TDX_01": 4 }, "boot": { "secure_boot": "on" },
    });
    fleet.register(&manifest);
}

/// A host in a trust domain, trusted; its certificate chain.
fn trusted(fleet: &Fleet, maker: &SimManufacturer, intel: &Arc<IntelSimulator>) -> (SimHost, String) {
    let boot = Boot::of(KERNEL);
    let mut host = SimHost::enrolled(fleet, maker, "td-a");
    register(fleet, &host, &boot);
    host.hardware = Some(trust_domain(intel, &boot));
    let credential = host.attest_ok(fleet).credential.unwrap();
    (host, credential.certificate_chain)
}

fn claims_of(ear: &str) -> Value {
    let payload = ear.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[test]
fn a_trust_domain_is_granted_and_drift_of_a_register_takes_its_trust() {
    let folder = TempDir::new().unwrap();
    let (maker, intel) = (SimManufacturer::new(), Arc::new(IntelSimulator::new()));
    let fleet = fleet(&folder, &maker, &intel);
    let boot = Boot::of(KERNEL);
    let mut host = SimHost::enrolled(&fleet, &maker, "td-a");
    register(&fleet, &host, &boot);
    assert_eq!(host.attest(&fleet).problem().code, "reference.tdx.not_presented", "the TPM alone");
    let refused = |host: &mut SimHost, change: fn(&mut TdxEvidence)| {
        let honest = trust_domain(&intel, &boot);
        host.hardware = Some(Box::new(move |report_data, bundle| {
            honest(report_data, bundle);
            change(bundle.tdx.as_mut().unwrap());
        }));
        host.attest(&fleet).problem().code
    };
    assert_eq!(refused(&mut host, |tdx| tdx.ccel = None), "reference.tdx.log_not_presented");
    assert_eq!(refused(&mut host, |tdx| tdx.quote[48 + 6 + 520] ^= 1), "tdx.signature");
    // The log of another boot: the registers are the registered ones, and nothing explains them.
    assert_eq!(refused(&mut host, |tdx| tdx.ccel = Some(Boot::of("/boot/other").ccel())), "rtmr.replay");
    // A quote of this very domain that was asked for by somebody else.
    let honest = trust_domain(&intel, &boot);
    host.hardware = Some(Box::new(move |_, bundle| honest(&[7; 64], bundle)));
    assert_eq!(host.attest(&fleet).problem().code, "binding.report_data");
    // Another Intel, which calls its platforms as ours does.
    host.hardware = Some(trust_domain(&Arc::new(IntelSimulator::new()), &boot));
    assert_eq!(host.attest(&fleet).problem().code, "intel.root");

    host.hardware = Some(trust_domain(&intel, &boot));
    let credential = host.attest_ok(&fleet).credential.unwrap();
    let ear = claims_of(&credential.ear);
    assert_eq!(ear["countersign.assurance"], "simulated", "as good as the weakest root");
    assert_eq!(ear["submods"]["tdx"]["ear_trustworthiness_vector"]["hardware"], 32, "a stand-in: {ear}");
    fleet.gate_until(&credential.certificate_chain, 200);
    host.attest_ok(&fleet);

    // Evidence that does not verify takes nothing away; evidence that does, of something else, does.
    assert_eq!(refused(&mut host, |tdx| tdx.quote[48 + 6 + RTMR0] ^= 1), "tdx.signature");
    assert_eq!(fleet.host("td-a").trust.standing, "trusted");
    host.hardware = Some(trust_domain(&intel, &Boot::of("/boot/vmlinuz-evil")));
    assert_eq!(host.attest(&fleet).problem().code, "reference.tdx.rtmr");
    assert_eq!(fleet.host("td-a").trust.standing, "revoked");
    assert_eq!(fleet.gate_until(&credential.certificate_chain, 403).reason, "gate.credential.invalid");
    let replayed = fleet.host("td-a").trust.last_entry.to_string();
    fleet.operator_ok(&["replay", "--entry", &replayed]);
}

#[test]
fn a_newer_tcb_info_revokes_a_platform_that_is_out_of_date_by_it_without_the_hosts_help() {
    let folder = TempDir::new().unwrap();
    let (maker, intel) = (SimManufacturer::new(), Arc::new(IntelSimulator::new()));
    let mut fleet = fleet(&folder, &maker, &intel);
    let (mut host, certificate) = trusted(&fleet, &maker, &intel);
    // Issued after the evidence was given, as every update is: that alone takes no trust.
    let issued = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_secs(1)).unwrap();
    let issued = issued.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let moment: jiff::Timestamp = issued.parse().unwrap();
    wait_until("the TCB info is issued", || moment <= jiff::Timestamp::now());
    let newer = intel.collateral_with(|profile| {
        profile.tcb_info = profile.tcb_info.replacen(ISSUE_DATE, &issued, 1);
        let newer = profile.tcb_info.replace(r#""tcbEvaluationDataNumber":17"#, r#""tcbEvaluationDataNumber":18"#);
        let (before, levels) = newer.split_once(r#""sgxtcbcomponents""#).unwrap();
        let levels = levels.replacen(r#""tcbStatus":"UpToDate""#, r#""tcbStatus":"OutOfDate""#, 1);
        profile.tcb_info = format!(r#"{before}"sgxtcbcomponents"{levels}"#);
    });
    restart_with(&mut fleet, &intel, "second.json", newer);
    // The evidence is in the archive, and what Intel says is newer: the broker judges it again by itself.
    let judged = fleet.host_until("td-a", "revoked").trust;
    assert_eq!(judged.reasons, ["policy.forbidden"]);
    assert_eq!(fleet.gate_until(&certificate, 403).reason, "gate.credential.invalid");

    // An operator lives with it for a while, by name, and every credential says so.
    let tomorrow = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_hours(24)).unwrap();
    let waiver = fleet.path().join("waiver.json");
    let written = json!({
        "id": "out-of-date", "trust_domain": crate::fleet::TRUST_DOMAIN, "scope": { "hosts": ["td-a"] },
        "accepts": [{ "tcb_status": "OutOfDate" }],
        "until": tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "reason": "the maintenance of Thursday",
    });
    fs::write(&waiver, serde_json::to_string_pretty(&written).unwrap()).unwrap();
    fleet.operator_ok(&["waiver", "add", waiver.to_str().unwrap()]);
    fleet.operator_ok(&["hosts", "readmit", "td-a"]);
    host.renew();
    let credential = host.attest_ok(&fleet).credential.unwrap();
    assert_eq!(claims_of(&credential.ear)["countersign.waivers"], json!(["out-of-date"]));
    fleet.operator_ok(&["waiver", "end", "out-of-date"]);
    assert_eq!(fleet.host("td-a").trust.standing, "revoked");
}

/// An Azure VM: its TPM's AK, and what the paravisor left in NV memory.
struct Azure {
    machine: Machine,
    /// `SubjectPublicKeyInfo` of the AK.
    ak: Vec<u8>,
    runtime: Vec<u8>,
}

impl Azure {
    fn boot(folder: &std::path::Path) -> Self {
        let machine = Machine::boot(folder);
        let (ak, _) = persist(&machine, folder, "rsa2048:rsassa-sha256:null", AK_HANDLE);
        let public = folder.join("ak.tss");
        let read = ["-c", AK_HANDLE, "-f", "tss", "-o", public.to_str().unwrap()];
        assert!(machine.tpm.tool("tpm2_readpublic", &read).status.success());
        let tpm2b = fs::read(public).unwrap();
        // Each VM has an id of its own: one id under two names is a copy.
        let mut id = hcl::VM_ID.to_owned();
        id.replace_range(..8, &hex::encode_upper(&tpm2b[tpm2b.len() - 4..]));
        let runtime = String::from_utf8(hcl::runtime_of(&[hcl::jwk("HCLAkPub", "sign", &tpm2b[2..])])).unwrap();
        Self { machine, ak, runtime: runtime.replace(hcl::VM_ID, &id).into_bytes() }
    }

    /// The paravisor's report; swtpm's indexes are smaller than Azure's, so without the padding.
    fn store(&self, nv: &[u8]) {
        self.machine.tpm.store(HCL_REPORT, nv);
    }

    /// Certified by the cloud, registered and enrolled.
    fn enroll(&self, fleet: &Fleet, cloud: &SimManufacturer, id: &str) {
        let certificate = fleet.path().join(format!("{id}.der"));
        fs::write(&certificate, ak_certificate_of(cloud, &self.ak)).unwrap();
        let key = ["--ak-handle", AK_HANDLE, "--ak-certificate", certificate.to_str().unwrap()];
        let (code, said) = enroll_with(&self.machine, fleet, id, &key);
        assert_eq!(code, Some(0), "{said}");
    }

    /// Attests once with the agent; the exit code and what was said.
    fn attest(&self, more: &[&str]) -> (Option<i32>, String) {
        let output = self.machine.agent(&["run", "--once"]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The report around `hardware`'s, of which `runtime` is the runtime data.
fn unpadded(nv: Vec<u8>, runtime: &[u8]) -> Vec<u8> {
    let mut nv = nv;
    nv.truncate(hcl::RUNTIME + runtime.len());
    nv
}

#[test]
fn b13_a_paravisors_tpm_attests_with_exactly_the_key_that_its_hardware_vouches_for() {
    let folder = TempDir::new().unwrap();
    let (eks, cloud) = (SimManufacturer::new(), SimManufacturer::new());
    let (amd, intel) = (AmdSimulator::new(AmdProduct::Milan), IntelSimulator::new());
    let mut fleet = crate::identity::fleet(&folder, &eks, &cloud);
    let pinned = fleet.data().join("anchors/amd-simulated/milan");
    fs::create_dir_all(&pinned).unwrap();
    fs::write(pinned.join("ark.der"), &amd.ark_der).unwrap();
    fs::write(pinned.join("ask.der"), &amd.ask_der).unwrap();
    restart_with(&mut fleet, &intel, "first.json", intel.collateral());

    let [on_snp, on_tdx, thief] = ["snp", "tdx", "thief"].map(|name| Azure::boot(&folder.path().join(name)));
    let report = amd.evidence(&hcl::report_data(&on_snp.runtime));
    let snp_nv = unpadded(hcl::snp_nv(&report.report, &on_snp.runtime), &on_snp.runtime);
    let quote = intel.quote(QuoteKind::Td15In5, &hcl::report_data(&on_tdx.runtime));
    let tdreport = hcl::tdreport(&quote[48 + 6..][..648]);
    on_tdx.store(&unpadded(hcl::tdx_nv(&tdreport, &on_tdx.runtime), &on_tdx.runtime));
    on_snp.store(&snp_nv);
    thief.store(&snp_nv);
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (vek, quote) = (write("vek.der", &report.vek), write("quote.bin", &quote));
    let with_vek = ["--paravisor", "azure", "--snp-vek", &vek];
    let with_quote = ["--paravisor", "azure", "--td-quote", &quote];

    // Not known good yet; what it shows becomes the reference, with the paravisor below it.
    on_snp.enroll(&fleet, &cloud, "on-snp");
    let (code, said) = on_snp.attest(&with_vek);
    assert!(code == Some(3) && said.contains("reference.none"), "{said}");
    let captured = fleet.operator_ok(&["refs", "capture", "on-snp", "--id", "azure", "--pcrs", PCRS]);
    let mut manifest: Value = serde_json::from_str(&captured).unwrap();
    for (id, hardware) in [("azure-snp", "snp"), ("azure-tdx", "tdx")] {
        manifest["id"] = json!(id);
        for kind in ["snp", "tdx", "boot"] {
            manifest.as_object_mut().unwrap().remove(kind);
        }
        manifest["paravisor"] = json!({ "hardware": hardware, "vm_configuration": { "secure-boot": true } });
        fleet.register(&manifest);
    }
    let (code, said) = on_snp.attest(&with_vek);
    assert_eq!(code, Some(0), "{said}");
    on_tdx.enroll(&fleet, &cloud, "on-tdx");
    let (code, said) = on_tdx.attest(&with_quote);
    assert_eq!(code, Some(0), "{said}");
    for (vm, shown) in [(&on_snp, ["paravisor", "snp", "tpm"]), (&on_tdx, ["paravisor", "tdx", "tpm"])] {
        let ear = claims_of(&fs::read_to_string(vm.machine.credential("ear.jwt")).unwrap());
        assert!(ear["submods"].as_object().unwrap().keys().eq(shown), "{ear}");
    }

    // The report and its certificate are public; the key that they name is not the thief's.
    thief.enroll(&fleet, &cloud, "thief");
    let (code, said) = thief.attest(&with_vek);
    assert!(code == Some(3) && said.contains("hcl.ak.key"), "{said}");
    // Nor does a genuine quote of another VM stand for its report.
    let (code, said) = thief.attest(&with_quote);
    assert!(code == Some(3) && said.contains("hcl.hardware"), "{said}");
    // Without the paravisor it is a TPM that anybody may have.
    let (code, said) = thief.attest(&[]);
    assert!(code == Some(3) && said.contains("reference.paravisor.not_presented"), "{said}");
    let standing = |id: &str| fleet.host(id).trust.standing;
    assert_eq!(["on-snp", "on-tdx", "thief"].map(standing), ["trusted", "trusted", "enrolled"]);
}
