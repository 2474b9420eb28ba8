//! The feed against a broker over real TLS: pushed, asked for, cut off and back again. Time is set by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::{Arc, Mutex};

use countersign_attestation::UnixMillis;
use countersign_attestation::result::svid::KeyProtection;
use countersign_attestation::status_delta::StatusDelta;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::time::ClockError;
use countersign_gate::clock::{Clock, Moment};
use countersign_gate::decide::{Decision, Trust};
use countersign_gate::feed::Feed;
use countersign_gate::metrics::Metrics;
use countersign_gate::state::{GateState, PulseNumber};
use tokio::sync::watch;

#[path = "../../tests/sim/broker.rs"]
mod broker;
#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use broker::{Delivery, SimBroker};
use issuer::{Authority, AuthorityOrder, Issuer, Y_MS};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);

#[derive(Debug)]
struct ManualClock(Mutex<u64>);

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let passed = *self.0.lock().unwrap();
        Moment { wall: NOW.plus(passed), steady_ms: passed, error: ClockError::NONE }
    }
}

struct World {
    issuer: Issuer,
    control: Authority,
    clock: Arc<ManualClock>,
    state: Arc<GateState>,
    metrics: Arc<Metrics>,
    chain: Vec<Vec<u8>>,
    installed: watch::Receiver<Option<PulseNumber>>,
}

impl World {
    fn new() -> Self {
        let issuer = Issuer::new("fleet.test");
        let trust = Trust {
            trust_domain: issuer.trust_domain.clone(),
            roots: vec![issuer.authority.der()],
            keys: KeyProtection::Tpm,
        };
        let state = Arc::new(GateState::new(trust, issuer.keys()));
        Self {
            chain: vec![issuer.svid("gpu-1", 5, NOW).der],
            control: Authority::root(AuthorityOrder::new("Control CA")),
            clock: Arc::new(ManualClock(Mutex::new(0))),
            metrics: Arc::new(Metrics::default()),
            installed: state.subscribe(),
            issuer,
            state,
        }
    }

    fn broker(&self, address: SocketAddr, delivery: Delivery) -> SimBroker {
        let (_, certificate, key) = self.control.server();
        SimBroker::start(address, &certificate, &key, delivery)
    }

    fn follow(&self, broker: &SimBroker) {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let (state, metrics) = (Arc::clone(&self.state), Arc::clone(&self.metrics));
        let feed = Feed::new(&broker.url(), &[self.control.der()], state, clock, metrics).unwrap();
        tokio::spawn(feed.follow());
    }

    fn messages(&self, seq: u64, status: Status) -> (String, String) {
        let mut list = StatusList::new();
        list.set(5, status).unwrap();
        let now = self.clock.now().wall;
        (self.issuer.list_token(&list, now), self.issuer.pulse_token(&self.issuer.pulse(seq, now, &list)))
    }

    fn say(&self, broker: &SimBroker, seq: u64, status: Status) {
        let (list, pulse) = self.messages(seq, status);
        broker.say(&list, &pulse);
    }

    /// Waits until the pulse with this sequence is installed.
    async fn installed(&mut self, seq: u64) {
        let arrived = self.installed.wait_for(|number| number.is_some_and(|number| number.seq == seq));
        tokio::time::timeout(Duration::from_secs(20), arrived).await.expect("the pulse arrives").unwrap();
    }

    fn code(&self) -> Result<(), &'static str> {
        match self.state.decide(&self.chain, self.clock.now()) {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(denial) => Err(denial.code()),
        }
    }

    fn pass(&self, milliseconds: u64) {
        *self.clock.0.lock().unwrap() += milliseconds;
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn e19_a_revocation_is_pushed_and_a_dead_broker_is_a_denial() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Stream);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    world.installed(1).await;
    assert_eq!(world.code(), Ok(()));

    world.pass(100);
    world.say(&broker, 2, Status::Invalid);
    world.installed(2).await;
    assert_eq!(world.code(), Err("gate.credential.invalid"));

    world.pass(100);
    world.say(&broker, 3, Status::Valid);
    world.installed(3).await;
    let address = broker.kill();
    world.pass(Y_MS - 1);
    assert_eq!(world.code(), Ok(()), "up to the end of the last pulse");
    world.pass(1);
    assert_eq!(world.code(), Err("gate.pulse.expired"));

    // Back on the same address: no hand is needed.
    let broker = world.broker(address, Delivery::Stream);
    world.say(&broker, 4, Status::Valid);
    world.installed(4).await;
    assert_eq!(world.code(), Ok(()));
    // Counted after it took effect, so the fourth may not be counted yet.
    let metrics = world.metrics.render(&world.state, world.clock.now());
    let counted = |count| metrics.contains(&format!("countersign_gate_revocation_latency_seconds_count {count}"));
    assert!(counted(3) || counted(4), "{metrics}");
    assert!(metrics.contains(r#"countersign_gate_feed_faults_total{code="feed."#), "{metrics}");
}

#[tokio::test]
async fn lists_that_were_not_pushed_are_asked_for() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Stream);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    world.installed(1).await;
    let (list, pulse) = world.messages(2, Status::Invalid);
    broker.say_without_list(&list, &pulse);
    world.installed(2).await;
    assert_eq!(world.code(), Err("gate.credential.invalid"));
    // What is counted is counted after the pulse took effect: the next one comes after that.
    world.say(&broker, 3, Status::Valid);
    world.installed(3).await;
    let metrics = world.metrics.render(&world.state, world.clock.now());
    assert!(metrics.contains(r#"countersign_gate_pulses_total{code="waits_for_lists"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"countersign_gate_revocation_latency_seconds_bucket{le="0.005"}"#), "{metrics}");
}

fn state(status: Status) -> StatusList {
    let mut list = StatusList::new();
    list.set(5, status).unwrap();
    list
}

#[tokio::test]
async fn changes_alone_are_enough_pushed_or_asked_for() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Stream);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    world.installed(1).await;
    // Pushed: whoever asks for the whole list is still given the one before.
    let changes = StatusDelta::between(0, &state(Status::Valid), &state(Status::Invalid)).unwrap();
    broker.say_changes(&changes.encode(), &world.messages(2, Status::Invalid).1);
    world.installed(2).await;
    assert_eq!(world.code(), Err("gate.credential.invalid"));
    // Asked for.
    let changes = StatusDelta::between(0, &state(Status::Invalid), &state(Status::Suspended)).unwrap();
    broker.answer_changes(&changes.from().to_hex(), &changes.encode());
    let (_, pulse) = world.messages(3, Status::Suspended);
    broker.say_without_list(&world.messages(1, Status::Valid).0, &pulse);
    world.installed(3).await;
    assert_eq!(world.code(), Err("gate.credential.suspended"));
}

