//! The rule of the pulse, checked in every order in which things can happen: does any gate accept a credential later
//! than W = Y + clock error after its revocation committed? The rule holds, and each of its parts is needed: without it
//! the checker finds the order of events that breaks the bound.
//!
//! Time runs in ticks. One host, one broker, one gate, a store whose commits become durable when they land, a network
//! that delays, replays and partitions, a broker that crashes, and two clocks that are off by up to one tick each.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a model of small numbers")]

use stateright::{Checker as _, Model, Property};

/// Ticks that are looked at.
const TICKS: i8 = 6;
/// Y.
const Y: i8 = 2;
/// Staleness limit: an older basis signs nothing.
const X: i8 = 1;
/// Clock error of broker and of gate, each.
const ERROR: i8 = 1;
/// The bound: Y and the clock error of both sides. A pulse is not believed at its `exp` itself, hence one tick less.
const W: i8 = Y + 2 * ERROR - 1;
/// Y of a gate in the critical class, which believes what was signed for longer no longer than that, and its bound.
const Y_CRITICAL: i8 = 1;
const W_CRITICAL: i8 = Y_CRITICAL + 2 * ERROR - 1;
/// The credential of before the revocation, and the one of after it.
const OLD: usize = 0;
const NEW: usize = 1;

/// Where the basis of a pulse comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Basis {
    /// The start of a commit that is durable. The rule.
    CommitStart,
    /// The end of that commit.
    CommitEnd,
    /// Now: a read, a progress notification or a lease that is served without the quorum.
    Now,
}

/// When a pulse expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Expiry {
    /// Y after the basis. The rule.
    FromBasis,
    /// Y after it was signed.
    FromNow,
}

/// What a list says VALID by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Index {
    /// An index for each generation. The rule.
    OfGeneration,
    /// One index for a host, for ever.
    OfHost,
}

/// What state a pulse is signed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Applied {
    /// Everything up to the commit of the basis. The rule.
    UpToBasis,
    /// Whatever has been applied so far.
    SoFar,
}

/// What a restarted broker believes of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Restart {
    /// Nothing but what is durable. The rule.
    Durable,
    /// Its last basis, as if time had stood still.
    FromBefore,
}

/// How long a gate believes a pulse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    /// Until its end.
    Default,
    /// Until its end, and no longer than Y of the class after its basis. The rule of the critical class.
    Critical,
    /// Y of the class after it arrived.
    CriticalFromReceipt,
}

/// A variant of the rule.
#[derive(Clone, Copy, Debug)]
struct Rule {
    basis: Basis,
    expiry: Expiry,
    index: Index,
    applied: Applied,
    restart: Restart,
    class: Class,
}

const RULE: Rule = Rule {
    basis: Basis::CommitStart,
    expiry: Expiry::FromBasis,
    index: Index::OfGeneration,
    applied: Applied::UpToBasis,
    restart: Restart::Durable,
    class: Class::Default,
};

/// What is durable about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Standing {
    Granted,
    Revoked,
    /// Granted anew after the revocation, with another credential.
    Readmitted,
}

/// A signed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pulse {
    /// On the broker's clock.
    exp: i8,
    /// On the broker's clock.
    basis: i8,
    valid: [bool; 2],
}

/// A commit under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pending {
    started: i8,
    /// What was durable when it landed; none while it has not.
    landed: Option<Standing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i8,
    durable: Standing,
    /// When the revocation committed.
    revoked_at: Option<i8>,
    partitioned: bool,
    /// What the broker has applied.
    applied: Standing,
    pending: Option<Pending>,
    /// On true time: the broker's error is added where it writes it down.
    basis: Option<i8>,
    /// The newest pulses, which the network keeps and delivers when it likes.
    pulses: [Option<Pulse>; 2],
    broker_error: i8,
    gate_error: i8,
    /// Latest acceptance of the old credential after the revocation.
    late: i8,
    /// Whether the new credential was ever accepted.
    new_accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Revoke,
    Readmit,
    Partition,
    Heal,
    Crash,
    /// The broker starts a commit, which lands and is acknowledged later, or never.
    Start,
    Land,
    Acknowledge,
    /// A stale replica is told what happened meanwhile.
    Apply,
    /// Something that looks fresh and asked no quorum.
    Pretend,
    Sign,
    /// The gate judges the old credential by a pulse that the network hands it.
    Accept(usize, usize),
}

fn standing_in(list: Standing, credential: usize, index: Index) -> bool {
    match (list, credential, index) {
        (Standing::Granted, OLD, _) | (Standing::Readmitted, NEW, _) => true,
        // Whoever has the host's one index is valid again.
        (Standing::Readmitted, OLD, Index::OfHost) => true,
        _ => false,
    }
}

