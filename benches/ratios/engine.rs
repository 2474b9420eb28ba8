//! Verifications beside the bare signature check of the same engine over the same bytes.

use core::hint::black_box;
use core::time::Duration;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, EcdsaKeyPair, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::binder::{Binder, ChannelBinding, Role};
use countersign_attestation::claims::{PcrHash, TpmIdentity};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::amd;
use countersign_attestation::evidence::bundle::Bundle;
use countersign_attestation::evidence::snp::{self, ReportDataExpectation};
use countersign_attestation::evidence::tpm::public::{Key, Public};
use countersign_attestation::evidence::tpm::{self, AttestationKey, EnrolledTpm, quote};
use countersign_attestation::protocol::PcrSelection;
use countersign_attestation::{Rejection, UnixMillis};
use rustix::time::{ClockId, clock_gettime};

use crate::sim_amd::{AmdSimulator, SIGNED_BYTES};
use crate::sim_tpm::{AkKind, CredentialKey, SimTpm};

/// CPU time of a verification.
pub(crate) type Verification = Duration;

/// Two median costs, and the median of what one is to the other.
#[derive(Clone, Copy)]
pub(crate) struct Ratio {
    pub(crate) ours: Duration,
    pub(crate) raw: Duration,
    pub(crate) ratio: f64,
}

/// Everything measured in this process.
pub(crate) struct Costs {
    /// A report under an endorsed VEK.
    pub(crate) snp: Ratio,
    /// A quote by an RSA AK.
    pub(crate) quote_rsa: Ratio,
    /// A quote by a P-256 AK.
    pub(crate) quote_p256: Ratio,
    /// Quote and certification of a bundle, RSA AK.
    pub(crate) tpm_rsa: Duration,
    /// One P-256 signature.
    pub(crate) sign: Duration,
}

const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
const BLOCKS: usize = 400;

pub(crate) fn measure() -> anyhow::Result<Costs> {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let random = SystemRandom::new();
    let sign = || key.sign(&random, b"a message of the length of a digest, or about that").map(drop).map_err(engine);
    let sign = compare(8, &sign, &sign)?.ours;
    Ok(Costs {
        snp: snp()?,
        quote_rsa: tpm_quote(AkKind::Rsa2048)?,
        quote_p256: tpm_quote(AkKind::P256)?,
        tpm_rsa: tpm_bundle()?,
        sign,
    })
}

fn snp() -> anyhow::Result<Ratio> {
    let amd = AmdSimulator::new(AmdProduct::Milan);
    let binder = binder(&CredentialKey::new().spki());
    let evidence = amd.evidence(binder.report_data());
    let vek = amd::endorse(&evidence.vek, &[amd.anchor()], &[&amd.crl(&[])], NOW).map_err(rejected)?;
    let ours = || {
        snp::verify_report(&evidence.report, &vek, ReportDataExpectation::Binder(binder.report_data()), NOW).map(drop)
    };
    let (signed, signature) = evidence.report.split_at_checked(SIGNED_BYTES).context("a report")?;
    // r and s, little-endian in fields of 72 bytes.
    let signature: Vec<u8> = [signature.get(..48), signature.get(72..120)]
        .into_iter()
        .flat_map(|scalar| scalar.unwrap_or_default().iter().rev().copied())
        .collect();
    let (_, certificate) = x509_parser::parse_x509_certificate(&evidence.vek)?;
    let key = parsed(&ECDSA_P384_SHA384_FIXED, &certificate.public_key().subject_public_key.data)?;
    compare(2, &|| ours().map_err(rejected), &|| key.verify_sig(signed, &signature).map_err(engine))
}

fn tpm_quote(kind: AkKind) -> anyhow::Result<Ratio> {
    let tpm = SimTpm::new(kind);
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..24).collect() }];
    let binder = binder(b"key");
    let qualifying_data = binder.qualifying_data();
    let (record, values) = tpm.quote(&selection, &qualifying_data);
    let ak = AttestationKey::from_public(tpm.ak_public()).map_err(rejected)?;
    let ours = || quote::verify(&record, &values, &ak, &selection, &qualifying_data).map(drop).map_err(rejected);
    // TPM2B_ATTEST; then algorithm and hash, and one TPM2B (RSA) or two (ECDSA).
    let mut record_reader = countersign_attestation::reader::Reader::new(&record);
    let attest = record_reader.tpm2b().map_err(unreadable)?;
    let _algorithms = record_reader.bytes(4).map_err(unreadable)?;
    let first = record_reader.tpm2b().map_err(unreadable)?;
    let public = Public::read(tpm.ak_public()).map_err(rejected)?;
    let (key, signature) = match public.key() {
        Key::Rsa { .. } => {
            let spki = public.spki();
            (parsed(&RSA_PKCS1_2048_8192_SHA256, &spki)?, first.to_vec())
        }
        Key::Ecc { x, y, .. } => {
            let second = record_reader.tpm2b().map_err(unreadable)?;
            (parsed(&ECDSA_P256_SHA256_FIXED, &[&[4], x, y].concat())?, [first, second].concat())
        }
    };
    compare(8, &ours, &|| key.verify_sig(attest, &signature).map_err(engine))
}

