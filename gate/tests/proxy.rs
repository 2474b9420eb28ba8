//! The proxy door: real TLS, a real service behind it, and a clock that the test sets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
#[path = "proxy/service.rs"]
mod service;
#[path = "proxy/world.rs"]
mod world;

use core::time::Duration;
use std::fs;

use countersign_attestation::status_list::Status;
use countersign_gate::authorize::Reread;
use countersign_gate::clock::Clock as _;
use issuer::{Issuer, Y_MS};
use rustls::HandshakeKind;
use service::{Canned, Service};
use world::{World, get};

#[tokio::test]
async fn a_trusted_caller_reaches_the_service_which_is_told_who_it_is() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    let forged = [
        "X-Countersign-Spiffe-Id: spiffe://fleet.test/host/forged",
        "X_Countersign_Spiffe_Id: spiffe://fleet.test/host/forged",
        "X-Countersign-Anything: forged",
        "Forwarded: for=forged",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Proto: forged",
        "X-Real-IP: 203.0.113.9",
        "Client-Cert: :forged:",
        "X-SSL-Client-Cert: forged",
        "X-Original-Method: forged",
        "Connection: keep-alive, X-Countersign-Spiffe-Id, X-Forwarded-For, X-Listed",
        "X-Listed: 1",
        "TE: trailers",
        "Proxy-Authorization: secret",
        "Upgrade: h2c",
        "Expect: 100-continue",
        "Cookie: a=1",
        "X-Kept: 7",
    ];
    let answer =
        caller.ask(&format!("GET /a/b?c=d HTTP/1.1\r\nHost: API.test\r\n{}\r\n\r\n", forged.join("\r\n"))).await;
    assert_eq!(answer.status, 200);
    let seen = world.service.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].line, "GET /a/b?c=d");
    let expected = [
        ("cookie", "a=1"),
        ("host", "API.test"),
        ("x-countersign-assurance", "simulated"),
        ("x-countersign-decision", &"07".repeat(32)),
        ("x-countersign-spiffe-id", "spiffe://fleet.test/host/gpu-1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-kept", "7"),
    ];
    let headers: Vec<(&str, &str)> = seen[0].headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, expected, "nothing that speaks for a proxy is the caller's");
    // The same connection, the next request: judged anew.
    assert_eq!(caller.ask(&get("/")).await.status, 200);
    world.say(Status::Suspended);
    caller.is_cut().await;
}

