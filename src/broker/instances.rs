//! The clone alarm: evidence names the very TPM and the very guest it is of, and each of these is one host. Seen live
//! under two names it was copied, and nobody can tell the copy from the original: both are denied.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_attestation::UnixMillis;
use countersign_attestation::claims::{Claims, Presented};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;

/// Whom each instance was last seen as, and until when that host is trusted by it.
///
/// In memory: a restart forgets, and hosts that live show themselves again within a lease.
#[derive(Debug, Default)]
pub struct Instances(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    live: BTreeMap<Sha256Digest, (HostId, UnixMillis)>,
    /// When what ended is thrown away next; now, where nothing ever was.
    sweep_at: Option<UnixMillis>,
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
    /// Claims instances for `host` until its lease ends; the other host that holds one of them, if one does, and then
    /// nothing is claimed.
    pub fn claim(
        &self,
        instances: &[Sha256Digest],
        host: &HostId,
        until: UnixMillis,
        now: UnixMillis,
    ) -> Result<(), HostId> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = |instance| {
            let (other, until): &(HostId, UnixMillis) = seen.live.get(instance)?;
            (other != host && now < *until).then(|| other.clone())
        };
        if let Some(other) = instances.iter().find_map(held) {
            return Err(other);
        }
        if seen.sweep_at.is_none_or(|at| at <= now) {
            seen.live.retain(|_, (_, until)| now < *until);
            seen.sweep_at = Some(until);
        }
        for instance in instances {
            seen.live.insert(*instance, (host.clone(), until));
        }
        Ok(())
    }

    /// Forgets a host that is no longer trusted: its machine may come back under another name.
    pub fn forget(&self, host: &HostId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).live.retain(|_, (holder, _)| holder != host);
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::UnixMillis;
    use countersign_attestation::digest::Sha256Digest;
    use countersign_attestation::protocol::HostId;

    use super::Instances;

    #[test]
    fn an_instance_is_one_host_for_as_long_as_its_lease() {
        let (a, b) = (HostId::parse("a").unwrap(), HostId::parse("b").unwrap());
        let [x, y] = [Sha256Digest([1; 32]), Sha256Digest([2; 32])];
        let instances = Instances::default();
        let at = UnixMillis;
        assert_eq!(instances.claim(&[x], &a, at(10), at(0)), Ok(()));
        assert_eq!(instances.claim(&[x], &a, at(20), at(9)), Ok(()), "a renewal");
        assert_eq!(instances.claim(&[y, x], &b, at(30), at(19)), Err(a.clone()));
        assert_eq!(instances.claim(&[y], &a, at(30), at(19)), Ok(()), "what was refused is not held");
        assert_eq!(instances.claim(&[x], &b, at(30), at(20)), Ok(()), "the lease ended");
        instances.forget(&b);
        assert_eq!(instances.claim(&[x], &a, at(40), at(21)), Ok(()));
    }
}
