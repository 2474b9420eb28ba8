//! The forward-auth door: a proxy that terminated TLS asks about the certificate it verified possession of
//! (nginx `auth_request`, Traefik ForwardAuth, Envoy HTTP ext_authz, HAProxy and others).

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use countersign_attestation::protocol::Problem;

use crate::clock::Moment;
use crate::decide::{Allowed, Decision};
use crate::door::{ASSURANCE, DECISION, Door, NO_STORE, REASON, SPIFFE_ID, refusal, staple_of, text};
use crate::reason::{Denial, GateReason};
use crate::state::GateState;
use crate::{authorize as policies, certificate};

/// `GET /authorize`, `/healthz`, `/readyz` and `/metrics`.
pub fn router(door: Door) -> Router {
    Router::new()
        .route("/authorize", get(authorize))
        .route("/healthz", get(async || StatusCode::OK))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(door)
}

async fn authorize(State(door): State<Door>, headers: HeaderMap) -> Response {
    door.take_staple(staple_of(&headers));
    let decision = door.judge(certificate::from_headers(&headers), || policies::from_headers(&headers));
    match decision {
        Decision::Allow(allowed) => allow(&allowed),
        // Always 403: `auth_request` knows 401 and 403 as denials, and calls everything else an error. Some proxies
        // pass the body on to the caller, so it says no more than a caller may know.
        Decision::Deny(denial) => refusal(&denial, StatusCode::FORBIDDEN),
    }
}

fn allow(allowed: &Allowed) -> Response {
    let headers = [
        (SPIFFE_ID, text(&allowed.spiffe_id().to_string())),
        (DECISION, text(&allowed.decision().to_hex())),
        (ASSURANCE, text(&allowed.assurance().to_string())),
        (header::CACHE_CONTROL, NO_STORE),
    ];
    (StatusCode::OK, headers).into_response()
}

/// For an operator: what was expected, and what was found. Those who ask here are on this machine.
fn explain(denial: &Denial, status: StatusCode) -> Response {
    let problem = Problem {
        expected: Some(denial.expected().to_owned()),
        found: Some(denial.found().to_owned()),
        status: status.as_u16(),
        ..denial.for_caller()
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
        (REASON, HeaderValue::from_static(denial.code())),
        (header::CACHE_CONTROL, NO_STORE),
    ];
    (status, headers, axum::Json(problem).into_response().into_body()).into_response()
}

/// Ready means able to let anyone in: an unexpired pulse with all its lists.
async fn ready(State(door): State<Door>) -> Response {
    match readiness(&door.state, door.clock.now()) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(denial) => explain(&denial, StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn readiness(state: &GateState, now: Moment) -> Result<(), Denial> {
    let snapshot = state.snapshot();
    let held = snapshot.held.as_ref().ok_or_else(|| GateReason::NoPulse.because("a pulse", "none since the start"))?;
    held.check_fresh(now)
}

async fn metrics(State(door): State<Door>) -> Response {
    let content_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], door.metrics.render(&door.state, door.clock.now())).into_response()
}
