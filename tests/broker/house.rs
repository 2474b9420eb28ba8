//! A broker in this process, and hosts whose TPM is a few keys.

use std::net::SocketAddr;
use std::sync::Arc;

use countersign::broker::Broker;
use countersign::cli::Output;
use countersign::cli::init::{InitArgs, init};
use countersign::cli::log::{ReplayArgs, replay};
use countersign::clock::{Clock, monotonic};
use countersign::config::{Config, DataDir};
use countersign::keys::operator::OperatorKey;
use countersign::problem::Problem;
use countersign::references::Proposal;
use countersign::store::Store;
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::{Bundle, ImaEntries, SnpEvidence};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::{
    ActivationRequest, AttestationRequest, AttestationResponse, Base64Bytes, Challenge, Endorsement, EnrollmentRequest,
    EnrollmentTask, HostId, activation_proof,
};
use countersign_clock::{ClockArgs, ClockSync};
use tempfile::TempDir;

use crate::amd::{self, AmdSimulator};
use crate::measured::{Boot, List};
use crate::tpm::{AkKind, CredentialKey, SimManufacturer, SimTpm};

/// The connection that the doors would tell of: here there are none.
pub(crate) const CHANNEL: ChannelBinding = ChannelBinding([0xc4; ChannelBinding::LENGTH]);

/// A trust domain's broker and the maker of its hosts' TPMs.
pub(crate) struct House {
    pub(crate) folder: TempDir,
    pub(crate) clock: Clock,
    pub(crate) maker: SimManufacturer,
    broker: Option<Arc<Broker>>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with_processors(&[])
    }

    /// Where these simulated product lines of AMD's are pinned.
    pub(crate) fn with_processors(processors: &[&AmdSimulator]) -> Self {
        let (folder, maker) = (TempDir::new().unwrap(), SimManufacturer::new());
        let anchor = folder.path().join("root.der");
        std::fs::write(&anchor, maker.anchor().root).unwrap();
        let listen: SocketAddr = "127.0.0.1:8443".parse().unwrap();
        let args = InitArgs {
            clock: ClockArgs { clock_sync: ClockSync::Asserted, clock_error_max_ms: 100 },
            data_dir: folder.path().join("data"),
            trust_domain: "fleet.example".into(),
            listen,
            server_name: vec![],
            tpm_anchor: vec![],
            simulated_tpm_anchor: vec![anchor],
            root_key: None,
            offline_root: None,
            issuing_key: None,
            token_key: None,
        };
        init(&args).unwrap();
        for amd in processors {
            let anchors = args.data_dir.join("anchors/amd-simulated").join(amd.product.to_string().to_lowercase());
            std::fs::create_dir_all(&anchors).unwrap();
            std::fs::write(anchors.join("ark.der"), &amd.ark_der).unwrap();
            std::fs::write(anchors.join("ask.der"), &amd.ask_der).unwrap();
        }
        let mut house = Self { folder, clock: Clock::manual(Clock::dating().now()), maker, broker: None };
        house.start();
        house
    }

    pub(crate) fn data(&self) -> DataDir {
        DataDir::at(&self.folder.path().join("data"))
    }

    fn start(&mut self) {
        let config = Config::load(&self.data().config()).unwrap();
        // The threads of the broker before end by themselves once nobody holds it, and then let go of its files.
        let started = monotonic();
        self.broker = loop {
            match Broker::start(self.data(), config.clone(), self.clock.clone()) {
                Ok(broker) => break Some(broker),
                Err(error) => assert!(started.elapsed().as_secs() < 30, "{error:#}"),
            }
            std::thread::yield_now();
        };
    }

    pub(crate) fn broker(&self) -> &Arc<Broker> {
        self.broker.as_ref().unwrap()
    }

    /// Ends the broker, and starts it again on what it left on disk.
    pub(crate) fn restart(&mut self) {
        self.restart_after(|_| ());
    }

    /// As [`House::restart`], after `change` to what is on disk.
    pub(crate) fn restart_after(&mut self, change: impl FnOnce(&DataDir)) {
        drop(self.broker.take());
        change(&self.data());
        self.start();
    }

    /// Registers a manifest that the operator signed.
    pub(crate) async fn register_reference(&self, manifest: &serde_json::Value) -> Result<String, Problem> {
        let note = self.signing_key().sign(&manifest.to_string()).unwrap();
        self.broker().register_reference(&operator(), &note, None).await.map(|(id, _)| id)
    }

    /// So many milliseconds from now, rounded down to seconds, as documents write moments.
    pub(crate) fn moment(&self, after: u64) -> String {
        let at = self.clock.now().plus(after).to_string();
        format!("{}Z", at.split_once('.').unwrap().0)
    }

    /// What the operator signs with.
    pub(crate) fn signing_key(&self) -> OperatorKey {
        OperatorKey::load(&self.data().path().join("operator")).unwrap()
    }

    /// Retires a manifest as previewed; how many hosts that took down.
    pub(crate) async fn withdraw(&self, id: &str) -> u64 {
        let proposal = Proposal::WithdrawReference(id.to_owned());
        let preview = tokio::task::block_in_place(|| self.broker().what_if(proposal, &|_, _| {})).unwrap();
        let revoked = self.broker().withdraw_reference(&operator(), id, preview.change).await.unwrap();
        assert_eq!(revoked, preview.losses.iter().map(|group| group.count).sum::<u64>(), "{preview:?}");
        revoked
    }

    pub(crate) fn standing(&self, host: &Host) -> String {
        let trust = self.broker().trust.host(&host.id).unwrap().unwrap();
        serde_json::to_value(trust.standing).unwrap().as_str().unwrap().to_owned()
    }

    /// Replays every decision that keeps its inputs, each to the same bytes; their events.
    pub(crate) fn replay_all(&self) -> Vec<&'static str> {
        let lineage = &self.broker().lineage;
        let entries = (0..lineage.head().size).map(|index| (index, lineage.read(index).unwrap().unwrap()));
        let entries = entries.map(|(index, bytes)| (index, Entry::decode(&bytes).unwrap()));
        let decisions = entries.filter(|(_, entry)| entry.inputs().is_some());
        let replay = |(index, entry): (u64, Entry)| {
            let args = ReplayArgs {
                entry: Some(index),
                bundle: None,
                vkey: None,
                roots: Vec::new(),
                data_dir: self.data().path().to_owned(),
                output: Output::Table,
            };
            let mut said = Vec::new();
            assert!(replay(&args, &mut said).unwrap(), "{}", String::from_utf8_lossy(&said));
            entry.event().name()
        };
        decisions.map(replay).collect()
    }

    /// Files in the archive.
    pub(crate) fn archived(&self) -> usize {
        let folders = std::fs::read_dir(self.data().archive()).unwrap().map(|entry| entry.unwrap().path());
        folders.filter(|path| path.is_dir()).map(|path| std::fs::read_dir(path).unwrap().count()).sum()
    }
}

