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

/// What is asked, the bytes of the request, and the status and code that answer it.
type Case = (&'static str, Vec<u8>, (u16, &'static str));

/// Departures from `good`, a registration that would be accepted.
fn bad_bodies(good: &Value) -> Vec<Case> {
    const JSON: &str = "content-type: application/json\r\n";
    const MALFORMED: (u16, &str) = (400, "request.malformed");
    const MEDIA_TYPE: (u16, &str) = (415, "request.media_type");
    const TOO_LARGE: (u16, &str) = (413, "request.too_large");
    let with = |headers: &str, body: &[u8]| post(&format!("{headers}content-length: {}\r\n", body.len()), body);
    let text = good.to_string();
    let changed = |member: &str, value: Value| {
        let mut body = good.clone();
        body[member] = value;
        body.to_string().into_bytes()
    };
    let not_utf8 = [&text.as_bytes()[..text.len() - 2], b"\xff\"}"].concat();
    let big = vec![b' '; 64 * 1024 + 1];
    let chunked = [format!("{:x}\r\n", big.len()).as_bytes(), &big, b"\r\n0\r\n\r\n"].concat();
    let declared = |length: u64| post(&format!("{JSON}content-length: {length}\r\n"), b"");
    vec![
        ("truncated JSON", with(JSON, &text.as_bytes()[..text.len() - 1]), MALFORMED),
        ("no body", with(JSON, b""), MALFORMED),
        ("JSON of another shape", with(JSON, b"[]"), MALFORMED),
        ("two documents", with(JSON, text.repeat(2).as_bytes()), MALFORMED),
        ("unknown member", with(JSON, &changed("admin", json!(true))), MALFORMED),
        ("a number for a digest", with(JSON, &changed("ek_sha256", json!(7))), MALFORMED),
        ("a short digest", with(JSON, &changed("ek_sha256", json!("00"))), MALFORMED),
        ("not UTF-8", with(JSON, &not_utf8), MALFORMED),
        ("a host id that leaves its path", with(JSON, &changed("id", json!("../x"))), MALFORMED),
        ("a host id that is too long", with(JSON, &changed("id", json!("x".repeat(64)))), MALFORMED),
        ("no content type", with("", text.as_bytes()), MEDIA_TYPE),
        ("a form", with("content-type: text/plain\r\n", text.as_bytes()), MEDIA_TYPE),
        ("too large, declared", declared(65_537), TOO_LARGE),
        ("huge, declared", declared(999_999_999_999), TOO_LARGE),
        ("too large, chunked", post(&format!("{JSON}transfer-encoding: chunked\r\n"), &chunked), TOO_LARGE),
    ]
}

/// Things that are not there.
fn bad_paths() -> Vec<Case> {
    let ask = |line: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
    vec![
        ("unknown route", ask("GET /v1/secrets"), (404, "route.unknown")),
        ("a route's parent", ask("GET /v1"), (404, "route.unknown")),
        ("a route with a slash more", ask("GET /v1/hosts/"), (404, "route.unknown")),
        ("a path that leaves its own", ask("GET /v1/references/../hosts"), (404, "route.unknown")),
        ("wrong method", ask("PUT /v1/hosts"), (405, "route.method")),
        ("unknown host", ask("GET /v1/hosts/nobody"), (404, "host.unknown")),
        ("a host that cannot be", ask("GET /v1/hosts/%2e%2e%2fx"), (404, "host.unknown")),
        ("removal of nobody", ask("DELETE /v1/hosts/nobody"), (404, "host.unknown")),
        ("unknown entry", ask("GET /v1/log/entries/-1"), (404, "lineage.entry.unknown")),
        ("unknown list", ask("GET /v1/status-lists/9"), (404, "status_list.unknown")),
        ("unknown manifest", ask("GET /v1/references/none"), (404, "reference.unknown")),
        ("withdrawal of nothing", ask("DELETE /v1/references/none"), (404, "reference.unknown")),
    ]
}

#[test]
fn bad_requests_get_a_problem_document_and_change_nothing() {
    let Scene { fleet, maker, _folder } = scene();
    let (host, _) = SimHost::trusted(&fleet, &maker, "host-a");
    let before = state(&fleet);
    let operator = fleet.as_operator();
    let good = json!({"id": "host-z", "ek_sha256": host.ek_sha256()});
    for (what, request, expected) in bad_bodies(&good).into_iter().chain(bad_paths()) {
        assert_problem(&raw(&operator, &request), expected, what);
    }
    let twice = json!({"id": "host-a", "ek_sha256": host.ek_sha256()});
    let more = json!({"all": true});
    let table = [
        ("a host that exists", "/v1/hosts", twice, (409, "host.exists")),
        ("a trusted host", "/v1/hosts/host-a/readmission", json!({}), (409, "host.not_revoked")),
        ("revocation of nobody", "/v1/hosts/nobody/revocation", json!({}), (404, "host.unknown")),
        ("a revocation that says more", "/v1/hosts/host-a/revocation", more, (400, "request.malformed")),
        ("a manifest that exists", "/v1/references", fleet.signed(&host.manifest("golden")), (409, "reference.exists")),
    ];
    for (what, path, body, expected) in table {
        assert_problem(&operator.send("POST", path, Some(&body)), expected, what);
    }

    // Plain HTTP on the TLS port is told so in plain HTTP.
    let mut plain = TcpStream::connect(("127.0.0.1", fleet.port)).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_problem(&Answer::read(&mut plain).unwrap(), (400, "transport.plain_http"), "plain HTTP");
    assert_eq!(state(&fleet), before);
    assert_eq!(operator.send("POST", "/v1/hosts", Some(&good)).status, 201, "what was departed from is good");
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
    let mut connection = host.client(&fleet).connect().unwrap();
    let channel = host.binding(&mut connection);
    let challenge = connection.challenge();
    let redeemed = host.evidence_for(&challenge, &channel);
    let mut attest = |request: &Value| connection.send("POST", "/v1/attestations", Some(request)).unwrap();
    assert_eq!(attest(&json!(redeemed)).status, 200);
    let before = state(&fleet);

    assert_problem(&attest(&json!(redeemed)), (403, "challenge.replayed"), "the same request again");
    let again = json!(host.evidence_for(&challenge, &channel));
    assert_problem(&attest(&again), (403, "challenge.replayed"), "fresh evidence for the same challenge");
    let mut others = json!(host.evidence_for(&other.challenge(&fleet), &channel));
    assert_problem(&attest(&others), (403, "challenge.other_host"), "another host's challenge");
    for forged in ["", "AAAA", "****", &"A".repeat(139), &"A".repeat(5000)] {
        others["challenge"] = json!(forged);
        assert_problem(&attest(&others), (403, "challenge.invalid"), "a forged challenge");
    }
    // Every byte of a challenge is authenticated.
    let fresh = host.challenge(&fleet);
    let mut request = json!(host.evidence_for(&fresh, &channel));
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
