//! What changed in a status list. A delta is not signed: its result is worth something when a signed pulse names its
//! digest, and nothing otherwise, so that a forged one costs a list that is fetched whole.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::rejection::{Rejection, reasons};
use crate::status_list::{ENTRIES, StatusList};

reasons! {
    /// Why a delta is refused. What follows is always the same: the whole list is fetched.
    StatusDeltaReason {
        /// One way to write it, so that one change has one text.
        Malformed = "status_delta.malformed",
            "the delta is not canonical JSON of the documented members",
            "send n, from, to and changes as they are written by StatusDelta::encode";
        /// More changes than this cost as much as the list.
        TooLarge = "status_delta.too_large",
            "the delta holds more than a list is worth",
            "send the whole list instead";
        /// In order, each index once, each value of two bits.
        Changes = "status_delta.changes",
            "the changes are not in ascending order, each index once, with values of two bits",
            "send each changed index once, in order";
        /// A delta of another list, or of the same one at another time.
        Base = "status_delta.base",
            "the delta does not begin at the list that is held",
            "fetch the whole list";
        /// What it comes to is not what it says.
        Digest = "status_delta.digest",
            "the delta does not lead to the list that it names",
            "fetch the whole list";
    }
}

/// Changes in one delta: as many as fit in the size of a list that does not compress.
pub const CHANGES_MAX: usize = 1_024;

/// Longest encoded delta: 1,024 times `[65535,3],`, and the rest.
pub const BYTES_MAX: usize = 12 * 1024;

/// Entries of one list that changed, from one state of it to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusDelta {
    n: u64,
    from: Sha256Digest,
    to: Sha256Digest,
    changes: Vec<(u64, u8)>,
}

impl StatusDelta {
    /// What leads from one state of list `n` to another; none where the whole list is the shorter way to say it.
    #[must_use]
    pub fn between(n: u64, before: &StatusList, after: &StatusList) -> Option<Self> {
        if before.size() != after.size() {
            return None;
        }
        let mut changes = Vec::new();
        for (byte, (old, new)) in (0_u64..).zip(before.bytes().iter().zip(after.bytes())) {
            // Most bytes are as they were.
            for place in (0..4_u64).filter(|_| old != new) {
                let value = two_bits(*new, place);
                if two_bits(*old, place) != value {
                    changes.push((byte.saturating_mul(4).saturating_add(place), value));
                }
            }
            if CHANGES_MAX < changes.len() {
                return None;
            }
        }
        Some(Self { n, from: before.sha256(), to: after.sha256(), changes })
    }

    /// This delta and the one after it as one; none where they do not follow each other or come to too much.
    #[must_use]
    pub fn then(&self, next: &Self) -> Option<Self> {
        if self.n != next.n || self.to != next.from {
            return None;
        }
        let merged: alloc::collections::BTreeMap<u64, u8> = self.changes.iter().chain(&next.changes).copied().collect();
        let changes: Vec<(u64, u8)> = merged.into_iter().collect();
        (changes.len() <= CHANGES_MAX).then_some(Self { n: self.n, from: self.from, to: next.to, changes })
    }

    /// Number of the list.
    #[must_use]
    pub const fn n(&self) -> u64 {
        self.n
    }

    /// Digest of the list that it begins at.
    #[must_use]
    pub const fn from(&self) -> Sha256Digest {
        self.from
    }

    /// Digest of the list that it leads to.
    #[must_use]
    pub const fn to(&self) -> Sha256Digest {
        self.to
    }

