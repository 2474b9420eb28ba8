//! Routes for anyone: everything here is signed, public by nature, or about the process.

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use countersign_attestation::result::jws::ALGORITHM;
use futures_util::stream::{self, Stream};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

use crate::api::App;
use crate::broker::start::issuer_url;
use crate::problem::{Problem, Refusal};
use crate::trust::pulse::Published;

/// The API's description.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

const JOSE: HeaderValue = HeaderValue::from_static("application/jwt");

pub(super) async fn pulse(State(broker): App) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    Ok(pulse_of(&newest))
}

pub(super) fn pulse_of(newest: &Published) -> Response {
    token(newest.pulse.clone(), JOSE)
}

pub(super) async fn authorities(State(broker): App) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    Ok(authorities_of(&newest))
}

pub(super) fn authorities_of(newest: &Published) -> Response {
    token(newest.authorities.token.clone(), JOSE)
}

pub(super) async fn status_list(State(broker): App, Path(n): Path<String>) -> Result<Response, Problem> {
    status_list_of(&*broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?, &n)
}

pub(super) fn status_list_of(newest: &Published, n: &str) -> Result<Response, Problem> {
    let unknown = || Refusal::StatusListUnknown.because("a number in the pulse", n);
    let list = n.parse::<usize>().ok().and_then(|n| newest.lists.get(n)).ok_or_else(unknown)?;
    Ok(token(list.token.clone(), HeaderValue::from_static("application/statuslist+jwt")))
}

fn token(text: String, media_type: HeaderValue) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    ([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, no_store)], text).into_response()
}

/// Server-sent events: `authorities` and each `status-list` that is new to this reader, then `pulse`. A reader that
/// falls behind misses pulses, never the newest one.
pub(super) async fn pulse_stream(State(broker): App) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    stream_of(broker.pulse.watch())
}

pub(super) fn stream_of(
    published: watch::Receiver<Option<Arc<Published>>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(Reading::new(published), |mut reading| async move {
        let event = reading.next().await?;
        Some((Ok(event), reading))
    }))
}

struct Reading {
    published: watch::Receiver<Option<Arc<Published>>>,
    waiting: VecDeque<Event>,
    last: Option<Arc<Published>>,
}

impl Reading {
    fn new(mut published: watch::Receiver<Option<Arc<Published>>>) -> Self {
        published.mark_changed();
        Self { published, waiting: VecDeque::new(), last: None }
    }

    /// The next event; none when there are no more pulses, which ends the stream.
    async fn next(&mut self) -> Option<Event> {
        while self.waiting.is_empty() {
            self.published.changed().await.ok()?;
            // A relay that has heard nothing yet has nothing to say yet.
            let Some(newest) = self.published.borrow_and_update().clone() else { continue };
            if self.last.as_ref().is_none_or(|last| last.authorities != newest.authorities) {
                self.waiting.push_back(Event::default().event("authorities").data(&newest.authorities.token));
            }
            for (n, list) in newest.lists.iter().enumerate() {
                let known = self.last.as_ref().and_then(|last| last.lists.get(n));
                if known.is_none_or(|known| known.list != list.list) {
                    self.waiting.push_back(Event::default().event("status-list").data(&list.token));
                }
            }
            self.waiting.push_back(Event::default().event("pulse").data(&newest.pulse));
            self.last = Some(newest);
        }
        self.waiting.pop_front()
    }
}

pub(super) async fn bundle(State(broker): App) -> Result<Response, Problem> {
    let bundle = broker.keys.spiffe_bundle(broker.clock.now()).map_err(|_| Refusal::Internal.plain())?;
    Ok(json(bundle))
}

pub(super) async fn jwks(State(broker): App) -> Response {
    json(broker.keys.token.jwks().to_json())
}

/// What a service that federates workload identities reads of an issuer (OpenID Connect Discovery 1.0, 3). Nobody logs
/// in here: only what finds the keys is there.
#[derive(Serialize)]
struct OpenIdConfiguration {
    issuer: String,
    jwks_uri: String,
    response_types_supported: [&'static str; 1],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [&'static str; 1],
    claims_supported: [&'static str; 8],
}

pub(super) async fn openid_configuration(State(broker): App) -> axum::Json<impl Serialize> {
    let issuer = issuer_url(&broker.config);
    axum::Json(OpenIdConfiguration {
        jwks_uri: format!("{issuer}/.well-known/jwks.json"),
        issuer,
        response_types_supported: ["id_token"],
        subject_types_supported: ["public"],
        id_token_signing_alg_values_supported: [ALGORITHM],
        claims_supported: ["iss", "sub", "aud", "iat", "exp", "jti", "cnf", "status"],
    })
}

pub(super) async fn openapi() -> Response {
    json(OPENAPI.to_owned())
}

pub(super) fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

pub(super) async fn checkpoint(State(broker): App) -> Result<Response, Problem> {
    let note = broker.lineage.checkpoint().map_err(|_| Refusal::LineageFailed.plain())?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))], note).into_response())
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    warnings: Vec<String>,
}

pub(super) async fn healthz() -> axum::Json<impl Serialize> {
    axum::Json(Health { status: "alive" })
}

/// Ready while pulses are signed: when the log, the store or a key fails, they stop.
pub(super) async fn readyz(State(broker): App) -> Result<(StatusCode, axum::Json<impl Serialize>), Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    let now = broker.clock.now();
    if newest.exp <= now {
        return Err(Refusal::NotReady.because(format!("a pulse valid after {now}"), newest.exp));
    }
    // What will deny hosts if nobody looks at it; the broker itself is sound.
    // Nor does a CA that cannot issue stop pulses: whoever holds a credential is trusted until its end.
    let warnings = broker.authority_warnings().into_iter().chain(broker.collateral().warnings).collect();
    Ok((StatusCode::OK, axum::Json(Readiness { status: "ready", warnings })))
}
