//! The forward-auth door, without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use countersign_attestation::UnixMillis;
use countersign_attestation::result::svid::{CredentialExtension, KeyProtection};
use countersign_attestation::staple;
use countersign_attestation::status_list::{Status, StatusList};
use countersign_attestation::time::ClockError;
use countersign_gate::authorize::{Authorize, OperatorPolicies};
use countersign_gate::clock::{Clock, Moment};
use countersign_gate::decide::{Allowed, Trust};
use countersign_gate::door::Door;
use countersign_gate::ext_authz;
use countersign_gate::forward_auth::router;
use countersign_gate::layer::{GateLayer, PeerCertificates};
use countersign_gate::metrics::Metrics;
use countersign_gate::state::{GateState, Source};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self, HttpRequest, Peer};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _};

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Issuer, Order, Y_MS, extension};

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
    door: Door,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        Self::with(Authorize::CoreAlone)
    }

    /// With operator policies.
    fn under(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("operator.cedar");
        std::fs::write(&file, policy).unwrap();
        Self::with(Authorize::ByPolicies(Arc::new(OperatorPolicies::load(&file).unwrap())))
    }

    fn with(authorize: Authorize) -> Self {
        let issuer = Issuer::new("fleet.test");
        let trust = Trust {
            trust_domain: issuer.trust_domain.clone(),
            roots: vec![issuer.authority.der()],
            keys: KeyProtection::Tpm,
        };
        let clock = Arc::new(ManualClock(Mutex::new(0)));
        let state = Arc::new(GateState::new(trust, issuer.keys()));
        let metrics = Arc::new(Metrics::default());
        let door = Door { state, authorize, clock: Arc::clone(&clock) as Arc<dyn Clock>, metrics };
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
        let certificate = certificate.map(|certificate| ("x-ssl-client-cert", certificate));
        self.ask_with(path, &certificate.into_iter().collect::<Vec<_>>()).await
    }

    async fn ask_with(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, axum::http::HeaderMap, String) {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
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
    assert_eq!((problem.get("expected"), problem.get("found")), (None, None), "some proxies show it to the caller");
    assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));

    let (status, headers, _) = world.ask("/authorize", None).await;
    assert_eq!(
        (status, &headers["x-countersign-reason"]),
        (StatusCode::FORBIDDEN, &"gate.certificate.missing".parse().unwrap())
    );
}

/// What Envoy is told: the code, the headers by name, and the body of a denial.
async fn check(world: &World, certificate: &str, headers: &[(&str, &str)]) -> (i32, BTreeMap<String, String>, String) {
    let source = Peer {
        certificate: certificate.to_owned(),
        principal: "spiffe://fleet.test/host/gpu-1".into(),
        ..Peer::default()
    };
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let http = HttpRequest { headers, ..HttpRequest::default() };
    let request = attribute_context::Request { http: Some(http), ..attribute_context::Request::default() };
    let attributes = AttributeContext { source: Some(source), request: Some(request), ..AttributeContext::default() };
    let mut envoy = AuthorizationClient::new(ext_authz::router(world.door.clone()));
    let answer = envoy.check(CheckRequest { attributes: Some(attributes) }).await.unwrap().into_inner();
    let (headers, body) = match answer.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => (ok.headers, String::new()),
        HttpResponse::DeniedResponse(denied) => {
            assert_eq!(denied.status.unwrap().code, 403);
            (denied.headers, denied.body)
        }
        HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
    };
    let named = headers.into_iter().map(|option| {
        assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd, "whatever the caller sent");
        let header = option.header.unwrap();
        (header.key, header.value)
    });
    (answer.status.unwrap().code, named.collect(), body)
}

