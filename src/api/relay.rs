//! A relay's doors: what gates fetch from a broker, and nothing else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::pulse::Class;
use futures_util::stream::Stream;
use tokio::sync::{Mutex, watch};

use crate::api::public;
use crate::clock::Clock;
use crate::metrics::RelayMetrics;
use crate::problem::{Problem, Refusal};
use crate::relay::Upstream;
use crate::trust::published::{Followers, LIST_LIFE_MS, Published, PublishedList};

/// What a relay serves.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// The newest pulse, as it changes.
    pub published: watch::Receiver<Option<Arc<Published>>>,
    /// The broker's key set, as it was pinned.
    pub jwks: Arc<str>,
    /// Time.
    pub clock: Clock,
    /// Tokens of lists, for who has nothing yet.
    pub tokens: Tokens,
    /// Who follows.
    pub subscribers: Followers,
    /// What is counted.
    pub metrics: Arc<RelayMetrics>,
}

/// Tokens of lists. A relay that hears changes alone asks for a token when it is asked for one, once for all who wait.
#[derive(Clone, Debug)]
pub struct Tokens {
    upstream: Arc<Upstream>,
    kept: Arc<Mutex<BTreeMap<u64, Kept>>>,
}

#[derive(Debug)]
struct Kept {
    sha256: Sha256Digest,
    token: String,
    signed_at: UnixMillis,
}

impl Tokens {
    /// No tokens yet, from this broker or relay.
    #[must_use]
    pub fn of(upstream: Arc<Upstream>) -> Self {
        Self { upstream, kept: Arc::default() }
    }

    /// The token of list `n`, which has this digest.
    async fn of_list(&self, n: u64, sha256: Sha256Digest, now: UnixMillis) -> Result<String, Problem> {
        let mut kept = self.kept.lock().await;
        // A token ends, for those who have no pulse: asked for again in time.
        let fresh = |kept: &&Kept| kept.sha256 == sha256 && now.since(kept.signed_at) < LIST_LIFE_MS * 3 / 4;
        if let Some(kept) = kept.get(&n).filter(fresh) {
            return Ok(kept.token.clone());
        }
        let refused = |error: String| Refusal::NotReady.because("the list from the broker", error);
        let token = self.upstream.list(n).await.map_err(|error| refused(error.to_string()))?;
        let (claims, list) = self.upstream.verify_list(&token).map_err(|error| refused(error.to_string()))?;
        let signed_at = UnixMillis(claims.iat.saturating_mul(1000));
        // Newer than the newest pulse here, it is right for the next one.
        kept.insert(n, Kept { sha256: list.sha256(), token: token.clone(), signed_at });
        Ok(token)
    }
}

impl Relayed {
    /// The newest key set that the broker signed, or else the pinned one.
    fn jwks(&self) -> String {
        let newest = self.published.borrow();
        newest.as_ref().map_or_else(|| self.jwks.to_string(), |newest| newest.authorities.authorities.keys.to_json())
    }

    fn newest(&self) -> Result<Arc<Published>, Problem> {
        self.published.borrow().clone().ok_or_else(|| Refusal::NotReady.plain())
    }

    async fn token_of(&self, list: &PublishedList, n: &str) -> Result<Response, Problem> {
        let now = self.clock.now();
        let fresh = |_: &&String| now.since(list.signed_at) < LIST_LIFE_MS * 3 / 4;
        let token = match list.token.as_ref().filter(fresh) {
            Some(token) => token.clone(),
            None => self.tokens.of_list(n.parse().unwrap_or(u64::MAX), list.sha256, now).await?,
        };
        Ok(public::list_token(token))
    }
}

/// Every route of a relay: those of the broker that gates use.
pub fn router(relayed: Relayed) -> Router {
    Router::new()
        .route("/v1/pulse", get(pulse))
        .route("/v1/authorities", get(authorities))
        .route("/v1/pulse/stream", get(async |State(relayed): State<Relayed>| stream(relayed, Class::Default)))
        .route(
            "/v1/pulse/stream/critical",
            get(async |State(relayed): State<Relayed>| stream(relayed, Class::Critical)),
        )
        .route("/v1/status-lists/{n}", get(status_list))
        .route("/v1/status-lists/{n}/since/{digest}", get(status_list_since))
        .route("/.well-known/jwks.json", get(async |State(relayed): State<Relayed>| public::json(relayed.jwks())))
        .route("/healthz", get(public::healthz))
        .route("/readyz", get(readyz))
        .fallback(async || Refusal::UnknownRoute.plain())
        .method_not_allowed_fallback(async || Refusal::Method.plain())
        .with_state(relayed)
}

/// `/metrics` alone, for a listener of its own: who follows and how far behind is for operators.
pub fn metrics_router(relayed: Relayed) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(relayed)
}

async fn metrics(State(relayed): State<Relayed>) -> Result<Response, Problem> {
    let newest = relayed.published.borrow().clone();
    let age = newest.map(|newest| relayed.clock.now().since(newest.pulse.basis));
    let text = relayed.metrics.encode(relayed.subscribers.count(), age).map_err(|_| Refusal::Internal.plain())?;
    Ok(public::open_metrics(text))
}

fn stream(relayed: Relayed, class: Class) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    public::stream_of(relayed.published, class, Some(relayed.subscribers.join()), relayed.metrics.bytes())
}

async fn pulse(State(relayed): State<Relayed>) -> Result<Response, Problem> {
    let newest = relayed.newest()?;
    Ok(public::pulse_of(&newest))
}

async fn authorities(State(relayed): State<Relayed>) -> Result<Response, Problem> {
    Ok(public::authorities_of(&*relayed.newest()?))
}

async fn status_list(State(relayed): State<Relayed>, Path(n): Path<String>) -> Result<Response, Problem> {
    let newest = relayed.newest()?;
    relayed.token_of(public::list_of(&newest, &n)?, &n).await
}

async fn status_list_since(
    State(relayed): State<Relayed>,
    Path((n, known)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let newest = relayed.newest()?;
    let list = public::list_of(&newest, &n)?;
    match public::delta_of(list, &known) {
        Some(delta) => Ok(delta),
        None => relayed.token_of(list, &n).await,
    }
}

/// Ready while the newest pulse has not ended.
async fn readyz(State(relayed): State<Relayed>) -> Result<Response, Problem> {
    let newest = relayed.newest()?;
    newest.check_unexpired(relayed.clock.now())?;
    Ok((StatusCode::OK, axum::Json(serde_json::json!({ "status": "ready", "seq": newest.pulse.seq }))).into_response())
}
