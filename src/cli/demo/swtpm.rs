//! A software TPM for the demo: swtpm with an EK certificate from a CA of its own, all under one folder.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use countersign_attestation::digest::Sha256Digest;

use crate::cli::demo::stage::{Process, run_ok, wait_until};

/// A running swtpm; it ends with the value.
#[derive(Debug)]
pub(in crate::cli) struct Swtpm {
    pub(in crate::cli) process: Process,
    port: u16,
}

impl Swtpm {
    /// Manufactures a TPM in `dir` and starts it.
    pub(in crate::cli) fn start(dir: &Path) -> anyhow::Result<Self> {
        manufacture(dir)?;
        // swtpm takes no listening socket, so another process may take a port first: then try another pair.
        for _ in 0..20 {
            let port = free_pair()?;
            let listen = |port: u16| format!("type=tcp,port={port},bindaddr=127.0.0.1");
            let mut command = Command::new("swtpm");
            command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
            command.arg(format!("dir={}", dir.display())).args(["--server", &listen(port)]);
            command.args(["--ctrl", &listen(port.saturating_add(1))]);
            let process = Process::start("swtpm", &mut command)?;
            let swtpm = Self { process, port };
            // Only when this very process listens there: another swtpm may have taken the pair in between.
            let listens = || Ok(listens(swtpm.process.id(), port));
            if wait_until("swtpm listens", listens).is_ok() && swtpm.read_pcr(0).is_ok() {
                return Ok(swtpm);
            }
        }
        bail!("swtpm did not come up on any of 20 port pairs")
    }

    /// How tss2 libraries reach it.
    pub(in crate::cli) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Extends PCRs of the SHA-256 bank, as firmware, a boot loader or a kernel does when it measures something.
    pub(in crate::cli) fn extend(&self, measured: &[(u8, Sha256Digest)]) -> anyhow::Result<()> {
        let measured: Vec<String> = measured.iter().map(|(pcr, digest)| format!("{pcr}:sha256={digest}")).collect();
        self.tool("tpm2_pcrextend", &measured.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Power off and on: PCRs begin anew and resetCount grows; the machine has not measured its boot yet.
    pub(in crate::cli) fn power_cycle(&self) -> anyhow::Result<()> {
        self.tool("tpm2_shutdown", &["-c"])?;
        let control = format!("127.0.0.1:{}", self.port.saturating_add(1));
        run_ok("swtpm_ioctl", Command::new("swtpm_ioctl").args(["--tcp", &control, "-i"]))?;
        self.tool("tpm2_startup", &["-c"]).map(drop)
    }

    fn read_pcr(&self, pcr: u8) -> anyhow::Result<String> {
        self.tool("tpm2_pcrread", &[&format!("sha256:{pcr}")])
    }

    fn tool(&self, name: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(name).args(args).env("TPM2TOOLS_TCTI", self.tcti()).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{name} is not installed (run `make setup`)"))?;
        if !output.status.success() {
            bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
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

/// Root, then issuer, of the EK certificates that were made in `dir`: what an operator pins as class simulated.
pub(in crate::cli) fn pinned_anchor(dir: &Path) -> anyhow::Result<PathBuf> {
    let mut pem = fs::read_to_string(dir.join("ca/swtpm-localca-rootca-cert.pem"))?;
    pem.push_str(&fs::read_to_string(dir.join("ca/issuercert.pem"))?);
    let path = dir.join("anchor.pem");
    fs::write(&path, pem)?;
    Ok(path)
}

fn manufacture(dir: &Path) -> anyhow::Result<()> {
    let ca = dir.join("ca");
    fs::create_dir_all(&ca)?;
    let ca = ca.display();
    let file = |name: &str, text: String| -> anyhow::Result<String> {
        let path = dir.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let model = "--platform-manufacturer Countersign\n--platform-version 1.0\n--platform-model demo\n";
    let options = file("localca.options", model.to_owned())?;
    let localca = file(
        "localca.conf",
        format!(
            "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\n\
             certserial = {ca}/certserial\n"
        ),
    )?;
    let setup = file(
        "setup.conf",
        format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {localca}\n\
             create_certs_tool_options = {options}\nactive_pcr_banks = sha256\n"
        ),
    )?;
    let state = format!("dir://{}", dir.display());
    let output = Command::new("swtpm_setup")
        .args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256"])
        .args(["--tpmstate", &state, "--config", &setup])
        .stdin(Stdio::null())
        .output()
        .context("swtpm_setup is not installed (run `make setup`)")?;
    if !output.status.success() {
        bail!("swtpm_setup: {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// A free port whose successor is free too: swtpm's control port is the next one.
fn free_pair() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let data = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = data.local_addr()?.port();
        if port.checked_add(1).is_some_and(|next| TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free pair of ports")
}
