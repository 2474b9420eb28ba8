//! What is done with the broker: it starts and dies, hosts attest, operators revoke and readmit, pulses are signed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use countersign::lineage::{LineageError, Recorded};
use countersign::problem::Refusal;
use countersign::trust::state::{Standing, TrustState};
use countersign_agent::trust::{Cause, Event as AgentEvent, Grant, Lease};
use countersign_attestation::lineage::entry::{Entry, Event};
use countersign_attestation::lineage::tree::leaf_hash;

use super::{Answer, Credential, Intent, PERIOD_MS, World, signed, since_base};
use crate::broker::{Case, Left, Process};

impl World {
    /// Whether the broker can record and sign.
    pub(crate) fn is_well(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.signer.is_some() && !process.lineage.is_poisoned())
    }

    /// Starts the broker on what its disk holds. A disk that works holds what it needs, whatever happened before.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none());
        let started = self.now();
        match Process::start(&self.platter, &self.time, &self.folder, self.settings) {
            Ok((process, first)) => {
                self.tally.starts += 1;
                let error = since_base(process.clock.now()) - signed(started);
                self.note(format!("broker started, {} entries", process.lineage.head().size));
                self.process = Some(process);
                self.account();
                match first {
                    Some(first) => self.publish(&first, started, error),
                    None => self.note("no pulse by this clock".to_owned()),
                }
                self.next_tick = self.now() + PERIOD_MS;
            }
            Err(error) => {
                let error = format!("{error:#}").replace(&self.folder.display().to_string(), "");
                self.note(format!("broker did not start: {error}"));
                self.platter.kill();
                if self.platter.is_off() {
                    self.platter.power_fails(&mut self.dice);
                }
            }
        }
    }

    /// What a restart finds in the log that nobody was told of is committed now at the latest; and every credential
    /// that ever left is there.
    fn account(&mut self) {
        let process = self.process.as_ref().unwrap();
        let read = |index| process.lineage.read(index).unwrap();
        for index in self.known..process.lineage.head().size {
            let entry = Entry::decode(&read(index).unwrap()).unwrap();
            let host = self.hosts.iter().position(|host| entry.host() == Some(&host.id));
            if let (Event::Revoked, Some(host)) = (entry.event(), host) {
                Self::dead(&mut self.credentials, host, index, self.time.now());
            }
        }
        let place = self.place();
        for credential in &self.credentials {
            let found = read(credential.index).map(|bytes| leaf_hash(&bytes));
            assert_eq!(found, Some(credential.leaf), "a credential's entry is lost: {place}");
        }
        self.known = process.lineage.head().size;
        let mut folded = TrustState::default();
        for index in 0..self.known {
            folded.apply(index, &Entry::decode(&read(index).unwrap()).unwrap()).unwrap();
        }
        let ids = process.trust.standings(|all| all.rows().map(|row| row.id.clone()).collect::<Vec<_>>()).unwrap();
        let held: BTreeMap<_, _> =
            ids.into_iter().map(|id| (id.clone(), process.trust.host(&id).unwrap().unwrap())).collect();
        assert_eq!(held, *folded.take_changed(), "trust does not follow from the log: {place}");
    }

    /// Ends the process. With the power goes what was not synced.
    pub(crate) fn kill(&mut self, power: bool) {
        if power {
            self.platter.power_fails(&mut self.dice);
        } else {
            self.platter.kill();
        }
        if let Some(process) = self.process.take() {
            process.lineage.stop();
        }
        self.broker_asleep = false;
        self.slow.clear();
        for (intent, answer) in std::mem::take(&mut self.waiting) {
            self.settle(intent, block_on(answer));
        }
    }

    /// The power failed while the process was at work.
    fn notice_power(&mut self) {
        if self.process.is_some() && self.platter.is_off() {
            self.note("power failed at a sync".to_owned());
            self.kill(true);
        }
    }

    fn append(&mut self, intent: Intent, entry: Entry) {
        let Some(process) = &self.process else { return };
        let lineage = process.lineage.clone();
        if !self.platter.is_stalled() {
            let result = lineage.append_blocking(entry);
            self.settle(intent, result);
            return self.notice_power();
        }
        let mut answer: Answer = Box::pin(async move { lineage.append(entry).await });
        // Once asked, it waits for the disk.
        if let std::task::Poll::Ready(result) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return self.settle(intent, result);
        }
        self.waiting.push((intent, answer));
        // What comes after this is in the next batch, with all that comes until the disk goes on.
        self.platter.wait_until_waiting();
    }

    /// The disk's stall ends. All that waited is on the disk, or is not, before anyone hears of it: who hears first is
    /// not a matter of threads here.
    pub(crate) fn resume(&mut self) {
        self.platter.resume();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let answered: Vec<_> = waiting.map(|(intent, answer)| (intent, block_on(answer))).collect();
        for (intent, result) in answered {
            self.settle(intent, result);
        }
        self.notice_power();
    }

    fn settle(&mut self, intent: Intent, result: Result<Recorded, LineageError>) {
        let recorded = match result {
            Ok(recorded) => recorded,
            Err(error) => {
                self.tally.unknown += 1;
                return self.note(format!("not recorded: {error}"));
            }
        };
        let place = self.place();
        let durable = self.platter.durable_entry(recorded.index()).map(|bytes| leaf_hash(&bytes));
        assert_eq!(durable, Some(recorded.leaf_hash()), "an entry that is not durable was answered: {place}");
        self.known = self.known.max(recorded.index() + 1);
        self.note(format!("recorded {}: {}", recorded.index(), recorded.entry().event().name()));
        if recorded.entry().event() == Event::Revoked {
            self.revoked(&recorded, self.now());
        }
        if let Intent::Attest(case) = intent {
            self.grant(&case, &recorded);
        }
    }

    fn revoked(&mut self, recorded: &Recorded, committed: u64) {
        let host = self.hosts.iter().position(|host| recorded.entry().host() == Some(&host.id)).unwrap();
        self.tally.revoked += 1;
        Self::dead(&mut self.credentials, host, recorded.index(), committed);
        self.wake();
    }

    /// A revocation of the host at `index` of the log ends every credential before it for good.
    fn dead(credentials: &mut [Credential], host: usize, index: u64, committed: u64) {
        for credential in credentials.iter_mut().filter(|credential| credential.host == host) {
            if credential.index < index {
                credential.revoked_at.get_or_insert(committed);
            }
        }
    }

    /// The pulse's thread gets to it soon.
    pub(crate) fn wake(&mut self) {
        self.next_tick = self.next_tick.min(self.now() + self.dice.below(30));
    }

    pub(super) fn tick(&mut self) {
        self.next_tick = self.now() + PERIOD_MS;
        let Some(process) = &mut self.process else { return };
        let Some(signer) = process.signer.as_mut().filter(|_| !self.broker_asleep) else { return };
        if self.platter.is_stalled()
            && !process.trust.due(process.clock.now(), self.settings.lease_ms).unwrap().is_empty()
        {
            // A lapse waits for the disk, and the pulse's thread for the lapse.
            self.next_tick = self.now() + 50;
            return;
        }
        let started = self.time.now();
        let error = since_base(process.clock.now()) - signed(started);
        let closed = process.lineage.is_poisoned();
        let pulse = signer.sign();
        let meanwhile = self.meanwhile.lock().unwrap().take();
        match &pulse {
            Err(problem) if problem.code() == Refusal::Clock.code() => self.platter.nothing_meanwhile(),
            Err(_) => process.signer = None,
            Ok(_) => {}
        }
        if let Some((result, committed)) = meanwhile {
            match result {
                Ok(recorded) => {
                    self.known = self.known.max(recorded.index() + 1);
                    self.revoked(&recorded, committed);
                    self.note(format!("recorded {} at {committed} ms, while the store committed", recorded.index()));
                }
                Err(error) => self.note(format!("not recorded while the store committed: {error}")),
            }
        }
        match pulse {
            Ok(_) if closed => panic!("a pulse over a log that takes no more revocations: {}", self.place()),
            Ok(published) => self.publish(&published, started, error),
            Err(problem) => {
                self.tally.unsigned += u64::from(problem.code() == Refusal::Clock.code());
                self.note(format!("no pulse: {}", problem.code()));
            }
        }
        self.notice_power();
    }

    /// While the store commits next, time passes, and an operator's revocation of the host is recorded on the way.
    pub(crate) fn revoke_while_committing(&mut self, host: usize, before: u64, after: u64) {
        let Some(process) = &self.process else { return };
        let (lineage, entry) = (process.lineage.clone(), process.revocation(&self.hosts[host].id));
        let (time, slot) = (self.time.clone(), Arc::clone(&self.meanwhile));
        self.platter.meanwhile(Box::new(move || {
            time.pass(before);
            let result = lineage.append_blocking(entry);
            *slot.lock().unwrap() = Some((result, time.now()));
            time.pass(after);
        }));
        self.next_tick = self.now();
    }

    /// A host's agent attests.
    pub(crate) fn attest(&mut self, host: usize) {
        let now = self.now();
        let new = self.dice.one_in(4);
        let there = &mut self.hosts[host];
        let Some(process) = self.process.as_ref().filter(|_| !there.asleep && !self.broker_asleep) else { return };
        // It looks at its clocks all the time.
        there.agent.on(AgentEvent::Tick, there.now(now));
        let live = there.agent.is_live() && !new;
        let key = there.key.filter(|_| live).unwrap_or_else(|| {
            self.next_key += 1;
            self.next_key
        });
        let Some(case) = process.judge(&there.id, key, !there.drifted) else {
            let cause = Cause { code: "trust.revoked".into(), reason: String::new(), remedy: String::new() };
            there.agent.on(AgentEvent::Denied(cause), there.now(now));
            return;
        };
        if self.dice.one_in(6) {
            // The verdict takes a while, and much happens before it is recorded.
            return self.slow.push(case);
        }
        self.finish(case);
    }

    /// While an attestation is judged, an operator revokes the host, and perhaps readmits it.
    pub(crate) fn overtake(&mut self, host: usize) {
        let Some(process) = self.process.as_ref().filter(|_| !self.broker_asleep) else { return };
        self.next_key += 1;
        let Some(case) = process.judge(&self.hosts[host].id, self.next_key, true) else { return };
        self.revoke(host);
        if self.dice.one_in(2) {
            self.readmit(host);
        }
        self.finish(case);
    }

    /// The verdict of an attestation is recorded.
    pub(crate) fn finish(&mut self, case: Case) {
        let Some(process) = &self.process else { return };
        let entry = process.entry_of(&case);
        if case.passes {
            let host = self.hosts.iter_mut().find(|host| host.id == case.host).unwrap();
            host.latest_end = host.latest_end.max(since_base(case.at.plus(self.settings.lease_ms)));
            host.granted = None;
        }
        self.append(Intent::Attest(Box::new(case)), entry);
    }

    /// What a recorded decision amounts to.
    fn grant(&mut self, case: &Case, recorded: &Recorded) {
        let now = self.now();
        let number = self.hosts.iter().position(|host| host.id == case.host).unwrap();
        if !case.passes {
            let host = &mut self.hosts[number];
            let cause = Cause { code: "tpm.pcr.unlisted".into(), reason: String::new(), remedy: String::new() };
            host.agent.on(AgentEvent::Denied(cause), host.now(now));
            return;
        }
        let Some((until, left)) = self.process.as_ref().and_then(|process| process.issue(case, recorded)) else {
            return self.note(format!("{}: superseded", case.host));
        };
        let grant = if left.is_some() { Grant::Credential } else { Grant::Prolonged };
        if let Some(left) = left {
            self.left(number, recorded, left);
        }
        let host = &mut self.hosts[number];
        host.granted = Some((now, since_base(until)));
        let lost = self.dice.one_in(10) || host.asleep;
        if !lost {
            let (lease, at) = (Lease::new(until, host.now(now)), host.now(now));
            host.key = Some(case.key);
            host.agent.on(AgentEvent::Granted(grant, lease), at);
            host.lease_end = host.lease_end.max(since_base(until) - host.error);
        }
    }

    /// A credential leaves the broker.
    fn left(&mut self, host: usize, recorded: &Recorded, left: Left) {
        let place = self.place();
        let (index, leaf) = (recorded.index(), recorded.leaf_hash());
        let said = (left.credential.log_index(), left.credential.decision());
        assert_eq!(said, (index, leaf), "a credential that names another entry: {place}");
        for before in self.credentials.iter().filter(|before| before.host == host) {
            let generations = (before.left.credential.generation(), left.credential.generation());
            if before.revoked_at.is_some() {
                assert!(generations.0 < generations.1, "back without a new generation, {generations:?}: {place}");
            }
            assert!(generations.0 <= generations.1, "an older generation, {generations:?}: {place}");
        }
        self.tally.issued += 1;
        self.credentials.push(Credential { host, left, index, leaf, revoked_at: None });
        self.wake();
    }

    pub(crate) fn revoke(&mut self, host: usize) {
        let Some(process) = self.process.as_ref().filter(|_| !self.broker_asleep) else { return };
        let entry = process.revocation(&self.hosts[host].id);
        self.append(Intent::Revoke, entry);
    }

    pub(crate) fn readmit(&mut self, host: usize) {
        let Some(process) = self.process.as_ref().filter(|_| !self.broker_asleep) else { return };
        let id = &self.hosts[host].id;
        if process.host(id).standing == Standing::Revoked {
            let entry = process.readmission(id);
            self.append(Intent::Readmit, entry);
        }
    }

    /// Every host attests, and all of that arrives, with clocks that are right.
    pub(crate) fn settled(&mut self) {
        self.time.set_error(0);
        self.gates.iter_mut().for_each(|gate| gate.error = 0);
        self.hosts.iter_mut().for_each(|host| host.error = 0);
        if !self.is_well() {
            self.kill(false);
            self.start();
        }
        for host in 0..self.hosts.len() {
            self.attest(host);
        }
        while let Some(case) = self.slow.pop() {
            self.finish(case);
        }
        // Longer than the slowest message takes, and shorter than a lease.
        for _ in 0..3 {
            self.pass(1_000);
        }
    }
}

/// Waits for an answer of the log's thread.
fn block_on(answer: Answer) -> Result<Recorded, LineageError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(answer)
}
