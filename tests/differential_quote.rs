//! Our verdict on quotes against tpm2-tools' `tpm2_checkquote`, on recorded quotes and over more than a thousand seeded
//! mutations: half of evidence that a key signed before it was changed, half of structures that were changed before a
//! key signed them. Every kind of disagreement stands in a table with its reason; one that does not fails the test.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use countersign::cli::verify::{Case, Verdict, judge};
use countersign_attestation::claims::PcrHash;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::{Attest, Attested, TpmSignature};
use countersign_attestation::evidence::tpm::public::Public;
use countersign_attestation::protocol::PcrSelection;

#[path = "sim/tpm.rs"]
mod sim;

use sim::{AkKind, SimTpm};

/// Mutations of each family.
const MUTATIONS: usize = 520;
/// `tpm2_checkquote` processes at once.
const WORKERS: usize = 4;

/// Why the two disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// tpm2_checkquote reads past magic, type, TPMI_YES_NO and trailing bytes without a look (Part 2, 10.12.12).
    Form,
    /// It takes empty selections, banks named twice and banks it cannot hash: it never compares the signed selection
    /// with anything.
    Selection,
    /// It hashes the values it is given, whatever PCRs they are said to be of (CVE-2024-29039).
    Labels,
    /// It takes signatures over SHA-1.
    Sha1,
    /// Without a nonce to compare with, it takes a quote with any; to us, none was asked for and none may be there.
    NoNonce,
    /// It cannot verify RSASSA-PSS.
    Pss,
    /// It refuses a values file that it cannot hold or a selection of 4 octets, which TPMs with more PCRs write.
    TheirLimits,
    /// An ECDSA signature whose numbers have a leading zero: it passes them on as they are (A23).
    EcdsaForm,
}

/// A quote with what a verifier is told.
#[derive(Clone)]
struct Quote {
    name: String,
    ak_pem: Vec<u8>,
    attest: Vec<u8>,
    signature: Vec<u8>,
    /// By bank and index.
    values: Vec<(TpmHash, u8, Vec<u8>)>,
    nonce: Vec<u8>,
}

impl Quote {
    /// Our verdict through the public door, as a manifest's case: the code of the rejection.
    fn ours(&self, folder: &Path) -> Result<(), String> {
        let mut pcrs: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        for (bank, index, value) in &self.values {
            pcrs.entry(bank.name()).or_default().insert(index.to_string(), hex::encode(value));
        }
        fs::write(folder.join("pcrs.json"), serde_json::to_vec(&pcrs).unwrap()).unwrap();
        let case = serde_json::json!({
            "id": self.name, "kind": "tpm-quote", "expect": "accept", "evaluation_time": "2026-01-01T00:00:00Z",
            "files": { "quote": "quote", "signature": "signature", "ak_pub": "ak.pem", "pcrs": "pcrs.json" },
            "expect_detail": { "nonce": hex::encode(&self.nonce) },
        });
        let case: Case = serde_json::from_value(case).unwrap();
        let judged = judge(&case, &folder.canonicalize().unwrap());
        match judged.verdict {
            Verdict::Accept => Ok(()),
            Verdict::Reject => Err(judged.reasons[0].clone()),
            Verdict::Unsupported | Verdict::Error => panic!("{}: {:?}", self.name, judged.explanation),
        }
    }

    /// Whether `tpm2_checkquote` says yes.
    fn theirs(&self, folder: &Path) -> bool {
        for (name, bytes) in [("quote", &self.attest), ("signature", &self.signature), ("ak.pem", &self.ak_pem)] {
            fs::write(folder.join(name), bytes).unwrap();
        }
        fs::write(folder.join("pcrs.tools"), self.values_file()).unwrap();
        let hash = match TpmSignature::read(&self.signature) {
            Ok(
                TpmSignature::RsaSsa { hash, .. }
                | TpmSignature::RsaPss { hash, .. }
                | TpmSignature::Ecdsa { hash, .. },
            ) => hash.name(),
            Err(_) => "sha256",
        };
        let mut command = Command::new("tpm2_checkquote");
        command.current_dir(folder).args(["-u", "ak.pem", "-m", "quote", "-s", "signature", "-f", "pcrs.tools"]);
        command.args(["-g", hash]);
        if !self.nonce.is_empty() {
            command.args(["-q", &hex::encode(&self.nonce)]);
        }
        command.output().expect("tpm2_checkquote runs").status.success()
    }

