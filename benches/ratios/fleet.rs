//! A real broker as a child process, two hosts that attest to it over one connection each, and what that costs it.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use countersign::cli::client::tls;
use countersign::clock::monotonic;
use countersign::keys::operator::OperatorKey;
use countersign_agent::channel::Channel;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::binder::{Binder, Role};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, AttestationRequest, AttestationResponse, Base64Bytes, Endorsement,
    EnrollmentChallenge, EnrollmentRequest, EnrollmentTask, HostId, activation_proof,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sim_amd::AmdSimulator;
use crate::sim_tpm::{AkKind, CredentialKey, SimManufacturer, SimTpm};

/// Ticks of utime and stime in a second: USER_HZ, 100 wherever Linux runs brokers (proc(5)).
const TICKS_PER_SECOND: u64 = 100;
/// PCRs of firmware, boot loader, kernel and command line.
const PCRS: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

/// A broker and its hosts.
pub(crate) struct Fleet {
    broker: Broker,
    admin: reqwest::Client,
    tpm: Host,
    snp: Host,
}

/// One measurement.
pub(crate) struct Load {
    cpu: Duration,
    wall: Duration,
    /// Sorted: each from the first request of an attestation to its last answer, without the host's own work.
    latencies: Vec<Duration>,
}

impl Load {
    /// Broker CPU of one.
    pub(crate) fn cpu(&self) -> Duration {
        self.cpu / u32::try_from(self.latencies.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Attestations in a second, one after the other, with the host's own work.
    pub(crate) fn per_second(&self) -> f64 {
        f64::from(u32::try_from(self.latencies.len()).unwrap_or(u32::MAX)) / self.wall.as_secs_f64()
    }

    /// The latency that `percent` of all stay below.
    pub(crate) fn quantile(&self, percent: usize) -> Duration {
        quantile(&self.latencies, percent)
    }
}

/// The time that `percent` of all stay below; they are sorted.
pub(crate) fn quantile(times: &[Duration], percent: usize) -> Duration {
    let at = times.len().saturating_mul(percent) / 100;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

struct Broker {
    child: Child,
    address: SocketAddr,
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

struct Host {
    tpm: SimTpm,
    amd: Option<AmdSimulator>,
    key: CredentialKey,
    channel: Channel,
}

impl Fleet {
    /// Starts the broker, registers references and enrols the hosts.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (manufacturer, amd) = (SimManufacturer::new(), AmdSimulator::new(AmdProduct::Milan));
        let broker = Broker::start(&manufacturer, &amd)?;
        let operator = broker.data.join("operator");
        let admin = broker.client(Some((&operator.join("certificate.pem"), &operator.join("key.pem"))))?;
        let signing = OperatorKey::load(&operator)?;
        let (tpm, snp) = (new_tpm(), new_tpm());
        let pcrs: serde_json::Map<String, serde_json::Value> = PCRS
            .map(|index| (index.to_string(), serde_json::json!([hex::encode(tpm.pcr(PcrHash::Sha256, index))])))
            .into_iter()
            .collect();
        let pcrs = serde_json::json!({ "pcrs": { "sha256": pcrs } });
        let measured = serde_json::json!({ "measurement": [hex::encode([0x3e; 48])] });
        for manifest in [
            serde_json::json!({ "id": "bare-metal", "tpm": pcrs }),
            serde_json::json!({ "id": "confidential-vm", "tpm": pcrs, "snp": measured }),
        ] {
            let signed = serde_json::json!({ "note": signing.sign(&manifest.to_string())? });
            let _registered: serde_json::Value = broker.post(&admin, "/v1/references", &signed).await?;
        }
        let tpm = broker.enrol(&admin, &manufacturer, "tpm", tpm, None).await?;
        let snp = broker.enrol(&admin, &manufacturer, "snp", snp, Some(amd)).await?;
        Ok(Self { broker, admin, tpm, snp })
    }

    /// What gates pin of the broker.
    pub(crate) fn public(&self) -> PathBuf {
        self.broker.data.join("public")
    }

    /// The broker's address.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.broker.address.port())
    }

    /// Has the first host attest with a new key; its chain.
    pub(crate) async fn trusted(&mut self) -> anyhow::Result<Vec<Vec<u8>>> {
        self.tpm.key = CredentialKey::new();
        let (_, answer) = self.broker.attested(&mut self.tpm).await?;
        let credential = answer.credential.context("a credential for a new key")?;
        let chain = CertificateDer::pem_slice_iter(credential.certificate_chain.as_bytes());
        Ok(chain.collect::<Result<Vec<_>, _>>()?.into_iter().map(|der| der.to_vec()).collect())
    }

    /// An operator revokes the first host.
    pub(crate) async fn revoke(&self) -> anyhow::Result<()> {
        self.operate("revocation").await
    }

    /// And readmits it.
    pub(crate) async fn readmit(&self) -> anyhow::Result<()> {
        self.operate("readmission").await
    }

    async fn operate(&self, what: &str) -> anyhow::Result<()> {
        let path = format!("/v1/hosts/tpm/{what}");
        let _changed: serde_json::Value = self.broker.post(&self.admin, &path, &serde_json::json!({})).await?;
        Ok(())
    }

    /// Attests `count` times on one connection, with a new credential key each time or always with the same.
    pub(crate) async fn attest(&mut self, snp: bool, count: u32, new_key: bool) -> anyhow::Result<Load> {
        let Self { broker, tpm: tpm_host, snp: snp_host, .. } = self;
        let host = if snp { snp_host } else { tpm_host };
        for _ in 0..50 {
            broker.attest(host, new_key).await?;
        }
        let mut latencies = Vec::new();
        let (cpu, start) = (broker.cpu()?, monotonic());
        for _ in 0..count {
            latencies.push(broker.attest(host, new_key).await?);
        }
        let (wall, cpu) = (start.elapsed(), broker.cpu()?.saturating_sub(cpu));
        latencies.sort_unstable();
        Ok(Load { cpu, wall, latencies })
    }

    /// Asks for `count` challenges and uses none.
    pub(crate) async fn challenges(&mut self, snp: bool, count: u32) -> anyhow::Result<Load> {
        let host = if snp { &mut self.snp } else { &mut self.tpm };
        let mut latencies = Vec::new();
        let (cpu, start) = (self.broker.cpu()?, monotonic());
        for _ in 0..count {
            let asked = monotonic();
            host.channel.challenge().await?;
            latencies.push(asked.elapsed());
        }
        let (wall, cpu) = (start.elapsed(), self.broker.cpu()?.saturating_sub(cpu));
        latencies.sort_unstable();
        Ok(Load { cpu, wall, latencies })
    }

    /// Opens `count` connections with a client certificate, one after the other, each to its first answer.
    pub(crate) async fn handshakes(&self, count: u32) -> anyhow::Result<Load> {
        let config = Arc::new(self.broker.host_tls("tpm")?);
        let mut latencies = Vec::new();
        let (cpu, start) = (self.broker.cpu()?, monotonic());
        for _ in 0..count {
            let began = monotonic();
            let stream = tokio::net::TcpStream::connect(self.broker.address).await?;
            stream.set_nodelay(true)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
            let mut stream = connector.connect(ServerName::from(self.broker.address.ip()), stream).await?;
            // TLS 1.3: only an answer shows that the server has finished checking the certificate.
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            if !answer.starts_with(b"HTTP/1.1 200") {
                bail!("/healthz: {}", String::from_utf8_lossy(&answer));
            }
            latencies.push(began.elapsed());
        }
        let (wall, cpu) = (start.elapsed(), self.broker.cpu()?.saturating_sub(cpu));
        latencies.sort_unstable();
        Ok(Load { cpu, wall, latencies })
    }
}

/// A TPM whose whole boot is measured.
fn new_tpm() -> SimTpm {
    let mut tpm = SimTpm::new(AkKind::Rsa2048);
    for index in PCRS.into_iter().filter(|index| 7 < *index) {
        tpm.extend(PcrHash::Sha256, index, b"system");
    }
    tpm
}

impl Broker {
    fn start(manufacturer: &SimManufacturer, amd: &AmdSimulator) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        let anchor = dir.path().join("tpm-root.der");
        std::fs::write(&anchor, &manufacturer.anchor().root)?;
        let binary = env!("CARGO_BIN_EXE_countersign");
        let made = Command::new(binary)
            .env("COUNTERSIGN_CLOCK_SYNC", "asserted")
            .args(["init", "--trust-domain", "bench.example", "--listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(&data)
            .arg("--simulated-tpm-anchor")
            .arg(&anchor)
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            bail!("countersign init: {made}");
        }
        let anchors = data.join("anchors/amd-simulated").join(amd.product.to_string().to_lowercase());
        std::fs::create_dir_all(&anchors)?;
        std::fs::write(anchors.join("ark.der"), &amd.ark_der)?;
        std::fs::write(anchors.join("ask.der"), &amd.ask_der)?;
        let lists = data.join("collateral/amd");
        std::fs::create_dir_all(&lists)?;
        std::fs::write(lists.join("simulated.crl"), amd.crl(&[]))?;
        let mut child =
            Command::new(binary).args(["broker", "--data-dir"]).arg(&data).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let announced: serde_json::Value = serde_json::from_str(&line).context("the broker did not come up")?;
        let address = announced.get("listening").and_then(serde_json::Value::as_str).context("no address")?.parse()?;
        Ok(Self { child, address, data, _dir: dir })
    }

    /// CPU time that the process took: user and system.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may contain anything; utime and stime are the 12th and 13th field after it.
        let (_, fields) = stat.rsplit_once(") ").context("/proc/<pid>/stat")?;
        let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
        let (utime, stime) = (fields.next().context("utime")??, fields.next().context("stime")??);
        let ticks = utime.saturating_add(stime);
        Ok(Duration::from_millis(ticks.saturating_mul(1000) / TICKS_PER_SECOND))
    }

    fn control_ca(&self) -> PathBuf {
        self.data.join("operator/control-ca.pem")
    }

    fn host_tls(&self, id: &str) -> anyhow::Result<rustls::ClientConfig> {
        let file = |extension: &str| self.data.join(format!("host-{id}.{extension}"));
        tls(&self.control_ca(), Some((&file("pem"), &file("key"))))
    }

    fn client(&self, identity: Option<(&Path, &Path)>) -> anyhow::Result<reqwest::Client> {
        let mut config = tls(&self.control_ca(), identity)?;
        // As the agent does.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(reqwest::Client::builder().tls_backend_preconfigured(config).https_only(true).no_proxy().build()?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        http: &reqwest::Client,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let response = http.post(format!("https://{}{path}", self.address)).json(body).send().await?;
        let (status, bytes) = (response.status(), response.bytes().await?);
        if !status.is_success() {
            bail!("{path}: {status} {}", String::from_utf8_lossy(&bytes));
        }
        Ok(serde_json::from_slice(&bytes)?)
    }

    async fn enrol(
        &self,
        admin: &reqwest::Client,
        manufacturer: &SimManufacturer,
        id: &str,
        tpm: SimTpm,
        amd: Option<AmdSimulator>,
    ) -> anyhow::Result<Host> {
        let ek = Public::read(tpm.ek_public()).map_err(|rejection| anyhow::anyhow!("{rejection}"))?.spki();
        let registration = serde_json::json!({ "id": id, "ek_sha256": Sha256Digest::of(&[&ek]) });
        let _registered: serde_json::Value = self.post(admin, "/v1/hosts", &registration).await?;
        let channel = CredentialKey::new();
        let request = EnrollmentRequest {
            host: HostId::parse(id).context("a host id")?,
            endorsement: Endorsement::EndorsementKey {
                certificate: Base64Bytes(manufacturer.ek_certificate(&tpm)),
                public: Base64Bytes(tpm.ek_public().to_vec()),
                intermediates: Vec::new(),
            },
            ak_public: Base64Bytes(tpm.ak_public().to_vec()),
            channel_key: Base64Bytes(channel.spki()),
        };
        let anonymous = self.client(None)?;
        let wrapped: EnrollmentChallenge = self.post(&anonymous, "/v1/enrollments", &request).await?;
        let EnrollmentTask::ActivateCredential { credential_blob, encrypted_secret } = &wrapped.task else {
            bail!("another task than activation");
        };
        let secret = tpm.activate(&credential_blob.0, &encrypted_secret.0).context("activation")?;
        let proof = Base64Bytes(activation_proof(&secret, &wrapped.enrollment, &channel.spki()).to_vec());
        let path = format!("/v1/enrollments/{}/activation", wrapped.enrollment);
        let enrolled: ActivationResponse = self.post(&anonymous, &path, &ActivationRequest { proof }).await?;
        let (certificate, key) = (self.data.join(format!("host-{id}.pem")), self.data.join(format!("host-{id}.key")));
        std::fs::write(&certificate, &enrolled.channel_certificate)?;
        let pkcs8 = rcgen::KeyPair::try_from(channel.pkcs8().as_slice())?.serialize_pem();
        std::fs::write(&key, &pkcs8)?;
        let control_ca = std::fs::read_to_string(self.control_ca())?;
        let url = format!("https://{}", self.address);
        let channel = Channel::new(&url, &control_ca, &enrolled.channel_certificate, &pkcs8)?;
        Ok(Host { tpm, amd, key: CredentialKey::new(), channel })
    }

    /// One attestation; how long the host waited for the broker.
    async fn attest(&self, host: &mut Host, new_key: bool) -> anyhow::Result<Duration> {
        if new_key {
            host.key = CredentialKey::new();
        }
        let (waited, answer) = self.attested(host).await?;
        if new_key && answer.credential.is_none() {
            bail!("no credential for a new key");
        }
        Ok(waited)
    }

    /// One attestation with the host's key.
    async fn attested(&self, host: &mut Host) -> anyhow::Result<(Duration, AttestationResponse)> {
        host.tpm.clock.clock = host.tpm.clock.clock.saturating_add(1);
        let asked = monotonic();
        let (challenge, channel) = host.channel.challenge().await?;
        let waited = asked.elapsed();
        let nonce = challenge.nonce.0.as_slice().try_into()?;
        let binder = Binder::new(Role::Host, nonce, &host.key.spki(), &channel);
        let (tpm_quote, tpm_pcrs) = host.tpm.quote(&challenge.pcr_selection, &binder.qualifying_data());
        let tpm_certify = host.tpm.certify(&host.key, &binder.qualifying_data());
        let snp = host.amd.as_ref().map(|amd| amd.evidence(binder.report_data()));
        let request = AttestationRequest {
            workload_key: None,
            challenge: challenge.challenge,
            audiences: Vec::new(),
            credential_key: Base64Bytes(host.key.spki()),
            evidence: Bundle {
                tpm_quote,
                tpm_pcrs,
                tpm_certify,
                event_log: None,
                ima: None,
                snp,
                tdx: None,
                paravisor: None,
            }
            .encode(),
        };
        let asked = monotonic();
        let answer = host.channel.attest(&request).await?;
        Ok((waited.saturating_add(asked.elapsed()), answer))
    }
}
