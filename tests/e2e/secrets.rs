//! Secrets stay where they belong, however much is logged.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_attestation::protocol::{Base64Bytes, EnrollmentChallenge};
use serde_json::json;
use tempfile::TempDir;

use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::sim_host::{SimHost, anchor};
use crate::tpm::SimManufacturer;

#[test]
fn e12_no_log_and_no_answer_holds_a_private_key_or_an_activation_secret() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let mut machine = Machine::boot(&folder.path().join("machine"));
    machine.log = "trace";
    let anchors = [machine.anchor(), anchor(&maker, folder.path())];
    let fleet = Fleet::start_logging(&anchors, "trace", |config| config.attest_interval_ms = 1000);

    // A real agent's whole life up to a credential and its denial.
    let mut said = String::new();
    machine.enroll(&fleet, "host-a");
    let (code, denied) = machine.attest_once();
    assert_eq!(code, Some(3));
    machine.capture(&fleet, "host-a", "golden");
    let (code, granted) = machine.attest_once();
    assert_eq!(code, Some(0), "{granted}");
    let mut agent = machine.run();
    machine.event("granted");
    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    assert_eq!(agent.code(), Some(3));
    said.push_str(&denied);
    said.push_str(&granted);
    // Enrolments whose secret we know: one that fails, one that succeeds.
    let mut host = SimHost::new(&fleet, &maker, "host-b");
    host.register(&fleet);
    let challenge: EnrollmentChallenge = host.begin(&fleet).json();
    host.prove(&challenge);
    let path = format!("/v1/enrollments/{}/activation", challenge.enrollment);
    let wrong = fleet.as_anyone().send("POST", &path, Some(&json!({"proof": Base64Bytes(vec![1; 32])})));
    assert_eq!(wrong.status, 403);
    said.push_str(&wrong.text());
    let (status, answer) = host.enroll(&fleet);
    assert_eq!(status, 200);
    said.push_str(&answer);
    for question in [&["hosts", "list"][..], &["hosts", "show", "host-a"], &["hosts", "show", "host-a", "-o", "json"]] {
        said.push_str(&fleet.operator_ok(question));
    }
    for path in ["/metrics", "/v1/hosts", "/v1/bundle", "/.well-known/jwks.json"] {
        said.push_str(&fleet.as_operator().send("GET", path, None).text());
    }

    let all = [fleet.logs(), machine.logs(), said].concat();
    assert!(all.contains("TRACE") && 50_000 < all.len(), "the processes did not log all there is: {} bytes", all.len());
    assert!(!all.contains("PRIVATE KEY"), "a private key in PEM");
    assert!(!all.contains("PRIVATE+KEY"), "the log's signing key");
    assert_eq!(host.secrets.len(), 2);
    for secret in &host.secrets {
        check_unsaid(secret, &all, "an activation secret");
    }
    check_private(&fleet.data(), &all);
    check_private(&machine.state(), &all);
}

/// Files that hold a private key are their owner's alone, and no part of one is in what was said.
fn check_private(folder: &Path, said: &str) {
    let mut waiting = vec![folder.to_owned()];
    let mut found = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        // The broker goes on publishing its log: a file that was renamed meanwhile held no key.
        let Ok(bytes) = fs::read(&path) else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.contains("PRIVATE KEY") {
            continue;
        }
        found += 1;
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
        // Keys of the TPM are wrapped; the others are PKCS#8 with a P-256 scalar (RFC 5915: OCTET STRING of 32 bytes).
        let Some(der) = text.split_once("-----BEGIN PRIVATE KEY-----") else { continue };
        let der: String = der.1.lines().take_while(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(der).unwrap();
        let at = der.windows(2).position(|window| window == [0x04, 0x20]).unwrap() + 2;
        check_unsaid(&der[at..at + 32], said, &path.display().to_string());
    }
    assert!(0 < found, "no private key under {}", folder.display());
}

/// No form of a secret is in what was said: hex, base64 of any alignment, a list of numbers.
fn check_unsaid(secret: &[u8], said: &str, what: &str) {
    let listed = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut forms = vec![hex::encode(secret), listed];
    for from in 0..3 {
        let whole = &secret[from..from + (secret.len() - from) / 3 * 3];
        forms.extend([STANDARD.encode(whole), URL_SAFE_NO_PAD.encode(whole)]);
    }
    assert!(!forms.iter().any(|form| said.contains(form)), "{what} was said");
}
