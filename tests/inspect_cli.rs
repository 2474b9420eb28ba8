//! `countersign inspect`: every kind of file is told from its content and made readable; nothing is called verified.
#![expect(clippy::expect_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::cli::inspect::detect::Kind;
use countersign::cli::inspect::{InspectError, inspect};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::evidence::bundle::{COLLECTION_TYPE, Collection};
use countersign_attestation::protocol::PcrSelection;
use serde_json::{Value, json};

#[path = "sim/hcl.rs"]
mod hcl;
#[path = "sim/logs.rs"]
mod logs;
#[path = "sim/tpm.rs"]
mod sim;

use logs::{LogWriter, event};
use sim::{AkKind, CredentialKey, SimManufacturer, SimTpm};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/firmware-refs");
const NONCE: [u8; 4] = [0xde, 0xad, 0xbe, 0xef];

fn shipped(path: &str) -> Vec<u8> {
    fs::read(Path::new(SHIPPED).join(path)).expect("a shipped file")
}

/// As `--output json` prints it.
fn shown(bytes: &[u8]) -> Value {
    serde_json::to_value(inspect(bytes, None).expect("a readable file")).expect("JSON")
}

/// As `--output table` prints it.
fn table(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    inspect(bytes, None).expect("a readable file").print(&mut out).expect("a table");
    String::from_utf8(out).expect("text")
}

fn field<'v>(shown: &'v Value, part: usize, path: &str) -> &'v Value {
    shown.pointer(&format!("/parts/{part}/fields/{path}")).unwrap_or(&Value::Null)
}

fn standing(shown: &Value, part: usize) -> &str {
    shown.pointer(&format!("/parts/{part}/standing")).and_then(Value::as_str).unwrap_or_default()
}

fn selection() -> Vec<PcrSelection> {
    vec![
        PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0, 4, 7] },
        PcrSelection { bank: PcrHash::Sha384, pcrs: vec![0] },
    ]
}

fn jws(payload: &Value) -> String {
    let header = json!({"alg": "ES256", "kid": "k", "typ": "eat+jwt"}).to_string();
    let encoded =
        [header.as_bytes(), payload.to_string().as_bytes(), &[9; 64]].map(|part| URL_SAFE_NO_PAD.encode(part));
    encoded.join(".")
}

