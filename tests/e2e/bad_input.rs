//! What must not work, against a running broker: each gets a problem document with its code, and changes nothing.

use std::io::Write as _;
use std::net::TcpStream;

use countersign_attestation::protocol::{Base64Bytes, EnrollmentChallenge};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::{Answer, Client};
use crate::fleet::Fleet;
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::{AkKind, SimManufacturer, SimTpm};

/// What a refused request must leave as it was.
#[derive(Debug, PartialEq)]
struct State {
    hosts: Value,
    references: Value,
    log_size: u64,
}

fn state(fleet: &Fleet) -> State {
    let operator = fleet.as_operator();
    let (hosts, references) = (operator.get("/v1/hosts"), operator.get("/v1/references"));
    State { hosts, references, log_size: fleet.log_size() }
}

struct Scene {
    fleet: Fleet,
    maker: SimManufacturer,
    _folder: TempDir,
}

fn scene() -> Scene {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    // Leases that outlast the test: a renewal or lapse would change what is compared.
    let fleet = Fleet::start_with(&[anchor(&maker, folder.path())], |config| config.lease_ms = 200_000);
    register_golden(&fleet, "golden");
    Scene { fleet, maker, _folder: folder }
}

fn assert_problem(answer: &Answer, expected: (u16, &str), what: &str) {
    let problem = answer.problem();
    assert_eq!((problem.status, problem.code.as_str()), expected, "{what}: {problem:?}");
}

fn raw(client: &Client, request: &[u8]) -> Answer {
    client.connect().unwrap().raw(request).unwrap()
}

/// A request for `POST /v1/hosts` with any head and body.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("POST /v1/hosts HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes(), body].concat()
}

