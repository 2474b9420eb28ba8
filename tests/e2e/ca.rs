//! The workload CA as operators run it: with its root in a TPM, and on another machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{announced, countersign, succeed, wait_until};
use crate::swtpm::Swtpm;

const MODULE: &str = "/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1";

/// The one issuing certificate of a data directory.
fn issuing(data: &Path) -> Option<std::path::PathBuf> {
    let files = fs::read_dir(data.join("keys/issuing")).ok()?.map(|entry| entry.unwrap().path());
    let certificate = |path: &Path| path.to_str().is_some_and(|name| name.ends_with(".pem") && !name.contains(".key."));
    files.into_iter().find(|path| certificate(path))
}

fn check_issuing(data: &Path) {
    let issuing = issuing(data).unwrap();
    let mut verify = Command::new("openssl");
    verify.args(["verify", "-x509_strict", "-CAfile"]).arg(data.join("public/trust-bundle.pem")).arg(&issuing);
    assert!(succeed(&mut verify).trim_end().ends_with(": OK"));
    let mut show = Command::new("openssl");
    let said = succeed(show.args(["x509", "-noout", "-text", "-in"]).arg(&issuing));
    assert!(said.contains("X509v3 Name Constraints: critical") && said.contains("URI:fleet.example"), "{said}");
    assert!(said.contains("CA:TRUE, pathlen:0"), "{said}");
}

/// tpm2-tools without a resource manager leave what they loaded: each starts with an empty TPM.
fn flushing_tools(folder: &Path) -> String {
    let bin = folder.join("bin");
    fs::create_dir(&bin).unwrap();
    for tool in ["create", "createprimary", "import", "load", "loadexternal", "evictcontrol", "readpublic"] {
        let path = bin.join(format!("tpm2_{tool}"));
        let script = format!("#!/bin/sh\n/usr/bin/tpm2_flushcontext -t >&2\nexec /usr/bin/tpm2_{tool} \"$@\"\n");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:/usr/bin:/bin", bin.display())
}

#[test]
fn the_root_can_be_in_a_tpm() {
    let folder = TempDir::new().unwrap();
    let tpm = Swtpm::start(&folder.path().join("tpm"));
    let (store, pin, data) = (folder.path().join("store"), folder.path().join("pin"), folder.path().join("data"));
    fs::create_dir(&store).unwrap();
    fs::write(&pin, "987654\n").unwrap();
    let path = flushing_tools(folder.path());
    let with_tpm = |command: &mut Command| {
        command.env("TPM2_PKCS11_STORE", &store).env("TPM2_PKCS11_TCTI", tpm.tcti()).env("TPM2TOOLS_TCTI", tpm.tcti());
    };
    for args in [&["init"][..], &["addtoken", "--pid=1", "--label=ca", "--sopin=1234", "--userpin=987654"]] {
        let mut ptool = Command::new("tpm2_ptool");
        with_tpm(ptool.args(args).arg("--path").arg(&store).env("PATH", &path));
        succeed(&mut ptool);
    }
    let mut flush = Command::new("tpm2_flushcontext");
    with_tpm(flush.arg("-t"));
    succeed(&mut flush);

    let uri = format!("pkcs11:token=ca;object=root?module-path={MODULE}&pin-source=file:{}", pin.display());
    let mut init = countersign();
    init.args(["init", "--trust-domain", "fleet.example", "--root-key", &uri, "--data-dir"]).arg(&data);
    with_tpm(&mut init);
    succeed(&mut init);
    let file = fs::read_to_string(data.join("keys/workload-ca.key.pem")).unwrap();
    assert!(file.starts_with("pkcs11:token=ca;object=root;") && !file.contains("987654"), "{file}");
    let mut broker = countersign();
    broker.args(["broker", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
    with_tpm(&mut broker);
    let log = folder.path().join("broker.log");
    let (_broker, _): (_, Value) = announced(&mut broker, &log);
    check_issuing(&data);
    assert!(!fs::read_to_string(&log).unwrap().contains("987654"));
}

#[test]
fn the_root_can_be_on_another_machine() {
    let folder = TempDir::new().unwrap();
    let (data, root) = (folder.path().join("data"), folder.path().join("root"));
    let file = |name: &str| folder.path().join(name);
    succeed(countersign().args(["ca", "root", "--trust-domain", "fleet.example", "--out"]).arg(&root));
    let mut init = countersign();
    init.args(["init", "--trust-domain", "fleet.example", "--offline-root"]).arg(root.join("root.pem"));
    succeed(init.arg("--data-dir").arg(&data));
    let mut broker = countersign();
    broker.args(["broker", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data);
    let (_broker, said): (_, Value) = announced(&mut broker, &file("broker.log"));
    let url = format!("https://{}/readyz", said["listening"].as_str().unwrap());
    let readyz = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "10", "--cacert"]).arg(data.join("public/broker-ca.pem"));
        succeed(curl.arg(&url))
    };
    assert!(readyz().contains("ca.issuing.none"), "{}", readyz());

    fs::write(file("csr"), succeed(countersign().args(["ca", "request", "--data-dir"]).arg(&data))).unwrap();
    let sign = |domain: &str| {
        let mut sign = countersign();
        sign.args(["ca", "sign", "--trust-domain", domain, "--root"]).arg(root.join("root.pem"));
        sign.arg("--root-key").arg(root.join("root.key.pem")).arg("--csr").arg(file("csr"));
        sign
    };
    assert!(!sign("other.example").output().unwrap().status.success(), "a request of another trust domain");
    let signed = sign("fleet.example").output().unwrap();
    let told = String::from_utf8(signed.stderr).unwrap();
    assert!(signed.status.success() && told.contains("spiffe://fleet.example/, key SHA-256 "), "{told}");
    fs::write(file("issuing.pem"), signed.stdout).unwrap();
    succeed(countersign().arg("ca").arg("install").arg(file("issuing.pem")).arg("--data-dir").arg(&data));
    check_issuing(&data);
    wait_until("the running broker takes it up", || !readyz().contains("ca.issuing.none"));
    let shown = succeed(countersign().args(["ca", "show", "--data-dir"]).arg(&data));
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("root ") && lines[1].ends_with("  signs"), "{shown}");
}
