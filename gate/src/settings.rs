//! What an operator sets: flags and their environment variables, read once.

use core::net::SocketAddr;
use core::str::FromStr;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Parser;
use countersign_attestation::pulse::Class;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{KeyProtection, TrustDomain};
use countersign_attestation::x509::Certificate;
use countersign_clock::{ClockArgs, Keeper};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::authorize::{Authorize, OperatorPolicies};
use crate::decide::Trust;
use crate::proxy::{ProxySettings, UpstreamAddress};
use crate::state::Source;

/// Decides for a relying party whether a caller's execution credential is trusted now.
#[derive(Clone, Debug, Parser)]
#[command(name = "countersign-gate", version, about, long_about = None)]
pub struct Settings {
    /// Where to answer: a loopback address or `unix:PATH`. With port 0 the chosen address is printed as a JSON line.
    #[arg(long, env = "COUNTERSIGN_GATE_LISTEN", default_value = "127.0.0.1:8444", value_name = "ADDRESS")]
    pub listen: Listen,

    /// A broker or relay to follow; may be given several times.
    #[arg(
        long,
        env = "COUNTERSIGN_GATE_BROKER",
        required_unless_present = "stapled",
        value_delimiter = ',',
        value_name = "URL"
    )]
    pub broker: Vec<String>,

    /// Follow nobody: decide by what callers show of the newest pulse, in the header Countersign-Staple.
    #[arg(long, env = "COUNTERSIGN_GATE_STAPLED", conflicts_with = "broker")]
    pub stapled: bool,

    /// The trust domain whose credentials are judged.
    #[arg(long, env = "COUNTERSIGN_TRUST_DOMAIN", value_name = "NAME", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,

    /// Whose keys are accepted: in the TPM of the attested host alone, or also in its memory.
    #[arg(long, env = "COUNTERSIGN_GATE_KEYS", value_enum, default_value_t = Keys::Tpm)]
    pub keys: Keys,

    /// Folder with `jwks.json`, `trust-bundle.pem` and `broker-ca.pem`, for those not given on their own.
    #[arg(long, env = "COUNTERSIGN_GATE_TRUST_DIR", value_name = "FOLDER")]
    pub trust_dir: Option<PathBuf>,

    /// The broker's signing keys, JWKS.
    #[arg(long, env = "COUNTERSIGN_GATE_JWKS", value_name = "FILE", required_unless_present = "trust_dir")]
    pub jwks: Option<PathBuf>,

    /// The workload CA's roots, PEM.
    #[arg(long, env = "COUNTERSIGN_GATE_TRUST_BUNDLE", value_name = "FILE", required_unless_present = "trust_dir")]
    pub trust_bundle: Option<PathBuf>,

    /// The CA of the broker's own TLS certificate, PEM.
    #[arg(long, env = "COUNTERSIGN_GATE_BROKER_CA", value_name = "FILE", required_unless_present = "trust_dir")]
    pub broker_ca: Option<PathBuf>,

    /// How soon a revocation must be in force when nothing more is heard: 5 s after it (the broker's Y), or 2 s.
    #[arg(long, env = "COUNTERSIGN_GATE_CLASS", value_enum, default_value_t = ClassName::Default)]
    pub class: ClassName,

    /// Where the time comes from: this machine's clock, or, with `none`, the broker's answer to a nonce each second.
    #[arg(long, env = "COUNTERSIGN_GATE_CLOCK", value_enum, default_value_t = TimeSource::System)]
    #[arg(conflicts_with = "stapled")]
    pub clock: TimeSource,

    /// Whether this machine's clock is believed.
    #[command(flatten)]
    pub keeping: ClockArgs,

    /// Cedar policies that must permit each request of a trusted caller: a file, or a folder of *.cedar files.
    #[arg(long, env = "COUNTERSIGN_GATE_AUTHORIZE", value_name = "PATH")]
    pub authorize: Option<PathBuf>,

    /// Where to terminate mutual TLS for a service that has no proxy.
    #[arg(
        long,
        env = "COUNTERSIGN_GATE_PROXY_LISTEN",
        value_name = "ADDRESS",
        requires_all = ["proxy_certificate", "proxy_key", "proxy_upstream"]
    )]
    pub proxy_listen: Option<SocketAddr>,

    /// The proxy's certificate chain, PEM; read anew when it changes.
    #[arg(long, env = "COUNTERSIGN_GATE_PROXY_CERTIFICATE", value_name = "FILE", requires = "proxy_listen")]
    pub proxy_certificate: Option<PathBuf>,

    /// Its key, PEM; read anew when it changes.
    #[arg(long, env = "COUNTERSIGN_GATE_PROXY_KEY", value_name = "FILE", requires = "proxy_listen")]
    pub proxy_key: Option<PathBuf>,

    /// The one service that requests go to: `http://` and a loopback address, `unix:PATH`, or `https://NAME`.
    #[arg(long, env = "COUNTERSIGN_GATE_PROXY_UPSTREAM", value_name = "ADDRESS", requires = "proxy_listen")]
    pub proxy_upstream: Option<UpstreamAddress>,

    /// What the certificate of an https service must lead to, PEM.
    #[arg(long, env = "COUNTERSIGN_GATE_PROXY_UPSTREAM_CA", value_name = "FILE", requires = "proxy_upstream")]
    pub proxy_upstream_ca: Option<PathBuf>,

    /// Longest wait for the head of the service's answer.
    #[arg(
        long,
        env = "COUNTERSIGN_GATE_PROXY_ANSWER_SECONDS",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub proxy_answer_seconds: u64,

    /// Connections that callers may have open at once.
    #[arg(
        long,
        env = "COUNTERSIGN_GATE_PROXY_CONNECTIONS",
        value_name = "NUMBER",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub proxy_connections: u32,
}

