//! Evidence is for the connection that it is sent on: whoever ends a host's connection and opens one of their own has
//! nothing to send there, also with the host's channel key in hand.

use countersign_attestation::binder::{ChannelBinding, Role};
use countersign_attestation::digest::Sha256Digest;
use serde_json::json;
use tempfile::TempDir;

use crate::client::{Answer, Connection};
use crate::fleet::Fleet;
use crate::sim_host::{SimHost, anchor, register_golden};
use crate::tpm::SimManufacturer;

struct Scene {
    fleet: Fleet,
    host: SimHost,
    _folder: TempDir,
}

fn scene() -> Scene {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start_with(&[anchor(&maker, folder.path())], |config| config.lease_ms = 200_000);
    register_golden(&fleet, "golden");
    let (host, _) = SimHost::trusted(&fleet, &maker, "host-a");
    Scene { fleet, host, _folder: folder }
}

impl Scene {
    fn connect(&self) -> Connection {
        self.host.client(&self.fleet).connect().unwrap()
    }

    /// Evidence for the next challenge, bound as `binding` says, sent on a connection of its own.
    fn attest_bound(&mut self, binding: impl FnOnce(&SimHost, &mut Connection) -> ChannelBinding) -> Answer {
        let mut connection = self.connect();
        let challenge = connection.challenge();
        let binding = binding(&self.host, &mut connection);
        let request = self.host.evidence_for(&challenge, &binding);
        connection.send("POST", "/v1/attestations", Some(&json!(request))).unwrap()
    }

    /// The refusal is recorded, names the binding, and says nothing about the host.
    fn assert_unbound(&self, answer: &Answer) {
        let denied = answer.problem();
        assert_eq!((denied.status, denied.code.as_str()), (403, "binding.qualifying_data"));
        let newest = self.fleet.entries().pop().unwrap();
        assert_eq!((newest.event.as_str(), Some(newest.leaf_hash)), ("denied", denied.decision.map(|id| id.to_hex())));
        assert_eq!(self.fleet.host("host-a").trust.standing, "trusted");
    }
}

#[test]
fn e1_evidence_that_is_relayed_with_a_leaked_channel_key_is_refused() {
    let mut scene = scene();
    // The host makes evidence for its connection, which ends at the relay; the relay has the host's key and goes on
    // with a connection of its own to the broker.
    let (mut to_relay, mut of_relay) = (scene.connect(), scene.connect());
    let challenge = of_relay.challenge();
    let relayed = json!(scene.host.evidence(&challenge, &mut to_relay));
    let answer = of_relay.send("POST", "/v1/attestations", Some(&relayed)).unwrap();
    scene.assert_unbound(&answer);
    // The host itself, on one connection, is believed.
    assert_eq!(scene.attest_bound(SimHost::binding).status, 200);
}

#[test]
fn e3_the_other_ends_view_of_a_connection_is_not_the_hosts() {
    let mut scene = scene();
    for context in [
        // Another leaf's, as the broker's would be.
        ChannelBinding::context(Role::Host, &Sha256Digest::of(&[b"the broker's key"])),
        // No role, no leaf: what both ends would have alike.
        Vec::new(),
    ] {
        let answer = scene.attest_bound(|_, connection| ChannelBinding(connection.exported(&context)));
        scene.assert_unbound(&answer);
    }
}

#[test]
fn e4_without_an_exporter_there_is_no_evidence() {
    let mut scene = scene();
    let answer = scene.attest_bound(|_, _| ChannelBinding([0; ChannelBinding::LENGTH]));
    scene.assert_unbound(&answer);
}
