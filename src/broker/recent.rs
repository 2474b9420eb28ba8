//! What is kept in memory of the hosts that came by most recently: all that it saves is work.

use std::collections::BTreeMap;

use countersign_attestation::protocol::HostId;

/// Hosts it is kept of. What is kept of one takes some tens of kilobytes; of a host that is not among them, the next
/// attestation is read from the archive.
const HOSTS_MAX: usize = 4096;

/// Values by host, of which those are dropped that were not asked for in a long time.
#[derive(Clone, Debug)]
pub(super) struct Recent<V> {
    young: BTreeMap<HostId, V>,
    /// What was young when there was no more room: dropped next, unless it is asked for before.
    old: BTreeMap<HostId, V>,
    half: usize,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self::of(HOSTS_MAX)
    }
}

impl<V> Recent<V> {
    const fn of(hosts: usize) -> Self {
        Self { young: BTreeMap::new(), old: BTreeMap::new(), half: hosts / 2 }
    }

    /// What is kept of a host, from now on as the most recent.
    pub(super) fn get_mut(&mut self, host: &HostId) -> Option<&mut V> {
        if let Some((id, value)) = self.old.remove_entry(host) {
            self.insert(id, value);
        }
        self.young.get_mut(host)
    }

    /// Likewise.
    pub(super) fn get(&mut self, host: &HostId) -> Option<&V> {
        self.get_mut(host).map(|value| &*value)
    }

    /// Keeps this of a host, and nothing else.
    pub(super) fn insert(&mut self, host: HostId, value: V) {
        self.old.remove(&host);
        if self.half <= self.young.len() && !self.young.contains_key(&host) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(host, value);
    }

    /// Keeps nothing of a host.
    pub(super) fn remove(&mut self, host: &HostId) {
        self.young.remove(host);
        self.old.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::protocol::HostId;

    use super::Recent;

    #[test]
    fn the_most_recent_hosts_are_kept_and_the_newest_of_each() {
        let id = |n: u32| HostId::parse(&format!("host-{n}")).unwrap();
        let mut recent = Recent::of(8);
        for n in 0..100 {
            recent.insert(id(n), n);
            recent.insert(id(n), n + 1000);
            assert_eq!(recent.get(&id(0)), Some(&1000), "asked for at each step");
            assert_eq!(recent.get(&id(n)), Some(&(n + 1000)));
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        let kept: Vec<u32> = (0..100).filter(|n| recent.get(&id(*n)).is_some()).collect();
        assert!(4 <= kept.len(), "{kept:?}");
        recent.remove(&id(99));
        assert_eq!(recent.get(&id(99)), None);
        *recent.get_mut(&id(0)).unwrap() = 7;
        assert_eq!(recent.get(&id(0)), Some(&7));
    }
}
