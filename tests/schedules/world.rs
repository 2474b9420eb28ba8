//! One broker, its hosts and its gates in virtual time, and what must hold after everything that happens.

mod promise;
mod stories;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign::lineage::{LineageError, Recorded};
use countersign::trust::published::Published;
use countersign_agent::clock::Now;
use countersign_agent::trust::{Event as AgentEvent, Trust as AgentTrust};
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::HostId;
use countersign_attestation::pulse::{CLOCK_ERROR_MAX_MS, Pulse};

use crate::broker::{BASE, Case, Left, Process, Settings, Time, wall};
use crate::dice::Dice;
use crate::disk::Platter;
use crate::gate::{Gate, Message, Part};

/// Clock error of each machine where it keeps time: the sum of both is what a gate tolerates and what W adds to Y.
pub(crate) const ERROR_MS: i64 = CLOCK_ERROR_MAX_MS as i64 / 2;
const PERIOD_MS: u64 = 1_000;

/// A host with its agent.
pub(crate) struct Host {
    pub(crate) id: HostId,
    /// Whether it measures what no reference lists.
    pub(crate) drifted: bool,
    pub(crate) asleep: bool,
    pub(crate) error: i64,
    agent: AgentTrust,
    key: Option<usize>,
    /// Ends of leases on the broker's clock, in milliseconds since the base: the latest that any proof may have led
    /// to; and that of the newest grant with the true time of it, where what became of later ones is known.
    latest_end: i64,
    granted: Option<(u64, i64)>,
    /// True time at which the agent's lease must have ended.
    lease_end: i64,
}

impl Host {
    /// Whether its agent takes the host for trusted.
    pub(crate) fn is_live(&self, world: &World) -> bool {
        let mut agent = self.agent;
        agent.on(AgentEvent::Tick, self.now(world.now()));
        agent.is_live()
    }

    fn now(&self, now: u64) -> Now {
        Now { wall: UnixMillis(wall(now, self.error)), boot_ms: now + 9_000 }
    }
}

/// A credential that left, for ever in the hands of whoever wants to use it.
pub(crate) struct Credential {
    pub(crate) host: usize,
    pub(crate) left: Left,
    pub(crate) index: u64,
    pub(crate) leaf: Sha256Digest,
    /// True time at which a revocation that comes after it in the log was committed.
    pub(crate) revoked_at: Option<u64>,
}

/// What an entry on its way to the disk is for.
pub(crate) enum Intent {
    Attest(Box<Case>),
    Revoke,
    Readmit,
}

/// An operator's revocation, and the true time of its answer.
type Meanwhile = (Result<Recorded, LineageError>, u64);

type Answer = Pin<Box<dyn Future<Output = Result<Recorded, LineageError>>>>;

/// What a schedule amounted to; sums over many show that none of it is idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    pub(crate) issued: u64,
    pub(crate) revoked: u64,
    pub(crate) accepted: u64,
    /// Acceptances of a credential whose revocation had committed, and the latest.
    pub(crate) late: u64,
    pub(crate) latest_ms: u64,
    pub(crate) starts: u64,
    pub(crate) unknown: u64,
    pub(crate) pulses: u64,
    /// Pulses that a clock nobody kept left out, and acceptances by a clock whose kernel said how far off it was.
    pub(crate) unsigned: u64,
    pub(crate) counted: u64,
}

/// When a schedule is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    AsItHappens,
    Never,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    told: Told,
    pub(crate) step: u64,
    pub(crate) dice: Dice,
    pub(crate) time: Time,
    pub(crate) platter: Platter,
    pub(crate) process: Option<Process>,
    pub(crate) broker_asleep: bool,
    pub(crate) settings: Settings,
    pub(crate) hosts: Vec<Host>,
    pub(crate) gates: Vec<Gate>,
    pub(crate) credentials: Vec<Credential>,
    pub(crate) slow: Vec<Case>,
    pub(crate) sent: Vec<Message>,
    pub(crate) trace: Vec<String>,
    pub(crate) tally: Tally,
    /// An operator's revocation while the store commits: what became of it.
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    folder: PathBuf,
    waiting: Vec<(Intent, Answer)>,
    arrivals: BTreeMap<(u64, u64), (usize, usize, Part)>,
    sent_parts: u64,
    next_tick: u64,
    next_key: usize,
    /// Entries of the log that are accounted for.
    known: u64,
}

impl World {
    pub(crate) fn new(seed: u64, folder: PathBuf, told: Told) -> Self {
        let mut dice = Dice::of(seed);
        let validity_ms = dice.pick(&[2_000, 5_000]);
        let settings = Settings { validity_ms, lease_ms: validity_ms + dice.pick(&[2_000, 8_000]) };
        let time = Time::default();
        time.set_error(dice.between(-ERROR_MS, ERROR_MS));
        let gates = (0..3).map(|_| Gate::new(dice.between(-ERROR_MS, ERROR_MS))).collect();
        let host = |number| Host {
            id: HostId::parse(&format!("gpu-{number}")).unwrap(),
            drifted: false,
            asleep: false,
            error: dice.between(-ERROR_MS, ERROR_MS),
            agent: AgentTrust::Never,
            key: None,
            latest_end: 0,
            granted: None,
            lease_end: 0,
        };
        let hosts = (0..3).map(host).collect();
        let mut world = Self {
            seed,
            told,
            step: 0,
            dice,
            time,
            platter: Platter::default(),
            process: None,
            broker_asleep: false,
            settings,
            hosts,
            gates,
            credentials: Vec::new(),
            slow: Vec::new(),
            sent: Vec::new(),
            trace: Vec::new(),
            tally: Tally::default(),
            meanwhile: Arc::default(),
            folder,
            waiting: Vec::new(),
            arrivals: BTreeMap::new(),
            sent_parts: 0,
            next_tick: 0,
            next_key: 0,
            known: 0,
        };
        world.note(format!("{settings:?}"));
        world.start();
        for host in 0..world.hosts.len() {
            let process = world.process.as_ref().unwrap();
            process.enroll(&world.hosts[host].id).unwrap();
            world.known = process.lineage.head().size;
            world.attest(host);
        }
        world
    }