/// The store of a broker that has ended: its threads let go of the file by and by.
pub(crate) fn opened(data: &DataDir, clock: &Clock) -> Store {
    let started = monotonic();
    loop {
        match Store::open(&data.store(), clock.clone()) {
            Ok(store) => return store,
            Err(error) => assert!(started.elapsed().as_secs() < 30, "{error}"),
        }
        std::thread::yield_now();
    }
}

pub(crate) fn operator() -> HostId {
    HostId::parse("admin").unwrap()
}

/// A machine that measures its boot and runs a kernel with a list.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) tpm: SimTpm,
    pub(crate) boot: Boot,
    pub(crate) list: List,
    /// The processor of the confidential VM that the host is, if it is one.
    pub(crate) processor: Option<Arc<AmdSimulator>>,
    /// REPORT_ID: which launch of a guest that is.
    pub(crate) guest: Sha256Digest,
    pub(crate) key: CredentialKey,
}

/// What of its logs a host sends.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) event_log: Option<Vec<u8>>,
    pub(crate) ima: Option<ImaEntries>,
}

impl Host {
    /// Booted with Secure Boot on, registered and enrolled.
    pub(crate) async fn enrolled(house: &House, id: &str) -> Self {
        let (mut tpm, boot) = (SimTpm::new(AkKind::P256), Boot::secure(true));
        boot.measure(&mut tpm);
        let list = List::begin(&mut tpm);
        Self::enroll(house, id, &tpm).await.unwrap();
        let id = HostId::parse(id).unwrap();
        let guest = Sha256Digest::of(&[id.as_str().as_bytes()]);
        Self { id, tpm, boot, list, processor: None, guest, key: CredentialKey::new() }
    }