    /// The values as `tpm2_quote -o` writes them: TPML_PCR_SELECTION and TPML_DIGESTs as C lays them out.
    fn values_file(&self) -> Vec<u8> {
        let mut banks: Vec<(TpmHash, u32)> = Vec::new();
        for (bank, index, _) in &self.values {
            match banks.iter_mut().find(|(known, _)| known == bank) {
                Some((_, pcrs)) => *pcrs |= 1 << index,
                None => banks.push((*bank, 1 << index)),
            }
        }
        let mut file = u32::try_from(banks.len()).unwrap().to_le_bytes().to_vec();
        for position in 0..16 {
            match banks.get(position) {
                Some((bank, pcrs)) => {
                    file.extend_from_slice(&bank.id().to_le_bytes());
                    file.push(3);
                    file.extend_from_slice(&pcrs.to_le_bytes());
                    file.push(0);
                }
                None => file.extend_from_slice(&[0; 8]),
            }
        }
        let lists: Vec<_> = self.values.chunks(8).collect();
        file.extend_from_slice(&u32::try_from(lists.len()).unwrap().to_le_bytes());
        for list in lists {
            file.extend_from_slice(&u32::try_from(list.len()).unwrap().to_le_bytes());
            for position in 0..8 {
                let value = list.get(position).map(|(_, _, value)| value.as_slice()).unwrap_or_default();
                file.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
                let mut room = value.to_vec();
                room.resize(64, 0);
                file.extend_from_slice(&room);
            }
        }
        file
    }

    /// The reason in the table for a disagreement, if there is one.
    fn explain(&self, ours: &Result<(), String>) -> Option<Why> {
        match ours.as_ref().map_err(String::as_str) {
            Err("tpm.attest.magic" | "tpm.attest.type" | "tpm.malformed") => Some(Why::Form),
            Err("tpm.quote.selection.empty" | "tpm.quote.selection.form" | "tpm.quote.bank") => Some(Why::Selection),
            Err("tpm.quote.pcr_values") => Some(Why::Labels),
            Err("tpm.signature.sha1") => Some(Why::Sha1),
            Err("binding.qualifying_data") if self.nonce.is_empty() => Some(Why::NoNonce),
            Err(_) => None,
            Ok(()) => match TpmSignature::read(&self.signature) {
                Ok(TpmSignature::RsaPss { .. }) => Some(Why::Pss),
                Ok(TpmSignature::Ecdsa { r, s, .. }) if [r, s].iter().any(|number| number.first() == Some(&0)) => {
                    Some(Why::EcdsaForm)
                }
                Ok(_) if self.attest_selects_with(4) => Some(Why::TheirLimits),
                Ok(_) | Err(_) => None,
            },
        }
    }

    /// Whether a selection's bitmap is of so many octets.
    fn attest_selects_with(&self, octets: u8) -> bool {
        let Ok(attest) = Attest::read(&self.attest) else { return false };
        let Attested::Quote { selection, .. } = attest.attested else { return false };
        selection.iter().any(|bank| {
            let head = [&bank.bank.id().to_be_bytes()[..], &[octets]].concat();
            self.attest.windows(head.len()).any(|window| window == head)
        })
    }
}

/// SplitMix64: a seed reproduces everything.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// Changes `bytes` in one of the ways in which structures go wrong.
    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(6) {
            _ if bytes.is_empty() => bytes.push(0),
            0 | 1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = [0, 1, 2, 3, 4, 0x10, 0x7f, 0x80, 0xff][self.below(9)],
            3 => bytes.truncate(at),
            4 => bytes.extend(std::iter::repeat_n(0, 1 + self.below(3))),
            _ => bytes.insert(at, 0),
        }
    }
}

