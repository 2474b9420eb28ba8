//! `countersign ca`: the workload CA, on the broker's machine, and on the one where its root is kept.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::result::svid::TrustDomain;

use crate::clock::Clock;
use crate::config::{AuthoritySettings, Config, DataDir, NameConstraints, create_private_dir, read_bounded};
use crate::keys::offline::{Request, create_root};
use crate::keys::pkcs11::Uri;
use crate::keys::signing::SigningKey;
use crate::keys::workload::Workload;

const DAY_MS: u64 = 86_400_000;
const FILE_BYTES_MAX: u64 = 16_384;

/// `countersign ca`.
#[derive(Debug, clap::Subcommand)]
pub enum CaCommand {
    /// Shows the root and the issuing certificates, and when each ends.
    Show {
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
    },
    /// Makes a root on a machine that is not the broker's: root.key.pem and root.pem.
    Root {
        /// SPIFFE trust domain.
        #[arg(long)]
        trust_domain: String,
        /// New folder for both.
        #[arg(long)]
        out: PathBuf,
        /// Makes the key there, instead of in a file: a pkcs11: URI (RFC 7512).
        #[arg(long, value_name = "URI")]
        root_key: Option<String>,
    },
    /// Adds the next root beside the one there is. The bundle holds both at once; after the overlap the new one signs,
    /// and the old one leaves the bundle when nothing it signed lives. Give relying parties the bundle in between.
    RotateRoot {
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
        /// Makes the key there, instead of in a file: a pkcs11: URI, to whose object name a number is added.
        #[arg(long, value_name = "URI")]
        root_key: Option<String>,
        /// Makes none: takes the certificate (PEM) of a root on another machine.
        #[arg(long, value_name = "FILE", conflicts_with = "root_key")]
        offline_root: Option<PathBuf>,
    },
    /// Prints the request for the next issuing key; the key stays with the broker.
    Request {
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
    },
    /// Signs a broker's request, where the root is; prints the certificate, and on standard error what it is for.
    Sign {
        /// SPIFFE trust domain: a request of any other is refused.
        #[arg(long)]
        trust_domain: String,
        /// The root's certificate, PEM.
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// The root's key: a file that holds or names it.
        #[arg(long, value_name = "FILE")]
        root_key: PathBuf,
        /// The request, PEM.
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
        /// Life of the issuing certificate.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
        /// Leaves out the name constraints, for relying parties that refuse every constraint of URIs.
        #[arg(long)]
        without_name_constraints: bool,
    },
    /// Checks and takes a signed issuing certificate; a running broker uses it after the overlap.
    Install {
        /// The certificate, PEM.
        file: PathBuf,
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
    },
}

/// Runs `countersign ca`.
///
/// # Errors
/// Files that cannot be read or written, and requests and certificates that are refused.
pub fn run(command: &CaCommand, out: &mut impl Write) -> anyhow::Result<()> {
    let now = Clock::dating().now();
    match command {
        CaCommand::Show { data_dir } => show(&open(data_dir)?, now, out),
        CaCommand::Root { trust_domain, out: folder, root_key } => {
            create_private_dir(folder)?;
            let key = root_key.as_deref().map(Uri::parse).transpose()?;
            Ok(create_root(folder, &domain(trust_domain)?, key.as_ref(), now)?)
        }
        CaCommand::RotateRoot { data_dir, root_key, offline_root } => {
            let key = root_key.as_deref().map(Uri::parse).transpose()?;
            let elsewhere = offline_root.as_deref().map(text).transpose()?;
            Ok(open(data_dir)?.rotate_root(key.as_ref(), elsewhere.as_deref(), now)?)
        }
        CaCommand::Request { data_dir } => Ok(write!(out, "{}", open(data_dir)?.request(now)?)?),
        CaCommand::Sign { trust_domain, root, root_key, csr, days, without_name_constraints } => {
            let trust_domain = domain(trust_domain)?;
            let request = Request::read(&text(csr)?, &trust_domain)?;
            let name_constraints = if *without_name_constraints { NameConstraints::None } else { NameConstraints::Uri };
            let issuing_life_ms = days.saturating_mul(DAY_MS);
            let settings = AuthoritySettings { issuing_life_ms, name_constraints, ..AuthoritySettings::default() };
            let key = SigningKey::load(root_key)?;
            let certificate = request.sign(&trust_domain, &text(root)?, key, &settings, now)?;
            let end = now.plus(issuing_life_ms);
            eprintln!(
                "issues for spiffe://{trust_domain}/, key SHA-256 {}, until {end} at the latest",
                request.key.to_hex()
            );
            Ok(write!(out, "{certificate}")?)
        }
        CaCommand::Install { file, data_dir } => Ok(open(data_dir)?.install(&text(file)?, now)?),
    }
}

fn open(data_dir: &Path) -> anyhow::Result<Workload> {
    let data = DataDir::at(data_dir);
    let config = Config::load(&data.config())?;
    Ok(Workload::load(&data, &domain(&config.trust_domain)?, &config.authority)?)
}

fn domain(text: &str) -> anyhow::Result<TrustDomain> {
    TrustDomain::parse(text).context("a trust domain: 1 to 255 of a-z, 0-9, '-', '.' and '_'")
}

fn text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read_bounded(path, FILE_BYTES_MAX)?).with_context(|| format!("{} is not text", path.display()))
}

fn show(workload: &Workload, now: UnixMillis, out: &mut impl Write) -> anyhow::Result<()> {
    for root in workload.roots() {
        let certificate = countersign_attestation::x509::Certificate::parse(&root)?;
        writeln!(out, "root     {}  ends {}", Sha256Digest::of(&[&root]).to_hex(), certificate.not_after())?;
    }
    let active = workload.active(now).map(|active| active.der().to_vec()).ok();
    for generation in workload.held().iter() {
        let state = match &active {
            Some(active) if active == generation.der() => "signs",
            _ if generation.not_after() <= now => "ended",
            _ => "published",
        };
        let digest = Sha256Digest::of(&[generation.der()]).to_hex();
        writeln!(out, "issuing  {digest}  ends {}  {state}", generation.not_after())?;
    }
    if workload.is_due(now) {
        writeln!(out, "the next issuing certificate is due")?;
    }
    Ok(())
}
