//! A hundred machines at once: each its own TPM process, driven by the agent's own code from one process, against one
//! broker. A program of its own: a process that starts while a TPM is open inherits the connection (the TPM library
//! does not close it on exec) and keeps everyone else from that TPM; so here none does.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

#[expect(dead_code, reason = "shared with other tests, each uses a part")]
#[path = "../e2e/client.rs"]
mod client;
#[path = "../sim/firmware.rs"]
mod firmware;
#[expect(dead_code, reason = "shared with other tests, each uses a part")]
#[path = "../e2e/fleet.rs"]
mod fleet;
#[expect(dead_code, reason = "shared with other tests, each uses a part")]
#[path = "../sim/swtpm.rs"]
mod swtpm;
#[path = "../sim/tpm.rs"]
mod tpm;

use std::fs;
use std::path::Path;

use countersign_agent::attester::{Attester, Granted, Outcome};
use countersign_agent::channel::Channel;
use countersign_agent::collect::hardware::HardwareSource;
use countersign_agent::collect::logs::Logs;
use countersign_agent::device::Tpm;
use countersign_agent::endorser::Endorser;
use countersign_agent::enroll::{Order, enroll};
use countersign_agent::keys::{self, AkKind, EkKind};
use countersign_agent::state::StateDirectory;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::HostId;
use countersign_clock::{ClockSync, Keeper};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::firmware::Boot;
use crate::fleet::{Fleet, now};
use crate::swtpm::Swtpm;
use crate::tpm::SimManufacturer;

const HOSTS: usize = 100;
/// How many machines are switched on at a time.
const HANDS: usize = 8;
const EK: EkKind = EkKind::EccP256;
/// The machine that drifts.
const DRIFTS: usize = 41;

#[test]
fn of_a_hundred_machines_only_the_one_that_drifts_is_denied() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let root = folder.path().join("root.der");
    fs::write(&root, maker.anchor().root).unwrap();
    let fleet = Fleet::start_with(&[root], |config| {
        // Two rounds of a hundred attestations on a loaded machine; nobody attests in between.
        config.lease_ms = 240_000;
        config.attest_interval_ms = 120_000;
    });
    let boot = Boot::of("/boot/vmlinuz-6.12");
    register(&fleet, &boot);
    let runtime = Runtime::new().unwrap();

    let started = now();
    let machines = switch_on(folder.path(), &boot);
    println!("{HOSTS} TPMs started and booted in {:?}", started.elapsed());
    let started = now();
    for (index, fingerprint) in manufacture(&runtime, &machines, &maker).into_iter().enumerate() {
        let body = json!({"id": id(index), "ek_sha256": fingerprint});
        let answer = fleet.as_operator().send("POST", "/v1/hosts", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    println!("{HOSTS} EK certificates issued and hosts registered in {:?}", started.elapsed());

    let started = now();
    let mut attesters = runtime.block_on(enroll_all(&fleet, folder.path(), &machines));
    println!("{HOSTS} hosts enrolled in {:?}", started.elapsed());

    let started = now();
    let granted = runtime.block_on(attest_all(&mut attesters));
    println!("{HOSTS} hosts attested in {:?}", started.elapsed());
    let certificates: Vec<_> = granted.into_iter().map(|granted| certificate(granted.unwrap())).collect();
    for certificate in &certificates {
        fleet.gate_until(certificate, 200);
    }

    machines[DRIFTS].extend(4, &Sha256Digest::of(&[b"another boot loader"]).to_hex());
    let started = now();
    let granted = runtime.block_on(attest_all(&mut attesters));
    println!("{HOSTS} hosts attested again in {:?}", started.elapsed());
    let denied: Vec<_> = (0..HOSTS).filter(|index| granted[*index].is_err()).collect();
    assert_eq!(denied, [DRIFTS]);
    assert_eq!(granted[DRIFTS].as_ref().unwrap_err(), "reference.pcr_mismatch");
    assert_eq!(fleet.gate_until(&certificates[DRIFTS], 403).reason, "gate.credential.invalid");
    for (index, certificate) in certificates.iter().enumerate() {
        let status = fleet.gate(certificate).status;
        assert_eq!(status, if index == DRIFTS { 403 } else { 200 }, "{}", id(index));
    }
    let hosts: Value = fleet.as_operator().get("/v1/hosts");
    assert_eq!(hosts.to_string().matches("\"revoked\"").count(), 1);
}

fn id(index: usize) -> String {
    format!("node-{index:03}")
}

/// The state after this boot is good.
fn register(fleet: &Fleet, boot: &Boot) {
    let pcrs = boot.pcrs();
    let value = |pcr: usize| json!([hex::encode(pcrs[pcr])]);
    let pcrs = json!({"0": value(0), "4": value(4), "7": value(7), "8": value(8), "9": value(9)});
    let manifest = json!({"id": "golden", "tpm": {"pcrs": {"sha256": pcrs}}});
    fleet.register(&manifest);
}

/// Starts a TPM for each machine, which manufactures itself, and boots the machine. Each has a folder with its logs.
fn switch_on(folder: &Path, boot: &Boot) -> Vec<Swtpm> {
    let (extends, log) = (boot.extends(), boot.log());
    let start = |index: usize| {
        let machine = folder.join(id(index));
        fs::create_dir_all(machine.join("tpm")).unwrap();
        let tpm = Swtpm::resume(&machine.join("tpm"));
        tpm.extend_all(&extends);
        fs::write(machine.join("event-log"), &log).unwrap();
        tpm
    };
    by_hand(start)
}

/// For each machine, a few at a time.
fn by_hand<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let indexes: Vec<_> = (0..HOSTS).collect();
    std::thread::scope(|scope| {
        let work = &work;
        let hands = indexes.chunks(HOSTS.div_ceil(HANDS));
        let hands: Vec<_> =
            hands.map(|part| scope.spawn(move || part.iter().map(|index| work(*index)).collect::<Vec<_>>())).collect();
        hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
    })
}