/// What was compared, by how it came out.
#[derive(Default)]
struct Tally {
    both_accept: usize,
    both_reject: usize,
    explained: BTreeMap<(Why, bool), usize>,
    unexplained: Vec<String>,
}

fn compare(quotes: &[Quote]) -> Tally {
    let share = quotes.len().div_ceil(WORKERS).max(1);
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> = quotes.chunks(share).map(|part| scope.spawn(move || compare_here(part))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker")).collect::<Vec<_>>()
    });
    let mut all = Tally::default();
    for part in parts {
        all.both_accept += part.both_accept;
        all.both_reject += part.both_reject;
        for (why, count) in part.explained {
            *all.explained.entry(why).or_default() += count;
        }
        all.unexplained.extend(part.unexplained);
    }
    all
}

fn compare_here(quotes: &[Quote]) -> Tally {
    let folder = tempfile::tempdir().expect("a folder");
    let mut tally = Tally::default();
    for quote in quotes {
        let theirs = quote.theirs(folder.path());
        let ours = quote.ours(folder.path());
        match (ours.is_ok(), theirs) {
            (true, true) => tally.both_accept += 1,
            (false, false) => tally.both_reject += 1,
            (_, theirs) => match quote.explain(&ours) {
                Some(why) => *tally.explained.entry((why, theirs)).or_default() += 1,
                None => tally.unexplained.push(format!("{}: we say {ours:?}, they say {theirs}", quote.name)),
            },
        }
    }
    tally
}

fn report(what: &str, tally: &Tally) {
    println!("{what}: {} both accept, {} both reject", tally.both_accept, tally.both_reject);
    for ((why, theirs), count) in &tally.explained {
        println!("  {count} {}: {why:?}", if *theirs { "accepted by them alone" } else { "accepted by us alone" });
    }
    assert_eq!(tally.unexplained, Vec::<String>::new(), "{what}: disagreements without a reason");
}