    /// The one text of this delta.
    #[must_use]
    pub fn encode(&self) -> String {
        // Integers and hex only: writing them cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a delta, bounded before it is parsed.
    ///
    /// # Errors
    /// A [`StatusDeltaReason`].
    pub fn parse(text: &str) -> Result<Self, Rejection> {
        if BYTES_MAX < text.len() {
            return Err(StatusDeltaReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), text.len()));
        }
        let delta: Self = serde_json::from_str(text)
            .map_err(|error| StatusDeltaReason::Malformed.because("n, from, to and changes", error))?;
        if CHANGES_MAX < delta.changes.len() {
            let expected = format!("at most {CHANGES_MAX} changes");
            return Err(StatusDeltaReason::TooLarge.because(expected, delta.changes.len()));
        }
        let entries = u64::try_from(ENTRIES).unwrap_or(0);
        let possible = delta.changes.iter().all(|(index, value)| *index < entries && *value < 4);
        if !possible || !delta.changes.is_sorted_by(|(before, _), (after, _)| before < after) {
            return Err(StatusDeltaReason::Changes.because("ascending indexes and values of two bits", "others"));
        }
        if delta.encode() != text {
            return Err(StatusDeltaReason::Malformed.because("the one way to write it", "another"));
        }
        Ok(delta)
    }

    /// The list that this one becomes. Whether anybody signed for it, its digest says to who holds a pulse.
    ///
    /// # Errors
    /// [`StatusDeltaReason::Base`] and [`StatusDeltaReason::Digest`]; the list is as it was.
    pub fn apply(&self, list: &StatusList) -> Result<StatusList, Rejection> {
        let base = list.sha256();
        if base != self.from {
            return Err(StatusDeltaReason::Base.because(base, self.from));
        }
        let mut bytes = list.bytes().to_vec();
        for (index, value) in &self.changes {
            let (Ok(at), Ok(shift)) = (usize::try_from(index / 4), u32::try_from(index % 4)) else { continue };
            // An index beyond the list changes nothing, and the digest tells.
            let Some(byte) = bytes.get_mut(at) else { continue };
            let shift = shift.saturating_mul(2);
            let mask = 0b11_u8.checked_shl(shift).unwrap_or(0);
            *byte = (*byte & !mask) | (value.checked_shl(shift).unwrap_or(0) & mask);
        }
        let list = StatusList::from_bytes(bytes)?;
        let found = list.sha256();
        if found != self.to {
            return Err(StatusDeltaReason::Digest.because(self.to, found));
        }
        Ok(list)
    }
}

fn two_bits(byte: u8, place: u64) -> u8 {
    let shift = u32::try_from(place).unwrap_or(0).saturating_mul(2);
    byte.checked_shr(shift).unwrap_or(0) & 0b11
}

#[cfg(test)]
mod tests {
    #![expect(clippy::arithmetic_side_effects, reason = "small numbers")]

    use alloc::string::String;
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::collection::vec as some;
    use proptest::prelude::{any, proptest};

    use super::{CHANGES_MAX, StatusDelta};
    use crate::digest::Sha256Digest;
    use crate::status_list::{ENTRIES, Status, StatusList};

