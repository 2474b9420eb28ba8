//! A broker that grants, denies or says nothing on command. It judges nothing; what it does is real: TLS 1.3 with
//! client certificates, credential activation through tpm2-tools, and certificates for the keys it is sent.

mod tokens;

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use self::tokens::Tokens;
use countersign_agent::clock;
use countersign_attestation::UnixMillis;
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::evidence::tpm::attest::Attest;
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, AttestationRequest, AttestationResponse, Base64Bytes, Challenge,
    Endorsement, EnrollmentChallenge, EnrollmentRequest, EnrollmentTask, IssuedCredential, KnownBoot, PcrSelection,
    Problem, activation_proof,
};
use countersign_attestation::reader::Reader;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, SanType, SubjectPublicKeyInfo,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What the broker answers to attestations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A lease of so many milliseconds.
    Grant(u64),
    /// 403 with a decision.
    Deny,
    /// 403 without a decision, as for a challenge that was redeemed.
    Refuse,
    /// The connection is closed.
    Silence,
}

#[derive(Debug)]
struct State {
    answer: Answer,
    enrollment_refusals: u32,
    enrollments: Vec<EnrollmentRequest>,
    keys: VecDeque<Vec<u8>>,
    attestations: Vec<Bundle>,
    /// What the next challenge says of the host's boot.
    known: Option<KnownBoot>,
    revoked: bool,
}

/// Size of every entry in the IMA lists of these tests.
pub(crate) const IMA_ENTRY_BYTES: usize = 64;
const SECRET: &[u8] = b"thirty-two bytes, made by no one";

/// A running broker.
pub(crate) struct Broker {
    port: u16,
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    tokens: Tokens,
}

impl Authority {
    fn sign(&self, spki: &[u8], extension: Option<CustomExtension>) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        if let Some(extension) = extension {
            params.custom_extensions.push(extension);
            let id = "spiffe://a.example/host/host-1".try_into().unwrap();
            params.subject_alt_names.push(SanType::URI(id));
        }
        params.distinguished_name.push(DnType::CommonName, "a host");
        params.signed_by(&SubjectPublicKeyInfo::from_der(spki).unwrap(), &self.issuer).unwrap().pem()
    }
}

impl Broker {
    /// Starts one with a CA of its own, writing under `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        // Ed25519, which TPMs do not have: OpenSSL's tpm2 provider would verify ECDSA and RSA in the TPM as well, and a
        // TPM without a resource manager has no slot left for that beside the client's key.
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
        let authority = Arc::new(Authority {
            certificate: certificate.pem(),
            issuer: Issuer::new(params, key),
            tokens: Tokens::new(),
        });
        let server_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let server = params.signed_by(&server_key, &authority.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(vec![server.der().clone()], server_key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Answer::Grant(45_000);
        let (keys, attestations) = Default::default();
        let enrollments = Vec::new();
        let state =
            State { answer, enrollment_refusals: 0, enrollments, keys, attestations, known: None, revoked: false };
        let state = Arc::new(Mutex::new(state));
        let shared = (Arc::new(config), Arc::clone(&state), authority, directory.to_path_buf());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, state, authority, directory) = shared.clone();
                std::thread::spawn(move || serve(stream, config, &state, &authority, &directory));
            }
        });
        Self { port, directory: directory.to_path_buf(), state }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub(crate) fn answer(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    /// An operator's revocation: the pulse says so, and attestations are denied.
    pub(crate) fn revoke(&self) {
        let mut state = self.state.lock().unwrap();
        (state.revoked, state.answer) = (true, Answer::Deny);
    }

    pub(crate) fn refuse_next_enrollment(&self) {
        self.state.lock().unwrap().enrollment_refusals = 1;
    }

    pub(crate) fn enrollments(&self) -> Vec<EnrollmentRequest> {
        self.state.lock().unwrap().enrollments.clone()
    }

    pub(crate) fn attestations(&self) -> Vec<Bundle> {
        self.state.lock().unwrap().attestations.clone()
    }
}