#[tokio::test]
async fn a_gate_without_a_feed_reads_the_staple_at_its_doors() {
    let mut list = StatusList::new();
    list.set(5, Status::Valid).unwrap();
    for envoy in [false, true] {
        let mut world = World::new();
        let issuer = &world.issuer;
        let trust = world.door.state.trust().clone();
        world.door.state = Arc::new(GateState::new(trust, issuer.keys()).fed_by(Source::Staples));
        let certificate = world.certificate();
        let pulse = issuer.pulse_token(&issuer.pulse(1, NOW, &list));
        let text = staple::encode(&pulse, &list.encode(), "").unwrap();
        let said = if envoy {
            let (code, ..) = check(&world, &certificate, &[("countersign-staple", &text)]).await;
            code == 0
        } else {
            let twice = [("x-ssl-client-cert", certificate.as_str()), ("countersign-staple", &text)];
            let both = [twice[0], twice[1], twice[1]];
            let (status, headers, _) = world.ask_with("/authorize", &both).await;
            assert_eq!(
                (status, &headers["x-countersign-reason"]),
                (StatusCode::FORBIDDEN, &"gate.pulse.none".parse().unwrap())
            );
            world.ask_with("/authorize", &twice).await.0 == StatusCode::OK
        };
        assert!(said, "Envoy: {envoy}");
    }
}

/// Envoy's door believes the certificate that Envoy verified, and neither a principal's name nor a header.
#[tokio::test]
async fn envoy_is_answered_for_the_certificate_alone() {
    let world = World::new();
    let certificate = world.certificate();
    world.say(1, Status::Valid);
    let (code, headers, _) = check(&world, &certificate, &[]).await;
    assert_eq!(code, 0);
    assert_eq!(headers["x-countersign-spiffe-id"], "spiffe://fleet.test/host/gpu-1");
    assert_eq!(headers["x-countersign-assurance"], "simulated");
    for (sent, reason) in [
        ("", "gate.certificate.missing"),
        ("%2", "gate.certificate.malformed"),
        (&*"a".repeat(33 * 1024), "gate.certificate.malformed"),
        (&*certificate.repeat(2), "gate.certificate.malformed"),
    ] {
        let (code, headers, body) = check(&world, sent, &[("x-ssl-client-cert", &certificate)]).await;
        assert_eq!((code, headers["x-countersign-reason"].as_str()), (7, reason));
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&problem["code"], problem.get("expected"), problem.get("found")), (&reason.into(), None, None));
        assert!(!headers.contains_key("x-countersign-spiffe-id"));
    }
    world.say(2, Status::Suspended);
    assert_eq!(check(&world, &certificate, &[]).await.1["x-countersign-reason"], "gate.credential.suspended");
    *world.clock.0.lock().unwrap() = Y_MS;
    assert_eq!(check(&world, &certificate, &[]).await.1["x-countersign-reason"], "gate.pulse.expired");
    // Nothing at all is no caller.
    let mut envoy = AuthorizationClient::new(ext_authz::router(world.door.clone()));
    let answer = envoy.check(CheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code, 7);
}

/// The layer judges each request by what the TLS stack said of its connection, and hands the service whom it let in.
#[tokio::test]
async fn a_service_behind_the_layer_sees_only_callers_that_are_trusted_now() {
    let world = World::new();
    let service = tower::service_fn(async |request: Request<Body>| {
        let caller = request.extensions().get::<Allowed>().unwrap().spiffe_id().to_string();
        Ok::<_, Infallible>(axum::http::Response::new(Body::from(caller)))
    });
    let gate = GateLayer::new(world.door.clone()).layer(service);
    let chain = PeerCertificates(Arc::new(vec![world.issuer.svid("gpu-1", 5, NOW).der]));
    let ask = async |peer: Option<&PeerCertificates>, header: &str| {
        let mut request = Request::get("/").header("x-ssl-client-cert", header).body(Body::empty()).unwrap();
        request.extensions_mut().extend(peer.map_or_else(axum::http::Extensions::new, |peer| {
            let mut extensions = axum::http::Extensions::new();
            extensions.insert(peer.clone());
            extensions
        }));
        let response = gate.clone().oneshot(request).await.unwrap();
        let reason = response.headers().get("x-countersign-reason").map(|code| code.to_str().unwrap().to_owned());
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, reason.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
    };
    assert_eq!(ask(Some(&chain), "").await.1, "gate.pulse.none");
    world.say(1, Status::Valid);
    let caller = "spiffe://fleet.test/host/gpu-1".to_owned();
    assert_eq!(ask(Some(&chain), "").await, (StatusCode::OK, String::new(), caller));
    // A header says nothing here.
    let (status, reason, _) = ask(None, &world.certificate()).await;
    assert_eq!((status, reason.as_str()), (StatusCode::FORBIDDEN, "gate.certificate.missing"));
    // The same connection, after the pulse that took its caller's trust away.
    world.say(2, Status::Invalid);
    let (status, reason, body) = ask(Some(&chain), "").await;
    assert_eq!((status, reason.as_str()), (StatusCode::FORBIDDEN, "gate.credential.invalid"));
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((problem.get("expected"), problem.get("found")), (None, None), "{problem}");
}