impl Model for Rule {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let errors = -ERROR..=ERROR;
        let pairs = errors.clone().flat_map(|broker| errors.clone().map(move |gate| (broker, gate)));
        let world = |(broker_error, gate_error)| World {
            now: 0,
            durable: Standing::Granted,
            revoked_at: None,
            partitioned: false,
            applied: Standing::Granted,
            pending: None,
            basis: None,
            pulses: [None; 2],
            broker_error,
            gate_error,
            late: -1,
            new_accepted: false,
        };
        pairs.map(world).collect()
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.now < TICKS {
            actions.push(Action::Tick);
        }
        match world.durable {
            Standing::Granted => actions.push(Action::Revoke),
            Standing::Revoked => actions.push(Action::Readmit),
            Standing::Readmitted => {}
        }
        actions.push(if world.partitioned { Action::Heal } else { Action::Partition });
        actions.push(Action::Crash);
        match (self.basis, world.pending) {
            (Basis::Now, _) => actions.push(Action::Pretend),
            (_, None) => actions.push(Action::Start),
            (_, Some(Pending { landed: None, .. })) if !world.partitioned => actions.push(Action::Land),
            (_, Some(Pending { landed: Some(_), .. })) if !world.partitioned => actions.push(Action::Acknowledge),
            (_, Some(_)) => {}
        }
        if !world.partitioned && world.applied != world.durable {
            actions.push(Action::Apply);
        }
        if world.basis.is_some_and(|basis| world.now - basis <= X) {
            actions.push(Action::Sign);
        }
        for (index, pulse) in world.pulses.iter().enumerate() {
            let Some(pulse) = pulse else { continue };
            let end = match self.class {
                Class::Default => pulse.exp,
                Class::Critical => pulse.exp.min(pulse.basis + Y_CRITICAL),
                // The network delivers when it likes: what arrives now ends then.
                Class::CriticalFromReceipt => pulse.exp.min(world.now + world.gate_error + Y_CRITICAL),
            };
            if world.now + world.gate_error < end {
                let valid = [OLD, NEW].into_iter().filter(|credential| pulse.valid[*credential]);
                actions.extend(valid.map(|credential| Action::Accept(index, credential)));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Tick => world.now += 1,
            Action::Revoke => {
                world.durable = Standing::Revoked;
                world.revoked_at = Some(world.now);
            }
            Action::Readmit => world.durable = Standing::Readmitted,
            Action::Partition => world.partitioned = true,
            Action::Heal => world.partitioned = false,
            Action::Crash => {
                (world.pending, world.applied) = (None, world.durable);
                world.basis = match self.restart {
                    Restart::Durable => None,
                    Restart::FromBefore => world.basis.map(|_| world.now),
                };
                // What it believed of before is what it believed then.
                if self.restart == Restart::FromBefore {
                    world.applied = before.applied;
                }
            }
            Action::Start => world.pending = Some(Pending { started: world.now, landed: None }),
            Action::Land => {
                world.pending = world.pending.map(|pending| Pending { landed: Some(world.durable), ..pending })
            }
            Action::Acknowledge => {
                let pending = world.pending.take().unwrap();
                world.basis = Some(match self.basis {
                    Basis::CommitStart => pending.started,
                    Basis::CommitEnd | Basis::Now => world.now,
                });
                if self.applied == Applied::UpToBasis {
                    world.applied = world.applied.max(pending.landed.unwrap());
                }
            }
            Action::Apply => world.applied = world.durable,
            Action::Pretend => world.basis = Some(world.now),
            Action::Sign => {
                let from = match self.expiry {
                    Expiry::FromBasis => world.basis.unwrap(),
                    Expiry::FromNow => world.now,
                };
                let valid = [OLD, NEW].map(|credential| standing_in(world.applied, credential, self.index));
                let basis = world.basis.unwrap() + world.broker_error;
                let pulse = Pulse { exp: from + world.broker_error + Y, basis, valid };
                world.pulses = [Some(pulse), world.pulses[0]];
            }
            Action::Accept(_, OLD) => {
                if let Some(revoked_at) = world.revoked_at {
                    world.late = world.late.max(world.now - revoked_at);
                }
            }
            Action::Accept(..) => world.new_accepted = true,
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(BOUND, |rule: &Self, world: &World| world.late <= rule.bound()),
            // The model can do what it is about: it accepts at the bound, and it accepts the new credential.
            Property::sometimes("the bound is reached", |rule: &Self, world: &World| world.late == rule.bound()),
            Property::sometimes("a readmitted host is accepted", |_, world: &World| world.new_accepted),
        ]
    }
}

impl Rule {
    fn bound(self) -> i8 {
        match self.class {
            Class::Default => W,
            Class::Critical | Class::CriticalFromReceipt => W_CRITICAL,
        }
    }
}

const BOUND: &str = "no acceptance later than W after a revocation";

/// The events that break the bound, where there are such.
fn broken(rule: Rule) -> Option<Vec<Action>> {
    let checker = rule.checker().threads(2).spawn_bfs().join();
    if checker.discovery(BOUND).is_none() {
        checker.assert_properties();
    }
    checker.discovery(BOUND).map(stateright::Path::into_actions)
}

#[test]
fn no_order_of_events_breaks_the_rule() {
    assert_eq!(broken(RULE), None);
    assert_eq!(broken(Rule { class: Class::Critical, ..RULE }), None);
}

#[test]
fn each_part_of_the_rule_is_needed() {
    for (name, rule) in [
        ("exp = now + Y", Rule { expiry: Expiry::FromNow, ..RULE }),
        ("the end of the commit as basis", Rule { basis: Basis::CommitEnd, ..RULE }),
        ("a basis from a read", Rule { basis: Basis::Now, ..RULE }),
        ("a list older than its basis", Rule { applied: Applied::SoFar, ..RULE }),
        ("one index for all generations", Rule { index: Index::OfHost, ..RULE }),
        ("Y of a class from the receipt", Rule { class: Class::CriticalFromReceipt, ..RULE }),
        ("a class's basis from a read", Rule { class: Class::Critical, basis: Basis::Now, ..RULE }),
        ("a basis that outlives a crash", Rule { restart: Restart::FromBefore, ..RULE }),
    ] {
        let events = broken(rule).unwrap_or_else(|| panic!("{name}: the bound holds without it"));
        assert!(events.contains(&Action::Revoke), "{name}: {events:?}");
        println!("{name}: {events:?}");
    }
}
