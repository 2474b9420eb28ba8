//! Intel's quotes beside dcap-qvl 0.7.1: the same verdict, TCB status and advisories on every recorded case and on ten
//! thousand mutations of them, or a line in [`EXPLAINED`] that says why not.

use std::collections::BTreeMap;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{Assurance, IntelAnchor};
use countersign_attestation::endorsement::intel::{IntelCollateral, TcbEvaluation, VerifiedCollateral};
use countersign_attestation::evidence::snp::ReportDataExpectation::Recorded;
use countersign_attestation::evidence::tdx::{self, sgx};
use countersign_attestation::rejection::Rejection;
use countersign_peers::cases::{self, Case};
use countersign_peers::mutate::{Seeded, mutate};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use serde::Deserialize;

const INTEL_ROOT: &[u8] = include_bytes!("../../firmware-refs/anchors/intel/root.der");

/// What was changed, where that decides which verifier sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nothing was: a recorded case.
    Recorded,
    /// After the quote's end, or the fields that say where that is.
    End,
    /// The type of the outer certification data.
    OuterType,
    /// Sizes of the certification data, the one in the other.
    Sizes,
    /// The leaf of a chain, and in a PCK chain the CA: certificates that both read.
    Leaf,
    /// After them: the root, and whatever follows it.
    Root,
    /// pck_crl_issuer_chain.
    CrlIssuerChain,
    /// Any other part.
    Elsewhere,
}

/// Where the verdicts may differ: the place of the change, our reason (empty: we accept), a part of dcap-qvl's error
/// (empty: it accepts), and why ours is the one to keep.
const EXPLAINED: &[(Place, &[&str], &str, &str)] = &[
    (
        Place::Recorded,
        &["tdx.trailing"],
        "",
        "it ignores what follows a quote; nobody signed that, so we take zeros there and nothing else",
    ),
    (
        Place::Recorded,
        &[""],
        "Invalid QE auth data length",
        "Intel's library takes any length: the data are hashed with the key. The length is a claim",
    ),
    (Place::End, &["tdx.trailing"], "", "as for recorded cases"),
    (Place::Root, &["tdx.trailing"], "", "bytes added push the end of the root, which it ignores, behind the quote's"),
    (Place::Leaf, &["tdx.trailing"], "", "likewise, where it skips what was added"),
    (
        Place::OuterType,
        &["tdx.certification.type"],
        "",
        "it does not look at the type of the outer certification data; Intel's library demands 6, as we do",
    ),
    (
        Place::Sizes,
        &["tdx.length"],
        "",
        "it ignores what is left inside a part; each of our parts is as long as it says",
    ),
    (
        Place::Root,
        ROOT_REASONS,
        "",
        "it ignores the root in a chain, and text after it; Intel's library and we demand the pinned root there",
    ),
    (
        Place::CrlIssuerChain,
        CRL_CHAIN_REASONS,
        "",
        "it never reads this chain, and checks the list by the CA in the quote; we check it before there is a quote",
    ),
    (
        Place::Leaf,
        &["intel.chain"],
        "",
        "it skips what is not PEM before and between certificates; we take certificates and nothing else",
    ),
];

const ROOT_REASONS: &[&str] =
    &["intel.chain", "intel.root", "x509.malformed", "x509.algorithm.mismatch", "x509.extension.duplicate"];

const CRL_CHAIN_REASONS: &[&str] = &[
    "intel.chain",
    "intel.root",
    "intel.signer",
    "x509.algorithm.mismatch",
    "x509.algorithm.unsupported",
    "x509.expired",
    "x509.extension.critical",
    "x509.extension.duplicate",
    "x509.issuer.name",
    "x509.malformed",
    "x509.not_yet_valid",
    "x509.path.none",
    "x509.signature",
];

/// Collateral as the cases keep it.
#[derive(Clone, Debug, Deserialize)]
struct Parts {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
}

impl Parts {
    fn of(case: &Case) -> Option<QuoteCollateralV3> {
        let parts: Self = serde_json::from_slice(&case.read("collateral")?).ok()?;
        let bytes = |text: &str| hex::decode(text).ok();
        Some(QuoteCollateralV3 {
            pck_crl_issuer_chain: parts.pck_crl_issuer_chain,
            root_ca_crl: bytes(&parts.root_ca_crl)?,
            pck_crl: bytes(&parts.pck_crl)?,
            tcb_info_issuer_chain: parts.tcb_info_issuer_chain,
            tcb_info: parts.tcb_info,
            tcb_info_signature: bytes(&parts.tcb_info_signature)?,
            qe_identity_issuer_chain: parts.qe_identity_issuer_chain,
            qe_identity: parts.qe_identity,
            qe_identity_signature: bytes(&parts.qe_identity_signature)?,
            pck_certificate_chain: None,
        })
    }
}

/// A case with all that both verifiers take.
struct Base {
    case: Case,
    quote: Vec<u8>,
    collateral: QuoteCollateralV3,
    root: Vec<u8>,
    now: UnixMillis,
}

