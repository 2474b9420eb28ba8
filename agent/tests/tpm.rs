//! The agent's TPM work against a real software TPM, judged by others: tpm2-tools, OpenSSL and aws-lc.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "../../tests/sim/tpm.rs"]
mod sim;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../tests/sim/swtpm.rs"]
mod swtpm;

use core::time::Duration;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use countersign_agent::certificate::KeyCertificate;
use countersign_agent::collect::tpm::{CredentialKey, TpmEvidence, collect, pcr_update_counter, read_pcrs};
use countersign_agent::device::{Tpm, TpmError};
use countersign_agent::endorser::Endorser;
use countersign_agent::keys::{self, Ak, AkKind, EkKind, WrappedKey};
use countersign_agent::possession::activate;
use countersign_attestation::UnixMillis;
use countersign_attestation::binder::ChannelBinding;
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::tpm::verify_ek;
use countersign_attestation::evidence::tpm::{
    ActivationSecret, AttestationKey, EndorsementKey, MadeCredential, make_credential as make_credential_here,
};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::reader::Reader;
use sim::SimManufacturer;
use swtpm::Swtpm;

const NONCE: [u8; 32] = [7; 32];
const CHANNEL: ChannelBinding = ChannelBinding([8; 32]);

fn started(directory: &tempfile::TempDir) -> (Swtpm, Tpm) {
    let swtpm = Swtpm::start(directory.path());
    let tpm = Tpm::new(&swtpm.tcti()).unwrap();
    (swtpm, tpm)
}

async fn new_ak(tpm: &Tpm, kind: AkKind) -> WrappedKey {
    tpm.run(move |session| {
        let parent = keys::attestation_primary(session)?;
        let key = keys::create_attestation_key(session, parent, kind)?;
        session.flush(parent)?;
        Ok(key)
    })
    .await
    .unwrap()
}

fn selection() -> Vec<PcrSelection> {
    // SHA-384 first: the order is the requester's, not the library's. More PCRs than one command reads.
    let all = (0..24).collect();
    vec![
        PcrSelection { bank: PcrHash::Sha384, pcrs: vec![0, 7, 23] },
        PcrSelection { bank: PcrHash::Sha256, pcrs: all },
    ]
}

async fn collected(tpm: &Tpm, ak: &WrappedKey, key: CredentialKey) -> TpmEvidence {
    let ak = Ak::Wrapped(ak.clone());
    tpm.run(move |session| collect(session, &ak, key, (&NONCE, &CHANNEL), &selection(), None)).await.unwrap()
}

fn succeeded(output: &Output) -> &Output {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
    output
}

/// TPM2B_ATTEST's content, and the bytes behind it.
fn split_attest(evidence: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut reader = Reader::new(evidence);
    let attest = reader.tpm2b().unwrap().to_vec();
    (attest, evidence[reader.offset()..].to_vec())
}

/// The public key as PEM, through tpm2-tools.
fn public_pem(directory: &Path, swtpm: &Swtpm, key: &WrappedKey) -> String {
    let (public, pem) = (directory.join("key.tpm2b"), directory.join("key.pub.pem"));
    fs::write(&public, key.tpm2b_public()).unwrap();
    let printed = swtpm.tool("tpm2_print", &["-t", "TPM2B_PUBLIC", "-f", "pem", public.to_str().unwrap()]);
    fs::write(&pem, &succeeded(&printed).stdout).unwrap();
    pem.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn identity_is_what_the_certificate_says() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, _tpm) = started(&directory);
    for (kind, text) in [("rsa2048", "RSA"), ("ecc-p384", "EC")] {
        let certificate = directory.path().join(format!("{kind}.der"));
        let mut agent = Command::new(env!("CARGO_BIN_EXE_countersign-agent"));
        agent.args(["identity", "--tcti", &swtpm.tcti(), "--ek", kind, "--output", "json", "--ek-certificate"]);
        let output = agent.arg(&certificate).output().unwrap();
        let identity: serde_json::Value = serde_json::from_slice(&succeeded(&output).stdout).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["x509", "-inform", "DER", "-noout", "-pubkey", "-in"]);
        let public = String::from_utf8(openssl.arg(&certificate).output().unwrap().stdout).unwrap();
        let spki = <rustls_pki_types::SubjectPublicKeyInfoDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(
            public.as_bytes(),
        );
        let fingerprint = Sha256Digest::of(&[spki.unwrap().as_ref()]).to_hex();
        assert_eq!(identity["fingerprint"], fingerprint, "{text}");
        let [issuer, root] = swtpm.ca_certificates();
        let mut verify = Command::new("openssl");
        // The subject alternative name is critical and OpenSSL does not read its directoryName.
        verify.args(["verify", "-ignore_critical", "-CAfile"]).arg(root).arg("-untrusted").arg(issuer);
        succeeded(&verify.arg(&certificate).output().unwrap());
        assert!(identity["issuer"].as_str().unwrap().contains("swtpm-localca"), "{identity}");
    }
    // P-256: this manufacturer left no certificate of that kind, and the agent says what it looked for.
    let mut agent = Command::new(env!("CARGO_BIN_EXE_countersign-agent"));
    let output = agent.args(["identity", "--tcti", &swtpm.tcti(), "--ek", "ecc-p256"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("read a certificate from NV memory"));
}

