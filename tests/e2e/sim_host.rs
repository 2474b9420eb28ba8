//! A host whose TPM is a few keys in this process: the same bytes to the same routes, and as fast as a test needs.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::{
    AttestationRequest, AttestationResponse, Base64Bytes, Challenge, Endorsement, EnrollmentChallenge,
    EnrollmentRequest, EnrollmentTask, HostId, activation_proof, possession_data,
};
use serde_json::{Value, json};

use crate::client::{Answer, Client, Connection};
use crate::fleet::Fleet;
use crate::tpm::{AkKind, CredentialKey, SimManufacturer, SimTpm};

/// The manufacturer's root in a file, to be pinned.
pub(crate) fn anchor(maker: &SimManufacturer, folder: &Path) -> PathBuf {
    let path = folder.join("sim-root.der");
    fs::write(&path, maker.anchor().root).unwrap();
    path
}

/// Adds to a bundle what the hardware reports over a binder.
pub(crate) type Reports = Box<dyn Fn(&[u8; 64], &mut Bundle) + Send + Sync>;

pub(crate) struct SimHost {
    pub(crate) id: String,
    pub(crate) tpm: SimTpm,
    pub(crate) ek_certificate: Vec<u8>,
    channel: CredentialKey,
    /// certificate.pem and key.pem of the channel.
    pub(crate) folder: PathBuf,
    key: CredentialKey,
    /// The confidential VM that the host is, if it is one.
    pub(crate) hardware: Option<Reports>,
    /// Whom it wants JWT-SVIDs for.
    pub(crate) audiences: Vec<String>,
    /// The secrets that were activated, for those who look for them where they must not be.
    pub(crate) secrets: Vec<Vec<u8>>,
}

impl SimHost {
    /// A machine that nobody knows yet.
    pub(crate) fn new(fleet: &Fleet, maker: &SimManufacturer, id: &str) -> Self {
        let tpm = SimTpm::new(AkKind::P256);
        let ek_certificate = maker.ek_certificate(&tpm);
        let folder = fleet.path().join("sim").join(id);
        fs::create_dir_all(&folder).unwrap();
        let (channel, key) = (CredentialKey::new(), CredentialKey::new());
        fs::write(folder.join("key.pem"), pem("PRIVATE KEY", &channel.pkcs8())).unwrap();
        let (id, secrets) = (id.to_owned(), Vec::new());
        Self { id, tpm, ek_certificate, channel, folder, key, hardware: None, audiences: Vec::new(), secrets }
    }

    /// A machine that is registered and enrolled.
    pub(crate) fn enrolled(fleet: &Fleet, maker: &SimManufacturer, id: &str) -> Self {
        let mut host = Self::new(fleet, maker, id);
        host.register(fleet);
        let (status, answer) = host.enroll(fleet);
        assert_eq!(status, 200, "{answer}");
        host
    }

    /// A machine that is enrolled and trusted, and its certificate chain.
    pub(crate) fn trusted(fleet: &Fleet, maker: &SimManufacturer, id: &str) -> (Self, String) {
        let mut host = Self::enrolled(fleet, maker, id);
        let granted = host.attest_ok(fleet);
        (host, granted.credential.unwrap().certificate_chain)
    }

