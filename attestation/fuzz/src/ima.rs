//! IMA measurement lists, binary and ASCII.

use std::collections::BTreeMap;

use countersign_attestation::claims::{HexBytes, PcrHash};
use countersign_attestation::evidence::ima::{Extension, FileSignature, ImaList, ImaState, Replay, ascii, verify};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;

/// A list under the values that it leads to itself: what is verified is what was listed, in one go or in two.
pub fn ima(bytes: &[u8]) {
    binary(bytes);
    if let Ok((list, hash)) = ascii::to_binary(bytes) {
        assert!(list.len() <= bytes.len().saturating_mul(4), "bounded by the text");
        let _ = Replay::of(ImaList::with_hash(&list, hash), &[TpmHash::Sha256], Extension::TemplateHash);
    }
    let _ = FileSignature::read(bytes);
}

fn binary(bytes: &[u8]) {
    let banks = [TpmHash::Sha256, TpmHash::Sha384];
    for extension in [Extension::TemplateHash, Extension::PaddedSha1] {
        let Ok(replay) = Replay::of(ImaList::new(bytes), &banks, extension) else { continue };
        let value = |pcr: u8, bank: &str| replay.values.get(&pcr)?.get(bank).cloned();
        let mut quoted: BTreeMap<PcrHash, BTreeMap<u8, HexBytes>> = BTreeMap::new();
        for pcr in 0..24 {
            for (bank, hash) in [("sha256", PcrHash::Sha256), ("sha384", PcrHash::Sha384)] {
                quoted.entry(hash).or_default().extend(value(pcr, bank).map(|value| (pcr, value)));
            }
        }
        let verified = verify(bytes, &ImaState::start(), &quoted);
        assert_eq!(verified.is_ok(), replay.values.contains_key(&10), "PCR 10 is demanded, and nothing else");
        let Ok(verified) = verified else { continue };
        // Entries of all but PCRs past the first joint match: there is none before the end, hashes being what they are.
        assert_eq!((verified.state().entries, verified.unattested()), (replay.entries, 0));
        let mut visited = 0_u64;
        verified.visit(|_| false, |_, _| visited += 1);
        assert_eq!((visited, verified.entries().count()), (replay.entries, replay.entries as usize));
        assert!(verify(&[], verified.state(), &quoted).is_ok(), "nothing new is nothing wrong");
        assert_eq!(ImaList::new(bytes).entries().filter_map(Result::ok).count() as u64, replay.entries);
    }
}