#[tokio::test]
async fn a_certificate_of_another_key_is_no_identity() {
    let directory = tempfile::tempdir().unwrap();
    let (_swtpm, tpm) = started(&directory);
    let rsa = tpm.run(|session| Endorser::EndorsementKey(EkKind::Rsa2048).read(session)).await.unwrap();
    let ecc = tpm.run(|session| Endorser::EndorsementKey(EkKind::EccP384).read(session)).await.unwrap();
    assert_eq!(KeyCertificate::of(&rsa.certificate, &rsa.public), Ok(rsa.described.clone()));
    let other_rsa = new_ak(&tpm, AkKind::Rsa2048).await.public;
    let other_ecc = new_ak(&tpm, AkKind::EccP256).await.public;
    for (certificate, public) in [(&rsa, &other_rsa), (&rsa, &ecc.public), (&ecc, &other_ecc), (&ecc, &rsa.public)] {
        let refused = KeyCertificate::of(&certificate.certificate, public);
        assert!(matches!(refused, Err(TpmError::Answer { command: "read the certificate", .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn keys_survive_a_power_cycle_and_no_other_tpm_loads_them() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    for kind in [AkKind::EccP256, AkKind::Rsa2048] {
        let ak = new_ak(&tpm, kind).await;
        let first = collected(&tpm, &ak, CredentialKey::New).await;
        let again = collected(&tpm, &ak, CredentialKey::Current(first.credential_key.clone())).await;
        assert_eq!(again.credential_key, first.credential_key);
    }
    let ak = new_ak(&tpm, AkKind::EccP256).await;
    drop(swtpm);
    let swtpm = Swtpm::resume(directory.path());
    let after = collected(&Tpm::new(&swtpm.tcti()).unwrap(), &ak, CredentialKey::New).await;
    assert!(!after.quote.is_empty());
    let other_directory = tempfile::tempdir().unwrap();
    let (_other, other_tpm) = started(&other_directory);
    let ak = Ak::Wrapped(ak);
    let refused = other_tpm
        .run(move |session| collect(session, &ak, CredentialKey::New, (&NONCE, &CHANNEL), &selection(), None))
        .await;
    assert!(matches!(refused, Err(TpmError::Refused { command: "TPM2_Load", .. })), "{refused:?}");
}

/// TPM2_MakeCredential by tpm2-tools, for this EK and AK name.
fn make_credential(directory: &Path, swtpm: &Swtpm, ek_public: &[u8], ak_name: &str, secret: &[u8]) -> MadeCredential {
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let size = u16::try_from(ek_public.len()).unwrap().to_be_bytes();
    fs::write(path("ek.tpm2b"), [&size, ek_public].concat()).unwrap();
    fs::write(path("secret"), secret).unwrap();
    let (ek, secret, blob) = (path("ek.tpm2b"), path("secret"), path("blob"));
    succeeded(&swtpm.tool("tpm2_makecredential", &["-u", &ek, "-s", &secret, "-n", ak_name, "-o", &blob]));
    let blob = fs::read(blob).unwrap();
    let mut reader = Reader::new(&blob);
    reader.bytes(8).unwrap(); // magic and version of the tool's file
    let credential_blob = reader.tpm2b().unwrap().to_vec();
    let encrypted_secret = reader.tpm2b().unwrap().to_vec();
    reader.finish().unwrap();
    MadeCredential { credential_blob, encrypted_secret }
}

#[tokio::test]
async fn a7_only_the_named_ek_and_ak_activate_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    let ak = new_ak(&tpm, AkKind::EccP256).await;
    let other = new_ak(&tpm, AkKind::EccP256).await;
    let name = format!("000b{}", Sha256Digest::of(&[&ak.public]).to_hex());
    for kind in [EkKind::Rsa2048, EkKind::EccP384] {
        let identity = tpm.run(move |session| Endorser::EndorsementKey(kind).read(session)).await.unwrap();
        let challenge = make_credential(directory.path(), &swtpm, &identity.public, &name, b"the activated secret");
        let (right, sent) = (Ak::Wrapped(ak.clone()), challenge.clone());
        let secret = tpm.run(move |session| activate(session, kind, &right, &sent)).await.unwrap();
        assert_eq!(secret.as_slice(), b"the activated secret", "{kind:?}");
        let wrong = Ak::Wrapped(other.clone());
        let refused = tpm.run(move |session| activate(session, kind, &wrong, &challenge)).await;
        let by_the_tpm = matches!(refused, Err(TpmError::Refused { command: "TPM2_ActivateCredential", .. }));
        assert!(by_the_tpm, "{kind:?}: {refused:?}");
    }
}

/// Every template, with the credential that the broker itself makes.
#[tokio::test]
async fn each_ek_template_activates_what_the_broker_makes_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_swtpm, tpm) = started(&directory);
    let ak = new_ak(&tpm, AkKind::EccP256).await;
    let enrolled = AttestationKey::from_public(&ak.public).unwrap();
    for kind in EkKind::ALL {
        let ek_public = tpm
            .run(move |session| {
                let ek = keys::endorsement_key(session, kind)?;
                let public = keys::public_area(session, ek)?;
                session.flush(ek)?;
                Ok(public)
            })
            .await
            .unwrap();
        let ek = EndorsementKey::from_public(&ek_public).unwrap();
        let secret = ActivationSecret::new([0x5e; 32]);
        let mut draw = |bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).unwrap();
        let made = make_credential_here(&ek, enrolled.name(), &secret, &mut draw).unwrap();
        let ak = Ak::Wrapped(ak.clone());
        let opened = tpm.run(move |session| activate(session, kind, &ak, &made)).await;
        assert_eq!(opened.unwrap().as_slice(), secret.expose(), "{kind:?}");
        let certified = tpm.run(move |session| keys::endorsement_certificate(session, kind)).await;
        let manufactured = matches!(kind, EkKind::Rsa2048 | EkKind::EccP384);
        assert_eq!(certified.is_ok(), manufactured, "{kind:?}: {certified:?}");
    }
}

/// A certificate in each template's index, with the padding some manufacturers leave behind it.
#[tokio::test]
async fn each_ek_certificate_is_read_from_its_index_without_padding() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    let manufacturer = SimManufacturer::new();
    for kind in [EkKind::EccP256, EkKind::Rsa2048High, EkKind::EccP256High, EkKind::Rsa3072] {
        let ek_public = tpm
            .run(move |session| {
                let ek = keys::endorsement_key(session, kind)?;
                let public = keys::public_area(session, ek)?;
                session.flush(ek)?;
                Ok(public)
            })
            .await
            .unwrap();
        let spki = EndorsementKey::from_public(&ek_public).unwrap().public().spki();
        let ecc = matches!(kind, EkKind::EccP256 | EkKind::EccP256High);
        let certificate = manufacturer.certificate(&spki, |params| {
            if ecc {
                params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
            }
        });
        let mut stored = certificate.clone();
        stored.resize(stored.len() + 37, 0xff);
        let file = directory.path().join("certificate");
        fs::write(&file, &stored).unwrap();
        let (index, size) = (format!("{:#x}", kind.nv_index()), stored.len().to_string());
        let attributes = "ownerread|ownerwrite|authread|no_da";
        succeeded(&swtpm.tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", &size, "-a", attributes]));
        succeeded(&swtpm.tool("tpm2_nvwrite", &[&index, "-C", "o", "-i", file.to_str().unwrap()]));
        let identity = tpm.run(move |session| Endorser::EndorsementKey(kind).read(session)).await.unwrap();
        assert_eq!(identity.certificate, certificate, "{kind:?}");
        let now = UnixMillis(1_780_000_000_000);
        let endorsed = verify_ek(&certificate, &identity.public, &[], &[manufacturer.anchor()], now).unwrap();
        assert_eq!(endorsed.ek(), identity.described.fingerprint, "{kind:?}");
    }
}

/// The counts in a quote are the TPM's own, so that they can be compared with TPM2_ReadClock and after a restart: keys
/// outside the endorsement hierarchy sign them obfuscated.
#[tokio::test]
async fn a16_quotes_carry_the_counts_that_the_tpm_reads_out() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    let ak = new_ak(&tpm, AkKind::EccP256).await;
    let quoted = |evidence: &TpmEvidence| {
        let (attest, _) = split_attest(&evidence.quote);
        let mut reader = Reader::new(&attest);
        reader.bytes(6).unwrap();
        reader.tpm2b().unwrap();
        reader.tpm2b().unwrap();
        let clock = reader.bytes(8).map(|_| (reader.u32_be().unwrap(), reader.u32_be().unwrap())).unwrap();
        (clock, reader.bytes(1).map(|_| reader.bytes(8).unwrap().to_vec()).unwrap())
    };
    let read = |swtpm: &Swtpm| {
        let output = swtpm.tool("tpm2_readclock", &[]);
        let text = String::from_utf8(succeeded(&output).stdout.clone()).unwrap();
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().parse::<u32>().unwrap()
        };
        (count("reset_count"), count("restart_count"))
    };
    let (before, firmware) = quoted(&collected(&tpm, &ak, CredentialKey::New).await);
    assert_eq!(before, read(&swtpm));
    drop(swtpm);
    let swtpm = Swtpm::resume(directory.path());
    let (after, same_firmware) = quoted(&collected(&Tpm::new(&swtpm.tcti()).unwrap(), &ak, CredentialKey::New).await);
    assert_eq!(after, read(&swtpm));
    assert_eq!((after.0, same_firmware), (before.0 + 1, firmware));
}