    pub(crate) fn now(&self) -> u64 {
        self.time.now()
    }

    pub(crate) fn note(&mut self, what: String) {
        let line = format!("step {:>3} at {:>9} ms: {what}", self.step, self.now());
        if self.told == Told::AsItHappens {
            println!("{line}");
        }
        self.trace.push(line);
    }

    /// Where the world is, for whoever reads a failure.
    pub(crate) fn place(&self) -> String {
        format!(
            "seed {}, step {}, {} ms (COUNTERSIGN_SEED={} runs it again)",
            self.seed,
            self.step,
            self.now(),
            self.seed
        )
    }

    /// Lets time pass: pulses are signed and messages arrive in their order.
    pub(crate) fn pass(&mut self, milliseconds: u64) {
        let until = self.now() + milliseconds;
        // Nobody signs ten thousand pulses here: over hours the thread is late each time.
        let late = milliseconds / 12;
        loop {
            let arrival = self.arrivals.first_key_value().map(|((due, _), _)| *due);
            let next = arrival.unwrap_or(u64::MAX).min(self.next_tick);
            if until < next {
                break;
            }
            self.time.pass(next.saturating_sub(self.now()));
            if arrival.is_some_and(|due| due <= self.next_tick) {
                let (_, (gate, message, part)) = self.arrivals.pop_first().unwrap();
                self.arrive(gate, message, part);
            } else {
                self.tick();
                if PERIOD_MS < late {
                    self.next_tick += late;
                    self.check();
                }
            }
        }
        self.time.pass(until.saturating_sub(self.now()));
        self.next_tick = self.next_tick.min(self.now() + PERIOD_MS);
        self.check();
    }

    fn publish(&mut self, published: &Published, started: u64, broker_error: i64) {
        assert!(self.time.said().bounded().is_ok(), "signed by a clock that nobody keeps: {}", self.place());
        let payload = published.token.split('.').nth(1).unwrap();
        let pulse: Pulse = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
        self.tally.pulses += 1;
        let (seq, epoch, head) = (pulse.seq, pulse.epoch, &pulse.checkpoint);
        self.note(format!("pulse {seq} of epoch {epoch}, {} entries, {}", head.size, head.root));
        let lists: Vec<String> = published.lists.iter().map(|list| list.token.clone().unwrap()).collect();
        let message = Message { pulse: published.token.clone(), lists, epoch, seq, started, broker_error };
        self.sent.push(message);
        for gate in 0..self.gates.len() {
            if !self.gates[gate].cut_off {
                self.send_newest(gate);
            }
        }
    }

    /// The newest pulse goes to a gate, with the lists that it was not sent yet.
    pub(crate) fn send_newest(&mut self, gate: usize) {
        let Some(newest) = self.sent.len().checked_sub(1) else { return };
        let lists = &self.sent[newest].lists;
        let part = if self.gates[gate].lists_sent == *lists { Part::Pulse } else { Part::Whole };
        self.gates[gate].lists_sent.clone_from(lists);
        let delay = if self.dice.one_in(12) { 300 + self.dice.below(5_000) } else { 1 + self.dice.below(40) };
        self.send(gate, newest, part, delay);
        if self.dice.one_in(12) {
            let again = delay + self.dice.below(3_000);
            self.send(gate, newest, part, again);
        }
    }

    pub(crate) fn send(&mut self, gate: usize, message: usize, part: Part, delay: u64) {
        self.sent_parts += 1;
        self.arrivals.insert((self.now() + delay, self.sent_parts), (gate, message, part));
    }

    fn arrive(&mut self, gate: usize, message: usize, part: Part) {
        if self.gates[gate].asleep {
            return self.gates[gate].buffered.push((message, part));
        }
        let waits = self.gates[gate].take(&self.sent[message], part, self.time.now());
        if waits && !self.gates[gate].cut_off && self.process.is_some() {
            // It asks for the lists, and is given the newest.
            let newest = self.sent.len() - 1;
            let delay = 5 + self.dice.below(30);
            self.send(gate, newest, Part::Lists, delay);
        }
        self.check_gate(gate);
    }

    pub(crate) fn wake_gate(&mut self, gate: usize) {
        self.gates[gate].asleep = false;
        for (message, part) in std::mem::take(&mut self.gates[gate].buffered) {
            self.arrive(gate, message, part);
        }
    }
}

fn signed(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds).unwrap()
}

fn since_base(moment: UnixMillis) -> i64 {
    signed(moment.0) - signed(BASE.0)
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.issued += other.issued;
        self.revoked += other.revoked;
        self.accepted += other.accepted;
        self.late += other.late;
        self.latest_ms = self.latest_ms.max(other.latest_ms);
        self.starts += other.starts;
        self.unknown += other.unknown;
        self.pulses += other.pulses;
        self.unsigned += other.unsigned;
        self.counted += other.counted;
    }
}