/// Where an accepted credential's key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Keys {
    /// In the TPM.
    Tpm,
    /// In the TPM, or in the memory of the attested host.
    Memory,
}

/// Where the time comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TimeSource {
    /// This machine's clock.
    System,
    /// The broker, asked with a nonce; the wall clock is never read.
    None,
}

/// How soon a revocation must be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClassName {
    /// As long as the broker signs for.
    Default,
    /// Two seconds.
    Critical,
}

impl From<ClassName> for Class {
    fn from(class: ClassName) -> Self {
        match class {
            ClassName::Default => Self::Default,
            ClassName::Critical => Self::Critical,
        }
    }
}

impl From<Keys> for KeyProtection {
    fn from(keys: Keys) -> Self {
        match keys {
            Keys::Tpm => Self::Tpm,
            Keys::Memory => Self::Memory,
        }
    }
}

/// Where the gate answers. It believes the headers of whoever can connect, so only this machine may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A loopback TCP address.
    Loopback(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Neither form.
    #[error("expected a loopback address such as 127.0.0.1:8444, or unix:/run/countersign/gate.sock")]
    Form,
    /// Strangers could connect and write the certificate header themselves.
    #[error("{0} is not a loopback address: whoever connects is believed to be the proxy")]
    NotLoopback(SocketAddr),
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(ListenError::Form) } else { Ok(Self::Unix(PathBuf::from(path))) };
        }
        let address: SocketAddr = text.parse().map_err(|_| ListenError::Form)?;
        if address.ip().is_loopback() { Ok(Self::Loopback(address)) } else { Err(ListenError::NotLoopback(address)) }
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).ok_or_else(|| "expected 1 to 255 of a-z, 0-9, '-', '.' and '_'".to_owned())
}

/// What the files hold.
#[derive(Clone, Debug)]
pub struct TrustMaterial {
    /// Whose credentials are judged, and the roots they lead to.
    pub trust: Trust,
    /// The broker's signing keys.
    pub keys: JwkSet,
    /// The CA of the broker's TLS certificate, DER.
    pub broker_ca: Vec<Vec<u8>>,
}