fn vectors() -> Option<PathBuf> {
    let folder = std::env::var("COUNTERSIGN_VECTORS")
        .map_or_else(|_| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors")), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("no vectors at {}: skipped", folder.display());
    None
}

/// Every recorded quote with PCR values and a TPMT_SIGNATURE.
fn recorded(folder: &Path) -> Vec<Quote> {
    let mut quotes = Vec::new();
    for manifest in ["MANIFEST-tpm-nv.json", "MANIFEST-selection.json"] {
        let cases: Vec<Case> = serde_json::from_slice(&fs::read(folder.join(manifest)).unwrap()).unwrap();
        for case in cases.iter().filter(|case| case.kind == "tpm-quote") {
            let read = |role: &str| case.files.get(role).map(|path| fs::read(folder.join(path)).unwrap());
            let (Some(ak_pem), Some(attest), Some(signature), Some(pcrs)) =
                (read("ak_pub"), read("quote"), read("signature"), read("pcrs"))
            else {
                continue;
            };
            let banks: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_slice(&pcrs).unwrap();
            let known = [TpmHash::Sha1, TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512];
            let mut values = Vec::new();
            for (name, pcrs) in banks {
                let bank = *known.iter().find(|bank| bank.name() == name).expect("a known bank");
                let value = |(index, value): (String, String)| (index.parse().unwrap(), hex::decode(value).unwrap());
                let pcrs: BTreeMap<u8, Vec<u8>> = pcrs.into_iter().map(value).collect();
                values.extend(pcrs.into_iter().map(|(index, value)| (bank, index, value)));
            }
            order_as_signed(&attest, &mut values);
            let nonce = case.expect_detail.get("nonce").and_then(|nonce| nonce.as_str()).unwrap_or_default();
            let nonce = hex::decode(nonce).unwrap();
            quotes.push(Quote { name: case.id.clone(), ak_pem, attest, signature, values, nonce });
        }
    }
    quotes
}

/// `tpm2_checkquote` hashes the values in the file's order: give it the signed one.
fn order_as_signed(attest: &[u8], values: &mut [(TpmHash, u8, Vec<u8>)]) {
    let Ok(Attested::Quote { selection, .. }) = Attest::read(attest).map(|attest| attest.attested) else { return };
    let position = |bank: TpmHash| selection.iter().position(|entry| entry.bank == bank).unwrap_or(usize::MAX);
    values.sort_by_key(|(bank, index, _)| (position(*bank), *index));
}

/// A TPM whose keys we hold.
fn tpm(kind: AkKind) -> SimTpm {
    let mut tpm = SimTpm::new(kind);
    for index in 0..8 {
        tpm.extend(PcrHash::Sha256, index, &[index]);
    }
    tpm
}

/// A quote over a structure that `change` had its way with before it was signed.
fn signed(name: String, tpm: &SimTpm, nonce: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Quote {
    let selection = [PcrSelection { bank: PcrHash::Sha256, pcrs: (0..8).collect() }];
    let mut attest = tpm.quote_attest(&selection, nonce);
    change(&mut attest);
    let spki = Public::read(tpm.ak_public()).unwrap().spki();
    let text = base64::engine::general_purpose::STANDARD.encode(spki);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    let ak_pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")).into_bytes();
    let values = (0..8).map(|index| (TpmHash::Sha256, index, tpm.pcr(PcrHash::Sha256, index).to_vec())).collect();
    Quote { name, ak_pem, signature: tpm.sign(&attest), attest, values, nonce: nonce.to_vec() }
}

#[test]
fn recorded_quotes_and_what_becomes_of_them_are_judged_alike_but_for_the_table() {
    let Some(folder) = vectors() else { return };
    let recorded = recorded(&folder);
    let tally = compare(&recorded);
    report("recorded", &tally);
    assert!(15 <= tally.both_accept, "{} accepted by both", tally.both_accept);
    let mut draw = Draw(0x71);
    let mutated: Vec<Quote> = (0..MUTATIONS)
        .map(|number| {
            let mut quote = recorded[draw.below(recorded.len())].clone();
            quote.name = format!("{} #{number}", quote.name);
            match draw.below(8) {
                0..=2 => draw.change(&mut quote.attest),
                3 | 4 => draw.change(&mut quote.signature),
                5 => draw.change(&mut quote.nonce),
                6 if quote.values.len() > 1 => {
                    let (one, other) = (draw.below(quote.values.len()), draw.below(quote.values.len()));
                    let value = quote.values[one].2.clone();
                    quote.values[one].2 = std::mem::replace(&mut quote.values[other].2, value);
                }
                _ if quote.values.is_empty() => draw.change(&mut quote.attest),
                _ => {
                    let at = draw.below(quote.values.len());
                    draw.change(&mut quote.values[at].2);
                    quote.values[at].2.truncate(64);
                }
            }
            quote
        })
        .collect();
    report("changed after signing", &compare(&mutated));
}

#[test]
fn structures_that_were_changed_before_a_key_signed_them_are_judged_alike_but_for_the_table() {
    let mut draw = Draw(0x72);
    let tpms = [AkKind::P256, AkKind::Rsa2048].map(tpm);
    let control = [0, 1].map(|number: usize| signed(format!("unchanged #{number}"), &tpms[number], &[7; 20], |_| {}));
    let tally = compare(&control);
    report("signed", &tally);
    assert_eq!(tally.both_accept, control.len());
    let changed: Vec<Quote> = (0..MUTATIONS)
        .map(|number| {
            let tpm = &tpms[number % tpms.len()];
            signed(format!("signed #{number}"), tpm, &[7; 20], |attest| draw.change(attest))
        })
        .collect();
    let tally = compare(&changed);
    report("changed before signing", &tally);
    let laxer: usize = tally.explained.iter().filter(|((_, theirs), _)| *theirs).map(|(_, count)| count).sum();
    assert!(10 <= laxer, "they accept {laxer} structures that we refuse: the comparison sees nothing");
}