fn pem(der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn media_type(name: &str) -> &str {
    match name {
        "tpm2.quote" => "application/vnd.countersign.tpm2-quote",
        "tpm2.pcrs" => "application/vnd.countersign.tpm2-pcr-values",
        "tpm2.certify" => "application/vnd.countersign.tpm2-certify",
        "tpm2.event_log" => "application/vnd.countersign.tcg2-event-log",
        "ima.entries" => "application/vnd.countersign.ima-entries",
        "snp.report" => "application/vnd.countersign.sev-snp-report",
        _ => "application/pkix-cert",
    }
}

fn collection(records: &[(&str, Vec<u8>)]) -> Collection {
    let record = |(name, value): &(&str, Vec<u8>)| {
        ((*name).to_owned(), (media_type(name).to_owned(), URL_SAFE_NO_PAD.encode(value)))
    };
    let records: BTreeMap<_, _> = records.iter().map(record).collect();
    Collection { collection_type: COLLECTION_TYPE.to_owned(), records }
}

fn ima_list() -> Vec<u8> {
    let mut list = logs::ima_ng("boot_aggregate", b"aggregate");
    for number in 0..40 {
        list.extend(logs::ima_ng(&format!("/usr/bin/tool{number}"), format!("tool {number}").as_bytes()));
    }
    list.extend(logs::ima_violation("/var/log/audit.log"));
    list
}

/// shim, GRUB, Linux; Secure Boot on.
fn grub_log() -> LogWriter {
    use logs::{CERT_SHA256, CERT_X509, GLOBAL, SECURITY_DATABASE, SHIM, signature_list, utf16};
    let maker = SimManufacturer::new();
    let root = maker.anchor().root;
    let certificates = signature_list(CERT_X509, &[&root]);
    let hashes = signature_list(CERT_SHA256, &[&[1; 32], &[2; 32]]);
    let config = event::VARIABLE_DRIVER_CONFIG;
    let mut log = LogWriter::new();
    log.no_action(b"StartupLocality\0\x03")
        .data(0, event::S_CRTM_VERSION, &[utf16("1.42"), vec![0, 0]].concat())
        .variable(7, config, GLOBAL, "SecureBoot", &[1])
        .variable(7, config, GLOBAL, "PK", &certificates)
        .variable(7, config, GLOBAL, "KEK", &certificates)
        .variable(7, config, SECURITY_DATABASE, "db", &[certificates.as_slice(), &certificates].concat())
        .variable(7, config, SECURITY_DATABASE, "dbx", &hashes)
        .separators()
        .data(4, event::ACTION, b"Calling EFI Application from Boot Option")
        .variable(7, event::VARIABLE_AUTHORITY, SECURITY_DATABASE, "db", &[&[7; 16], root.as_slice()].concat())
        .image(b"the image of shim", r"\EFI\debian\shimx64.efi")
        .event(14, event::IPL, b"the list", b"MokList\0")
        .variable(7, event::VARIABLE_AUTHORITY, SHIM, "SbatLevel", b"sbat,1,2024010900\nshim,4\n")
        .image(b"the image of GRUB", r"\EFI\debian\grubx64.efi")
        .event(8, event::IPL, b"set root=hd0", b"grub_cmd: set root=hd0\0")
        .event(8, event::IPL, b"linux /vmlinuz-6.1", b"grub_cmd: linux /vmlinuz-6.1\0")
        .event(9, event::IPL, b"the kernel", b"(hd0,gpt2)/vmlinuz-6.1\0")
        .image(b"the kernel", "")
        .event(8, event::IPL, b"/vmlinuz-6.1 ro quiet", b"kernel_cmdline: /vmlinuz-6.1 ro quiet\0")
        .event(9, event::IPL, b"the initrd", b"(hd0,gpt2)/initrd.img-6.1\0")
        .data(5, event::ACTION, b"Exit Boot Services Invocation")
        .data(5, event::ACTION, b"Exit Boot Services Returned with Success");
    log
}

/// systemd-stub; Secure Boot off; and whoever wrote the log lied about one variable and one command line.
fn stub_log() -> LogWriter {
    use logs::{GLOBAL, utf16, variable};
    let name = [utf16(".linux"), vec![0, 0]].concat();
    let cmdline = [utf16("root=/dev/sda1 ro"), vec![0, 0]].concat();
    let mut log = LogWriter::new();
    log.variable(7, event::VARIABLE_DRIVER_CONFIG, GLOBAL, "SecureBoot", &[])
        .event(7, event::VARIABLE_DRIVER_CONFIG, b"what was measured", &variable(GLOBAL, "SecureBoot", &[1]))
        .data(4, event::SEPARATOR, &[1, 0, 0, 0])
        .image(b"an image", r"\EFI\Linux\linux-6.9.efi")
        .event(11, event::IPL, b".linux\0", &name)
        .event(11, event::IPL, b"the kernel", &name)
        .event(12, event::IPL, &cmdline, &cmdline)
        .event(12, event::IPL, b"another", &[utf16("quiet\u{1b}[2K\u{202e}"), vec![0, 0]].concat());
    log
}

#[test]
fn a_quote_is_shown_field_by_field_with_what_is_signed() {
    let tpm = SimTpm::new(AkKind::P256);
    let (quote, _) = tpm.quote(&selection(), &NONCE);
    let shown = shown(&quote);
    let head: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(head, ["format", "kind", "title", "bytes", "sha256", "verified", "not_checked", "parts"]);
    assert_eq!(shown.pointer("/format"), Some(&json!("countersign-inspect/1")));
    assert_eq!(shown.pointer("/kind"), Some(&json!("attest")));
    assert_eq!(shown.pointer("/verified"), Some(&json!(false)));
    assert_eq!(shown.pointer("/bytes"), Some(&json!(quote.len())));
    assert_eq!(standing(&shown, 0), "signed_not_checked");
    assert_eq!(standing(&shown, 1), "claimed", "a signature is what it is");
    assert_eq!(field(&shown, 0, "magic"), "0xff544347 (TPM_GENERATED_VALUE)");
    assert_eq!(field(&shown, 0, "type"), "0x8018 (TPM_ST_ATTEST_QUOTE)");
    assert_eq!(field(&shown, 0, "qualifiedSigner"), &json!(hex::encode(tpm.ak_name())));
    assert_eq!(field(&shown, 0, "extraData"), "deadbeef");
    assert_eq!(
        field(&shown, 0, "clockInfo"),
        &json!({"clock": 12345, "resetCount": 7, "restartCount": 0, "safe": true})
    );
    assert_eq!(field(&shown, 0, "firmwareVersion"), "0x2019102300163636");
    let banks = json!([{"hash": "sha256", "pcrSelect": [0, 4, 7]}, {"hash": "sha384", "pcrSelect": [0]}]);
    assert_eq!(field(&shown, 0, "attested/pcrSelect"), &banks);
    assert_eq!(field(&shown, 1, "sigAlg"), "ecdsa");
    assert_eq!(field(&shown, 1, "hash"), "sha256");
    let table = table(&quote);
    assert!(table.contains("nothing here is verified"), "{table}");
    assert!(table.contains("TPMS_ATTEST  [SIGNED, signature not checked here"), "{table}");
    // Without its signature the same bytes are not called signed.
    let attest = quote.get(2..2 + usize::from(u16::from_be_bytes([quote[0], quote[1]]))).expect("a TPMS_ATTEST");
    let bare = self::shown(attest);
    assert_eq!(standing(&bare, 0), "signed_elsewhere");
    assert_eq!(field(&bare, 0, "attested"), field(&shown, 0, "attested"));
    let signature = self::shown(quote.get(2 + attest.len()..).expect("a signature"));
    assert_eq!(signature.pointer("/kind"), Some(&json!("signature")));
}

#[test]
fn what_a_verifier_would_refuse_is_shown_and_said() {
    let attest = SimTpm::new(AkKind::P256).quote_attest(&selection(), &NONCE);
    let mut sm3 = attest.clone();
    let at = sm3.windows(3).rposition(|window| window == [0, 0x0c, 3]).expect("the second bank");
    sm3[at + 1] = 0x12;
    let shown = self::shown(&sm3);
    assert_eq!(field(&shown, 0, "attested/pcrSelect/1/hash"), "sm3_256");
    let form = field(&shown, 0, "form").as_str().expect("text");
    assert!(form.starts_with("a verifier refuses it: tpm.quote.bank"), "{form}");
    let error = inspect(&attest[..attest.len() - 1], None).expect_err("cut short");
    assert!(matches!(error, InspectError::Unreadable { .. }), "{error}");
    let error = inspect(&[attest.as_slice(), &[0]].concat(), None).expect_err("something behind it");
    assert!(matches!(error, InspectError::Unreadable { .. }), "{error}");
    let mut magic = attest;
    magic[0] = 0;
    assert!(matches!(inspect(&magic, None).expect_err("no attestation"), InspectError::Unknown { .. }));
    let forced = inspect(&magic, Some(Kind::Attest)).expect("forced");
    let forced = serde_json::to_value(forced).expect("JSON");
    assert_eq!(field(&forced, 0, "magic"), "0x00544347 (NOT TPM_GENERATED_VALUE)");
}

#[test]
fn keys_show_their_attributes_by_name() {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let shown = shown(tpm.ak_public());
    assert_eq!(shown.pointer("/kind"), Some(&json!("public")));
    let names = json!(["fixedTPM", "fixedParent", "sensitiveDataOrigin", "userWithAuth", "restricted", "sign"]);
    assert_eq!(field(&shown, 0, "objectAttributes (names)"), &names);
    assert_eq!(field(&shown, 0, "scheme"), "rsassa with sha256");
    assert_eq!(field(&shown, 0, "Name (computed)"), &json!(hex::encode(tpm.ak_name())));
    let sized = self::shown(&sim::tpm2b(tpm.ek_public()));
    assert_eq!(field(&sized, 0, "symmetric"), "aes-128-cfb");
    // A certification carries the key it is about.
    let certify = self::shown(&tpm.certify(&CredentialKey::new(), &NONCE));
    assert_eq!(field(&certify, 0, "type"), "0x8017 (TPM_ST_ATTEST_CERTIFY)");
    assert_eq!(field(&certify, 0, "attested/name"), field(&certify, 2, "Name (computed)"));
    assert_eq!(standing(&certify, 2), "claimed");
}

#[test]
fn certificates_are_read_from_der_pem_and_nv_memory() {
    let (maker, tpm) = (SimManufacturer::new(), SimTpm::new(AkKind::P256));
    let der = maker.ek_certificate(&tpm);
    let shown = self::shown(&der);
    assert_eq!(shown.pointer("/kind"), Some(&json!("certificate")));
    assert_eq!(field(&shown, 0, "is"), "an endorsement key certificate");
    assert_eq!(field(&shown, 0, "issuer"), "CN=Simulated TPM Manufacturer Root");
    assert_eq!(field(&shown, 0, "notAfter"), "2050-01-01T00:00:00Z");
    let extensions = field(&shown, 0, "extensions").to_string();
    assert!(extensions.contains("tpmManufacturer=id:00001014,tpmModel=sim,tpmVersion=id:00010001"), "{extensions}");
    for padding in [0x00, 0x11, 0xff] {
        let nv = self::shown(&[der.as_slice(), &[padding; 100]].concat());
        assert_eq!(field(&nv, 0, "after the certificate"), "100 bytes of padding");
        assert_eq!(field(&nv, 0, "serialNumber"), field(&shown, 0, "serialNumber"));
    }
    assert!(inspect(&[der.as_slice(), &[0, 1]].concat(), None).is_err(), "that is no padding");
    let chain = self::shown(format!("{}{}", pem(&der), pem(&maker.anchor().root)).as_bytes());
    assert_eq!(field(&chain, 1, "is"), "a certification authority");
    let vek = self::shown(&shipped("evidence/amd/milan/vcek.der"));
    assert_eq!(field(&vek, 0, "is"), "an AMD VCEK or VLEK certificate");
    assert!(
        field(&vek, 0, "extensions")
            .to_string()
            .contains(r#""extnID":"productName","critical":false,"extnValue":"Milan-B0""#)
    );
}

#[test]
fn reports_and_tokens_are_shown() {
    let report = shown(&shipped("evidence/amd/milan/report.bin"));
    assert_eq!(report.pointer("/kind"), Some(&json!("snp-report")));
    assert_eq!(field(&report, 0, "SIGNING_KEY"), "VCEK");
    assert_eq!(field(&report, 0, "POLICY"), "0x30000 (ABI 0.0; SMT)");
    assert_eq!(standing(&report, 0), "signed_not_checked");
    let claims = json!({"iss": "\u{9b}evil", "submods": {"tpm": {"ear.status": "affirming"}}, "iat": 1});
    let token = shown(jws(&claims).as_bytes());
    assert_eq!(token.pointer("/kind"), Some(&json!("token")));
    assert_eq!(field(&token, 1, "submods/tpm/ear.status"), "affirming");
    assert_eq!(field(&token, 1, "iss"), r"\u{9b}evil");
}

/// An SNP report with this REPORT_DATA; who signed it is not asked here.
fn snp_report(report_data: &[u8]) -> Vec<u8> {
    let mut report = shipped("evidence/amd/milan/report.bin");
    report.splice(0x50..0x90, report_data.iter().copied());
    report
}

#[test]
fn a_paravisors_report_says_what_is_signed_and_what_is_claimed() {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let runtime = hcl::runtime(tpm.ak_public(), tpm.ek_public());
    let nv = hcl::snp_nv(&snp_report(&hcl::report_data(&runtime)), &runtime);
    let report = shown(&nv);
    assert_eq!(report.pointer("/kind"), Some(&json!("hcl-report")));
    assert_eq!((standing(&report, 0), field(&report, 0, "version")), ("claimed", &json!(1)));
    assert_eq!((standing(&report, 1), field(&report, 1, "SIGNING_KEY")), ("signed_not_checked", &json!("VCEK")));
    assert_eq!(standing(&report, 3), "signed_not_checked");
    assert_eq!(field(&report, 3, "vm-configuration/vmUniqueId"), hcl::VM_ID);
    assert_eq!(field(&report, 3, "keys"), &json!(["HCLAkPub", "HCLEkPub"]));
    let spki = countersign_attestation::evidence::tpm::public::Public::read(tpm.ak_public()).expect("a key").spki();
    let digest = countersign_attestation::digest::Sha256Digest::of(&[&spki]).to_hex();
    assert_eq!(field(&report, 3, "HCLAkPub (SHA-256 of the public key)"), &json!(digest));
    assert!(
        table(&nv).contains("SIGNED, signature not checked here: REPORT_DATA, which the chip signs, is its SHA-256")
    );
    // Other runtime data than the chip reported, and such as a verifier refuses.
    let other = shown(&hcl::snp_nv(&snp_report(&[0; 64]), &runtime));
    assert_eq!(
        (standing(&other, 3), field(&other, 3, "hash is the hardware report's (computed)")),
        ("claimed", &json!(false))
    );
    let twice = String::from_utf8(runtime.clone()).expect("text").replacen('{', r#"{"keys":[],"#, 1);
    let refused = table(&hcl::snp_nv(&snp_report(&hcl::report_data(twice.as_bytes())), twice.as_bytes()));
    assert!(refused.contains("hcl.runtime.malformed"), "{refused}");
    // A TDREPORT is signed by nobody, and so is what hangs on it.
    let mut body = vec![7; 584];
    body.splice(520.., hcl::report_data(&runtime));
    let td = shown(&hcl::tdx_nv(&hcl::tdreport(&body), &runtime));
    assert_eq!([1, 2].map(|part| standing(&td, part)), ["claimed"; 2]);
    assert_eq!(field(&td, 1, "MRTD"), &json!("07".repeat(48)));
}

/// A log of a trust domain: one bank, registers 1 to 4.
fn td_log() -> Vec<u8> {
    let mut log = b"\x01\0\0\0\x03\0\0\0".to_vec();
    log.extend([0; 20]);
    log.extend([33, 0, 0, 0]);
    log.extend(b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0");
    let (guid, name) = (hex::decode(logs::GLOBAL).expect("a GUID"), logs::utf16("SecureBoot"));
    let variable = [&guid[..], &[10, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &name[..], &[1][..]].concat();
    let mut add = |index: u32, kind: u32, data: &[u8], measured: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, measured);
        log.extend([index.to_le_bytes(), kind.to_le_bytes(), 1_u32.to_le_bytes()].concat());
        log.extend([0x0c, 0]);
        log.extend(digest.as_ref());
        log.extend(u32::try_from(data.len()).expect("short").to_le_bytes());
        log.extend(data);
    };
    add(1, event::VARIABLE_DRIVER_CONFIG, &variable, &variable);
    add(1, event::SEPARATOR, &[0; 4], &[0; 4]);
    add(3, event::IPL, b"grub_cmd: linux /vmlinuz quiet\0", b"linux /vmlinuz quiet");
    add(3, event::IPL, b"grub_kernel_cmdline /vmlinuz quiet\0\x75", b"/vmlinuz quiet");
    log.extend([0xff; 300]);
    log
}

#[test]
fn a_log_of_a_trust_domain_is_told_by_its_registers() {
    let log = shown(&td_log());
    assert_eq!(log.pointer("/kind"), Some(&json!("cc-log")));
    assert_eq!((standing(&log, 0), standing(&log, 1)), ("claimed", "computed_here"));
    let rows = log.pointer("/parts/0/tables/0/rows").and_then(Value::as_array).expect("events");
    let registers: Vec<_> = rows.iter().map(|row| row["register"].as_str().expect("text")).collect();
    assert_eq!(registers, ["RTMR0", "RTMR0", "RTMR0", "RTMR2", "RTMR2"]);
    assert_eq!(log.pointer("/parts/1/tables/0/rows/1/extended by this log"), Some(&json!(false)));
    assert_eq!(log.pointer("/parts/1/tables/0/rows/1/value"), Some(&json!("00".repeat(48))));
    let printed = table(&td_log());
    assert!(printed.contains("Secure Boot was ON (event 1, hash matches)"), "{printed}");
    assert!(printed.contains("any log gives a zero"), "{printed}");
    assert!(printed.contains("* GRUB started the kernel with: `/vmlinuz quiet` (event 4, hash matches)"), "{printed}");
    assert!(printed.contains("separators in register 1"), "{printed}");
    // The very log with data that was not measured.
    let mut edited = td_log();
    let at = edited.windows(2).position(|window| window == b"t\0").expect("the name's end");
    edited[at + 2] ^= 1;
    let shown = shown(&edited);
    let whole =
        field(&shown, 0, "data that must be what was measured is (computed)").as_str().expect("text").to_owned();
    assert!(whole.starts_with("NO: eventlog.data_edited"), "{whole}");
}

#[test]
fn a_bundle_of_a_trust_domain_shows_what_its_records_are() {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let runtime = hcl::runtime(tpm.ak_public(), tpm.ek_public());
    let nv = hcl::snp_nv(&snp_report(&hcl::report_data(&runtime)), &runtime);
    let records = [("azure.hcl_report", nv), ("tdx.ccel", td_log()), ("tdx.quote", vec![9; 64])];
    let file = serde_json::to_vec(&collection(&records)).expect("JSON");
    let bundle = shown(&file);
    let names: Vec<_> = bundle["parts"].as_array().expect("parts").iter().map(|part| part["name"].clone()).collect();
    assert!(names.contains(&json!("azure.hcl_report: runtime data")), "{names:?}");
    assert!(names.contains(&json!("tdx.ccel: Replayed RTMRs")), "{names:?}");
    let broken = bundle["parts"].as_array().expect("parts").last().expect("a part");
    let why = broken.pointer("/fields/structure/error").and_then(Value::as_str).expect("why");
    assert!(why.starts_with("tdx.header.version"), "{why}");
}

#[test]
fn tcb_info_and_identities_are_shown_with_their_standing() {
    let tcb_info = json!({
        "id": "TDX", "version": 3, "issueDate": "2026-01-01T00:00:00Z", "nextUpdate": "2026-02-01T00:00:00Z",
        "fmspc": "00806F050000", "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tcbLevels": [{"tcb": {"sgxtcbcomponents": [{"svn": 8}, {"svn": 9}], "pcesvn": 11, "tdxtcbcomponents": [{"svn": 5}]},
            "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate\u{1b}[m", "advisoryIDs": ["INTEL-SA-1"]}],
    });
    let signed = shown(json!({"tcbInfo": tcb_info, "signature": "ab"}).to_string().as_bytes());
    assert_eq!(signed.pointer("/kind"), Some(&json!("tcb-info")));
    assert_eq!((standing(&signed, 0), standing(&signed, 1)), ("signed_not_checked", "claimed"));
    assert_eq!(field(&signed, 0, "fmspc"), "00806F050000");
    let row = signed.pointer("/parts/0/tables/0/rows/0").expect("a level");
    assert_eq!((&row["status"], &row["SGX or ISV SVN"]), (&json!(r"UpToDate\u{1b}[m"), &json!("8 9")));
    assert_eq!((&row["TDX SVN"], &row["advisories"]), (&json!("5"), &json!(["INTEL-SA-1"])));
    let alone = shown(tcb_info.to_string().as_bytes());
    assert_eq!((alone.pointer("/kind"), standing(&alone, 0)), (Some(&json!("tcb-info")), "signed_elsewhere"));
    let identity = json!({
        "id": "TD_QE", "version": 2, "mrsigner": "dc9e", "isvprodid": 2, "issueDate": "2026-01-01T00:00:00Z",
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"}],
    });
    let identity = shown(json!({"enclaveIdentity": identity, "signature": "ab"}).to_string().as_bytes());
    assert_eq!(identity.pointer("/kind"), Some(&json!("qe-identity")));
    assert_eq!(identity.pointer("/parts/0/tables/0/rows/0/SGX or ISV SVN"), Some(&json!("4")));
}

#[test]
fn a_bundle_is_shown_record_by_record() {
    let (tpm, key) = (SimTpm::new(AkKind::P256), CredentialKey::new());
    let (quote, pcrs) = tpm.quote(&selection(), &NONCE);
    let ima = [&3_u64.to_be_bytes(), ima_list().as_slice()].concat();
    let mut records = vec![
        ("tpm2.quote", quote),
        ("tpm2.pcrs", pcrs.clone()),
        ("tpm2.certify", tpm.certify(&key, &NONCE)),
        ("tpm2.event_log", grub_log().bytes().to_vec()),
        ("ima.entries", ima),
        ("snp.vek", vec![0x30]),
        ("gpu.report", vec![1]),
    ];
    let json = |records: &[(&str, Vec<u8>)]| serde_json::to_vec(&collection(records)).expect("JSON");
    let shown = self::shown(&json(&records));
    assert_eq!(shown.pointer("/kind"), Some(&json!("bundle")));
    let parts: Vec<_> = shown.pointer("/parts").and_then(Value::as_array).expect("parts").iter().collect();
    let named = |name: &str| {
        let found = parts.iter().find(|part| part.pointer("/name").and_then(Value::as_str) == Some(name));
        *found.expect(name)
    };
    let values = named("tpm2.pcrs: PCR values");
    let hashed = "/fields/structure/hash to the pcrDigest in the quote (computed)";
    assert_eq!(values.pointer(hashed), Some(&json!("sha256")));
    assert_eq!(values.pointer("/tables/0/rows/3/value"), Some(&json!(hex::encode(tpm.pcr(PcrHash::Sha384, 0)))));
    assert_eq!(values.pointer("/standing"), Some(&json!("claimed")));
    let quote = named("tpm2.quote: TPMS_ATTEST");
    assert_eq!(quote.pointer("/fields/structure/extraData"), Some(&json!("deadbeef")));
    assert!(named("tpm2.event_log: TCG event log").pointer("/story/0").is_some());
    assert_eq!(named("ima.entries: IMA measurement list").pointer("/tables/1/rows/0/entry"), Some(&json!(3)));
    assert!(named("ima.entries: Replayed PCRs").pointer("/fields/structure/not replayed").is_some());
    // What cannot be read hides nothing else, and what is not known is no secret.
    assert!(named("snp.vek: unreadable").pointer("/fields/structure/error").is_some());
    assert!(named("gpu.report: unknown record").pointer("/fields/structure/bytes").is_some());
    let mut other = pcrs;
    *other.last_mut().expect("a byte") ^= 1;
    records[1].1 = other;
    let shown = self::shown(&json(&records));
    let parts = shown.pointer("/parts").and_then(Value::as_array).expect("parts");
    let values = parts.iter().find(|part| part.pointer("/name") == Some(&json!("tpm2.pcrs: PCR values")));
    assert_eq!(values.expect("values").pointer(hashed), Some(&json!("NO")));
}

#[test]
fn an_ima_list_is_counted_and_replayed() {
    let list = ima_list();
    let shown = shown(&list);
    assert_eq!(shown.pointer("/kind"), Some(&json!("ima-list")));
    assert_eq!(field(&shown, 0, "entries"), &json!(42));
    assert_eq!(field(&shown, 0, "violations"), &json!(1));
    assert_eq!(standing(&shown, 0), "claimed");
    assert_eq!(standing(&shown, 1), "computed_here");
    let templates = json!([{"pcr": 10, "template": "ima-ng", "entries": 42}]);
    assert_eq!(shown.pointer("/parts/0/tables/0/rows"), Some(&templates));
    assert_eq!(shown.pointer("/parts/0/tables/1/rows/0/name"), Some(&json!("boot_aggregate")));
    assert_eq!(shown.pointer("/parts/0/tables/2/rows/11/name"), Some(&json!("/var/log/audit.log")));
    let banks: Vec<_> = (0..3).filter_map(|at| shown.pointer(&format!("/parts/1/tables/0/rows/{at}/bank"))).collect();
    assert_eq!(banks, [&json!("sha1"), &json!("sha256"), &json!("sha384")]);
    // The same list as the kernel writes it for people.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"aggregate");
    let first = list.get(4..24).expect("a template hash");
    let line = format!("10 {} ima-ng sha256:{} boot_aggregate\n", hex::encode(first), hex::encode(digest));
    let ascii = self::shown(line.as_bytes());
    assert_eq!(field(&ascii, 0, "form"), "ascii");
    assert_eq!(field(&ascii, 0, "template hash wrong"), &json!(0));
}

/// The story and the table of a log whose certificates and keys differ from run to run.
#[test]
fn the_boot_narrative_is_one_that_a_system_administrator_understands() {
    let told = |log: &LogWriter| {
        let shown = shown(log.bytes());
        assert_eq!(shown.pointer("/kind"), Some(&json!("event-log")));
        let story = shown.pointer("/parts/0/story").and_then(Value::as_array).expect("a story").clone();
        story.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>().join("\n") + "\n"
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for (name, log) in [("inspect-grub.txt", grub_log()), ("inspect-stub.txt", stub_log())] {
        let told = told(&log);
        if std::env::var_os("COUNTERSIGN_GOLDEN").is_some() {
            fs::write(folder.join(name), &told).expect("a golden file");
        }
        let golden = fs::read_to_string(folder.join(name)).expect("a golden file");
        assert_eq!(told, golden, "{name}; COUNTERSIGN_GOLDEN=1 writes it anew");
    }
}

#[test]
fn events_say_whether_their_data_is_what_was_measured() {
    let shown = shown(stub_log().bytes());
    let rows = shown.pointer("/parts/0/tables/0/rows").and_then(Value::as_array).expect("events");
    let bound: Vec<_> = rows.iter().map(|row| row.pointer("/digest matches data").expect("a flag")).collect();
    let (yes, no, nothing) = (&json!(true), &json!(false), &Value::Null);
    assert_eq!(bound, [nothing, yes, no, yes, no, yes, no, yes, no]);
    // PCR 11 and 12 from zero, by hand.
    let hash = |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec();
    let extend = |value: Vec<u8>, data: &[u8]| hash(&[value, hash(data)].concat());
    let pcr11 = extend(extend(vec![0; 32], b".linux\0"), b"the kernel");
    let rows = shown.pointer("/parts/1/tables/0/rows").and_then(Value::as_array).expect("values");
    let value = json!({"bank": "sha256", "pcr": 11, "value": hex::encode(pcr11)});
    assert!(rows.contains(&value), "{rows:?}");
}

#[test]
fn nothing_in_a_file_is_obeyed_by_a_terminal() {
    let hostile = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";
    let mut list = logs::ima_ng(hostile, b"x");
    list.extend(logs::ima_violation(hostile));
    let maker = SimManufacturer::new();
    let key = sim::SimTpm::new(AkKind::P256);
    let spki = countersign_attestation::evidence::tpm::public::Public::read(key.ak_public()).expect("a key").spki();
    let certificate = maker.certificate(&spki, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, hostile);
    });
    let mut log = LogWriter::new();
    log.image(b"image", hostile)
        .data(8, event::IPL, format!("kernel_cmdline: {hostile}\0").as_bytes())
        .variable(7, event::VARIABLE_DRIVER_CONFIG, logs::GLOBAL, hostile, &[1])
        .data(0, event::S_CRTM_VERSION, hostile.as_bytes());
    let bundle = serde_json::to_vec(&collection(&[(hostile, vec![1])])).expect("JSON");
    let token = jws(&json!({hostile: hostile}));
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let runtime = String::from_utf8(hcl::runtime(tpm.ak_public(), tpm.ek_public())).expect("text");
    let settings = json!({"vm-configuration": {hostile: hostile}}).to_string();
    let runtime =
        runtime.replacen(r#""vm-configuration":{"#, settings.trim_start_matches('{').trim_end_matches('}'), 1);
    let runtime = runtime.replacen(r#""console-enabled""#, r#","console-enabled""#, 1).into_bytes();
    let paravisor = hcl::snp_nv(&snp_report(&hcl::report_data(&runtime)), &runtime);
    let tcb_info = json!({"fmspc": hostile, "issueDate": hostile, "tcbLevels": [{"tcbStatus": hostile}]}).to_string();
    let runtime_event = json!([{"imr": 3, "event_type": 0x0800_0001, "digest": "00".repeat(48), "event": hostile.replace(':', ""),
        "event_payload": hex::encode(hostile)}]);
    let newer = [paravisor, tcb_info.into_bytes(), runtime_event.to_string().into_bytes()];
    let files = [list, certificate, log.bytes().to_vec(), bundle, token.into_bytes()];
    let files = [&files[..], &newer[..]].concat();
    for (number, file) in files.iter().enumerate() {
        let printed = table(file);
        let json = shown(file).to_string();
        for text in [&printed, &json] {
            let obeyed = |c: &char| (c.is_control() && *c != '\n') || ['\u{9b}', '\u{202e}'].contains(c);
            assert_eq!(text.chars().find(obeyed), None, "file {number}: {text}");
            assert!(text.contains(r"u{1b}"), "file {number} shows it: {text}");
        }
    }
}

#[test]
fn unknown_and_ambiguous_files_say_what_was_tried() {
    for file in [&b""[..], b"hello", b"{}", &[0; 64], &[0xff; 4096], b"-----BEGIN PUBLIC KEY-----\nAA==\n"] {
        let error = inspect(file, None).expect_err("no evidence");
        assert!(matches!(&error, InspectError::Unknown { tried } if tried.contains("event-log")), "{error}");
        // Zeros are empty fields of whatever they are said to be.
        for kind in Kind::ALL.into_iter().filter(|_| !file.starts_with(&[0])) {
            let forced = inspect(file, Some(kind));
            let nothing = forced.is_ok() && file.is_empty();
            assert!(forced.is_err() || nothing, "{} is no {}", String::from_utf8_lossy(file), kind.name());
        }
    }
    assert!(matches!(inspect(&vec![0; 16 * 1024 * 1024 + 1], None), Err(InspectError::TooLarge { .. })));
}

#[test]
fn the_command_reads_files_and_tells_by_its_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("log");
    fs::write(&file, grub_log().bytes()).expect("a file");
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_countersign")).arg("inspect").args(args).output().expect("a run");
        (out.status.code(), String::from_utf8(out.stdout).expect("text"), String::from_utf8(out.stderr).expect("text"))
    };
    let path = file.to_str().expect("text");
    let (code, out, _) = run(&[path]);
    assert_eq!(code, Some(0));
    assert!(out.contains("* Secure Boot was ON (event 3, hash matches)"), "{out}");
    let (code, out, _) = run(&[path, "--output", "json", "--kind", "event-log"]);
    assert_eq!(code, Some(0));
    assert!(serde_json::from_str::<Value>(&out).is_ok(), "{out}");
    let (code, out, error) = run(&[path, "--kind", "public"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("not readable as TPM public area"), "{error}");
    let (code, _, error) = run(&[folder.path().join("absent").to_str().expect("text")]);
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot read") && error.contains("No such file"), "{error}");
}

/// The folder of the vectors, where there is one.
#[expect(clippy::disallowed_methods, reason = "a test reads its environment")]
fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

/// The files of a manifest's cases: role and path, by the case's id, expectation and what it says in detail.
fn cases(folder: &Path, manifest: &str) -> Vec<Value> {
    let text = fs::read(folder.join(manifest)).expect("a manifest");
    serde_json::from_slice(&text).expect("a list of cases")
}

#[test]
fn all_genuine_evidence_is_shown() {
    let Some(folder) = vectors() else { return };
    let kinds = [
        ("quote", "attest"),
        ("certify_info", "attest"),
        ("ak_creation_attest", "attest"),
        ("ak_tpmt_public", "public"),
        ("pub_area", "public"),
        ("certified_pub_area", "public"),
        ("ek_cert", "certificate"),
        ("ek_nv", "certificate"),
        ("cert_0", "certificate"),
        ("vek", "certificate"),
        ("report", "snp-report"),
        ("eventlog", "event-log"),
        ("eventlog_1", "event-log"),
        ("ima_ascii", "ima-list"),
        ("ima_binary", "ima-list"),
        ("hcl_report", "hcl-report"),
        ("td_quote", "tee-quote"),
        ("event_log", "cc-log"),
    ];
    let kinds = BTreeMap::from(kinds);
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    let cases: Vec<Value> =
        ["MANIFEST-tpm-nv.json", "MANIFEST-cc.json"].iter().flat_map(|manifest| cases(&folder, manifest)).collect();
    for case in &cases {
        let text = |name: &str| case.get(name).and_then(Value::as_str).unwrap_or_default();
        let ours = ["tpm-", "eventlog-", "ima-", "snp-", "azure-", "ccel", "tdx-", "sgx-"]
            .iter()
            .any(|start| text("kind").starts_with(start));
        if text("expect") != "accept" || !ours {
            continue;
        }
        for (role, path) in case.get("files").and_then(Value::as_object).expect("files") {
            let tee = ["tdx-", "sgx-", "ccel"].iter().any(|start| text("kind").starts_with(start));
            let Some(kind) = (if tee && role == "quote" { Some(&"tee-quote") } else { kinds.get(role.as_str()) })
            else {
                continue;
            };
            let bytes = fs::read(folder.join(path.as_str().expect("a path"))).expect("a file");
            // A log with SHA-384 alone in registers up to 4 is a trust domain's, wherever it was collected.
            let ccel = bytes.get(56..64) == Some(&[1, 0, 0, 0, 0x0c, 0, 48, 0]);
            let kind = if *kind == "event-log" && ccel { &"cc-log" } else { kind };
            let read = inspect(&bytes, None);
            let found = read.as_ref().map(|shown| shown.kind).map_err(ToString::to_string);
            assert_eq!(found, Ok(*kind), "{} {role}", text("id"));
            *counted.entry(kind).or_default() += 1;
            check_details(text("id"), role, case, &read.expect("read"));
        }
    }
    let minimum = [
        ("attest", 30),
        ("public", 15),
        ("certificate", 30),
        ("snp-report", 18),
        ("event-log", 50),
        ("ima-list", 18),
        ("hcl-report", 5),
        ("tee-quote", 80),
        ("cc-log", 6),
    ];
    for (kind, minimum) in minimum {
        let found = counted.get(kind).copied().unwrap_or_default();
        assert!(minimum <= found, "{found} files of {kind}, at least {minimum} are known");
    }
}

/// Replayed PCRs and field values are those that the manifest names.
fn check_details(id: &str, role: &str, case: &Value, shown: &countersign::cli::inspect::document::Inspection) {
    let Some(detail) = case.get("expect_detail") else { return };
    let shown = serde_json::to_value(shown).expect("JSON");
    if role == "quote" {
        for (ours, theirs) in [("attested/pcrDigest", "pcr_digest"), ("qualifiedSigner", "qualified_signer")] {
            let Some(expected) = detail.get(theirs) else { continue };
            assert_eq!(field(&shown, 0, ours), expected, "{id}: {ours}");
        }
    }
    if role != "eventlog" {
        return;
    }
    let rows = shown.pointer("/parts/1/tables/0/rows").and_then(Value::as_array).expect("values");
    for (bank, pcrs) in detail.get("replayed_pcrs").and_then(Value::as_object).into_iter().flatten() {
        for (pcr, value) in pcrs.as_object().expect("values by PCR") {
            let pcr: u64 = pcr.parse().expect("a number");
            let row = match shown.pointer("/kind").and_then(Value::as_str) {
                Some("cc-log") => {
                    json!({"register": format!("RTMR{}", pcr - 1), "extended by this log": true, "value": value})
                }
                _ => json!({"bank": bank, "pcr": pcr, "value": value}),
            };
            assert!(rows.contains(&row), "{id}: {row}");
        }
    }
}
