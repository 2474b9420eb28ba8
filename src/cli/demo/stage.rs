//! The demo's processes: real binaries, each ended with the demo.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::clock::monotonic;

/// Nothing on one machine takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A child process that is killed with the value, unless it is kept.
#[derive(Debug)]
pub(in crate::cli) struct Process {
    child: Child,
    name: String,
    kept: bool,
}

impl Process {
    /// Starts a process whose output nobody reads.
    pub(in crate::cli) fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{name} cannot be started (run `make setup`)"))?;
        Ok(Self { child, name: name.to_owned(), kept: false })
    }

    /// Starts a process that logs to a file.
    pub(in crate::cli) fn logging(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { child, name: name.to_owned(), kept: false })
    }

    /// Starts a process that logs to a file and prints a JSON line of type `T` once it answers.
    pub(in crate::cli) fn announced<T: for<'de> Deserialize<'de>>(
        name: &str,
        command: &mut Command,
        log: &Path,
    ) -> anyhow::Result<(Self, T)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let mut process = Self { child, name: name.to_owned(), kept: false };
        let stdout = process.child.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let announced = serde_json::from_str(&line)
            .with_context(|| format!("{name} did not come up; its log is {}", log.display()))?;
        Ok((process, announced))
    }

    /// The process id.
    pub(in crate::cli) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Lets the process outlive the demo.
    pub(in crate::cli) fn keep(&mut self) {
        self.kept = true;
    }

    /// Waits for the end and gives the exit code.
    pub(in crate::cli) fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let mut code = None;
        wait_until(&format!("{} ends", self.name), || {
            code = self.child.try_wait()?;
            Ok(code.is_some())
        })?;
        Ok(code.and_then(|status| status.code()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.kept {
            // It may have ended by itself.
            let _killed = self.child.kill();
            let _status = self.child.wait();
        }
    }
}

/// What the broker prints.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct BrokerListening {
    pub(in crate::cli) listening: SocketAddr,
}

/// What the gate prints.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct GateListening {
    pub(in crate::cli) listen: String,
}

/// All parts run on one machine, by one clock: nobody needs to keep it for them to agree.
pub(in crate::cli) fn vouch(command: &mut Command) -> &mut Command {
    command.env("COUNTERSIGN_CLOCK_SYNC", "asserted").env("COUNTERSIGN_CLOCK_ERROR_MAX_MS", "50")
}

/// A sibling of this binary.
pub(in crate::cli) fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!("{} is not built (run `make build`)", path.display());
    }
    Ok(path)
}

/// Runs a command to its end.
pub(in crate::cli) fn run(name: &str, command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be started"))
}

/// Runs a command that has to succeed and gives its output.
pub(in crate::cli) fn run_ok(name: &str, command: &mut Command) -> anyhow::Result<String> {
    let output = run(name, command)?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Looks again and again until `done`.
pub(in crate::cli) fn wait_until(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = monotonic();
    while !done()? {
        if PATIENCE < started.elapsed() {
            bail!("waited {} s until {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What a gate says of a certificate, asked as nginx asks: status of `GET /authorize`.
pub(in crate::cli) fn ask_gate(gate: &str, certificate_pem: &str) -> anyhow::Result<u16> {
    // nginx hands over the leaf alone.
    let leaf = certificate_pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap_or_default();
    let escaped: String = leaf.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut stream = TcpStream::connect(gate)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let head =
        format!("GET /authorize HTTP/1.1\r\nhost: gate\r\nconnection: close\r\nx-ssl-client-cert: {escaped}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok());
    status.and_then(|digits| digits.parse().ok()).context("the gate answers HTTP")
}
