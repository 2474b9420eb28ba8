//! `countersign refs compute`: what a confidential guest will measure at launch, from what it is launched from. Nothing
//! is asked of a broker, and nothing of a guest.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use countersign_attestation::claims::{HexBytes, Presented};
use countersign_attestation::evidence::snp::id_block::{VerifiedIdBlock, verify_id_block};
use countersign_attestation::launch::firmware::Firmware;
use countersign_attestation::launch::{snp, tdx};
use countersign_policies::reference::ReferenceManifest;
use serde_json::{Map, Value, json};

/// Bytes of a firmware image, kernel or initial file system: some initial file systems are large.
const ARTIFACT_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// What is computed.
#[derive(Debug, Subcommand)]
pub(super) enum ComputeCommand {
    /// MEASUREMENT of an SEV-SNP guest, from its firmware, CPUs and, if the VMM loads one, kernel.
    Snp(Box<SnpArgs>),
    /// MRTD of a TDX guest from its firmware, and RTMRs from the events that extend them.
    Tdx(TdxArgs),
}

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ComputeOutput {
    /// Rows, for people.
    Table,
    /// One JSON object.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Vmm {
    Qemu,
    Ec2,
    Gce,
}

/// A launch of an SEV-SNP guest.
#[derive(Args, Debug)]
pub(super) struct SnpArgs {
    /// The firmware image that the VMM maps below 4 GiB.
    #[arg(long, value_name = "FILE")]
    ovmf: PathBuf,
    /// Virtual CPUs.
    #[arg(long, value_name = "N")]
    vcpus: u32,
    /// CPU model of QEMU: EPYC, EPYC-Rome, EPYC-Milan, EPYC-Genoa or EPYC-Turin, with or without a version.
    #[arg(long, value_name = "NAME", required_unless_present = "vcpu_signature")]
    vcpu_type: Option<String>,
    /// CPUID Fn0000_0001_EAX of the virtual CPUs instead, hex.
    #[arg(long, value_name = "HEX", value_parser = hex_u32, conflicts_with = "vcpu_type")]
    vcpu_signature: Option<u32>,
    /// Who launches the guest.
    #[arg(long, value_enum, default_value_t = Vmm::Qemu)]
    vmm: Vmm,
    /// SEV_FEATURES of the guest, hex: 0x1 is SNP alone, 0x21 adds debug swap, which Linux 6.9 turned on by default.
    #[arg(long, value_name = "HEX", value_parser = hex_u64, default_value = "0x1")]
    guest_features: u64,
    /// The kernel, where the VMM loads one (QEMU's kernel-hashes=on).
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Its initial file system.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    append: Option<String>,
    /// The ID block the guest is launched with: verified, and compared with the measurement.
    #[arg(long, value_name = "FILE", requires = "id_auth")]
    id_block: Option<PathBuf>,
    /// Its ID authentication information.
    #[arg(long, value_name = "FILE", requires = "id_block")]
    id_auth: Option<PathBuf>,
    /// Prints a reference manifest with this id, for `countersign refs add`.
    #[arg(long, value_name = "ID", conflicts_with = "output")]
    manifest: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = ComputeOutput::Table)]
    output: ComputeOutput,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Linux since 6.16.
    Page,
    /// KVM patches before.
    Section,
}

/// A launch of a TDX guest.
#[derive(Args, Debug)]
pub(super) struct TdxArgs {
    /// The firmware image that the VMM maps below 4 GiB.
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    /// Whether the VMM measures each page as it adds it, or each section once all its pages are added.
    #[arg(long, value_enum, default_value_t = Order::Page)]
    page_order: Order,
    /// An event that extends an RTMR, in the order of the log; may be given more than once. RTMR:digest:HEX,
    /// RTMR:file:PATH (an initial file system), RTMR:text:TEXT (a firmware's action) or RTMR:options:TEXT (a command
    /// line, as Linux's EFI stub measures it).
    #[arg(long = "event", value_name = "EVENT")]
    events: Vec<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = ComputeOutput::Table)]
    output: ComputeOutput,
}

/// Runs `countersign refs compute`.
///
/// # Errors
/// Files that cannot be read, and launches that cannot be measured.
pub(super) fn run(command: &ComputeCommand) -> anyhow::Result<String> {
    match command {
        ComputeCommand::Snp(args) => run_snp(args),
        ComputeCommand::Tdx(args) => run_tdx(args),
    }
}

