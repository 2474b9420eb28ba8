//! AMD's reports beside sev 8.0.0 (with OpenSSL): the same verdict on every recorded case and on ten thousand mutations
//! of them, or a line in [`EXPLAINED`] that says why not.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::evidence::bundle::SnpEvidence;
use countersign_attestation::evidence::snp::{ReportDataExpectation::Recorded, verify};
use countersign_peers::cases::{self, Case};
use countersign_peers::mutate::{Seeded, mutate};
use sev::certs::snp::{Certificate, Chain, Verifiable as _, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

/// What was changed, where that decides which verifier sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nothing was: a recorded case.
    Recorded,
    /// Reserved bytes of a TCB_VERSION, and no other.
    ReservedTcb,
    /// Bytes of a report that no signature covers, or the report's length.
    Unsigned,
    /// A certificate's length, or what follows it.
    AfterCertificate,
    /// Any other part.
    Elsewhere,
}

/// Where the verdicts differ: the place of the change, our reasons, and why ours is the verdict to keep. Each line is
/// about what sev accepts: it checks four signatures and nothing else, and says so.
const EXPLAINED: &[(Place, &[&str], &str)] = &[
    (Place::Recorded, &["x509.expired", "x509.not_yet_valid"], "it has no clock: any certificate is valid for ever"),
    (
        Place::Recorded,
        &[
            "x509.crl.expired",
            "x509.crl.malformed",
            "x509.crl.not_yet_valid",
            "snp.crl.product",
            "snp.vek.revoked",
            "snp.vek.intermediate_revoked",
        ],
        "it takes no revocation list",
    ),
    (
        Place::Recorded,
        &["snp.chip_id.mismatch", "snp.chip_id.masked"],
        "it does not compare the certificate's chip with the report's",
    ),
    (Place::Recorded, &["snp.tcb.reported"], "it does not compare the certificate's TCB with the report's"),
    (
        Place::Recorded,
        &["snp.tcb.committed", "snp.tcb.rollback", "snp.tcb.reserved", "snp.firmware.rollback"],
        "it does not compare the TCBs in a report with each other",
    ),
    (
        Place::Recorded,
        &["snp.vek.extension.missing", "snp.vek.extension.malformed", "snp.vek.product"],
        "it does not read the certificate's extensions",
    ),
    (
        Place::Recorded,
        &["snp.vek.issuer", "snp.vek.kind", "snp.vek.anchor", "snp.vek.chain", "x509.path.none"],
        "it takes whatever root and intermediate it is given, and looks at no name",
    ),
    (
        Place::Recorded,
        &["snp.key_info.mismatch", "snp.key_info.none", "snp.key_info.mask_chip_key", "snp.key_info.reserved"],
        "it does not compare KEY_INFO with the certificate",
    ),
    (Place::Recorded, &["snp.product"], "it does not compare the report's CPUID with the chain's product line"),
    (
        Place::Recorded,
        &["snp.policy.debug", "snp.policy.migrate_ma", "snp.policy.platform", "snp.policy.abi", "snp.policy.reserved"],
        "POLICY is for its caller to judge",
    ),
    (Place::Recorded, &["snp.vmpl.host", "snp.vmpl.unprivileged"], "VMPL is for its caller to judge"),
    (Place::Recorded, &["snp.platform_info.unknown", "snp.author_key"], "these fields are for its caller to judge"),
    (Place::Recorded, &["snp.signature.form"], "it ignores the bytes of a report that no signature covers"),
    (
        Place::Recorded,
        &["snp.report.reserved"],
        "it reads reserved bytes and forgets them; they may mean something to a newer reader",
    ),
    (Place::Recorded, &["snp.report.length"], "it reads the first 1184 bytes and ignores what follows"),
    (
        Place::Recorded,
        &["x509.signature"],
        "a list or an intermediate of another key: it reads no list and pins no root",
    ),
    (Place::AfterCertificate, &["x509.malformed"], "OpenSSL reads one certificate and ignores what follows it"),
    (Place::Unsigned, &["snp.signature.form", "snp.report.length"], "it ignores what no signature covers"),
    (
        Place::ReservedTcb,
        &["snp.signature.invalid"],
        "it verifies what it writes again from the fields it read, without these bytes, and not what the chip signed",
    ),
];