#[test]
fn the_high_range_policy_is_the_or_of_the_specifications_two() {
    let a = hex::decode("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa").unwrap();
    let c = hex::decode("3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde").unwrap();
    // TPM 2.0 Part 3, 23.6: H(0...0 || TPM_CC_PolicyOR || digests).
    let or = Sha256Digest::of(&[&[0; 32], &[0, 0, 1, 0x71], &a, &c]);
    assert_eq!(keys::POLICY_B_SHA256, or.0);
}

#[tokio::test]
async fn quote_and_certification_have_the_documented_layout_and_tpm2_tools_accept_them() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    for kind in [AkKind::EccP256, AkKind::Rsa2048] {
        let ak = new_ak(&tpm, kind).await;
        let evidence = collected(&tpm, &ak, CredentialKey::New).await;
        let qualifying_data = evidence.credential_key.binder(&NONCE, &CHANNEL).unwrap().qualifying_data();
        let (attest, signature) = split_attest(&evidence.quote);
        // TPMS_ATTEST: magic, type, qualifiedSigner, extraData, clockInfo, firmwareVersion, then the selection.
        let mut reader = Reader::new(&attest);
        assert_eq!((reader.u32_be().unwrap(), reader.u16_be().unwrap()), (0xff54_4347, 0x8018));
        reader.tpm2b().unwrap();
        assert_eq!(reader.tpm2b().unwrap(), qualifying_data);
        reader.bytes(17 + 8).unwrap();
        let sha384_0_7_23 = [0x00, 0x0c, 3, 0x81, 0x00, 0x80];
        assert_eq!(reader.u32_be().unwrap(), 2);
        assert_eq!(reader.bytes(6).unwrap(), sha384_0_7_23);
        assert_eq!(reader.bytes(6).unwrap(), [0x00, 0x0b, 3, 0xff, 0xff, 0xff]);
        let values = evidence.pcrs.0.iter().map(Vec::as_slice).collect::<Vec<_>>();
        assert_eq!(reader.tpm2b().unwrap(), Sha256Digest::of(&values).0);
        reader.finish().unwrap();
        // tpm2_checkquote verifies signature and nonce with its own code.
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let pem = public_pem(directory.path(), &swtpm, &ak);
        fs::write(path("attest"), &attest).unwrap();
        fs::write(path("signature"), &signature).unwrap();
        let check = |nonce: &str| {
            let (message, signature) = (path("attest"), path("signature"));
            swtpm.tool("tpm2_checkquote", &["-u", &pem, "-m", &message, "-s", &signature, "-g", "sha256", "-q", nonce])
        };
        succeeded(&check(&hex::encode(qualifying_data)));
        assert!(!check(&hex::encode([1; 32])).status.success(), "another nonce");
        // The certification: TPM2B_ATTEST, TPMT_SIGNATURE, TPM2B_PUBLIC of the credential key.
        let (certify, rest) = split_attest(&evidence.certify);
        let public = evidence.credential_key.tpm2b_public();
        let signature = rest.strip_suffix(public.as_slice()).expect("the key's public area comes last");
        let mut reader = Reader::new(&certify);
        assert_eq!((reader.u32_be().unwrap(), reader.u16_be().unwrap()), (0xff54_4347, 0x8017));
        reader.tpm2b().unwrap();
        assert_eq!(reader.tpm2b().unwrap(), qualifying_data);
        reader.bytes(17 + 8).unwrap();
        let name = [&[0, 0x0b], Sha256Digest::of(&[&evidence.credential_key.public]).0.as_slice()].concat();
        assert_eq!(reader.tpm2b().unwrap(), name);
        fs::write(path("attest"), &certify).unwrap();
        fs::write(path("signature"), signature).unwrap();
        succeeded(&check(&hex::encode(qualifying_data)));
    }
}

