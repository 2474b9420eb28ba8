//! `countersign init` and `countersign operator`: what exists before, and beside, a running broker.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_clock::ClockArgs;
use countersign_policies::waiver::signer_name;
use rcgen::{KeyPair, PublicKeyData as _};

use crate::broker::start::log_origin;
use crate::clock::Clock;
use crate::collateral::anchors::{install_shipped_anchors, read_certificates};
use crate::config::{Config, DataDir, create_private_dir, list_dir, write_new};
use crate::credentials::channel::{self, Holder};
use crate::keys::listed;
use crate::keys::operator::OperatorKey;
use crate::keys::pkcs11::Uri;
use crate::keys::{Keys, Places, Root};
use crate::lineage::BY_BROKER;
use crate::lineage::LogKey;

/// Creates a broker's data directory: settings, keys, pinned roots, policies, and the first operator's credential.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// The new data directory.
    #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
    pub data_dir: PathBuf,
    /// SPIFFE trust domain.
    #[arg(long)]
    pub trust_domain: String,
    /// Address of the HTTPS listener.
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Further DNS names or addresses for the broker's certificate.
    #[arg(long)]
    pub server_name: Vec<String>,
    /// Pins a TPM vendor root (PEM or DER) as class hardware; further certificates in the file are intermediates.
    #[arg(long)]
    pub tpm_anchor: Vec<PathBuf>,
    /// Pins the root of software TPMs as class simulated, and installs the policy that admits the class by name.
    #[arg(long)]
    pub simulated_tpm_anchor: Vec<PathBuf>,
    /// Whether this machine's clock is believed.
    #[command(flatten)]
    pub clock: ClockArgs,
    /// Makes the workload CA's root key there, instead of in a file: a pkcs11: URI (RFC 7512).
    #[arg(long, value_name = "URI")]
    pub root_key: Option<String>,
    /// Makes no root: takes this certificate (PEM) of one that `countersign ca root` made on another machine.
    #[arg(long, value_name = "FILE", conflicts_with = "root_key")]
    pub offline_root: Option<PathBuf>,
    /// Makes issuing keys there, now and later; each adds a number to the object's name.
    #[arg(long, value_name = "URI")]
    pub issuing_key: Option<String>,
    /// Makes the keys there that sign pulses and tokens, now and later, likewise.
    #[arg(long, value_name = "URI")]
    pub token_key: Option<String>,
}

/// Runs `countersign init`.
///
/// # Errors
/// An existing data directory, or files that cannot be read or written.
pub fn init(args: &InitArgs) -> anyhow::Result<()> {
    let data = DataDir::at(&args.data_dir);
    if data.config().exists() {
        bail!("{} exists; `init` makes new data directories only", data.config().display());
    }
    let now = Clock::dating().now();
    let mut config = Config::for_domain(&args.trust_domain, args.listen);
    (config.clock_sync, config.clock_error_max_ms) = (args.clock.clock_sync, args.clock.clock_error_max_ms);
    config.server_names.extend(args.server_name.iter().cloned());
    create_private_dir(data.path())?;
    let place = |uri: &Option<String>| uri.as_deref().map(Uri::parse).transpose();
    place(&args.issuing_key)?;
    config.authority.issuing_key.clone_from(&args.issuing_key);
    config.authority.token_key.clone_from(&args.token_key);
    let places = Places { root: root(args)?, token: place(&args.token_key)? };
    Keys::create(&data, &config.trust_domain, &places, now)?;
    let log_key = LogKey::generate(&data.keys().join("log.key"), &log_origin(&config.trust_domain))?;
    write_new(&data.public().join("log.vkey"), log_key.vkey().as_bytes())?;
    install_shipped_anchors(&data)?;
    for (class, files) in [("hardware", &args.tpm_anchor), ("simulated", &args.simulated_tpm_anchor)] {
        for file in files {
            pin_tpm_anchor(&data, class, file)?;
        }
    }
    crate::references::install_policies(&data, !args.simulated_tpm_anchor.is_empty())?;
    // Written last but one: its presence says that everything before it is there.
    write_new(&data.config(), toml::to_string(&config)?.as_bytes())?;
    Config::load(&data.config())?;
    add_operator(&data, "admin", &data.path().join("operator"), now)
}