    /// Registers a TPM under a name, and enrols it.
    pub(crate) async fn enroll(house: &House, id: &str, tpm: &SimTpm) -> Result<(), Problem> {
        let id = HostId::parse(id).unwrap();
        let ek = Sha256Digest::of(&[&Public::read(tpm.ek_public()).unwrap().spki()]);
        house.broker().register(&operator(), id.clone(), ek, [].into()).await?;
        let channel = CredentialKey::new();
        let request = EnrollmentRequest {
            host: id,
            endorsement: Endorsement::EndorsementKey {
                certificate: Base64Bytes(house.maker.ek_certificate(tpm)),
                public: Base64Bytes(tpm.ek_public().to_vec()),
                intermediates: Vec::new(),
            },
            ak_public: Base64Bytes(tpm.ak_public().to_vec()),
            channel_key: Base64Bytes(channel.spki()),
        };
        let begun = house.broker().begin_enrollment(request)?;
        let EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret } = &begun.task else {
            panic!("an EK is asked to activate a credential: {begun:?}");
        };
        let secret = tpm.activate(&credential_blob.0, &encrypted_secret.0).unwrap();
        let proof = activation_proof(&secret, &begun.enrollment, &channel.spki());
        let proof = ActivationRequest { proof: Base64Bytes(proof.to_vec()) };
        house.broker().activate_enrollment(&begun.enrollment, proof).await.map(drop)
    }

    /// Another boot of the same machine: its counts, its PCRs and its list begin anew.
    pub(crate) fn reboot(&mut self, boot: Boot) {
        self.tpm.clock.reset_count += 1;
        self.tpm.clock.restart_count = 0;
        boot.measure(&mut self.tpm);
        self.boot = boot;
        self.list = List::begin(&mut self.tpm);
    }

    /// A new credential key from the next attestation on.
    pub(crate) fn renew(&mut self) {
        self.key = CredentialKey::new();
    }

    pub(crate) fn measure(&mut self, path: &str, content: &[u8]) {
        self.list.measure(&mut self.tpm, path, content);
    }

    /// The logs that an honest agent sends.
    pub(crate) fn logs(&self, challenge: &Challenge) -> Logs {
        let clock = &self.tpm.clock;
        let counts = (clock.reset_count, clock.restart_count);
        let known = challenge.known_boot.filter(|known| (known.reset_count, known.restart_count) == counts);
        let from = known.map_or(0, |known| known.ima_entries);
        let quotes_list = challenge.pcr_selection.iter().any(|entry| entry.pcrs.contains(&10));
        Logs {
            event_log: known.is_none().then(|| self.boot.log()),
            ima: quotes_list.then(|| ImaEntries { from, list: self.list.from(from) }),
        }
    }

    /// Evidence for a challenge, with these logs.
    pub(crate) fn evidence(&mut self, challenge: &Challenge, logs: Logs) -> AttestationRequest {
        self.tpm.clock.clock += 1000;
        let nonce = challenge.nonce.0.clone().try_into().unwrap();
        let binder = Binder::new(Role::Host, &nonce, &self.key.spki(), &CHANNEL);
        let qualifying = binder.qualifying_data();
        let snp = self.processor.as_ref().map(|amd| {
            let mut signed = amd::report(amd.product);
            signed[0x50..0x90].copy_from_slice(binder.report_data());
            signed[0x140..0x160].copy_from_slice(&self.guest.0);
            SnpEvidence { report: amd.vcek.sign(&signed), vek: amd.vcek.der.clone() }
        });
        let (tpm_quote, tpm_pcrs) = self.tpm.quote(&challenge.pcr_selection, &qualifying);
        let tpm_certify = self.tpm.certify(&self.key, &qualifying);
        let Logs { event_log, ima } = logs;
        AttestationRequest {
            workload_key: None,
            challenge: challenge.challenge.clone(),
            audiences: Vec::new(),
            credential_key: Base64Bytes(self.key.spki()),
            evidence: Bundle { tpm_quote, tpm_pcrs, tpm_certify, event_log, ima, snp, tdx: None, paravisor: None }
                .encode(),
        }
    }

    /// Attests with what `change` makes of the honest logs; a denial's code.
    pub(crate) async fn attest_with(
        &mut self,
        house: &House,
        change: impl FnOnce(&mut Logs),
    ) -> Result<AttestationResponse, String> {
        let challenge = house.broker().challenge(&self.id).unwrap();
        let mut logs = self.logs(&challenge);
        change(&mut logs);
        let request = self.evidence(&challenge, logs);
        house.broker().attest(&self.id, CHANNEL, request).await.map_err(|problem| problem.code().to_owned())
    }

    pub(crate) async fn attest(&mut self, house: &House) -> Result<AttestationResponse, String> {
        self.attest_with(house, |_| {}).await
    }

    /// A PCR's value, for manifests.
    pub(crate) fn pcr(&self, index: u8) -> String {
        hex::encode(self.tpm.pcr(PcrHash::Sha256, index))
    }
}

/// A manifest that names a boot, and whatever `more` says.
pub(crate) fn manifest(host: &Host, more: &serde_json::Value) -> serde_json::Value {
    let mut manifest = serde_json::json!({
        "id": "image-1",
        "tpm": { "pcrs": { "sha256": { "0": [host.pcr(0)], "4": [host.pcr(4)] } } },
    });
    for (name, value) in more.as_object().unwrap() {
        manifest[name] = value.clone();
    }
    manifest
}