/// What sev refuses and we accept: a part of its error, and why.
const REFUSED: &[(&str, &str)] = &[(
    "chip",
    "of a report of version 2 it infers the layout from CHIP_ID, which is masked under a VLEK; the chain says it too",
)];

/// A case with all that both verifiers take.
struct Base {
    id: String,
    report: Vec<u8>,
    vek: Vec<u8>,
    intermediate: Vec<u8>,
    ark: Vec<u8>,
    crl: Option<Vec<u8>>,
    anchors: Vec<AmdAnchor>,
    now: UnixMillis,
}

macro_rules! pinned {
    ($product:ident, $folder:literal) => {
        (AmdProduct::$product, include_bytes!(concat!("../../firmware-refs/anchors/amd/", $folder, "/ark.der")))
    };
}

const PINNED: [(AmdProduct, &[u8]); 3] = [pinned!(Milan, "milan"), pinned!(Genoa, "genoa"), pinned!(Turin, "turin")];

impl Base {
    /// As `countersign verify` judges a case: the pinned roots, or the one it names; the root that was sent along must
    /// be one of them.
    fn of(case: &Case) -> Option<Self> {
        let (report, vek) = (case.read("report")?, case.read("vek")?);
        let intermediate = case.read("ask").or_else(|| case.read("asvk"))?;
        let ark = case.read("ark")?;
        let anchor = |(product, root): (AmdProduct, &[u8])| AmdAnchor {
            product,
            assurance: Assurance::Hardware,
            ark: root.to_vec(),
            intermediates: vec![intermediate.clone()],
        };
        let trusted: Vec<AmdAnchor> = match case.read("trust_root") {
            Some(root) => PINNED.map(|(product, _)| anchor((product, &root))).to_vec(),
            None => PINNED.map(anchor).to_vec(),
        };
        let anchors = trusted.into_iter().filter(|anchor| anchor.ark == ark).collect();
        let (id, crl, now) = (case.id.clone(), case.read("crl"), case.now());
        Some(Self { id, report, vek, intermediate, ark, crl, anchors, now })
    }

    fn ours(&self) -> Result<(), String> {
        let evidence = SnpEvidence { report: self.report.clone(), vek: self.vek.clone() };
        let anchors: Vec<AmdAnchor> = self
            .anchors
            .iter()
            .map(|anchor| AmdAnchor { intermediates: vec![self.intermediate.clone()], ..anchor.clone() })
            .collect();
        let crls: Vec<&[u8]> = self.crl.iter().map(Vec::as_slice).collect();
        let verdict = verify(&evidence, &anchors, &crls, Recorded, self.now);
        verdict.map(drop).map_err(|rejection| rejection.code().to_owned())
    }

    fn theirs(&self) -> Result<(), String> {
        let certificate = |der: &[u8]| Certificate::from_der(der).map_err(|error| error.to_string());
        let ca = ca::Chain { ark: certificate(&self.ark)?, ask: certificate(&self.intermediate)? };
        let chain = Chain { ca, vek: certificate(&self.vek)? };
        let report = AttestationReport::from_bytes(&self.report).map_err(|error| error.to_string())?;
        (&chain, &report).verify().map_err(|error| error.to_string())
    }
}

fn bases() -> Vec<Base> {
    cases::of_kinds(&["snp-report"]).iter().filter_map(Base::of).collect()
}

/// What both say, counted: agreements, and disagreements by the line that explains them.
#[derive(Default)]
struct Tally {
    accepted: usize,
    rejected: usize,
    explained: BTreeMap<(Place, &'static str), usize>,
    unexplained: Vec<String>,
}

impl Tally {
    fn note(&mut self, place: Place, base: &Base, what: &str) {
        let why = match (base.ours(), base.theirs()) {
            (Ok(()), Ok(())) => {
                self.accepted += 1;
                return;
            }
            (Err(_), Err(_)) => {
                self.rejected += 1;
                return;
            }
            (Err(code), Ok(())) => {
                let explains =
                    |(at, codes, _): &&(Place, &[&str], &str)| *at == place && codes.contains(&code.as_str());
                EXPLAINED.iter().find(explains).map(|(_, _, why)| *why).ok_or(code)
            }
            (Ok(()), Err(error)) => {
                let line = REFUSED.iter().find(|(part, _)| error.to_lowercase().contains(part));
                line.map(|(_, why)| *why).ok_or(error)
            }
        };
        match why {
            Ok(why) => *self.explained.entry((place, why)).or_default() += 1,
            Err(reason) => self.unexplained.push(format!("{}, {what} ({place:?}): {reason}", base.id)),
        }
    }

