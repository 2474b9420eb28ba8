//! Operator routes: waivers and denied hardware.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_policies::instance::{Denial, Instance};
use countersign_policies::waiver::{SignedWaiver, Waiver};
use serde::{Deserialize, Serialize};

use crate::api::body::{Json, RawJson};
use crate::api::host::to_the_end;
use crate::api::operator::{Changed, Withdrawn};
use crate::api::{App, Operator};
use crate::problem::{Problem, Refusal};

/// A waiver as its operator signed it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Submission {
    note: String,
}

/// A waiver in a list.
#[derive(Debug, Serialize)]
pub(super) struct WaiverView {
    id: String,
    sha256: Sha256Digest,
    signer: String,
    accepts: Vec<String>,
    until: UnixMillis,
    reason: String,
}

/// A waiver with its text and signature.
#[derive(Debug, Serialize)]
pub(super) struct SignedWaiverView {
    #[serde(flatten)]
    waiver: WaiverView,
    #[serde(flatten)]
    signed: SignedWaiver,
}

/// A denied piece of hardware.
#[derive(Debug, Serialize)]
pub(super) struct DenialView {
    id: Sha256Digest,
    instance: Instance,
    reason: String,
}

impl From<&Waiver> for WaiverView {
    fn from(waiver: &Waiver) -> Self {
        Self {
            id: waiver.id().to_owned(),
            sha256: waiver.digest(),
            signer: waiver.signer().to_owned(),
            accepts: waiver.accepts().collect(),
            until: waiver.until(),
            reason: waiver.reason().to_owned(),
        }
    }
}

pub(super) async fn list_waivers(State(broker): App) -> axum::Json<Vec<WaiverView>> {
    axum::Json(broker.references.current().waivers.waivers().map(WaiverView::from).collect())
}

pub(super) async fn show_waiver(
    State(broker): App,
    Path(id): Path<String>,
) -> Result<axum::Json<SignedWaiverView>, Problem> {
    let governance = broker.references.current();
    let waiver = governance.waivers.get(&id).ok_or_else(|| Refusal::WaiverUnknown.plain())?;
    Ok(axum::Json(SignedWaiverView { waiver: waiver.into(), signed: waiver.signed().clone() }))
}

pub(super) async fn add_waiver(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(Submission { note }): Json<Submission>,
) -> Result<(StatusCode, axum::Json<Changed>), Problem> {
    let id = to_the_end(async move { broker.add_waiver(&operator, &note).await }).await?;
    Ok((StatusCode::CREATED, axum::Json(Changed { id, log_index: None })))
}

pub(super) async fn end_waiver(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<axum::Json<Withdrawn>, Problem> {
    let name = id.clone();
    let revoked_hosts = to_the_end(async move { broker.end_waiver(&operator, &name).await }).await?;
    Ok(axum::Json(Withdrawn { id, revoked_hosts }))
}

pub(super) async fn list_denials(State(broker): App) -> axum::Json<Vec<DenialView>> {
    let governance = broker.references.current();
    let view = |denial: &Denial| DenialView {
        id: denial.id(),
        instance: denial.instance().clone(),
        reason: denial.reason().to_owned(),
    };
    axum::Json(governance.denials.denials().map(view).collect())
}

pub(super) async fn deny(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    RawJson(denial): RawJson,
) -> Result<(StatusCode, axum::Json<Withdrawn>), Problem> {
    let (id, revoked_hosts) = to_the_end(async move { broker.deny_instance(&operator, &denial).await }).await?;
    Ok((StatusCode::CREATED, axum::Json(Withdrawn { id: id.to_hex(), revoked_hosts })))
}

pub(super) async fn withdraw_denial(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<axum::Json<Changed>, Problem> {
    let denial = Sha256Digest::from_hex(&id).ok_or_else(|| Refusal::DenialUnknown.plain())?;
    to_the_end(async move { broker.withdraw_denial(&operator, denial).await }).await?;
    Ok(axum::Json(Changed { id, log_index: None }))
}