#[tokio::test]
async fn the_counter_and_the_values_see_an_extend() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    let look = || async {
        let both = tpm.run(|session| Ok((pcr_update_counter(session)?, read_pcrs(session, &selection())?)));
        both.await.unwrap()
    };
    let (counter, values) = look().await;
    assert_eq!(look().await, (counter, values.clone()));
    swtpm.extend(14, &"ab".repeat(32));
    let (counter_after, values_after) = look().await;
    assert_ne!(counter, counter_after);
    let changed: Vec<_> = (0..27).filter(|index| values.0[*index] != values_after.0[*index]).collect();
    assert_eq!(changed, [3 + 14]);
    let absent = vec![PcrSelection { bank: PcrHash::Sha512, pcrs: vec![0] }];
    let refused = tpm.run(move |session| read_pcrs(session, &absent)).await;
    assert!(matches!(refused, Err(TpmError::Answer { command: "TPM2_PCR_Read", .. })), "{refused:?}");
    let beyond = vec![PcrSelection { bank: PcrHash::Sha256, pcrs: vec![24] }];
    assert!(tpm.run(move |session| read_pcrs(session, &beyond)).await.is_err());
}

/// An OpenSSL configuration that loads the tpm2 provider beside the default one and prefers it: what a workload needs
/// to use `key.pem`.
fn provider_configuration(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("openssl.cnf");
    let text = "openssl_conf = init\n[init]\nproviders = providers\nalg_section = algorithms\n\
                [providers]\ndefault = default_section\ntpm2 = tpm2_section\n[default_section]\nactivate = 1\n\
                [tpm2_section]\nactivate = 1\n\
                [algorithms]\ndefault_properties = ?tpm2.signature=yes\n";
    fs::write(&path, text).unwrap();
    path
}