fn run_snp(args: &SnpArgs) -> anyhow::Result<String> {
    let image = read(&args.ovmf)?;
    let firmware = Firmware::parse(&image)?;
    let kernel = args.kernel.as_deref().map(read).transpose()?;
    let initrd = args.initrd.as_deref().map(read).transpose()?.unwrap_or_default();
    let boot = match &kernel {
        Some(image) => snp::Boot::Kernel(snp::Kernel {
            image,
            initrd: &initrd,
            append: args.append.as_deref().unwrap_or_default(),
        }),
        None => snp::Boot::Firmware,
    };
    let vmm = match args.vmm {
        Vmm::Qemu => snp::Vmm::Qemu,
        Vmm::Ec2 => snp::Vmm::Ec2,
        Vmm::Gce => snp::Vmm::Gce,
    };
    let (vcpus, guest_features, vcpu_signature) = (args.vcpus, args.guest_features, signature(args)?);
    let launch = snp::Launch { vmm, vcpus, vcpu_signature, guest_features, boot };
    let measurement = snp::measurement(&firmware, &launch)?;
    let id_block = match (&args.id_block, &args.id_auth) {
        (Some(block), Some(auth)) => {
            let block = verify_id_block(&read(block)?, &read(auth)?)?;
            if block.launch_digest() != measurement {
                let (block, computed) = (hex::encode(block.launch_digest()), hex::encode(measurement));
                bail!("the ID block is for another launch: it demands {block}, and this launch comes to {computed}");
            }
            Some(block)
        }
        _ => None,
    };
    if let Some(id) = &args.manifest {
        return snp_manifest(id, measurement, id_block.as_ref());
    }
    let facts = json!({
        "technology": "snp",
        "measurement": hex::encode(measurement),
        "vmm": args.vmm.to_possible_value().map(|value| value.get_name().to_owned()),
        "vcpus": vcpus,
        "vcpu_signature": format!("{vcpu_signature:#x}"),
        "guest_features": format!("{guest_features:#x}"),
        "id_key_digest": id_block.as_ref().map(|block| hex::encode(block.id_key_digest())),
        "author_key_digest": id_block.as_ref().and_then(|block| match block.author_key_digest() {
            Presented::Verified(HexBytes(digest)) => Some(hex::encode(digest)),
            Presented::NotPresented => None,
        }),
        "not_measured": not_measured(args),
    });
    print(args.output, &facts)
}

/// What this launch's digest says nothing about.
fn not_measured(args: &SnpArgs) -> Vec<&'static str> {
    let mut inputs = vec![
        "ACPI tables and everything else that the VMM hands over when the guest runs (fw_cfg)",
        "disks and the operating system on them",
        "HOST_DATA and POLICY: fields of the report, for a manifest or policy to compare",
    ];
    if args.kernel.is_none() {
        inputs.insert(0, "kernel, initial file system and command line: the firmware boots what it finds");
    }
    inputs
}

fn snp_manifest(id: &str, measurement: [u8; 48], id_block: Option<&VerifiedIdBlock>) -> anyhow::Result<String> {
    let mut section = Map::from_iter([("measurement".to_owned(), json!([hex::encode(measurement)]))]);
    if let Some(block) = id_block {
        section.insert("id_key_digest".to_owned(), json!([hex::encode(block.id_key_digest())]));
    }
    let manifest = serde_json::to_string_pretty(&json!({ "id": id, "snp": section }))?;
    // Printed is only what `refs add` will take.
    ReferenceManifest::parse(manifest.as_bytes()).map_err(|finding| anyhow::anyhow!("{finding}"))?;
    Ok(manifest)
}

fn signature(args: &SnpArgs) -> anyhow::Result<u32> {
    match (&args.vcpu_type, args.vcpu_signature) {
        (_, Some(signature)) => Ok(signature),
        (Some(name), None) => snp::vcpu_signature(name).with_context(|| {
            let known: Vec<_> = snp::vcpu_types().collect();
            format!("no CPU model {name}; known: {}; or give --vcpu-signature", known.join(", "))
        }),
        (None, None) => bail!("give --vcpu-type or --vcpu-signature"),
    }
}