/// Permits GET below /v1 of api.test to simulated hosts.
const POLICY: &str = r#"permit (principal == Host::"gpu-1", action == Action::"http:GET", resource in Path::"/v1")
    when { principal.assurance == Assurance::"simulated" && context has host && context.host == "api.test" };"#;

/// Method, path and host, and the code of the answer; empty where it is let in.
const ASKED: [(&str, &str, &str, &str); 8] = [
    ("GET", "/v1/models?x=1", "api.test", ""),
    ("GET", "/v1", "API.test:443", ""),
    ("POST", "/v1/models", "api.test", "authorize.no_permit"),
    ("GET", "/v2", "api.test", "authorize.no_permit"),
    ("GET", "/v1", "other.test", "authorize.no_permit"),
    ("TRACE", "/v1", "api.test", "authorize.action"),
    ("GET", "/v1/../v2", "api.test", "authorize.resource"),
    ("GET", "/v1", "user@api.test", "gate.request.ambiguous"),
];

#[tokio::test]
async fn e21_a_proxy_that_asks_over_http_says_which_request_it_asks_about() {
    let world = World::under(POLICY);
    let certificate = world.certificate();
    let certificate = ("x-ssl-client-cert", certificate.as_str());
    world.say(1, Status::Valid);
    let code = async |headers: &[(&str, &str)]| {
        let (status, answer, _) = world.ask_with("/authorize", headers).await;
        let code = answer.get("x-countersign-reason").map_or("", |code| code.to_str().unwrap()).to_owned();
        assert_eq!(status == StatusCode::OK, code.is_empty());
        code
    };
    let names = [
        ["x-original-method", "x-original-uri", "x-original-host"],
        ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"],
    ];
    for [method_name, path_name, host_name] in names {
        for (method, path, host, expected) in ASKED {
            let asked = [certificate, (method_name, method), (path_name, path), (host_name, host)];
            assert_eq!(code(&asked).await, expected, "{method} {path} {host}");
        }
    }
    assert_eq!(code(&[certificate]).await, "gate.request.missing", "nothing is taken for permitted");
    // Trust comes first.
    world.say(2, Status::Invalid);
    assert_eq!(code(&[certificate]).await, "gate.credential.invalid");
    // Without policies nothing needs to be said.
    let open = World::new();
    open.say(1, Status::Valid);
    assert_eq!(open.ask("/authorize", Some(&open.certificate())).await.0, StatusCode::OK);
}