/// What a manufacturer does once for each TPM: an EK certificate in NV memory. Gives the fingerprints of the EKs.
fn manufacture(runtime: &Runtime, machines: &[Swtpm], maker: &SimManufacturer) -> Vec<Sha256Digest> {
    let keys = runtime.block_on(endorsement_keys(machines));
    let store = |index: usize| {
        let certificate = maker.certificate(&keys[index], |params| {
            params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
        });
        machines[index].store(EK.nv_index(), &certificate);
        Sha256Digest::of(&[&keys[index]])
    };
    by_hand(store)
}

/// `SubjectPublicKeyInfo` of each machine's EK.
async fn endorsement_keys(machines: &[Swtpm]) -> Vec<Vec<u8>> {
    let mut reading = JoinSet::new();
    for (index, machine) in machines.iter().enumerate() {
        let tpm = Tpm::new(&machine.tcti()).unwrap();
        reading.spawn(async move {
            let public = tpm.run(|session| {
                let ek = keys::endorsement_key(session, EK)?;
                let public = keys::public_area(session, ek)?;
                session.flush(ek)?;
                Ok(public)
            });
            (index, Public::read(&public.await.unwrap()).unwrap().spki())
        });
    }
    in_order(reading).await
}

async fn enroll_all(fleet: &Fleet, folder: &Path, machines: &[Swtpm]) -> Vec<Attester> {
    let mut enrolling = JoinSet::new();
    for (index, machine) in machines.iter().enumerate() {
        let folder = folder.join(id(index));
        let order = Order {
            broker: fleet.url(),
            broker_ca: fleet.broker_ca(),
            host: HostId::parse(&id(index)).unwrap(),
            state_directory: folder.join("state"),
            tcti: machine.tcti(),
            by: Endorser::EndorsementKey(EK),
            ak: AkKind::EccP256,
            intermediates: None,
        };
        enrolling.spawn(async move {
            enroll(&order).await.unwrap_or_else(|error| panic!("{}: {error}", order.host));
            let (enrollment, key) = StateDirectory::open(&order.state_directory).unwrap().enrolled().unwrap();
            let certificate = enrollment.channel_certificate.unwrap();
            let broker = Channel::new(&order.broker, &enrollment.broker_ca, &certificate, &key).unwrap();
            let logs = Logs::at(&folder.join("event-log"), &folder.join("ima"));
            let (quoted, _) = tokio::sync::watch::channel(None);
            let tpm = Tpm::new(&order.tcti).unwrap();
            let hardware = HardwareSource::system(None, None, folder.join("ccel"));
            let mut attester = Attester::new(tpm, enrollment.ak_key, logs, hardware, broker, quoted);
            // Nobody keeps the clock of a machine that builds.
            attester.keeper = Keeper::new(ClockSync::Asserted, 50);
            (index, attester)
        });
    }
    in_order(enrolling).await
}

/// All at once, each until it is decided; grants, and the codes of denials.
async fn attest_all(attesters: &mut Vec<Attester>) -> Vec<Result<Box<Granted>, String>> {
    let mut attesting = JoinSet::new();
    for (index, mut attester) in attesters.drain(..).enumerate() {
        attesting.spawn(async move {
            // As the agent does: a loaded machine lets the one or other request run into its time limit.
            for _ in 0..5 {
                match attester.attest().await {
                    Outcome::Granted(granted) => return (index, (attester, Ok(granted))),
                    Outcome::Denied(problem) => return (index, (attester, Err(problem.code))),
                    Outcome::Failed(error) => println!("{}: {error}", id(index)),
                }
            }
            panic!("{} came to no decision", id(index));
        });
    }
    let (again, outcomes) = in_order(attesting).await.into_iter().unzip();
    *attesters = again;
    outcomes
}

async fn in_order<T: Send + 'static>(mut tasks: JoinSet<(usize, T)>) -> Vec<T> {
    let mut done = Vec::new();
    while let Some(one) = tasks.join_next().await {
        done.push(one.unwrap());
    }
    done.sort_by_key(|(index, _)| *index);
    assert_eq!(done.len(), HOSTS);
    done.into_iter().map(|(_, one)| one).collect()
}

fn certificate(granted: Box<Granted>) -> String {
    granted.credential.unwrap().0.certificate_chain
}