#[tokio::test]
async fn every_denial_is_a_problem_document_and_nothing_reaches_the_service() {
    let world = World::new().await;
    let mut caller = world.caller().await;
    let mut denied = async |status: u16, code: &str| {
        let answer = caller.ask(&get("/")).await;
        assert_eq!((answer.status, answer.header("x-countersign-reason")), (status, Some(code)), "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()));
        assert_eq!((problem.get("expected"), problem.get("found")), (None, None), "{problem}");
        assert!(problem["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()));
    };
    denied(503, "gate.pulse.none").await;
    world.say(Status::Invalid);
    denied(403, "gate.credential.invalid").await;
    world.say(Status::Suspended);
    denied(403, "gate.credential.suspended").await;
    world.pass(Y_MS);
    denied(503, "gate.pulse.expired").await;
    assert_eq!(world.service.seen().len(), 0);
    let metrics = world.metrics();
    for line in [
        r#"countersign_gate_decisions_total{code="gate.pulse.none"} 1"#,
        r#"countersign_gate_decisions_total{code="gate.credential.invalid"} 1"#,
        r#"countersign_gate_proxy_handshakes_total{outcome="done"} 1"#,
        "countersign_gate_proxy_connections 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn who_shows_no_credential_of_this_fleet_gets_no_further_than_tls() {
    let world = World::new().await;
    world.say(Status::Valid);
    let stranger = Issuer::new("fleet.test").svid("gpu-1", 5, world.clock.now().wall);
    for config in [world.client(None), world.client(Some(&stranger))] {
        // With TLS 1.3 a client hears of it at its first read.
        let mut caller = world.connect(config).await.unwrap();
        assert!(caller.try_ask(&get("/")).await.is_none());
    }
    // A credential of the fleet that has ended, by the gate's clock.
    let caller = world.client(Some(&world.svid));
    world.pass(301_000);
    assert!(world.connect(caller).await.unwrap().try_ask(&get("/")).await.is_none());
    assert_eq!(world.service.seen().len(), 0);
}

#[tokio::test]
async fn e23_an_open_answer_is_cut_at_the_pulse_that_takes_trust_away() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send(&get("/endless")).await;
    caller.reads("first words").await;
    // A pulse that says the same cuts nothing: the next words come through.
    world.say(Status::Valid);
    world.service.speak("second words");
    caller.reads("second words").await;
    world.say(Status::Invalid);
    caller.is_cut().await;
    world.service.hung_up().await;
    assert!(world.metrics().contains(r#"countersign_gate_proxy_cut_off_total{code="gate.credential.invalid"} 1"#));
}

#[tokio::test]
async fn e19_silence_cuts_open_answers_when_the_last_pulse_ends() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send(&get("/endless")).await;
    caller.reads("first words").await;
    world.pass(Y_MS - 1);
    assert_eq!(world.caller().await.ask(&get("/")).await.status, 200, "a millisecond before the end");
    world.pass(1);
    caller.is_cut().await;
    world.service.hung_up().await;
    assert!(world.metrics().contains(r#"countersign_gate_proxy_cut_off_total{code="gate.pulse.expired"}"#));
}

#[tokio::test]
async fn e23_a_connection_ends_with_its_credential_however_many_pulses_come() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send(&get("/endless")).await;
    caller.reads("first words").await;
    world.pass(300_000);
    world.say(Status::Valid);
    caller.is_cut().await;
    assert!(world.metrics().contains(r#"countersign_gate_proxy_cut_off_total{code="result.svid.expired"} 1"#));
}

#[tokio::test]
async fn e23_an_upload_that_is_under_way_is_cut_too() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // Bodies stream both ways: the echo is here before the upload ends.
    caller.reads("hello").await;
    caller.send("5\r\nagain\r\n").await;
    caller.reads("again").await;
    world.say(Status::Invalid);
    caller.is_cut().await;
    world.service.hung_up().await;
}

#[tokio::test]
async fn e23_a_request_that_waits_for_its_answer_is_cut_too() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send(&get("/never")).await;
    world.service.is_asked(1).await;
    world.say(Status::Invalid);
    caller.is_cut().await;
    world.service.hung_up().await;
    world.say(Status::Valid);
    let url = format!("https://localhost:{}/never", world.address.port());
    let waiting = tokio::spawn(world.http_2().get(url).send());
    world.service.is_asked(2).await;
    world.say(Status::Invalid);
    assert!(waiting.await.unwrap().is_err());
    world.service.hung_up().await;
}

#[tokio::test]
async fn e23_a_websocket_is_carried_and_cut() {
    let world = World::new().await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller
        .send(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        )
        .await;
    let head = caller.reads("\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    assert!(head.contains("sec-websocket-accept: a"), "{head}");
    caller.send("frames of any kind").await;
    caller.reads("frames of any kind").await;
    world.say(Status::Valid);
    caller.send("and more").await;
    caller.reads("and more").await;
    world.say(Status::Invalid);
    caller.is_cut().await;
    world.service.hung_up().await;
}

#[tokio::test]
async fn http_2_is_judged_and_cut_alike() {
    let world = World::new().await;
    world.say(Status::Valid);
    let client = world.http_2();
    let url = |path: &str| format!("https://localhost:{}{path}", world.address.port());
    let forged = client.get(url("/a")).header("x-countersign-spiffe-id", "forged");
    let forged = forged.header("cookie", "a=1").header("cookie", "b=2").send().await.unwrap();
    assert_eq!((forged.status().as_u16(), forged.version()), (200, axum::http::Version::HTTP_2));
    let seen = world.service.seen();
    assert_eq!(seen[0].header("x-countersign-spiffe-id"), Some("spiffe://fleet.test/host/gpu-1"));
    assert_eq!(seen[0].header("host"), Some(&*format!("localhost:{}", world.address.port())));
    assert_eq!(seen[0].header("cookie"), Some("a=1; b=2"), "one header, as HTTP/1.1 has it");
    let mut endless = client.get(url("/endless")).send().await.unwrap();
    assert_eq!(endless.chunk().await.unwrap().unwrap(), "first words");
    world.say(Status::Invalid);
    assert!(endless.chunk().await.is_err());
    world.service.hung_up().await;
    let denied = client.get(url("/")).send().await.unwrap();
    assert_eq!(denied.status().as_u16(), 403);
    assert_eq!(denied.headers()["x-countersign-reason"], "gate.credential.invalid");
}

#[tokio::test]
async fn e7_no_session_is_resumed_neither_before_nor_after_a_change_of_ca() {
    let world = World::new().await;
    world.say(Status::Valid);
    // One configuration keeps what servers hand out to resume with.
    let config = world.client(Some(&world.svid));
    for _ in 0..3 {
        let mut caller = world.connect(config.clone()).await.unwrap();
        assert_eq!(caller.ask(&get("/")).await.status, 200);
        assert_eq!(caller.handshake(), Some(HandshakeKind::Full));
        assert_eq!(caller.tickets(), 0);
    }
    let served = world.service.seen().len();
    // The same name and certificate, another fleet's CA: what was shown before counts for nothing.
    let other = world.under_another_ca().await;
    let mut caller = world.connect_to(other, config).await.unwrap();
    assert!(caller.try_ask(&get("/")).await.is_none());
    assert_eq!(world.service.seen().len(), served);
}

#[tokio::test]
async fn operator_policies_are_asked_about_each_request() {
    let simulated = r#"principal.assurance == Assurance::"simulated""#;
    let policy = format!(
        r#"permit (principal == Host::"gpu-1", action in [Action::"http:GET", Action::"http:POST"], resource in Path::"/v1")
           when {{ {simulated} && context has host && context.host == "api.test"
                   && context has peer && context.peer == "127.0.0.1" }};
           @remedy("stay out") forbid (principal, action, resource in Path::"/v1/admin");"#
    );
    let world = World::under(&policy).await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    let mut ask = async |line: &str, host: &str| {
        let answer = caller.ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        (answer.status, answer.header("x-countersign-reason").unwrap_or_default().to_owned())
    };
    assert_eq!(ask("GET /v1/models", "api.test:443").await, (200, String::new()));
    assert_eq!(ask("POST /v1?x=../y", "API.test").await, (200, String::new()));
    for (line, host, status, code) in [
        ("GET /", "api.test", 403, "authorize.no_permit"),
        ("DELETE /v1/models", "api.test", 403, "authorize.no_permit"),
        ("GET /v1", "other.test", 403, "authorize.no_permit"),
        ("GET /v1/admin/x", "api.test", 403, "authorize.forbidden"),
        ("GET /v1/%61dmin", "api.test", 403, "authorize.resource"),
        ("GET /v1/x/../admin", "api.test", 403, "authorize.resource"),
        ("GET /v1//admin", "api.test", 403, "authorize.resource"),
        ("GET /v1/x%2f..%2fadmin", "api.test", 403, "authorize.resource"),
        ("PROPFIND /v1", "api.test", 403, "authorize.action"),
    ] {
        assert_eq!(ask(line, host).await, (status, code.to_owned()), "{line}");
    }
    assert_eq!(world.service.seen().len(), 2);
    // Trust comes first: whoever is not trusted is not told what policies say.
    world.say(Status::Invalid);
    let answer = world.caller().await.ask(&get("/")).await;
    assert_eq!(answer.header("x-countersign-reason"), Some("gate.credential.invalid"));
}

#[tokio::test]
async fn e23_an_open_answer_is_cut_when_policies_no_longer_permit_it() {
    let permit = r#"permit (principal, action, resource) when { principal.assurance == Assurance::"simulated" };"#;
    let world = World::under(permit).await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send(&get("/endless")).await;
    caller.reads("first words").await;
    world.write_policy(&format!("{permit} forbid (principal, action, resource) when {{ oops }};"));
    assert!(world.policies().reread().is_err(), "and nothing changes");
    world.say(Status::Valid);
    assert_eq!(world.caller().await.ask(&get("/")).await.status, 200);
    world.service.speak("second words");
    caller.reads("second words").await;
    world.write_policy(&format!(r#"{permit} forbid (principal, action, resource in Path::"/endless");"#));
    assert_eq!(world.policies().reread().unwrap(), Reread::Changed);
    caller.is_cut().await;
    assert_eq!(world.caller().await.ask(&get("/")).await.status, 200);
    let denied = world.caller().await.ask(&get("/endless")).await;
    assert_eq!(denied.header("x-countersign-reason"), Some("authorize.forbidden"));
}

#[tokio::test]
async fn e14_a_request_with_two_readings_goes_nowhere() {
    let world = World::new().await;
    world.say(Status::Valid);
    for (request, status, code) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400, "gate.request.ambiguous"),
        ("GET http://b/ HTTP/1.1\r\nHost: a", 400, "gate.request.ambiguous"),
        ("GET / HTTP/1.1", 400, "gate.request.ambiguous"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: DELETE", 400, "gate.request.ambiguous"),
        ("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80", 405, "gate.proxy.method"),
        ("TRACE / HTTP/1.1\r\nHost: a", 405, "gate.proxy.method"),
    ] {
        let answer = world.caller().await.ask(&format!("{request}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("x-countersign-reason")), (status, Some(code)), "{request}");
    }
    // Two lengths, two numbers, other chunks: nothing of it is left when the service reads.
    for framing in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "Content-Length: 5\r\nContent-Length: 6"] {
        let smuggled =
            format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n");
        drop(world.caller().await.try_ask(&smuggled).await);
    }
    let seen = world.service.seen();
    assert!(seen.iter().all(|seen| !seen.line.contains("smuggled")), "{seen:?}");
    for seen in seen {
        assert_ne!(seen.header("content-length"), Some("5"));
    }
}

#[tokio::test]
async fn what_a_caller_may_send_is_bounded() {
    let world = World::new().await;
    world.say(Status::Valid);
    let many: String = (0..101).map(|at| format!("X-{at}: 1\r\n")).collect();
    for headers in [many, format!("X-Long: {}\r\n", "a".repeat(65 * 1024))] {
        let answer = world.caller().await.try_ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await;
        assert!(answer.is_none_or(|answer| answer.status == 431));
    }
    assert_eq!(world.service.seen().len(), 0);
    assert!(!world.metrics().contains("countersign_gate_proxy_requests_total{"), "it is not the service that refused");
    // As many connections as the operator says, and a place again when one ends.
    let small = World::with_connections(1).await;
    small.say(Status::Valid);
    let mut first = small.caller().await;
    assert_eq!(first.ask(&get("/")).await.status, 200);
    assert!(small.caller().await.try_ask(&get("/")).await.is_none());
    drop(first);
    small.connections_are(0).await;
    assert_eq!(small.caller().await.ask(&get("/")).await.status, 200);
}

/// The runtime's clock is its own here: it goes on whenever there is nothing else to do.
#[tokio::test(start_paused = true)]
async fn e13_who_connects_and_says_nothing_is_not_waited_for() {
    let world = World::new().await;
    world.say(Status::Valid);
    let start = tokio::time::Instant::now();
    assert_eq!(world.silence().await, 0);
    assert!(start.elapsed().as_secs() < 10, "a handshake: {:?}", start.elapsed());
    assert!(world.metrics().contains(r#"countersign_gate_proxy_handshakes_total{outcome="timeout"} 1"#));
    let mut caller = world.caller().await;
    let start = tokio::time::Instant::now();
    caller.send("GET / HTTP/1.1\r\nHost: ").await;
    caller.ends_silently().await;
    assert!(start.elapsed().as_secs() < 40, "the head of a request: {:?}", start.elapsed());
    assert_eq!(world.service.seen().len(), 0);
}

#[tokio::test]
async fn a_connection_on_which_nobody_is_let_in_ends() {
    let world = World::new().await;
    world.say(Status::Invalid);
    let mut caller = world.caller().await;
    assert_eq!(caller.ask(&get("/")).await.status, 403);
    world.pass(59_999);
    assert_eq!(caller.ask(&get("/")).await.status, 503, "still there");
    world.pass(1);
    caller.is_cut().await;
    assert!(world.metrics().contains(r#"countersign_gate_proxy_cut_off_total{code="gate.proxy.idle"} 1"#));
}

#[tokio::test]
async fn a_service_that_fails_is_told_apart_from_a_denial() {
    let both = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (service, status, code) in [
        (Service::nobody(), 502, "gate.proxy.upstream_unreachable"),
        (Service::canned(Canned::Says("not HTTP\r\n\r\n")).await, 502, "gate.proxy.upstream_answer"),
        (Service::canned(Canned::Says(both)).await, 502, "gate.proxy.upstream_answer"),
        (Service::canned(Canned::HangsUp).await, 502, "gate.proxy.upstream_answer"),
        (Service::canned(Canned::SaysNothing).await, 504, "gate.proxy.upstream_timeout"),
    ] {
        let world = World::impatient_before(service, Duration::from_millis(300)).await;
        world.say(Status::Valid);
        let answer = world.caller().await.ask(&get("/")).await;
        assert_eq!((answer.status, answer.header("x-countersign-reason")), (status, Some(code)));
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((problem.get("expected"), problem.get("found")), (None, None), "{problem}");
        let line = format!(r#"countersign_gate_proxy_requests_total{{code="{code}"}} 1"#);
        assert!(world.metrics().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_ends_with_its_answer() {
    let says = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno";
    let world = World::before(Service::canned(Canned::SaysAndReads(says)).await).await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    let answer = caller.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "no"));
    world.service.hung_up().await;
}

#[tokio::test]
async fn an_upload_takes_its_time_and_its_trailers_stay_behind() {
    let world = World::impatient_before(Service::start().await, Duration::from_secs(1)).await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    caller.send("POST /collect HTTP/1.1\r\nHost: a\r\nTrailer: X-Kept\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    // Longer in all than the service may take, and never as long without a word.
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..80 {
        pace.tick().await;
        caller.send("5\r\nhello\r\n").await;
    }
    let answer = caller.ask("0\r\nX-Kept: 1\r\nX-Countersign-Spiffe-Id: forged\r\n\r\n").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "400 bytes, 0 trailers"));
}

#[tokio::test]
async fn a_caller_that_asks_for_a_websocket_gets_no_other_protocol() {
    let h2c = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    let world = World::before(Service::canned(Canned::Says(h2c)).await).await;
    world.say(Status::Valid);
    let asks = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let answer = world.caller().await.ask(asks).await;
    assert_eq!((answer.status, answer.header("x-countersign-reason")), (502, Some("gate.proxy.upstream_answer")));
}

#[tokio::test]
async fn a_service_speaks_in_its_own_name() {
    let says = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Countersign-Reason: forged\r\nConnection: close, X-Own\r\n\
                X-Own: 1\r\nX-Kept: 1\r\n\r\nok";
    let world = World::before(Service::canned(Canned::Says(says)).await).await;
    world.say(Status::Valid);
    let mut caller = world.caller().await;
    for _ in 0..2 {
        let answer = caller.ask(&get("/")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        assert_eq!((answer.header("x-countersign-reason"), answer.header("x-own")), (None, None));
        assert_eq!(answer.header("x-kept"), Some("1"));
    }
}

#[tokio::test]
async fn an_https_service_must_show_a_certificate_of_the_pinned_ca() {
    let (world, unpinned) = World::before_https().await;
    world.say(Status::Valid);
    assert_eq!(world.caller().await.ask(&get("/")).await.status, 200);
    unpinned.say(Status::Valid);
    let answer = unpinned.caller().await.ask(&get("/")).await;
    assert_eq!(answer.header("x-countersign-reason"), Some("gate.proxy.upstream_unreachable"));
    assert_eq!(unpinned.service.seen().len(), 0);
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let world = World::new().await;
    world.say(Status::Valid);
    assert_eq!(world.proxy.reread().unwrap(), Reread::Same);
    let before = world.caller().await.server_certificate();
    let (der, certificate, key) = world.control.server();
    // The certificate alone does not fit the key: a replacement that is half done.
    fs::write(world.path("server.pem"), &certificate).unwrap();
    assert!(world.proxy.reread().is_err());
    assert_eq!(world.caller().await.server_certificate(), before);
    fs::write(world.path("server.key"), &key).unwrap();
    assert_eq!(world.proxy.reread().unwrap(), Reread::Changed);
    let mut caller = world.caller().await;
    assert_eq!((caller.server_certificate(), caller.ask(&get("/")).await.status), (der, 200));
    for file in ["server.pem", "server.key"] {
        fs::write(world.path(file), "").unwrap();
        assert!(world.proxy.reread().is_err(), "{file}");
    }
    assert_eq!(world.caller().await.ask(&get("/")).await.status, 200);
}