#[tokio::test]
async fn e21_envoy_says_which_request_it_asks_about() {
    let world = World::under(POLICY);
    world.say(1, Status::Valid);
    let source = Peer { certificate: world.certificate(), ..Peer::default() };
    let ask = async |http: Option<HttpRequest>| {
        let request = attribute_context::Request { http, ..attribute_context::Request::default() };
        let attributes =
            AttributeContext { source: Some(source.clone()), request: Some(request), ..AttributeContext::default() };
        let mut envoy = AuthorizationClient::new(ext_authz::router(world.door.clone()));
        let answer = envoy.check(CheckRequest { attributes: Some(attributes) }).await.unwrap().into_inner();
        let denied = match answer.http_response.unwrap() {
            HttpResponse::OkResponse(_) => return String::new(),
            HttpResponse::DeniedResponse(denied) => denied,
            HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
        };
        let problem: Value = serde_json::from_str(&denied.body).unwrap();
        problem["code"].as_str().unwrap().to_owned()
    };
    for (method, path, host, expected) in ASKED {
        let (method, path, host) = (method.to_owned(), path.to_owned(), host.to_owned());
        let http = HttpRequest { method, path, host, ..HttpRequest::default() };
        assert_eq!(ask(Some(http.clone())).await, expected, "{http:?}");
    }
    assert_eq!(ask(None).await, "gate.request.missing");
}

#[tokio::test]
async fn e21_the_layer_asks_about_the_request_itself() {
    let world = World::under(POLICY);
    world.say(1, Status::Valid);
    let service = tower::service_fn(async |_: Request<Body>| {
        Ok::<_, Infallible>(axum::http::Response::new(Body::from("served")))
    });
    let gate = GateLayer::new(world.door.clone()).layer(service);
    let chain = PeerCertificates(Arc::new(vec![world.issuer.svid("gpu-1", 5, NOW).der]));
    let ask = async |mut request: Request<Body>| {
        request.extensions_mut().insert(chain.clone());
        let response = gate.clone().oneshot(request).await.unwrap();
        response.headers().get("x-countersign-reason").map_or("", |code| code.to_str().unwrap()).to_owned()
    };
    for (method, path, host, expected) in ASKED {
        let request = Request::builder().method(method).uri(path).header("host", host);
        assert_eq!(ask(request.body(Body::empty()).unwrap()).await, expected, "{method} {path} {host}");
    }
    // What the credential says of the host is what policies judge.
    let policy = r#"permit (principal, action, resource) when { principal.assurance == Assurance::"simulated"
        && principal.generation == 3 && principal.waivers == ["w-1"] };"#;
    let waived = World::under(policy);
    waived.say(1, Status::Valid);
    for (generation, waivers, expected) in [
        (3, vec!["w-1".to_owned()], 200),
        (2, vec!["w-1".to_owned()], 403),
        (3, vec![], 403),
        (3, vec!["w-2".to_owned()], 403),
    ] {
        let extension = CredentialExtension { generation, waivers, ..extension(5) };
        let svid = waived.issuer.authority.issue(&Order::new("fleet.test", "gpu-1", &extension, NOW));
        let gate = GateLayer::new(waived.door.clone()).layer(service);
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        request.extensions_mut().insert(PeerCertificates(Arc::new(vec![svid.der])));
        assert_eq!(gate.oneshot(request).await.unwrap().status().as_u16(), expected, "{extension:?}");
    }
    let twice = Request::get("/v1").header("host", "api.test").header("host", "api.test");
    assert_eq!(ask(twice.body(Body::empty()).unwrap()).await, "gate.request.ambiguous");
    let two = Request::get("https://api.test/v1").header("host", "other.test");
    assert_eq!(ask(two.body(Body::empty()).unwrap()).await, "gate.request.ambiguous");
    let http_2 = Request::get("https://api.test/v1");
    assert_eq!(ask(http_2.body(Body::empty()).unwrap()).await, "");
}

#[tokio::test]
async fn readiness_follows_the_pulse_and_liveness_does_not() {
    let world = World::new();
    let ready = async || world.ask("/readyz", None).await.0;
    assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
    world.say(1, Status::Valid);
    assert_eq!(ready().await, StatusCode::OK);
    *world.clock.0.lock().unwrap() = Y_MS;
    let (status, headers, body) = world.ask("/readyz", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(headers["x-countersign-reason"], "gate.pulse.expired");
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], 503);
    assert!(problem["expected"].is_string() && problem["found"].is_string(), "an operator reads this: {problem}");
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
