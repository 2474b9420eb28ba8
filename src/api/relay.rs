//! A relay's doors: what gates fetch from a broker, and nothing else.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::api::public;
use crate::clock::Clock;
use crate::problem::{Problem, Refusal};
use crate::trust::pulse::Published;

/// What a relay serves.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// The newest pulse, as it changes.
    pub published: watch::Receiver<Option<Arc<Published>>>,
    /// The broker's key set, as it was pinned.
    pub jwks: Arc<str>,
    /// Time.
    pub clock: Clock,
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
}

/// Every route of a relay: those of the broker that gates use.
pub fn router(relayed: Relayed) -> Router {
    Router::new()
        .route("/v1/pulse", get(pulse))
        .route("/v1/authorities", get(authorities))
        .route("/v1/pulse/stream", get(async |State(relayed): State<Relayed>| public::stream_of(relayed.published)))
        .route("/v1/status-lists/{n}", get(status_list))
        .route("/.well-known/jwks.json", get(async |State(relayed): State<Relayed>| public::json(relayed.jwks())))
        .route("/healthz", get(public::healthz))
        .route("/readyz", get(readyz))
        .fallback(async || Refusal::UnknownRoute.plain())
        .method_not_allowed_fallback(async || Refusal::Method.plain())
        .with_state(relayed)
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
    public::status_list_of(&newest, &n)
}

/// Ready while the newest pulse has not ended.
async fn readyz(State(relayed): State<Relayed>) -> Result<Response, Problem> {
    let (newest, now) = (relayed.newest()?, relayed.clock.now());
    if newest.exp <= now {
        return Err(Refusal::NotReady.because(format!("a pulse valid after {now}"), newest.exp));
    }
    Ok((StatusCode::OK, axum::Json(serde_json::json!({ "status": "ready", "seq": newest.seq }))).into_response())
}