#[tokio::test]
async fn forged_changes_cost_the_whole_list_and_nothing_else() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Stream);
    world.say(&broker, 1, Status::Invalid);
    world.follow(&broker);
    world.installed(1).await;
    // One leads where no pulse says, one nowhere, one is none; and asked for, they are told once more.
    let favour = StatusDelta::between(0, &state(Status::Invalid), &state(Status::Valid)).unwrap();
    let broken = favour.encode().replace("[5,0]", "[6,0]");
    for (seq, forged) in [(2, favour.encode()), (3, broken), (4, "{}".to_owned())] {
        // The base is another list each time.
        let status = if seq % 2 == 0 { Status::Suspended } else { Status::Invalid };
        let (list, pulse) = world.messages(seq, status);
        broker.answer_changes(&favour.from().to_hex(), &forged);
        broker.send_raw(&format!("event: status-delta\ndata: {forged}\n\n"));
        broker.say_without_list(&list, &pulse);
        world.installed(seq).await;
        let expected = if seq % 2 == 0 { "gate.credential.suspended" } else { "gate.credential.invalid" };
        assert_eq!(world.code(), Err(expected), "{forged}");
    }
}

#[tokio::test]
async fn without_a_stream_the_gate_asks() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Poll);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    world.installed(1).await;
    assert_eq!(world.code(), Ok(()));
    world.say(&broker, 2, Status::Invalid);
    world.installed(2).await;
    assert_eq!(world.code(), Err("gate.credential.invalid"));
}

#[tokio::test]
async fn one_of_two_relays_is_enough() {
    let mut world = World::new();
    let (dead, alive) = (world.broker(anywhere(), Delivery::Stream), world.broker(anywhere(), Delivery::Stream));
    world.follow(&dead);
    world.follow(&alive);
    dead.kill();
    world.say(&alive, 1, Status::Valid);
    world.installed(1).await;
    assert_eq!(world.code(), Ok(()));
}

#[tokio::test]
async fn nonsense_in_a_stream_does_not_silence_it() {
    let mut world = World::new();
    let broker = world.broker(anywhere(), Delivery::Stream);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    world.installed(1).await;
    let other = Issuer::new("fleet.test");
    let forged = other.pulse_token(&other.pulse(9, NOW, &StatusList::new()));
    broker.send_raw(&format!("event: pulse\ndata: {forged}\n\nevent: pulse\ndata: x\n\nevent: news\ndata: y\n\n:\n\n"));
    world.say(&broker, 2, Status::Suspended);
    world.installed(2).await;
    assert_eq!(world.code(), Err("gate.credential.suspended"));
    let metrics = world.metrics.render(&world.state, world.clock.now());
    assert!(metrics.contains(r#"countersign_gate_pulses_total{code="result.token.unknown_key"} 1"#), "{metrics}");
    // A stream that cannot be read is left, and entered again.
    broker.send_raw(&"x".repeat(200 * 1024));
    world.say(&broker, 3, Status::Valid);
    world.installed(3).await;
    assert_eq!(world.code(), Ok(()));
}

#[tokio::test]
async fn a_broker_under_another_ca_is_not_listened_to() {
    let world = World::new();
    let (_, certificate, key) = Authority::root(AuthorityOrder::new("Control CA")).server();
    let mut broker = SimBroker::start(anywhere(), &certificate, &key, Delivery::Stream);
    world.say(&broker, 1, Status::Valid);
    world.follow(&broker);
    // Stream and question, both.
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(20), broker.refused()).await.expect("a handshake");
    }
    assert_eq!(world.code(), Err("gate.pulse.none"));
}

#[test]
fn a_broker_is_an_https_url() {
    let world = World::new();
    let set_up = |url: &str, ca: &[Vec<u8>]| {
        let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
        Feed::new(url, ca, Arc::clone(&world.state), clock, Arc::clone(&world.metrics)).map(|_| ())
    };
    let ca = [world.control.der()];
    for good in ["https://broker.example", "https://broker.example:8443/", "https://relay.example/fleet"] {
        assert!(set_up(good, &ca).is_ok(), "{good}");
    }
    for bad in [
        "http://broker.example",
        "broker.example",
        "https://",
        "https://user@broker.example",
        "https://user:word@broker.example",
        "https://broker.example/?x",
        "https://broker.example/#x",
        "file:///etc/passwd",
    ] {
        assert!(set_up(bad, &ca).is_err(), "{bad}");
    }
    assert!(set_up("https://broker.example", &[b"no certificate".to_vec()]).is_err());
}