fn tpm_bundle() -> anyhow::Result<Duration> {
    let tpm = SimTpm::new(AkKind::Rsa2048);
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..8).collect() }];
    let key = CredentialKey::new();
    let binder = binder(&key.spki());
    let (tpm_quote, tpm_pcrs) = tpm.quote(&selection, &binder.qualifying_data());
    let tpm_certify = tpm.certify(&key, &binder.qualifying_data());
    let bundle =
        Bundle { tpm_quote, tpm_pcrs, tpm_certify, event_log: None, ima: None, snp: None, tdx: None, paravisor: None };
    let ak = AttestationKey::from_public(tpm.ak_public()).map_err(rejected)?;
    let identity = TpmIdentity::from_attributes("id:00001014", "swtpm", "id:20240125");
    let enrolled = EnrolledTpm::new(ak, Sha256Digest([0; 32]), Assurance::Simulated, identity);
    let spki = key.spki();
    let verify = || tpm::verify(&bundle, &enrolled, &selection, &binder, &spki).map(drop).map_err(rejected);
    Ok(compare(8, &verify, &verify)?.ours)
}

fn binder(key: &[u8]) -> Binder {
    Binder::new(Role::Host, &[7; 32], key, &ChannelBinding([1; 32]))
}

fn parsed(algorithm: &'static dyn VerificationAlgorithm, key: &[u8]) -> anyhow::Result<ParsedPublicKey> {
    ParsedPublicKey::new(algorithm, key).map_err(|error| anyhow!("{error}"))
}

pub(crate) fn rejected(rejection: Rejection) -> anyhow::Error {
    anyhow!("{rejection}")
}

fn engine(error: aws_lc_rs::error::Unspecified) -> anyhow::Error {
    anyhow!("{error}")
}

fn unreadable(error: impl core::fmt::Debug) -> anyhow::Error {
    anyhow!("{error:?}")
}

/// Runs both in alternating blocks of `size`. Neither may fail.
pub(crate) fn compare(
    size: u32,
    ours: &dyn Fn() -> anyhow::Result<()>,
    raw: &dyn Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Ratio> {
    compare_blocks(BLOCKS, size, ours, raw)
}

/// The same with another number of blocks, for what takes long.
pub(crate) fn compare_blocks(
    blocks: usize,
    size: u32,
    ours: &dyn Fn() -> anyhow::Result<()>,
    raw: &dyn Fn() -> anyhow::Result<()>,
) -> anyhow::Result<Ratio> {
    let (mut all_ours, mut all_raw, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..blocks {
        // Whoever goes first finds colder caches; each does it every other time.
        let (one, other) = if round % 2 == 0 {
            let one = block(size, ours)?;
            (one, block(size, raw)?)
        } else {
            let other = block(size, raw)?;
            (block(size, ours)?, other)
        };
        all_ours.push(one);
        all_raw.push(other);
        ratios.push(one.as_secs_f64() / other.as_secs_f64());
    }
    all_ours.sort_unstable();
    all_raw.sort_unstable();
    ratios.sort_unstable_by(f64::total_cmp);
    let middle = blocks / 2;
    let at = |list: &[Duration]| list.get(middle).copied().unwrap_or_default();
    Ok(Ratio { ours: at(&all_ours), raw: at(&all_raw), ratio: ratios.get(middle).copied().unwrap_or_default() })
}

fn block(size: u32, run: &dyn Fn() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let start = thread_cpu()?;
    for _ in 0..size {
        black_box(run())?;
    }
    Ok(thread_cpu()?.saturating_sub(start) / size)
}

/// CPU time of this thread: other processes' turns do not count.
fn thread_cpu() -> anyhow::Result<Duration> {
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}
