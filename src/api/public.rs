//! Routes for anyone: everything here is signed, public by nature, or about the process.

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::nonce_pulse::NonceRequest;
use countersign_attestation::pulse::Class;
use countersign_attestation::result::jws::ALGORITHM;
use futures_util::stream::{self, Stream};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

use crate::api::App;
use crate::api::body::Json;
use crate::broker::start::issuer_url;
use crate::problem::{Problem, Refusal};
use crate::trust::published::{Following, Published, PublishedList, same_lists};

/// The API's description.
pub const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// A nonce in base64url, and the name of its member.
const NONCE_REQUEST_BYTES_MAX: usize = 256;

const JOSE: HeaderValue = HeaderValue::from_static("application/jwt");

pub(super) async fn pulse(State(broker): App) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    Ok(pulse_of(&newest))
}

pub(super) async fn nonce_pulse(
    State(broker): App,
    Json(request): Json<NonceRequest, NONCE_REQUEST_BYTES_MAX>,
) -> Result<Response, Problem> {
    Ok(token(broker.answer_nonce(request)?, JOSE))
}

pub(super) fn pulse_of(newest: &Published) -> Response {
    token(newest.token.clone(), JOSE)
}

pub(super) async fn authorities(State(broker): App) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    Ok(authorities_of(&newest))
}

pub(super) fn authorities_of(newest: &Published) -> Response {
    token(newest.authorities.token.clone(), JOSE)
}

pub(super) async fn status_list(State(broker): App, Path(n): Path<String>) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    token_of(list_of(&newest, &n)?)
}

/// What became of a list since the reader held a state of it: the changes alone where it is one of lately.
pub(super) async fn status_list_since(
    State(broker): App,
    Path((n, known)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    let list = list_of(&newest, &n)?;
    delta_of(list, &known).map_or_else(|| token_of(list), Ok)
}

fn token_of(list: &PublishedList) -> Result<Response, Problem> {
    Ok(list_token(list.token.clone().ok_or_else(|| Refusal::NotReady.plain())?))
}

pub(super) fn list_of<'a>(newest: &'a Published, n: &str) -> Result<&'a PublishedList, Problem> {
    let unknown = || Refusal::StatusListUnknown.because("a number in the pulse", n);
    n.parse::<usize>().ok().and_then(|n| newest.lists.get(n)).map(AsRef::as_ref).ok_or_else(unknown)
}

/// The changes alone, for who holds the state with this digest. What is no digest is none of lately.
pub(super) fn delta_of(list: &PublishedList, known: &str) -> Option<Response> {
    let delta = list.since(Sha256Digest::from_hex(known)?)?;
    Some(token(delta, HeaderValue::from_static("application/vnd.countersign.status-delta+json")))
}

pub(super) fn list_token(text: String) -> Response {
    token(text, HeaderValue::from_static("application/statuslist+jwt"))
}

/// What a registry counted, as OpenMetrics text.
pub(super) fn open_metrics(text: String) -> Response {
    let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

fn token(text: String, media_type: HeaderValue) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    ([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, no_store)], text).into_response()
}

/// Server-sent events: `authorities`, and `status-delta` or `status-list` for each list, where they are new to this
/// reader, then `pulse`. A reader that falls behind misses pulses, never the newest one.
pub(super) async fn pulse_stream(State(broker): App) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    stream_of(broker.pulse.watch(), Class::Default, None, Counter::default())
}

/// The same with every pulse there is, which are more while somebody follows here.
pub(super) async fn critical_stream(State(broker): App) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let following = broker.pulse.follow_critical();
    stream_of(broker.pulse.watch(), Class::Critical, Some(following), Counter::default())
}

pub(super) fn stream_of(
    published: watch::Receiver<Option<Arc<Published>>>,
    class: Class,
    following: Option<Following>,
    bytes: Counter,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(Reading::new(published, class, following, bytes), |mut reading| async move {
        let event = reading.next().await?;
        Some((Ok(event), reading))
    }))
}

struct Reading {
    published: watch::Receiver<Option<Arc<Published>>>,
    waiting: VecDeque<Event>,
    last: Option<Arc<Published>>,
    class: Class,
    /// The pace of the critical class ends with the last of its readers.
    _following: Option<Following>,
    /// Bytes of the events for it.
    bytes: Counter,
}

impl Reading {
    fn new(
        mut published: watch::Receiver<Option<Arc<Published>>>,
        class: Class,
        following: Option<Following>,
        bytes: Counter,
    ) -> Self {
        published.mark_changed();
        Self { published, waiting: VecDeque::new(), last: None, class, _following: following, bytes }
    }

    fn push(&mut self, name: &str, data: &str) {
        self.bytes.inc_by(u64::try_from(name.len().saturating_add(data.len())).unwrap_or(u64::MAX));
        self.waiting.push_back(Event::default().event(name).data(data));
    }

    /// The next event; none when there are no more pulses, which ends the stream.
    async fn next(&mut self) -> Option<Event> {
        while self.waiting.is_empty() {
            self.published.changed().await.ok()?;
            // A relay that has heard nothing yet has nothing to say yet.
            let Some(newest) = self.published.borrow_and_update().clone() else { continue };
            if self.last.as_ref().is_some_and(|last| is_spare(last, &newest, self.class)) {
                continue;
            }
            if self.last.as_ref().is_none_or(|last| last.authorities != newest.authorities) {
                self.push("authorities", &newest.authorities.token);
            }
            for (n, list) in newest.lists.iter().enumerate() {
                let known = self.last.as_ref().and_then(|last| last.lists.get(n)).map(|known| known.sha256);
                if known == Some(list.sha256) {
                    continue;
                }
                // Where there is neither, the reader asks for the list that the pulse names.
                if let Some(delta) = known.and_then(|known| list.since(known)) {
                    self.push("status-delta", &delta);
                } else if let Some(token) = &list.token {
                    self.push("status-list", token);
                }
            }
            self.push("pulse", &newest.token);
            self.last = Some(newest);
        }
        self.waiting.pop_front()
    }
}

/// Whether a reader of this class is spared a pulse: one that came for others, unless it missed what was for it.
fn is_spare(last: &Published, newest: &Published, class: Class) -> bool {
    match class {
        Class::Critical => false,
        Class::Default => {
            newest.extra
                && same_lists(&last.lists, &newest.lists)
                && newest.pulse.basis.since(last.pulse.basis) < Class::Default.period_ms()
        }
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

/// Ready while pulses are signed: when the log, the store, a key or the clock fails, they stop.
pub(super) async fn readyz(State(broker): App) -> Result<(StatusCode, axum::Json<impl Serialize>), Problem> {
    Refusal::check_clock(broker.clock.error())?;
    let newest = broker.pulse.newest().ok_or_else(|| Refusal::NotReady.plain())?;
    newest.check_unexpired(broker.clock.now())?;
    // What will deny hosts if nobody looks at it; the broker itself is sound.
    // Nor does a CA that cannot issue stop pulses: whoever holds a credential is trusted until its end.
    let warnings = broker.authority_warnings().into_iter().chain(broker.collateral().warnings).collect();
    Ok((StatusCode::OK, axum::Json(Readiness { status: "ready", warnings })))
}
