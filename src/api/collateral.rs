//! Operator routes: what vendors publish about hardware.

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use countersign_attestation::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::api::body::Json;
use crate::api::host::to_the_end;
use crate::api::operator::Nothing;
use crate::api::{App, Operator};
use crate::broker::collateral::{Change, CollateralView};
use crate::broker::forecast::Forecast;
use crate::collateral::document::Document;
use crate::problem::{Problem, Refusal};

/// An export of all a fleet needs: lists of a few hundred kilobytes among them.
pub const IMPORT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Each costs a few signatures to judge.
const DOCUMENTS_MAX: usize = 512;
const DAY_MS: u64 = 86_400_000;

/// Documents as they were exported.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Documents {
    documents: Vec<Document>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Horizon {
    /// How far to look.
    days: u32,
}

pub(super) async fn list(State(broker): App) -> axum::Json<CollateralView> {
    axum::Json(broker.collateral())
}

pub(super) async fn documents(State(broker): App) -> axum::Json<Documents> {
    axum::Json(Documents { documents: broker.collateral_documents() })
}

pub(super) async fn import(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(Documents { documents }): Json<Documents, IMPORT_BYTES_MAX>,
) -> Result<axum::Json<Change>, Problem> {
    if DOCUMENTS_MAX < documents.len() {
        return Err(Refusal::CollateralCount.because(format!("at most {DOCUMENTS_MAX}"), documents.len()));
    }
    to_the_end(async move { broker.import_collateral(&operator, documents).await }).await.map(axum::Json)
}

pub(super) async fn refresh(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<axum::Json<Change>, Problem> {
    to_the_end(async move { broker.refresh_collateral(&operator).await }).await.map(axum::Json)
}

pub(super) async fn forecast(
    State(broker): App,
    horizon: Result<Query<Horizon>, QueryRejection>,
) -> Result<axum::Json<Forecast>, Problem> {
    let malformed = |rejection: QueryRejection| Refusal::Malformed.because("?days=N", rejection.body_text());
    let Query(Horizon { days }) = horizon.map_err(malformed)?;
    let until: UnixMillis = broker.clock.now().plus(u64::from(days).saturating_mul(DAY_MS));
    tokio::task::block_in_place(|| broker.forecast(until)).map(axum::Json)
}