    pub(crate) fn ek_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&[&Public::read(self.tpm.ek_public()).unwrap().spki()])
    }

    pub(crate) fn register(&self, fleet: &Fleet) {
        self.register_by(fleet, self.ek_sha256());
    }

    /// Registers the host by whichever key its manufacturer certified.
    pub(crate) fn register_by(&self, fleet: &Fleet, endorsed: Sha256Digest) {
        let body = json!({"id": self.id, "ek_sha256": endorsed});
        let answer = fleet.as_operator().send("POST", "/v1/hosts", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    pub(crate) fn enrollment_request(&self) -> EnrollmentRequest {
        EnrollmentRequest {
            host: HostId::parse(&self.id).unwrap(),
            endorsement: Endorsement::EndorsementKey {
                certificate: Base64Bytes(self.ek_certificate.clone()),
                public: Base64Bytes(self.tpm.ek_public().to_vec()),
                intermediates: Vec::new(),
            },
            ak_public: Base64Bytes(self.tpm.ak_public().to_vec()),
            channel_key: Base64Bytes(self.channel.spki()),
        }
    }

    /// First half of an enrolment.
    pub(crate) fn begin(&self, fleet: &Fleet) -> Answer {
        fleet.as_anyone().send("POST", "/v1/enrollments", Some(&json!(self.enrollment_request())))
    }

    /// Opens the secret; the right proof.
    pub(crate) fn prove(&mut self, challenge: &EnrollmentChallenge) -> Value {
        let EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret } = &challenge.task else {
            panic!("an EK is asked to activate a credential: {challenge:?}");
        };
        let secret = self.tpm.activate(&credential_blob.0, &encrypted_secret.0).unwrap();
        let proof = activation_proof(&secret, &challenge.enrollment, &self.channel.spki());
        self.secrets.push(secret);
        json!({"proof": Base64Bytes(proof.to_vec())})
    }

    /// Both halves by a certified AK or IAK, whose TPM signs what `sign` makes of the qualifying data.
    pub(crate) fn enroll_by(
        &self,
        fleet: &Fleet,
        endorsement: Endorsement,
        sign: impl FnOnce(&[u8; 32]) -> Vec<u8>,
    ) -> Answer {
        let request = EnrollmentRequest { endorsement, ..self.enrollment_request() };
        let begun = fleet.as_anyone().send("POST", "/v1/enrollments", Some(&json!(request)));
        if begun.status != 201 {
            return begun;
        }
        let challenge: EnrollmentChallenge = begun.json();
        let (EnrollmentTask::Quote { nonce } | EnrollmentTask::CertifyAk { nonce }) = &challenge.task else {
            panic!("no EK is there to activate anything: {challenge:?}");
        };
        let nonce = nonce.0.as_slice().try_into().unwrap();
        let proof = sign(&possession_data(nonce, &challenge.enrollment, &self.channel.spki()));
        let path = format!("/v1/enrollments/{}/activation", challenge.enrollment);
        let answer = fleet.as_anyone().send("POST", &path, Some(&json!({"proof": Base64Bytes(proof)})));
        if answer.status == 200 {
            let certificate = answer.json::<Value>()["channel_certificate"].as_str().unwrap().to_owned();
            fs::write(self.folder.join("certificate.pem"), certificate).unwrap();
        }
        answer
    }

    /// Both halves; the last answer.
    pub(crate) fn enroll(&mut self, fleet: &Fleet) -> (u16, String) {
        let begun = self.begin(fleet);
        if begun.status != 201 {
            return (begun.status, begun.text());
        }
        let challenge: EnrollmentChallenge = begun.json();
        let path = format!("/v1/enrollments/{}/activation", challenge.enrollment);
        let proof = self.prove(&challenge);
        let answer = fleet.as_anyone().send("POST", &path, Some(&proof));
        if answer.status == 200 {
            let certificate = answer.json::<Value>()["channel_certificate"].as_str().unwrap().to_owned();
            fs::write(self.folder.join("certificate.pem"), certificate).unwrap();
        }
        (answer.status, answer.text())
    }

    /// A client on the host's channel.
    pub(crate) fn client(&self, fleet: &Fleet) -> Client {
        fleet.as_holder(&self.folder)
    }

    pub(crate) fn challenge(&self, fleet: &Fleet) -> Challenge {
        self.client(fleet).connect().unwrap().challenge()
    }

    /// What a connection of this host's is to its evidence.
    pub(crate) fn binding(&self, connection: &mut Connection) -> ChannelBinding {
        let own_leaf = Sha256Digest::of(&[&self.channel.spki()]);
        ChannelBinding(connection.exported(&ChannelBinding::context(Role::Host, &own_leaf)))
    }

    /// Evidence for a challenge, to be sent on a connection.
    pub(crate) fn evidence(&mut self, challenge: &Challenge, connection: &mut Connection) -> AttestationRequest {
        let binding = self.binding(connection);
        self.evidence_for(challenge, &binding)
    }

    pub(crate) fn evidence_for(&mut self, challenge: &Challenge, binding: &ChannelBinding) -> AttestationRequest {
        self.tpm.clock.clock += 1000;
        let nonce = challenge.nonce.0.clone().try_into().unwrap();
        let binder = Binder::new(Role::Host, &nonce, &self.key.spki(), binding);
        let qualifying = binder.qualifying_data();
        let (tpm_quote, tpm_pcrs) = self.tpm.quote(&challenge.pcr_selection, &qualifying);
        let tpm_certify = self.tpm.certify(&self.key, &qualifying);
        let mut bundle = Bundle {
            tpm_quote,
            tpm_pcrs,
            tpm_certify,
            event_log: None,
            ima: None,
            snp: None,
            tdx: None,
            paravisor: None,
        };
        if let Some(hardware) = &self.hardware {
            hardware(binder.report_data(), &mut bundle);
        }
        AttestationRequest {
            workload_key: None,
            challenge: challenge.challenge.clone(),
            audiences: self.audiences.clone(),
            credential_key: Base64Bytes(self.key.spki()),
            evidence: bundle.encode(),
        }
    }

    /// Challenge and attestation on one connection; an error when the broker goes away meanwhile.
    pub(crate) fn try_attest(&mut self, client: &Client) -> std::io::Result<Answer> {
        let mut connection = client.connect()?;
        let answer = connection.send("POST", "/v1/challenges", Some(&json!({})))?;
        if answer.status != 201 {
            return Ok(answer);
        }
        let request = self.evidence(&answer.json(), &mut connection);
        connection.send("POST", "/v1/attestations", Some(&json!(request)))
    }

    pub(crate) fn attest(&mut self, fleet: &Fleet) -> Answer {
        self.try_attest(&self.client(fleet)).unwrap()
    }

    pub(crate) fn attest_ok(&mut self, fleet: &Fleet) -> AttestationResponse {
        let answer = self.attest(fleet);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The credential key, PEM.
    pub(crate) fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key.pkcs8())
    }

    /// The credential key's `SubjectPublicKeyInfo`.
    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.spki()
    }

    /// A new credential key from the next attestation on.
    pub(crate) fn renew(&mut self) {
        self.key = CredentialKey::new();
    }

    /// A manifest with this machine's PCRs; every new software TPM has the same.
    pub(crate) fn manifest(&self, id: &str) -> Value {
        let value = |pcr: u8| hex::encode(self.tpm.pcr(PcrHash::Sha256, pcr));
        json!({"id": id, "tpm": {"pcrs": {"sha256": {"0": [value(0)], "4": [value(4)], "7": [value(7)]}}}})
    }
}

/// Registers the state of newly made software TPMs as good.
pub(crate) fn register_golden(fleet: &Fleet, id: &str) {
    let maker = SimManufacturer::new();
    let manifest = SimHost::new(fleet, &maker, "golden").manifest(id);
    fleet.register(&manifest);
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