#[tokio::test]
async fn openssl_signs_with_the_key_file_and_aws_lc_verifies() {
    let directory = tempfile::tempdir().unwrap();
    let (swtpm, tpm) = started(&directory);
    let ak = new_ak(&tpm, AkKind::EccP256).await;
    let key = collected(&tpm, &ak, CredentialKey::New).await.credential_key;
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("key.pem"), key.to_tss2_pem()).unwrap();
    fs::write(path("message"), "a message").unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign", &path("key.pem"), "-out", &path("signature"), &path("message")]);
    openssl.env("OPENSSL_CONF", provider_configuration(directory.path())).env("TPM2OPENSSL_TCTI", swtpm.tcti());
    succeeded(&openssl.output().unwrap());
    let signature = fs::read(path("signature")).unwrap();
    let point = key.p256_point().unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point).verify(b"a message", &signature).unwrap();
    assert!(UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point).verify(b"another", &signature).is_err());
}

#[tokio::test]
async fn a_tpm_that_another_client_holds_is_given_up_and_used_again_later() {
    let directory = tempfile::tempdir().unwrap();
    let swtpm = Swtpm::start(directory.path());
    let tpm = Tpm::with_deadline(&swtpm.tcti(), Duration::from_millis(300)).unwrap();
    let hold = std::net::TcpStream::connect(("127.0.0.1", swtpm.port())).unwrap();
    let deadline = Err(TpmError::Deadline(Duration::from_millis(300)));
    assert_eq!(tpm.run(pcr_update_counter).await, deadline);
    assert_eq!(tpm.run(pcr_update_counter).await, deadline, "the queue times out too");
    drop(hold);
    let patient = Tpm::new(&swtpm.tcti()).unwrap();
    patient.run(pcr_update_counter).await.unwrap();
    let process = format!("/proc/{}", swtpm.pid());
    assert!(Path::new(&process).exists());
    drop(swtpm);
    assert!(!Path::new(&process).exists(), "no test leaves a TPM behind");
}
