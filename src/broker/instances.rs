//! The clone alarm: evidence names the very TPM and the very guest it is of, and each of these is one host. Seen live
//! under two names it was copied, and nobody can tell the copy from the original: both are denied.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::{Claims, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;

use crate::trust::standings::{Slot, Standings};
use crate::trust::state::Standing;

/// Whom each instance was last seen as, and until when that host is trusted by it.
///
/// In memory: a restart forgets, and hosts that live show themselves again within a lease.
#[derive(Debug, Default)]
pub struct Instances(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    live: BTreeMap<Mark, Holder>,
    /// How many were left when what had ended was last thrown away.
    swept: usize,
}

/// The first half of an instance's digest: nobody finds another instance with the same.
type Mark = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Holder {
    host: Slot,
    /// Unix time in seconds, rounded up.
    until: u32,
}

impl Holder {
    fn holds(self, now: UnixMillis) -> bool {
        now.0 < u64::from(self.until).saturating_mul(1000)
    }
}

/// What ended is thrown away when there may be twice as much as is live, and not for less than this.
const SWEEP_MIN: usize = 1024;

fn mark(instance: &Sha256Digest) -> Mark {
    let mut mark = Mark::default();
    mark.iter_mut().zip(instance.0).for_each(|(to, from)| *to = from);
    mark
}

/// What of a host there is once in the world.
///
/// A chip's id and a platform's PPID are not among it: many guests may run on one.
pub fn of(claims: &Claims) -> Vec<Sha256Digest> {
    let named = |kind: &str, value: &[u8]| Sha256Digest::of(&[kind.as_bytes(), &[0], value]);
    let mut instances = vec![named("tpm", &claims.tpm.ek.0)];
    match &claims.snp {
        Presented::NotPresented => {}
        // ABI, 7.3: drawn at the launch of the guest, and the same until its end.
        Presented::Verified(snp) => instances.push(named("snp", &snp.report_id.0)),
    }
    if let Presented::Verified(tdx) = &claims.tdx
        && let Some(extended) = &tdx.extended
    {
        instances.push(named("tdx", &extended.td_id.0));
    }
    if let Presented::Verified(paravisor) = &claims.paravisor
        && let Presented::Verified(vm_id) = &paravisor.vm_id
    {
        instances.push(named("vm", vm_id.as_bytes()));
    }
    instances
}

impl Instances {
    /// Claims instances for `host` until its lease ends; the other host that holds one of them and is trusted, if one
    /// does, and then nothing is claimed.
    pub fn claim(
        &self,
        instances: &[Sha256Digest],
        host: &HostId,
        until: UnixMillis,
        now: UnixMillis,
        standings: &Standings,
    ) -> Result<(), HostId> {
        // A host without an entry in the log is not trusted, whatever it claims.
        let Some(slot) = standings.slot(host) else { return Ok(()) };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |instance| {
            let holder: &Holder = seen.live.get(&mark(instance))?;
            let other = standings.row(holder.host).filter(|_| holder.host != slot && holder.holds(now))?;
            (other.standing == Standing::Trusted).then(|| other.id.clone())
        };
        if let Some(other) = instances.iter().find_map(held) {
            return Err(other);
        }
        if seen.swept.saturating_mul(2).max(SWEEP_MIN) <= seen.live.len() {
            seen.live.retain(|_, holder| holder.holds(now));
            seen.swept = seen.live.len();
        }
        let until = u32::try_from(until.0.div_ceil(1000)).unwrap_or(u32::MAX);
        seen.live.extend(instances.iter().map(|instance| (mark(instance), Holder { host: slot, until })));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::protocol::HostId;

    use super::{Instances, SWEEP_MIN};
    use crate::trust::standings::Standings;
    use crate::trust::state::{HostTrust, Standing};

    fn id(name: &str) -> HostId {
        HostId::parse(name).unwrap()
    }

    fn at(second: u64) -> UnixMillis {
        UnixMillis(second * 1000)
    }

    fn stand(standings: &mut Standings, host: &HostId, standing: Standing) {
        standings.set(host, &HostTrust { standing, ..HostTrust::new() });
    }

    #[test]
    fn an_instance_is_one_host_for_as_long_as_its_lease() {
        let (a, b) = (id("a"), id("b"));
        let mut standings = Standings::default();
        stand(&mut standings, &a, Standing::Trusted);
        stand(&mut standings, &b, Standing::Trusted);
        let [x, y] = [Sha256Digest([1; 32]), Sha256Digest([2; 32])];
        let instances = Instances::default();
        let claim = |standings: &Standings, what: &[Sha256Digest], host: &HostId, until, now| {
            instances.claim(what, host, at(until), at(now), standings)
        };
        assert_eq!(claim(&standings, &[x], &a, 10, 0), Ok(()));
        assert_eq!(claim(&standings, &[x], &a, 20, 9), Ok(()), "a renewal");
        assert_eq!(claim(&standings, &[y, x], &b, 30, 19), Err(a.clone()));
        assert_eq!(claim(&standings, &[y], &a, 30, 19), Ok(()), "what was refused is not held");
        let last = UnixMillis(19_999);
        assert_eq!(instances.claim(&[x], &b, at(30), last, &standings), Err(a.clone()));
        assert_eq!(claim(&standings, &[x], &b, 30, 20), Ok(()), "the lease ended");
        stand(&mut standings, &b, Standing::Revoked);
        assert_eq!(claim(&standings, &[x], &a, 40, 21), Ok(()), "its machine may come back under another name");
    }

    #[test]
    fn instances_that_are_gone_are_forgotten() {
        let a = id("a");
        let mut standings = Standings::default();
        stand(&mut standings, &a, Standing::Trusted);
        let instances = Instances::default();
        for second in 0..10_000_u64 {
            let boot = Sha256Digest::of(&[&second.to_be_bytes()]);
            instances.claim(&[boot], &a, at(second + 45), at(second), &standings).unwrap();
            assert!(instances.0.lock().unwrap().live.len() <= SWEEP_MIN);
        }
    }
}