fn run_tdx(args: &TdxArgs) -> anyhow::Result<String> {
    let image = read(&args.firmware)?;
    let order = match args.page_order {
        Order::Page => tdx::PageOrder::PageByPage,
        Order::Section => tdx::PageOrder::SectionBySection,
    };
    let mr_td = tdx::mr_td(&Firmware::parse(&image)?, order)?;
    let mut rtmrs = tdx::Rtmrs::default();
    for text in &args.events {
        let (index, event) = event(text).with_context(|| format!("--event {text}"))?;
        rtmrs.extend(index, event)?;
    }
    let determined: Map<String, Value> =
        rtmrs.determined().map(|(index, value)| (format!("rtmr{index}"), json!(hex::encode(value)))).collect();
    let not_determined: Vec<_> =
        (0..4).map(|index| format!("rtmr{index}")).filter(|name| !determined.contains_key(name)).collect();
    let mut facts =
        Map::from_iter([("technology".to_owned(), json!("tdx")), ("mr_td".to_owned(), json!(hex::encode(mr_td)))]);
    facts.extend(determined);
    facts.insert("not_determined".to_owned(), json!(not_determined));
    facts.insert(
        "because".to_owned(),
        json!([
            "rtmr0: firmware configuration: the VMM's ACPI tables and hand-off block, Secure Boot and boot variables",
            "rtmr1: what the firmware starts: the kernel as the VMM patched it, the disk's partitions, firmware actions",
            "rtmr2: boot loader and operating system: command lines, initial file systems, machine owner keys",
            "rtmr3: whatever the guest extends while it runs; zero until it does",
            "a register is right only if every event of it was given, in the order of the guest's log",
        ]),
    );
    print(args.output, &Value::Object(facts))
}

/// RTMR, kind, and what is measured.
fn event(text: &str) -> anyhow::Result<(u8, tdx::EventDigest)> {
    let (index, rest) = text.split_once(':').context("expected RTMR:KIND:WHAT")?;
    let (kind, what) = rest.split_once(':').context("expected RTMR:KIND:WHAT")?;
    let index = index.parse().context("expected RTMR 0 to 3")?;
    let event = match kind {
        "digest" => {
            let mut digest = [0; 48];
            hex::decode_to_slice(what, &mut digest).context("expected 96 hex digits of a SHA-384 digest")?;
            tdx::EventDigest(digest)
        }
        "file" => tdx::EventDigest::of_bytes(&read(Path::new(what))?),
        "text" => tdx::EventDigest::of_bytes(what.as_bytes()),
        "options" => tdx::EventDigest::of_load_options(what)?,
        _ => bail!("no kind {kind}; known: digest, file, text, options"),
    };
    Ok((index, event))
}

fn print(output: ComputeOutput, facts: &Value) -> anyhow::Result<String> {
    match output {
        ComputeOutput::Json => Ok(serde_json::to_string(facts)?),
        ComputeOutput::Table => Ok(table(facts)),
    }
}

/// One row for each fact; a list takes a row for each of its lines.
fn table(facts: &Value) -> String {
    let mut rows = String::new();
    for (name, value) in facts.as_object().into_iter().flatten() {
        let lines: Vec<String> = match value {
            Value::Null => continue,
            Value::String(text) => vec![text.clone()],
            Value::Array(lines) => lines.iter().map(|line| line.as_str().unwrap_or_default().to_owned()).collect(),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => vec![value.to_string()],
        };
        for (index, line) in lines.iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            // Writing to a string does not fail.
            let _written = writeln!(rows, "{name:<18} {line}");
        }
    }
    rows.truncate(rows.trim_end().len());
    rows
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || path.display().to_string();
    let file = File::open(path).with_context(name)?;
    let mut bytes = Vec::new();
    file.take(ARTIFACT_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes).with_context(name)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= ARTIFACT_BYTES_MAX) {
        Ok(bytes)
    } else {
        bail!("{} is larger than {ARTIFACT_BYTES_MAX} bytes", name())
    }
}

fn hex_u64(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| "expected hex digits".to_owned())
}

fn hex_u32(text: &str) -> Result<u32, String> {
    hex_u64(text).and_then(|number| u32::try_from(number).map_err(|_| "expected 32 bits".to_owned()))
}
