//! What grants stand on: the index by which a change finds the hosts that it may touch, without reading their evidence.

use std::collections::BTreeMap;

use countersign_attestation::protocol::HostId;
use countersign_policies::decision::Grant;
use serde::{Deserialize, Serialize};

use super::standings::Standings;

/// What a host's last grant stands on. Of several manifests that matched, the one that the grant names: while it is
/// there as it was, the host is judged as it was, whatever becomes of the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grounds {
    /// Id of the manifest that matched.
    pub manifest: String,
    /// Ids of the waivers it would not have been made without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waivers: Vec<String>,
}

impl From<&Grant> for Grounds {
    fn from(grant: &Grant) -> Self {
        let waivers = grant.waivers().iter().map(|waiver| waiver.id.clone()).collect();
        Self { manifest: grant.manifest().to_owned(), waivers }
    }
}

/// A change of what hosts are judged by, by what it can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touches<'a> {
    /// It may be about any host.
    Everyone,
    /// This manifest lists less, or is gone.
    Manifest(&'a str),
    /// This waiver has ended.
    Waiver(&'a str),
}

impl Touches<'_> {
    fn touches(self, grounds: &Grounds) -> bool {
        match self {
            Self::Everyone => true,
            Self::Manifest(id) => grounds.manifest == id,
            Self::Waiver(id) => grounds.waivers.iter().any(|waiver| waiver == id),
        }
    }
}

/// Grounds by number: a fleet has few, and each host's number takes four bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbered {
    all: Vec<Grounds>,
    numbers: BTreeMap<Grounds, u32>,
    /// By the host's slot; 0 where they are not known.
    of: Vec<u32>,
}

impl Numbered {
    pub(super) fn set(&mut self, slot: usize, grounds: Option<&Grounds>) {
        let number = grounds.map_or(0, |grounds| self.number(grounds));
        if self.of.len() <= slot {
            self.of.resize(slot.saturating_add(1), 0);
        }
        if let Some(of) = self.of.get_mut(slot) {
            *of = number;
        }
    }

    /// From 1 on. Beyond 2^32 grounds they are not known: hosts on them are touched by everything.
    fn number(&mut self, grounds: &Grounds) -> u32 {
        if let Some(number) = self.numbers.get(grounds) {
            return *number;
        }
        let Some(number) = u32::try_from(self.all.len()).ok().and_then(|number| number.checked_add(1)) else {
            return 0;
        };
        self.all.push(grounds.clone());
        self.numbers.insert(grounds.clone(), number);
        number
    }
}

impl Standings {
    /// Hosts whose last proof was not taken back and that a change may touch, in the order of their ids. One whose
    /// grounds are not known is among them.
    #[must_use]
    pub fn touched(&self, change: Touches<'_>) -> Vec<HostId> {
        let Numbered { all, of, .. } = self.grounds();
        let unknown = std::iter::once(true);
        let touched: Vec<bool> = unknown.chain(all.iter().map(|grounds| change.touches(grounds))).collect();
        let is_touched = |slot: usize| {
            let number = of.get(slot).and_then(|number| usize::try_from(*number).ok()).unwrap_or(0);
            touched.get(number).copied().unwrap_or(true)
        };
        let rows = self.rows().enumerate().filter(|(slot, row)| row.standing.is_proven() && is_touched(*slot));
        let mut ids: Vec<HostId> = rows.map(|(_, row)| row.id.clone()).collect();
        ids.sort();
        ids
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::lineage::entry::{DecisionRecord, Entry};
    use countersign_attestation::protocol::HostId;

    use super::{Grounds, Touches};
    use crate::clock::Clock;
    use crate::store::Store;
    use crate::trust::Trust;
    use crate::trust::state::HostTrust;

    const AT: UnixMillis = UnixMillis(1_000);
    const DIGEST: Sha256Digest = Sha256Digest([1; 32]);

    fn grounds(manifest: &str, waivers: &[&str]) -> Grounds {
        Grounds { manifest: manifest.to_owned(), waivers: waivers.iter().map(|id| (*id).to_owned()).collect() }
    }

    /// Registers, enrols and grants a host; index of the grant.
    fn granted(trust: &Trust, id: &HostId, first: u64) -> u64 {
        trust.apply(first, &Entry::host_registered(AT, id.clone(), "alice", DIGEST));
        trust.apply(first + 1, &Entry::enrolled(AT, on(trust, id), DIGEST));
        grant(trust, id, first + 2)
    }

    fn on(trust: &Trust, id: &HostId) -> countersign_attestation::lineage::entry::HostRevision {
        trust.host(id).unwrap().unwrap_or_else(HostTrust::new).revision_of(id.clone())
    }

    fn grant(trust: &Trust, id: &HostId, index: u64) -> u64 {
        let decision =
            DecisionRecord { inputs: Some(DIGEST), claims: Some(DIGEST), decision: DIGEST, reasons: Vec::new() };
        trust.apply(index, &Entry::granted(AT, on(trust, id), decision, AT.plus(9), None));
        index
    }

    fn touched(trust: &Trust, change: Touches<'_>) -> String {
        let ids = trust.standings(|standings| standings.touched(change)).unwrap();
        ids.iter().map(HostId::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn whom_a_change_may_touch_is_never_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store = Store::open(&path, Clock::dating()).unwrap();
        let trust = Trust::restore(&store, |_| Ok(None)).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|id| HostId::parse(id).unwrap());
        let since = [granted(&trust, &a, 0), granted(&trust, &b, 3), granted(&trust, &c, 6)];
        assert_eq!(touched(&trust, Touches::Manifest("one")), "a b c", "not known yet");
        assert!(trust.stands_on(&a, since[0], grounds("one", &[]), || true).unwrap());
        assert!(trust.stands_on(&b, since[1], grounds("two", &["psp"]), || true).unwrap());
        // What came into force meanwhile is seen here or finds the host there.
        assert!(!trust.stands_on(&c, since[2], grounds("two", &[]), || false).unwrap());
        assert_eq!(touched(&trust, Touches::Manifest("one")), "a c");
        assert_eq!(touched(&trust, Touches::Manifest("two")), "b c");
        assert_eq!(touched(&trust, Touches::Waiver("psp")), "b c");
        assert_eq!(touched(&trust, Touches::Everyone), "a b c");
        // A newer grant is not described by what an older one stood on.
        let newer = grant(&trust, &a, 9);
        assert_eq!(touched(&trust, Touches::Manifest("two")), "a b c");
        assert!(trust.stands_on(&a, since[0], grounds("one", &[]), || true).unwrap());
        assert_eq!(touched(&trust, Touches::Manifest("two")), "a b c");
        assert!(trust.stands_on(&a, newer, grounds("three", &[]), || true).unwrap());
        assert_eq!(touched(&trust, Touches::Manifest("one")), "c");
        // A snapshot keeps it; a revoked host stands on nothing.
        store.commit(&trust.snapshot().unwrap().writes).unwrap();
        trust.committed().unwrap();
        trust.apply(10, &Entry::revoked_by_operator(AT, on(&trust, &b), "alice", "test"));
        assert_eq!(touched(&trust, Touches::Waiver("psp")), "c");
        let restored = Trust::restore(&store, |_| Ok(None)).unwrap();
        assert_eq!(touched(&restored, Touches::Waiver("psp")), "b c");
        assert_eq!(touched(&restored, Touches::Manifest("three")), "a c");
        let again = restored.host(&a).unwrap().unwrap();
        assert_eq!(again.grounds, Some(grounds("three", &[])));
    }
}