    fn code(text: &str) -> &'static str {
        StatusDelta::parse(text).unwrap_err().code()
    }

    fn list(bytes: &[u8]) -> StatusList {
        StatusList::from_bytes(bytes.to_vec()).unwrap()
    }

    #[test]
    fn one_revocation_in_a_full_list_is_less_than_two_hundred_bytes() {
        let mut before = StatusList::new();
        for index in 0..u64::try_from(ENTRIES).unwrap() {
            // Every eleventh has lapsed: a list of a busy fleet.
            before.set(index, if index % 11 == 3 { Status::Suspended } else { Status::Valid }).unwrap();
        }
        let mut after = before.clone();
        after.set(40_000, Status::Invalid).unwrap();
        let delta = StatusDelta::between(7, &before, &after).unwrap();
        assert!(delta.encode().len() < 200, "{}", delta.encode());
        assert_eq!(StatusDelta::parse(&delta.encode()), Ok(delta.clone()));
        assert_eq!(delta.apply(&before), Ok(after.clone()));
        assert_eq!(delta.apply(&after).unwrap_err().code(), "status_delta.base");
        assert_eq!((delta.n(), delta.from(), delta.to()), (7, before.sha256(), after.sha256()));
    }

    #[test]
    fn what_is_not_canonical_or_leads_elsewhere_is_refused() {
        let (zero, ones) = (Sha256Digest([0; 32]).to_hex(), Sha256Digest([1; 32]).to_hex());
        let text = |changes: &str| alloc::format!(r#"{{"n":0,"from":"{zero}","to":"{ones}","changes":[{changes}]}}"#);
        assert!(StatusDelta::parse(&text("[1,1],[2,3]")).is_ok());
        for (bad, expected) in [
            (text("[2,1],[1,1]"), "status_delta.changes"),
            (text("[1,1],[1,2]"), "status_delta.changes"),
            (text("[1,4]"), "status_delta.changes"),
            (text("[65536,1]"), "status_delta.changes"),
            (text("[1,1] "), "status_delta.malformed"),
            (text("[1,1,1]"), "status_delta.malformed"),
            (text("[1,1]").replace("\"n\":0", "\"n\":0,\"x\":0"), "status_delta.malformed"),
            (text("[1,1]").replace("\"n\":0", "\"n\":00"), "status_delta.malformed"),
            (String::from(" ").repeat(super::BYTES_MAX + 1), "status_delta.too_large"),
        ] {
            assert_eq!(code(&bad), expected, "{bad:.80}");
        }
        let many: Vec<String> = (0..=CHANGES_MAX).map(|index| alloc::format!("[{index},1]")).collect();
        assert_eq!(code(&text(&many.join(","))), "status_delta.too_large");
        let (before, after) = (list(&[0; 16]), list(&[4; 16]));
        let delta = StatusDelta::between(0, &before, &after).unwrap();
        for forged in [
            StatusDelta { changes: vec![], ..delta.clone() },
            StatusDelta { changes: delta.changes[1..].to_vec(), ..delta.clone() },
            StatusDelta { changes: vec![(60_000, 1)], ..delta.clone() },
            StatusDelta { to: Sha256Digest([9; 32]), ..delta.clone() },
        ] {
            assert_eq!(forged.apply(&before).unwrap_err().code(), "status_delta.digest");
        }
        assert_eq!(StatusDelta::between(0, &before, &list(&[0; 17])), None, "another size");
        assert_eq!(StatusDelta::between(0, &list(&[0; 2048]), &list(&[0b01_01_01_01; 2048])), None, "too much");
    }

    proptest! {
        #[test]
        fn a_delta_leads_from_the_one_list_to_the_other(
            start in some(any::<u8>(), 1..600),
            changes in some((any::<u16>(), 0_u8..4), 0..200),
            more in some((any::<u16>(), 0_u8..4), 0..200),
        ) {
            let changed = |bytes: &[u8], changes: &[(u16, u8)]| {
                let mut bytes = bytes.to_vec();
                for (at, value) in changes {
                    let at = usize::from(*at) % (bytes.len() * 4);
                    let shift = at % 4 * 2;
                    bytes[at / 4] = bytes[at / 4] & !(0b11 << shift) | value << shift;
                }
                bytes
            };
            let middle = changed(&start, &changes);
            let (first, second, third) = (list(&start), list(&middle), list(&changed(&middle, &more)));
            let delta = StatusDelta::between(3, &first, &second).unwrap();
            assert_eq!(delta.apply(&first).unwrap(), second);
            assert_eq!(StatusDelta::parse(&delta.encode()).unwrap(), delta);
            let next = StatusDelta::between(3, &second, &third).unwrap();
            assert_eq!(delta.then(&next).unwrap().apply(&first).unwrap(), third);
            assert_eq!(next.then(&delta).is_some(), next.to == delta.from);
        }

        #[test]
        fn what_is_done_to_a_delta_leads_nowhere_else(
            start in some(any::<u8>(), 64..65),
            changes in some((0_u64..256, 0_u8..4), 1..40),
            at in any::<proptest::sample::Index>(),
            byte in 0x20_u8..0x7f,
            cut in any::<proptest::sample::Index>(),
        ) {
            let (before, mut after) = (list(&start), list(&start));
            for (index, value) in &changes {
                let status = [Status::Valid, Status::Invalid, Status::Suspended][usize::from(*value) % 3];
                after.set(*index, status).unwrap();
            }
            let text = StatusDelta::between(0, &before, &after).unwrap().encode();
            let mut forged = text.clone().into_bytes();
            let place = at.index(forged.len());
            forged[place] = byte;
            let cut = text.split_at(cut.index(text.len())).0;
            for forged in [str::from_utf8(&forged).unwrap(), cut] {
                // Refused, or the very list that the true one leads to (under another number).
                if let Ok(list) = StatusDelta::parse(forged).and_then(|delta| delta.apply(&before)) {
                    assert!(list == after, "{forged}");
                }
            }
        }
    }
}
