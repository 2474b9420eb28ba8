//! The forward-auth door, without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use countersign_attestation::UnixMillis;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_gate::clock::{Clock, Moment};
use countersign_gate::decide::Trust;
use countersign_gate::forward_auth::{Door, router};
use countersign_gate::metrics::Metrics;
use countersign_gate::state::GateState;
use serde_json::Value;
use tower::ServiceExt as _;

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Issuer, Y_MS};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);

#[derive(Debug)]
struct ManualClock(Mutex<u64>);

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        let passed = *self.0.lock().unwrap();
        Moment { wall: NOW.plus(passed), steady_ms: passed }
    }
}

struct World {
    issuer: Issuer,
    door: Door,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        let issuer = Issuer::new("fleet.test");
        let trust = Trust { trust_domain: issuer.trust_domain.clone(), roots: vec![issuer.authority.der()] };
        let clock = Arc::new(ManualClock(Mutex::new(0)));
        let state = Arc::new(GateState::new(trust, issuer.keys()));
        let door = Door { state, clock: Arc::clone(&clock) as Arc<dyn Clock>, metrics: Arc::new(Metrics::default()) };
        Self { issuer, door, clock }
    }

    fn say(&self, seq: u64, status: Status) {
        let mut list = StatusList::new();
        list.set(5, status).unwrap();
        let now = self.clock.now();
        self.door.state.offer_list(&self.issuer.list_token(&list, now.wall), now).unwrap();
        let pulse = self.issuer.pulse_token(&self.issuer.pulse(seq, now.wall, &list));
        self.door.state.offer_pulse(&pulse, now).unwrap();
    }

    async fn ask(&self, path: &str, certificate: Option<&str>) -> (StatusCode, axum::http::HeaderMap, String) {
        let mut request = Request::get(path);
        if let Some(certificate) = certificate {
            request = request.header("x-ssl-client-cert", certificate);
        }
        let response = router(self.door.clone()).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn certificate(&self) -> String {
        self.issuer.svid("gpu-1", 5, NOW).pem.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }
}

#[tokio::test]
async fn an_answer_carries_who_and_why() {
    let world = World::new();
    let certificate = world.certificate();
    world.say(1, Status::Valid);
    let (status, headers, _) = world.ask("/authorize", Some(&certificate)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["x-countersign-spiffe-id"], "spiffe://fleet.test/host/gpu-1");
    assert_eq!(headers["x-countersign-decision"], "07".repeat(32).as_str());
    assert_eq!(headers["x-countersign-assurance"], "simulated");
    assert_eq!(headers["cache-control"], "no-store");

    world.say(2, Status::Invalid);
    let (status, headers, body) = world.ask("/authorize", Some(&certificate)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(headers["x-countersign-reason"], "gate.credential.invalid");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(!headers.contains_key("x-countersign-spiffe-id"));
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["type"], "urn:countersign:reason:gate.credential.invalid");
    assert_eq!((&problem["code"], &problem["status"]), (&"gate.credential.invalid".into(), &403.into()));
    assert_eq!((&problem["expected"], &problem["found"]), (&"VALID".into(), &"INVALID".into()));
    assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));

    let (status, headers, _) = world.ask("/authorize", None).await;
    assert_eq!(
        (status, &headers["x-countersign-reason"]),
        (StatusCode::FORBIDDEN, &"gate.certificate.missing".parse().unwrap())
    );
}

#[tokio::test]
async fn readiness_follows_the_pulse_and_liveness_does_not() {
    let world = World::new();
    let ready = async || world.ask("/readyz", None).await.0;
    assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
    world.say(1, Status::Valid);
    assert_eq!(ready().await, StatusCode::OK);
    *world.clock.0.lock().unwrap() = Y_MS;
    let (status, headers, _) = world.ask("/readyz", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["x-countersign-reason"], "gate.pulse.expired");
    assert_eq!(world.ask("/healthz", None).await.0, StatusCode::OK);
    assert_eq!(world.ask("/authorise", None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn decisions_are_counted_by_code() {
    let world = World::new();
    let certificate = world.certificate();
    let (_, _, before) = world.ask("/metrics", None).await;
    assert!(before.contains("countersign_gate_pulse_age_seconds -1"), "{before}");
    world.ask("/authorize", Some(&certificate)).await;
    world.say(1, Status::Valid);
    world.ask("/authorize", Some(&certificate)).await;
    world.ask("/authorize", Some(&certificate)).await;
    *world.clock.0.lock().unwrap() = 1_500;
    let (_, headers, text) = world.ask("/metrics", None).await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        r#"countersign_gate_decisions_total{code="allow"} 2"#,
        r#"countersign_gate_decisions_total{code="gate.pulse.none"} 1"#,
        "countersign_gate_pulse_age_seconds 1.5",
        "countersign_gate_pulse_left_seconds 3.5",
        "countersign_gate_pulse_sequence 1",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