/// One connection, kept alive: HTTP/1.1 requests with a length.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, state: &Mutex<State>, authority: &Authority, directory: &Path) {
    let mut tls = BufReader::new(StreamOwned::new(ServerConnection::new(config).unwrap(), stream));
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if tls.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        loop {
            let mut header = String::new();
            if tls.read_line(&mut header).unwrap_or(0) <= 2 {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        if tls.read_exact(&mut body).is_err() {
            return;
        }
        if path == "/v1/pulse/stream" {
            return stream_pulses(tls.get_mut(), state, authority);
        }
        let channel = channel_of(&tls.get_ref().conn);
        let Some((status, answer)) = respond(&path, &body, channel, state, authority, directory) else { return };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
        let written = tls.get_mut().write_all(&[head.as_bytes(), answer.as_bytes()].concat());
        if written.and_then(|()| tls.get_mut().flush()).is_err() {
            return;
        }
    }
}

/// What the connection is to a host's evidence, if it is a host's.
fn channel_of(tls: &ServerConnection) -> Option<ChannelBinding> {
    let leaf = tls.peer_certificates()?.first()?;
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let context = ChannelBinding::context(Role::Host, &Sha256Digest::of(&[leaf.public_key().raw]));
    let output = [0; ChannelBinding::LENGTH];
    Some(ChannelBinding(tls.export_keying_material(output, ChannelBinding::LABEL, Some(&context)).unwrap()))
}

/// A list and a pulse every tenth of a second, until the reader goes.
fn stream_pulses(out: &mut impl std::io::Write, state: &Mutex<State>, authority: &Authority) {
    let mut text = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n".to_owned();
    for seq in 1.. {
        let valid = {
            let state = state.lock().unwrap();
            !state.keys.is_empty() && !state.revoked
        };
        text.push_str(&authority.tokens.events(valid, seq));
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
            return;
        }
        text.clear();
        std::thread::sleep(core::time::Duration::from_millis(100));
    }
}

fn respond(
    path: &str,
    body: &[u8],
    channel: Option<ChannelBinding>,
    state: &Mutex<State>,
    authority: &Authority,
    directory: &Path,
) -> Option<(u16, String)> {
    let mut state = state.lock().unwrap();
    match path {
        "/v1/enrollments" => {
            let request: EnrollmentRequest = serde_json::from_slice(body).unwrap();
            state.enrollments.push(request.clone());
            if 0 < state.enrollment_refusals {
                state.enrollment_refusals -= 1;
                return Some((403, problem("enrollment.host.unknown", None)));
            }
            Some((201, json(&make_credential(&request, directory))))
        }
        "/v1/enrollments/e-1/activation" => {
            let request: ActivationRequest = serde_json::from_slice(body).unwrap();
            let enrollment = state.enrollments.last().unwrap();
            let channel_key = &enrollment.channel_key.0;
            assert_eq!(request.proof.0, activation_proof(SECRET, "e-1", channel_key));
            let channel_certificate = authority.sign(channel_key, None);
            Some((200, json(&ActivationResponse { host: enrollment.host.clone(), channel_certificate })))
        }
        "/.well-known/jwks.json" => Some((200, authority.tokens.jwks())),
        "/v1/whoami" => Some((200, format!("authenticated: {}", channel.is_some()))),
        "/v1/challenges" | "/v1/attestations" if channel.is_none() => {
            Some((401, problem("channel.certificate.missing", None)))
        }
        "/v1/challenges" if state.answer == Answer::Silence => None,
        "/v1/challenges" => Some((201, json(&challenge(state.known)))),
        "/v1/attestations" => {
            let request: AttestationRequest = serde_json::from_slice(body).unwrap();
            assert_bound(&request, &channel.unwrap());
            attestation(&request, &mut state, authority)
        }
        other => panic!("{other} is not asked for"),
    }
}

fn challenge(known_boot: Option<KnownBoot>) -> Challenge {
    let mut nonce = vec![0; 32];
    aws_lc_rs::rand::fill(&mut nonce).unwrap();
    Challenge {
        challenge: hex::encode(&nonce),
        nonce: Base64Bytes(nonce),
        expires_at: UnixMillis(u64::MAX),
        pcr_selection: vec![PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0, 7, 10, 14] }],
        known_boot,
    }
}

