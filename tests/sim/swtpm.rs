//! A software TPM per test: real swtpm processes with an EK certificate from a CA of their own, on a free pair of
//! loopback ports, stopped when dropped. Standard library only, so that any test crate can include this file.
#![expect(clippy::expect_used, clippy::panic, reason = "a test cannot go on without its TPM")]

use core::net::Ipv4Addr;
use core::time::Duration;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Debian installs swtpm here; `PATH` of a service may lack it.
const SETUP: &str = "swtpm_setup";

/// A running swtpm.
#[derive(Debug)]
pub(crate) struct Swtpm {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Swtpm {
    /// Manufactures a TPM under `directory` (which must be empty or absent) and starts it.
    ///
    /// # Panics
    /// When swtpm or swtpm_setup is missing or fails: a test cannot go on without it.
    pub(crate) fn start(directory: &Path) -> Self {
        manufacture(directory);
        Self::resume(directory)
    }

    /// Starts the TPM that was manufactured under `directory`, as after a power cycle.
    ///
    /// # Panics
    /// When no free port pair is found.
    pub(crate) fn resume(directory: &Path) -> Self {
        // swtpm takes no listening socket, so another process may take a port first: then try other ports.
        for _ in 0..50 {
            let Some(port) = free_pair() else { continue };
            if let Some(process) = launch(directory, port) {
                return Self { process, directory: directory.to_path_buf(), port };
            }
        }
        panic!("no free pair of loopback ports for swtpm after 50 attempts");
    }

    /// TCTI string of the data port.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Data port; the control port is the next one.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// PEM certificates of the CA that signed the EK certificate: issuer, then root.
    pub(crate) fn ca_certificates(&self) -> [PathBuf; 2] {
        [self.directory.join("ca/issuercert.pem"), self.directory.join("ca/swtpm-localca-rootca-cert.pem")]
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Extends a SHA-256 PCR with a digest, through tpm2-tools: drift.
    ///
    /// # Panics
    /// When tpm2_pcrextend is missing or fails.
    pub(crate) fn extend(&self, pcr: u8, digest_hex: &str) {
        self.extend_all(&[format!("{pcr}:sha256={digest_hex}")]);
    }

    /// Extends PCRs in this order, each `PCR:BANK=DIGEST,BANK=DIGEST`: what firmware and kernel measure.
    ///
    /// # Panics
    /// When tpm2_pcrextend is missing or fails.
    pub(crate) fn extend_all(&self, extends: &[String]) {
        let output = self.tool("tpm2_pcrextend", &extends.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "tpm2_pcrextend: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Defines an NV index and writes it, as a manufacturer does with its certificates.
    ///
    /// # Panics
    /// When tpm2-tools are missing or fail.
    pub(crate) fn store(&self, index: u32, content: &[u8]) {
        let (index, size) = (format!("{index:#010x}"), content.len().to_string());
        let attributes = "ownerread|ownerwrite|authread|authwrite|policyread|no_da";
        let path = self.directory.join("nv");
        fs::write(&path, content).expect("write the content of an NV index");
        let path = path.display().to_string();
        let define = ["-C", "o", "-s", &size, "-a", attributes, &index];
        for (name, arguments) in
            [("tpm2_nvdefine", define.as_slice()), ("tpm2_nvwrite", &["-C", "o", "-i", &path, &index])]
        {
            let output = self.tool(name, arguments);
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Reset of the machine after an orderly shutdown: PCRs start anew, and resetCount grows.
    ///
    /// # Panics
    /// When tpm2-tools or swtpm_ioctl are missing or fail.
    pub(crate) fn reset(&self) {
        assert!(self.tool("tpm2_shutdown", &["--clear"]).status.success());
        let control = format!("127.0.0.1:{}", self.port + 1);
        assert!(self.tool("swtpm_ioctl", &["--tcp", &control, "-i"]).status.success());
        assert!(self.tool("tpm2_startup", &["--clear"]).status.success());
    }

    /// Runs one of tpm2-tools against this TPM.
    ///
    /// # Panics
    /// When the tool is missing.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> std::process::Output {
        Command::new(name)
            .args(arguments)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{name} (Debian package tpm2-tools): {error}"))
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Makes a TPM with RSA-2048 and P-384 EK certificates; nothing is written outside `directory`.
fn manufacture(directory: &Path) {
    // swtpm_localca creates its root with certtool on first use; two at once in one test process only fight for CPU.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let ca = directory.join("ca");
    fs::create_dir_all(&ca).expect("create the CA directory");
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).expect("write swtpm configuration");
        path
    };
    let options = write(
        "localca.options",
        "--platform-manufacturer Countersign\n--platform-version 1.0\n--platform-model simulated\n".to_owned(),
    );
    let localca = write(
        "localca.conf",
        format!(
            "statedir = {ca}\nsigningkey = {ca}/signkey.pem\n\
             issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n",
            ca = ca.display()
        ),
    );
    let setup = write(
        "setup.conf",
        format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
             create_certs_tool_options = {}\n\
             active_pcr_banks = sha256,sha384\n",
            localca.display(),
            options.display()
        ),
    );
    let output = Command::new(SETUP)
        .args(["--tpm2", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite"])
        .args(["--pcr-banks", "sha256,sha384"])
        .arg("--tpmstate")
        .arg(format!("dir://{}", directory.display()))
        .arg("--config")
        .arg(&setup)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{SETUP} (Debian package swtpm-tools): {error}"));
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{SETUP}: {told}{}", String::from_utf8_lossy(&output.stderr));
}

/// A port whose successor is free too.
fn free_pair() -> Option<u16> {
    let data = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let port = data.local_addr().ok()?.port();
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, port.checked_add(1)?)).ok()?;
    drop((data, control));
    Some(port)
}

/// swtpm on `port` and the next one, once it answers; `None` when it ended, as it does when a port was taken.
fn launch(directory: &Path, port: u16) -> Option<Child> {
    let listen = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
    let mut process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", directory.display()))
        .args(["--server", &listen(port), "--ctrl", &listen(port + 1)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("swtpm (Debian package swtpm): {error}"));
    for _ in 0..500 {
        if process.try_wait().expect("wait for swtpm").is_some() {
            return None;
        }
        // Only when this very process listens there: another swtpm may have taken the pair in between.
        if listens(process.id(), port) && listens(process.id(), port + 1) && answers(port + 1) {
            return Some(process);
        }
        // Start-up of a process cannot be awaited; poll it.
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    let _ = process.wait();
    None
}

/// Whether the process has the listening socket of a loopback port (proc(5): /proc/net/tcp, /proc/PID/fd).
fn listens(pid: u32, port: u16) -> bool {
    let local = format!("0100007F:{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let mut sockets = table.lines().filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let listening = fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&"0A");
        fields.get(9).filter(|_| listening).map(|inode| format!("socket:[{inode}]"))
    });
    let Some(socket) = sockets.next() else { return false };
    let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    held.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.as_os_str() == socket.as_str())
}

/// Whether the control channel answers CMD_GET_CAPABILITY (1) with success.
fn answers(control: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, control)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 4];
    stream.write_all(&1_u32.to_be_bytes()).is_ok() && stream.read_exact(&mut answer).is_ok() && answer == [0; 4]
}