#[test]
fn bad_requests_get_a_problem_document_and_change_nothing() {
    const JSON: &str = "content-type: application/json\r\n";
    let Scene { fleet, maker, _folder } = scene();
    let (host, _) = SimHost::trusted(&fleet, &maker, "host-a");
    let before = state(&fleet);
    let length = |body: &[u8]| format!("content-length: {}\r\n", body.len());
    let with = |headers: &str, body: &[u8]| post(&format!("{headers}{}", length(body)), body);
    let good = json!({"id": "host-z", "ek_sha256": host.ek_sha256()});
    let text = good.to_string();
    let unknown_member = json!({"id": "host-z", "ek_sha256": host.ek_sha256(), "admin": true}).to_string();
    let big = vec![b' '; 64 * 1024 + 1];
    let chunk = [format!("{:x}\r\n", big.len()).as_bytes(), &big, b"\r\n0\r\n\r\n"].concat();
    let table: Vec<(&str, Vec<u8>, (u16, &str))> = vec![
        ("truncated JSON", with(JSON, &text.as_bytes()[..text.len() - 1]), (400, "request.malformed")),
        ("no body", with(JSON, b""), (400, "request.malformed")),
        ("JSON of another shape", with(JSON, b"[]"), (400, "request.malformed")),
        ("two documents", with(JSON, format!("{text}{text}").as_bytes()), (400, "request.malformed")),
        ("unknown member", with(JSON, unknown_member.as_bytes()), (400, "request.malformed")),
        ("not UTF-8", with(JSON, b"{\"id\":\"\xff\"}"), (400, "request.malformed")),
        ("a host id that leaves its path", with(JSON, b"{\"id\":\"../x\"}"), (400, "request.malformed")),
        ("no content type", with("", text.as_bytes()), (415, "request.media_type")),
        ("a form", with("content-type: text/plain\r\n", text.as_bytes()), (415, "request.media_type")),
        ("too large, declared", post(&format!("{JSON}content-length: 65537\r\n"), b""), (413, "request.too_large")),
        ("huge, declared", post(&format!("{JSON}content-length: 999999999999\r\n"), b""), (413, "request.too_large")),
        ("too large, chunked", post(&format!("{JSON}transfer-encoding: chunked\r\n"), &chunk), (413, "request.too_large")),
        ("unknown route", b"GET /v1/secrets HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (404, "route.unknown")),
        ("a route's parent", b"GET /v1 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (404, "route.unknown")),
        ("wrong method", b"PUT /v1/hosts HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (405, "route.method")),
        ("unknown host", b"GET /v1/hosts/nobody HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (404, "host.unknown")),
        ("unknown entry", b"GET /v1/log/entries/-1 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (404, "lineage.entry.unknown")),
        ("unknown list", b"GET /v1/status-lists/9 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(), (404, "status_list.unknown")),
    ];
    let operator = fleet.as_operator();
    for (what, request, expected) in table {
        assert_problem(&raw(&operator, &request), expected, what);
    }
    let twice = json!({"id": "host-a", "ek_sha256": host.ek_sha256()});
    let table = [
        ("a host that exists", "POST", "/v1/hosts", twice, (409, "host.exists")),
        ("re-admission of a trusted host", "POST", "/v1/hosts/host-a/readmission", json!({}), (409, "host.not_revoked")),
        ("revocation of nobody", "POST", "/v1/hosts/nobody/revocation", json!({}), (404, "host.unknown")),
        ("a revocation that says more", "POST", "/v1/hosts/host-a/revocation", json!({"all": 1}), (400, "request.malformed")),
        ("a manifest that exists", "POST", "/v1/references", host.manifest("golden"), (409, "reference.exists")),
    ];
    for (what, method, path, body, expected) in table {
        assert_problem(&operator.send(method, path, Some(&body)), expected, what);
    }
    assert_problem(&operator.send("DELETE", "/v1/references/none", None), (404, "reference.unknown"), "no manifest");

    // Plain HTTP on the TLS port is told so in plain HTTP.
    let mut plain = TcpStream::connect(("127.0.0.1", fleet.port)).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_problem(&Answer::read(&mut plain).unwrap(), (400, "transport.plain_http"), "plain HTTP");
    assert_eq!(state(&fleet), before);
}

#[test]
fn an_operator_who_is_removed_is_refused_on_the_open_connection() {
    let Scene { fleet, _folder, .. } = scene();
    let folder = fleet.path().join("second");
    fleet.operator_ok(&["operator", "add", "second", "--out", folder.to_str().unwrap()]);
    let mut connection = fleet.as_holder(&folder).connect().unwrap();
    assert_eq!(connection.send("GET", "/v1/hosts", None).unwrap().status, 200);
    fleet.operator_ok(&["operator", "remove", "second"]);
    let refused = connection.send("GET", "/v1/hosts", None).unwrap();
    assert_problem(&refused, (403, "channel.forbidden"), "a removed operator");
    // Another key under the same name does not open the door for the old one.
    let folder = fleet.path().join("second-again");
    fleet.operator_ok(&["operator", "add", "second", "--out", folder.to_str().unwrap()]);
    assert_eq!(fleet.as_holder(&folder).send("GET", "/v1/hosts", None).status, 200);
    let refused = connection.send("GET", "/v1/hosts", None).unwrap();
    assert_problem(&refused, (403, "channel.forbidden"), "an old key of a listed name");
}

#[test]
fn a12_a_challenge_is_redeemed_once_by_its_host_and_only_if_the_broker_made_it() {
    let Scene { fleet, maker, _folder } = scene();
    let (mut host, _) = SimHost::trusted(&fleet, &maker, "host-a");
    let (other, _) = SimHost::trusted(&fleet, &maker, "host-b");
    let challenge = host.challenge(&fleet);
    let redeemed = host.evidence(&challenge);
    let client = host.client(&fleet);
    let attest = |request: &Value| client.send("POST", "/v1/attestations", Some(request));
    assert_eq!(attest(&json!(redeemed)).status, 200);
    let before = state(&fleet);

    assert_problem(&attest(&json!(redeemed)), (403, "challenge.replayed"), "the same request again");
    let again = json!(host.evidence(&challenge));
    assert_problem(&attest(&again), (403, "challenge.replayed"), "fresh evidence for the same challenge");
    let mut others = json!(host.evidence(&other.challenge(&fleet)));
    assert_problem(&attest(&others), (403, "challenge.other_host"), "another host's challenge");
    for forged in ["", "AAAA", "****", &"A".repeat(139), &"A".repeat(5000)] {
        others["challenge"] = json!(forged);
        assert_problem(&attest(&others), (403, "challenge.invalid"), "a forged challenge");
    }
    // Every byte of a challenge is authenticated.
    let fresh = host.challenge(&fleet);
    let mut request = json!(host.evidence(&fresh));
    for at in [0, 43, 60, 100, fresh.challenge.len() - 2] {
        let mut changed = fresh.challenge.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        request["challenge"] = json!(String::from_utf8(changed).unwrap());
        assert_problem(&attest(&request), (403, "challenge.invalid"), &format!("byte {at} changed"));
    }
    assert_eq!(state(&fleet), before, "nothing was judged, so nothing was recorded");

    // The forgeries did not use it up.
    request["challenge"] = json!(fresh.challenge);
    assert_eq!(attest(&request).status, 200);
    // A new challenge with evidence made for an older one is judged, denied and recorded; the host's lease goes on.
    let mut stale = json!(redeemed);
    stale["challenge"] = json!(host.challenge(&fleet).challenge);
    let denied = attest(&stale).problem();
    assert_eq!(denied.status, 403);
    let newest = fleet.entries().pop().unwrap();
    assert_eq!((newest.event.as_str(), Some(newest.leaf_hash)), ("denied", denied.decision.map(|id| id.to_hex())));
    assert_eq!(fleet.host("host-a").trust.standing, "trusted");
}

#[test]
fn a9_a10_an_enrolment_has_one_attempt_and_one_identity() {
    let Scene { fleet, maker, _folder } = scene();
    let mut host = SimHost::new(&fleet, &maker, "host-a");
    let begin = |host: &SimHost| host.begin(&fleet);
    assert_problem(&begin(&host), (404, "host.unknown"), "an unregistered host");
    host.register(&fleet);
    let before = state(&fleet);

    // Another TPM, genuine as it may be.
    let mut impostor = SimHost::new(&fleet, &maker, "host-a");
    assert_problem(&begin(&impostor), (403, "enrollment.ek.not_registered"), "another EK");
    // The right EK under a certificate of another manufacturer, and another TPM's certificate.
    let genuine = std::mem::replace(&mut host.ek_certificate, SimManufacturer::new().ek_certificate(&host.tpm));
    let problem = begin(&host).problem();
    assert!(problem.status == 403 && !problem.code.starts_with("enrollment."), "{problem:?}");
    host.ek_certificate = maker.ek_certificate(&SimTpm::new(AkKind::P256));
    let problem = begin(&host).problem();
    assert!(problem.status == 403 && !problem.code.starts_with("enrollment."), "{problem:?}");
    for garbage in [Vec::new(), b"\x30\x80".to_vec(), genuine[..genuine.len() - 1].to_vec()] {
        host.ek_certificate = garbage;
        assert_eq!(begin(&host).problem().status, 403);
    }
    host.ek_certificate = genuine;

    // One attempt: a wrong proof voids the enrolment, also for the right proof after it.
    let challenge: EnrollmentChallenge = begin(&host).json();
    let path = format!("/v1/enrollments/{}/activation", challenge.enrollment);
    let right = host.prove(&challenge);
    let wrong = json!({"proof": Base64Bytes(vec![0x5a; 32])});
    let anyone = fleet.as_anyone();
    let answer = anyone.send("POST", &path, Some(&wrong));
    assert_problem(&answer, (403, "enrollment.activation.failed"), "a wrong proof");
    let echoed = [answer.head.clone(), answer.text()].concat();
    let secret = host.secrets.last().unwrap();
    for form in [hex::encode(secret), json!(Base64Bytes(secret.clone())).as_str().unwrap().to_owned()] {
        assert!(!echoed.contains(&form), "{echoed}");
    }
    assert!(!echoed.contains(right["proof"].as_str().unwrap()), "{echoed}");
    let second = anyone.send("POST", &path, Some(&right));
    assert_problem(&second, (404, "enrollment.unknown"), "the right proof after a wrong one");
    for short in [vec![], vec![0], vec![0; 31], vec![0; 33]] {
        let challenge: EnrollmentChallenge = begin(&host).json();
        let path = format!("/v1/enrollments/{}/activation", challenge.enrollment);
        let answer = anyone.send("POST", &path, Some(&json!({"proof": Base64Bytes(short)})));
        assert_problem(&answer, (403, "enrollment.activation.failed"), "a proof of another length");
    }
    assert_eq!(state(&fleet), before);

    // Two enrolments at once: one wins, the other finds the host enrolled, and so does everyone after.
    let first: EnrollmentChallenge = begin(&host).json();
    let second: EnrollmentChallenge = begin(&host).json();
    let proofs = [host.prove(&first), host.prove(&second)];
    let statuses = std::thread::scope(|scope| {
        let asked = [(&first, &proofs[0]), (&second, &proofs[1])].map(|(challenge, proof)| {
            let (client, path) = (anyone.clone(), format!("/v1/enrollments/{}/activation", challenge.enrollment));
            scope.spawn(move || client.send("POST", &path, Some(proof)))
        });
        asked.map(|asked| asked.join().unwrap())
    });
    let (won, lost): (Vec<_>, Vec<_>) = statuses.iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_problem(lost[0], (409, "enrollment.host.already_enrolled"), "the slower of two");
    let enrolled = state(&fleet);
    assert_problem(&begin(&host), (409, "enrollment.host.already_enrolled"), "a second enrolment");
    impostor.id = "host-a".to_owned();
    assert_problem(&begin(&impostor), (409, "enrollment.host.already_enrolled"), "another TPM for an enrolled id");
    assert_eq!(state(&fleet), enrolled);
}