    fn show(&self, name: &str) {
        println!("{name}: both accept {}, both reject {}", self.accepted, self.rejected);
        for ((place, why), count) in &self.explained {
            println!("{count:6}  {place:?}: {why}");
        }
        let first: Vec<_> = self.unexplained.iter().take(40).collect();
        assert!(self.unexplained.is_empty(), "{} unexplained, among them {first:#?}", self.unexplained.len());
    }
}

#[test]
fn recorded_cases_have_the_same_verdicts() {
    let bases = bases();
    let mut tally = Tally::default();
    for base in &bases {
        tally.note(Place::Recorded, base, "as recorded");
    }
    tally.show("recorded");
    assert!(bases.is_empty() || 17 <= tally.accepted, "{} accepted", tally.accepted);
    assert!(bases.is_empty() || 10 <= tally.explained.len(), "the lines that explain are met: {:?}", tally.explained);
}

const REPORT_MUTATIONS: usize = 7000;
const VEK_MUTATIONS: usize = 2000;
const INTERMEDIATE_MUTATIONS: usize = 1000;

type Part = fn(&mut Base) -> &mut Vec<u8>;

fn mutations(name: &str, seed: u64, rounds: usize, part: Part, place: fn(&[u8], &[u8]) -> Place) {
    let mut accepted: Vec<Base> =
        bases().into_iter().filter(|base| base.ours().is_ok() && base.theirs().is_ok()).collect();
    let mut seed = Seeded::new(seed);
    let mut tally = Tally::default();
    for _ in 0..if accepted.is_empty() { 0 } else { rounds } {
        let index = seed.below(accepted.len());
        let base = &mut accepted[index];
        let original = part(base).clone();
        let (changed, what) = mutate(&original, &mut seed);
        let place = place(&original, &changed);
        *part(base) = changed;
        tally.note(place, base, &what);
        *part(base) = original;
    }
    tally.show(name);
}

/// Which part of a report was changed.
fn place_in_report(original: &[u8], changed: &[u8]) -> Place {
    let differing: Vec<usize> = (0..original.len()).filter(|at| original.get(*at) != changed.get(*at)).collect();
    let turin = original[0x188] == 0x1a;
    let reserved = if turin { 4..7 } else { 2..6 };
    let in_tcb = |at: &usize| {
        [0x38, 0x180, 0x1e0, 0x1f0].iter().any(|tcb| at.checked_sub(*tcb).is_some_and(|at| reserved.contains(&at)))
    };
    if original.len() == changed.len() && !differing.is_empty() && differing.iter().all(in_tcb) {
        Place::ReservedTcb
    } else if differing.iter().all(|at| 0x2a0 <= *at) {
        Place::Unsigned
    } else {
        Place::Elsewhere
    }
}

/// Which part of a certificate was changed.
fn place_in_certificate(original: &[u8], changed: &[u8]) -> Place {
    if changed.starts_with(original) { Place::AfterCertificate } else { Place::Elsewhere }
}

#[test]
fn mutated_reports_have_the_same_verdicts() {
    mutations("mutated reports", 1, REPORT_MUTATIONS, |base| &mut base.report, place_in_report);
}

#[test]
fn mutated_certificates_have_the_same_verdicts() {
    mutations("mutated VEKs", 2, VEK_MUTATIONS, |base| &mut base.vek, place_in_certificate);
    let part: Part = |base| &mut base.intermediate;
    mutations("mutated intermediates", 3, INTERMEDIATE_MUTATIONS, part, place_in_certificate);
}