fn root(args: &InitArgs) -> anyhow::Result<Root> {
    match (&args.root_key, &args.offline_root) {
        (None, None) => Ok(Root::File),
        (Some(uri), _) => Ok(Root::Token(Uri::parse(uri)?)),
        (None, Some(file)) => {
            let pem = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            Ok(Root::Elsewhere(pem))
        }
    }
}

fn pin_tpm_anchor(data: &DataDir, class: &str, file: &Path) -> anyhow::Result<()> {
    let mut certificates = read_certificates(file)?.into_iter();
    let root = certificates.next().with_context(|| format!("{}: no certificate", file.display()))?;
    let dir = data.anchors().join("tpm").join(class).join(Sha256Digest::of(&[&root]).to_hex());
    create_private_dir(&dir)?;
    write_new(&dir.join("root.der"), &root)?;
    for (index, certificate) in certificates.enumerate() {
        write_new(&dir.join(format!("intermediate-{index}.der")), &certificate)?;
    }
    Ok(())
}

/// `countersign operator`.
#[derive(Debug, clap::Subcommand)]
pub enum OperatorCommand {
    /// Issues an operator credential and puts the operator on the broker's list.
    Add {
        /// The operator's name: letters, digits, '-' and '.'.
        name: String,
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
        /// New folder for certificate.pem, key.pem and control-ca.pem, and for signing.key, which signs waivers.
        #[arg(long)]
        out: PathBuf,
    },
    /// Takes an operator off the list; the credential opens nothing from then on, also on open connections.
    Remove {
        /// The operator's name.
        name: String,
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
    },
    /// Lists the operators.
    List {
        /// Data directory of the broker.
        #[arg(long, env = "COUNTERSIGN_DATA_DIR", default_value = "countersign-data")]
        data_dir: PathBuf,
    },
}

/// Runs `countersign operator`.
///
/// # Errors
/// Names in use or unknown, and files that cannot be read or written.
pub fn operator(command: &OperatorCommand) -> anyhow::Result<()> {
    match command {
        OperatorCommand::Add { name, data_dir, out } => {
            add_operator(&DataDir::at(data_dir), name, out, Clock::dating().now())
        }
        OperatorCommand::Remove { name, data_dir } => {
            let path = listed::operator_file(&DataDir::at(data_dir), &operator_name(name)?);
            std::fs::remove_file(&path).with_context(|| format!("{} is not on the list", name))
        }
        OperatorCommand::List { data_dir } => {
            for path in list_dir(&DataDir::at(data_dir).operators())? {
                println!("{}", path.file_name().unwrap_or_default().to_string_lossy());
            }
            Ok(())
        }
    }
}

fn add_operator(data: &DataDir, name: &str, out: &Path, now: UnixMillis) -> anyhow::Result<()> {
    let config = Config::load(&data.config())?;
    let listed = listed::operator_file(data, &operator_name(name)?);
    if listed.exists() {
        bail!("operator {name} is on the list already; remove it first");
    }
    let control = Keys::control(data)?;
    let key = KeyPair::generate()?;
    let spki = key.subject_public_key_info();
    let holder = Holder::Operator(operator_name(name)?);
    let certificate = channel::issue(&control, &config.trust_domain, &holder, &spki, now)?;
    create_private_dir(out)?;
    write_new(&out.join("key.pem"), zeroize::Zeroizing::new(key.serialize_pem()).as_bytes())?;
    write_new(&out.join("certificate.pem"), certificate.pem.as_bytes())?;
    write_new(&out.join("control-ca.pem"), control.root_pem().as_bytes())?;
    let signing = OperatorKey::generate(out, &signer_name(&config.trust_domain, &operator_name(name)?))?;
    // The list entry is last: until it is there the certificate opens nothing.
    create_private_dir(&data.operators())?;
    write_new(&listed, listed::listing(Sha256Digest::of(&[&spki]), &signing).as_bytes())?;
    Ok(())
}

fn operator_name(name: &str) -> anyhow::Result<HostId> {
    let name = HostId::parse(name).context("an operator's name: 1 to 63 of a-z, 0-9, '-' and '.'")?;
    anyhow::ensure!(name.as_str() != BY_BROKER, "another name: the log calls the broker itself so");
    Ok(name)
}
