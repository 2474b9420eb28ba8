//! Event logs of measured boot.

use std::collections::BTreeMap;

use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::eventlog::{EventLog, check_data, verify};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;

/// A log under the values that it leads to itself, and under others.
pub fn eventlog(bytes: &[u8]) {
    let Ok(log) = EventLog::parse(bytes) else { return };
    assert_eq!(log.events().count(), log.event_count(), "what was counted is there");
    assert!(log.event_count() <= bytes.len() / 16 + 1, "an event without digests has 16 octets");
    for event in log.events() {
        assert!(event.data.len() <= bytes.len());
        let _ = (check_data(&event, TpmHash::Sha256), event.startup_locality());
    }
    let mut quoted: BTreeMap<PcrHash, PcrBank> = BTreeMap::new();
    for bank in [PcrHash::Sha256, PcrHash::Sha384, PcrHash::Sha512] {
        let hash = TpmHash::from(bank);
        if !log.has_bank(hash) {
            continue;
        }
        let replay = log.replay_bank(hash);
        let start = vec![0; hash.size()];
        let value = |index| replay.value(index).map_or_else(|| start.clone(), <[u8]>::to_vec);
        quoted.insert(bank, (0..24).map(|index| (index, HexBytes(value(index)))).collect());
    }
    let Ok(verified) = verify(bytes, &quoted) else { return };
    let (claims, replayed) = (verified.claims(), verified.replayed());
    assert!(serde_json::to_vec(&claims).is_ok());
    assert!(replayed.is_disjoint(&verified.unexplained()));
    for index in replayed.into_iter().filter(|index| *index <= 9) {
        for bank in quoted.keys().copied().collect::<Vec<_>>() {
            let mut other = quoted.clone();
            let flipped = other.get_mut(&bank).and_then(|values| values.get_mut(&index)).and_then(|v| v.0.first_mut());
            let Some(first) = flipped else { continue };
            *first ^= 1;
            assert!(verify(bytes, &other).is_err(), "PCR {index} of {} has another value", bank.name());
        }
    }
}