fn bases() -> Vec<Base> {
    let base = |case: Case| {
        let quote = case.read("quote")?;
        let collateral = Parts::of(&case)?;
        let root = case.read("trust_root").unwrap_or_else(|| INTEL_ROOT.to_vec());
        let now = case.now();
        Some(Base { case, quote, collateral, root, now })
    };
    cases::of_kinds(&["tdx-quote", "sgx-quote"]).into_iter().filter_map(base).collect()
}

/// TCB status and advisories, or why not.
type Verdict = Result<(String, Vec<String>), String>;

fn endorse(base: &Base, collateral: &QuoteCollateralV3) -> Result<VerifiedCollateral, Rejection> {
    let parts = IntelCollateral {
        pck_crl_issuer_chain: &collateral.pck_crl_issuer_chain,
        root_ca_crl: &collateral.root_ca_crl,
        pck_crl: &collateral.pck_crl,
        tcb_info_issuer_chain: &collateral.tcb_info_issuer_chain,
        tcb_info: &collateral.tcb_info,
        tcb_info_signature: &collateral.tcb_info_signature,
        qe_identity_issuer_chain: &collateral.qe_identity_issuer_chain,
        qe_identity: &collateral.qe_identity,
        qe_identity_signature: &collateral.qe_identity_signature,
    };
    let anchor = IntelAnchor { name: "root".to_owned(), assurance: Assurance::Simulated, root: base.root.clone() };
    VerifiedCollateral::endorse(&parts, &[anchor], base.now)
}

/// Our verdict by the strict default: what dcap-qvl's is without its options.
fn ours(base: &Base, quote: &[u8], collateral: &Result<VerifiedCollateral, Rejection>) -> Verdict {
    let judged = || -> Result<TcbEvaluation, Rejection> {
        let collateral = collateral.as_ref().map_err(Clone::clone)?;
        if base.case.kind == "sgx-quote" {
            return Ok(sgx::verify(quote, collateral, Recorded, base.now)?.tcb);
        }
        let claims = tdx::verify(quote, collateral, Recorded, base.now)?;
        claims.check_strict()?;
        Ok(claims.tcb)
    };
    let tcb = judged().map_err(|rejection| rejection.code().to_owned())?;
    Ok((tcb.status.name().to_owned(), tcb.advisory_ids))
}