/// The quote is for this challenge, this key and this very connection.
fn assert_bound(request: &AttestationRequest, channel: &ChannelBinding) {
    let bundle = Bundle::decode(&request.evidence).unwrap();
    let nonce = hex::decode(&request.challenge).unwrap().try_into().unwrap();
    let binder = Binder::new(Role::Host, &nonce, &request.credential_key.0, channel);
    let quote = Attest::read(Reader::new(&bundle.tpm_quote).tpm2b().unwrap()).unwrap();
    assert_eq!(quote.extra_data, binder.qualifying_data());
}

fn attestation(request: &AttestationRequest, state: &mut State, authority: &Authority) -> Option<(u16, String)> {
    let bundle = Bundle::decode(&request.evidence).unwrap();
    if let Answer::Grant(_) = state.answer {
        let clock = Attest::read(Reader::new(&bundle.tpm_quote).tpm2b().unwrap()).unwrap().clock;
        let new = bundle.ima.as_ref();
        let ima_entries = new.map_or(0, |new| new.from + (new.list.len() / IMA_ENTRY_BYTES) as u64);
        let (reset_count, restart_count) = (clock.reset_count, clock.restart_count);
        state.known = Some(KnownBoot { reset_count, restart_count, ima_entries });
    }
    state.attestations.push(bundle);
    let lease_ms = match state.answer {
        Answer::Silence => return None,
        Answer::Deny => return Some((403, problem("tpm.pcr.mismatch", Some(Sha256Digest([9; 32]))))),
        Answer::Refuse => return Some((403, problem("challenge.redeemed", None))),
        Answer::Grant(lease_ms) => lease_ms,
    };
    let now = clock::wall();
    let key = &request.credential_key.0;
    let is_new = !state.keys.contains(key);
    state.keys.push_back(key.clone());
    let credential = is_new.then(|| IssuedCredential {
        workload_chain: None,
        wit_svid: None,
        jwt_svids: vec![],
        certificate_chain: authority.sign(key, Some(tokens::extension())),
        ear: "an EAR".to_owned(),
        trust_bundle: authority.certificate.clone(),
        serial: hex::encode(&Sha256Digest::of(&[key]).0[..8]),
        not_after: now.plus(300_000),
        renew_at: now.plus(150_000),
    });
    let (decision, lease_until) = (Sha256Digest([1; 32]), now.plus(lease_ms));
    let attest_again_in_ms = lease_ms / 3;
    Some((200, json(&AttestationResponse { decision, log_index: 0, lease_until, attest_again_in_ms, credential })))
}

fn make_credential(request: &EnrollmentRequest, directory: &Path) -> EnrollmentChallenge {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (ek, secret, blob) = (path("broker.ek"), path("broker.secret"), path("broker.blob"));
    let Endorsement::EndorsementKey { public, .. } = &request.endorsement else { panic!("an EK: {request:?}") };
    let size = u16::try_from(public.0.len()).unwrap().to_be_bytes();
    fs::write(&ek, [&size, public.0.as_slice()].concat()).unwrap();
    fs::write(&secret, SECRET).unwrap();
    let name = format!("000b{}", Sha256Digest::of(&[&request.ak_public.0]).to_hex());
    let arguments = ["-T", "none", "-u", &ek, "-s", &secret, "-n", &name, "-o", &blob];
    assert!(Command::new("tpm2_makecredential").args(arguments).status().unwrap().success());
    let blob = fs::read(blob).unwrap();
    let mut reader = Reader::new(&blob);
    reader.bytes(8).unwrap(); // magic and version of the tool's file
    let credential_blob = Base64Bytes(reader.tpm2b().unwrap().to_vec());
    let encrypted_secret = Base64Bytes(reader.tpm2b().unwrap().to_vec());
    let task = EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret };
    EnrollmentChallenge { enrollment: "e-1".to_owned(), task, expires_at: UnixMillis(0) }
}

fn problem(code: &str, decision: Option<Sha256Digest>) -> String {
    json(&Problem {
        problem_type: format!("urn:countersign:reason:{code}"),
        title: "no".to_owned(),
        status: 403,
        code: code.to_owned(),
        expected: Some("a registered host".to_owned()),
        found: Some("host-1".to_owned()),
        remedy: "register it".to_owned(),
        decision,
    })
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}