impl Settings {
    /// Reads the trust material; a missing, empty or broken file ends the start.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn trust_material(&self) -> anyhow::Result<TrustMaterial> {
        let jwks = self.file(self.jwks.as_deref(), "jwks.json")?;
        let keys = std::fs::read(&jwks).with_context(|| format!("cannot read {}", jwks.display()))?;
        let keys = JwkSet::parse(&keys).with_context(|| format!("cannot use {}", jwks.display()))?;
        let roots = certificates(&self.file(self.trust_bundle.as_deref(), "trust-bundle.pem")?)?;
        for root in &roots {
            Certificate::parse(root).context("cannot use the trust bundle")?;
        }
        let broker_ca = certificates(&self.file(self.broker_ca.as_deref(), "broker-ca.pem")?)?;
        let trust = Trust { trust_domain: self.trust_domain.clone(), roots, keys: self.keys.into() };
        Ok(TrustMaterial { trust, keys, broker_ca })
    }

    /// Where pulses come from.
    #[must_use]
    pub const fn source(&self) -> Source {
        if self.stapled { Source::Staples } else { Source::Feeds }
    }

    /// Who vouches for the clock, and for how much.
    #[must_use]
    pub const fn keeper(&self) -> Keeper {
        self.keeping.keeper()
    }

    /// Loads the operator's policies, where a place for them is named. What cannot be loaded ends the start.
    ///
    /// # Errors
    /// Names the place and what is wrong with it.
    pub fn authorize(&self) -> anyhow::Result<Authorize> {
        let Some(place) = &self.authorize else { return Ok(Authorize::CoreAlone) };
        Ok(Authorize::ByPolicies(Arc::new(OperatorPolicies::load(place)?)))
    }

    /// What is said of the proxy, where there is to be one.
    ///
    /// # Errors
    /// A CA that cannot be read, or one for a service that has no use for it.
    pub fn proxy(&self) -> anyhow::Result<Option<(SocketAddr, ProxySettings)>> {
        let (Some(listen), Some(certificate), Some(key), Some(upstream)) =
            (self.proxy_listen, &self.proxy_certificate, &self.proxy_key, &self.proxy_upstream)
        else {
            return Ok(None);
        };
        let upstream_ca = match (upstream, &self.proxy_upstream_ca) {
            (UpstreamAddress::Https { .. }, Some(file)) => certificates(file)?,
            (UpstreamAddress::Https { .. }, None) => bail!("{upstream} needs --proxy-upstream-ca"),
            (UpstreamAddress::Loopback(_) | UpstreamAddress::Unix(_), None) => Vec::new(),
            // Whoever names one believes that it is checked.
            (UpstreamAddress::Loopback(_) | UpstreamAddress::Unix(_), Some(_)) => {
                bail!("{upstream} shows no certificate: --proxy-upstream-ca is for https")
            }
        };
        let settings = ProxySettings {
            certificate: certificate.clone(),
            key: key.clone(),
            upstream: upstream.clone(),
            upstream_ca,
            answer_max: Duration::from_secs(self.proxy_answer_seconds),
            connections_max: usize::try_from(self.proxy_connections).unwrap_or(usize::MAX),
        };
        Ok(Some((listen, settings)))
    }

    fn file(&self, named: Option<&Path>, usual: &str) -> anyhow::Result<PathBuf> {
        match (named, &self.trust_dir) {
            (Some(file), _) => Ok(file.to_owned()),
            (None, Some(folder)) => Ok(folder.join(usual)),
            (None, None) => bail!("neither a folder with {usual} nor the file itself is named"),
        }
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot use {}", file.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::{Listen, ListenError};

    #[test]
    fn only_this_machine_may_connect() {
        for good in ["127.0.0.1:0", "127.8.9.1:8444", "[::1]:8444", "unix:/run/gate.sock"] {
            assert!(good.parse::<Listen>().is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:8444", "[::]:8444", "10.0.0.1:8444", "192.0.2.1:1"] {
            assert!(matches!(bad.parse::<Listen>(), Err(ListenError::NotLoopback(_))), "{bad}");
        }
        for bad in ["", "unix:", "localhost:8444", "8444", "127.0.0.1"] {
            assert_eq!(bad.parse::<Listen>(), Err(ListenError::Form), "{bad}");
        }
    }
}