fn theirs(base: &Base, quote: &[u8], collateral: &QuoteCollateralV3) -> Verdict {
    let verifier = QuoteVerifier::new(base.root.clone());
    let report = verifier.verify(quote, collateral, base.now.seconds()).map_err(|error| format!("{error:#}"))?;
    Ok((report.status, report.advisory_ids))
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
    fn note(&mut self, place: Place, what: &dyn Fn() -> String, ours: &Verdict, theirs: &Verdict) {
        match (ours, theirs) {
            (Err(_), Err(_)) => self.rejected += 1,
            (Ok(ours), Ok(theirs)) if ours == theirs => self.accepted += 1,
            (Ok(ours), Ok(theirs)) => self.unexplained.push(format!("{}: {ours:?} and {theirs:?}", what())),
            (Err(_), Ok(_)) | (Ok(_), Err(_)) => {
                let code = ours.as_ref().err().map_or("", String::as_str);
                let error = theirs.as_ref().err().map_or("", String::as_str);
                let explains = |(at, ours, theirs, _): &&(Place, &[&str], &str, &str)| {
                    let says = if theirs.is_empty() { error.is_empty() } else { error.contains(theirs) };
                    *at == place && ours.contains(&code) && says
                };
                match EXPLAINED.iter().find(explains) {
                    Some((_, _, _, why)) => *self.explained.entry((place, why)).or_default() += 1,
                    None => {
                        let (what, theirs) = (what(), theirs.as_ref().map(|(status, _)| status));
                        self.unexplained.push(format!("{what} ({place:?}): ours {ours:?}, theirs {theirs:?}"));
                    }
                }
            }
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

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// Where `bytes` has `text` for the `nth` time.
fn find(bytes: &[u8], text: &[u8], nth: usize) -> Option<usize> {
    bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text).map(|(at, _)| at).nth(nth)
}

/// The first byte in which both differ.
fn first_difference(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Which part of a quote was changed first.
fn place_in_quote(original: &[u8], changed: &[u8]) -> Place {
    let at = first_difference(original, changed);
    let chain = find(original, BEGIN, 0).expect("a chain");
    let authority = find(original, END, 1).expect("leaf and CA") + END.len();
    let body = quote_body_end(original);
    let size = original[body..body + 4].try_into().map(u32::from_le_bytes).expect("a size");
    let end = body + 4 + size as usize;
    // Size, signature and key, then the type and size of the outer certification data.
    let outer = body + 4 + 64 + 64;
    let version = original[0];
    match at {
        at if end <= at => Place::End,
        at if authority <= at => Place::Root,
        at if chain <= at => Place::Leaf,
        at if (body..body + 4).contains(&at) => Place::End,
        at if version != 3 && (outer..outer + 2).contains(&at) => Place::OuterType,
        at if version != 3 && (outer + 2..outer + 6).contains(&at) => Place::Sizes,
        at if (chain - 4..chain).contains(&at) => Place::Sizes,
        _ => Place::Elsewhere,
    }
}

/// Which certificate of a signer's chain was changed first.
fn place_in_chain(original: &str, changed: &str) -> Place {
    let signer = find(original.as_bytes(), END, 0).expect("a signer") + END.len();
    let at = first_difference(original.as_bytes(), changed.as_bytes());
    if signer <= at { Place::Root } else { Place::Leaf }
}

fn quote_body_end(quote: &[u8]) -> usize {
    match (quote[0], quote[4]) {
        (5, _) => 54 + u32::from_le_bytes([quote[50], quote[51], quote[52], quote[53]]) as usize,
        (_, 0) => 48 + 384,
        _ => 48 + 584,
    }
}

#[test]
fn recorded_cases_have_the_same_verdicts() {
    let mut tally = Tally::default();
    let bases = bases();
    for base in &bases {
        let collateral = endorse(base, &base.collateral);
        let (ours, theirs) = (ours(base, &base.quote, &collateral), theirs(base, &base.quote, &base.collateral));
        tally.note(Place::Recorded, &|| base.case.id.clone(), &ours, &theirs);
    }
    tally.show("recorded");
    assert!(bases.is_empty() || 70 <= tally.accepted, "{} accepted", tally.accepted);
}

/// Cases that both accept, each with its collateral endorsed.
fn accepted() -> Vec<(Base, Result<VerifiedCollateral, Rejection>)> {
    let with_collateral = |base: Base| {
        let collateral = endorse(&base, &base.collateral);
        let both =
            ours(&base, &base.quote, &collateral).is_ok() && theirs(&base, &base.quote, &base.collateral).is_ok();
        both.then_some((base, collateral))
    };
    bases().into_iter().filter_map(with_collateral).collect()
}

const QUOTE_MUTATIONS: usize = 8000;
const COLLATERAL_MUTATIONS: usize = 2000;

#[test]
fn c12_mutated_quotes_have_the_same_verdicts() {
    let accepted = accepted();
    let mut seed = Seeded::new(12);
    let mut tally = Tally::default();
    for round in 0..if accepted.is_empty() { 0 } else { QUOTE_MUTATIONS } {
        let (base, collateral) = &accepted[seed.below(accepted.len())];
        // Every other one where the structures are, the rest anywhere, which is mostly in the chain.
        let split = if round % 2 == 0 { base.quote.len().min(1400) } else { base.quote.len() };
        let (head, tail) = base.quote.split_at(split);
        let (mut changed, what) = mutate(head, &mut seed);
        changed.extend(tail);
        let (ours, theirs) = (ours(base, &changed, collateral), theirs(base, &changed, &base.collateral));
        let place = place_in_quote(&base.quote, &changed);
        tally.note(place, &|| format!("{} {what}", base.case.id), &ours, &theirs);
    }
    tally.show("mutated quotes");
}

#[test]
fn mutated_collateral_has_the_same_verdicts() {
    let accepted = accepted();
    let mut seed = Seeded::new(13);
    let mut tally = Tally::default();
    for _ in 0..if accepted.is_empty() { 0 } else { COLLATERAL_MUTATIONS } {
        let (base, _) = &accepted[seed.below(accepted.len())];
        let mut collateral = base.collateral.clone();
        let part = seed.below(9);
        let text = match part {
            0 => Some(&mut collateral.pck_crl_issuer_chain),
            1 => Some(&mut collateral.tcb_info_issuer_chain),
            2 => Some(&mut collateral.tcb_info),
            3 => Some(&mut collateral.qe_identity_issuer_chain),
            4 => Some(&mut collateral.qe_identity),
            _ => None,
        };
        let what = match text {
            Some(text) => {
                let (changed, what) = mutate(text.as_bytes(), &mut seed);
                *text = String::from_utf8_lossy(&changed).into_owned();
                what
            }
            None => {
                let bytes = match part {
                    5 => &mut collateral.root_ca_crl,
                    6 => &mut collateral.pck_crl,
                    7 => &mut collateral.tcb_info_signature,
                    _ => &mut collateral.qe_identity_signature,
                };
                let (changed, what) = mutate(bytes, &mut seed);
                *bytes = changed;
                what
            }
        };
        let ours = ours(base, &base.quote, &endorse(base, &collateral));
        let theirs = theirs(base, &base.quote, &collateral);
        let place = match (part, &base.collateral) {
            (0, _) => Place::CrlIssuerChain,
            (1, original) => place_in_chain(&original.tcb_info_issuer_chain, &collateral.tcb_info_issuer_chain),
            (3, original) => place_in_chain(&original.qe_identity_issuer_chain, &collateral.qe_identity_issuer_chain),
            _ => Place::Elsewhere,
        };
        tally.note(place, &|| format!("{} part {part}: {what}", base.case.id), &ours, &theirs);
    }
    tally.show("mutated collateral");
}
