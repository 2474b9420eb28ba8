//! Operator routes: what a change would do, and the changes that are committed by what was previewed.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::protocol::{self, HostId};
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::api::body::Json;
use crate::api::collateral::IMPORT_BYTES_MAX;
use crate::api::host::to_the_end;
use crate::api::operator::Withdrawn;
use crate::api::{App, Operator};
use crate::broker::what_if::Preview;
use crate::problem::{Problem, Refusal};
use crate::references::Proposal;

/// Lines of progress that wait for a slow reader; more are left out.
const LINES: usize = 8;

/// A line of the answer: progress, and at last the preview or why there is none.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Progress { judged: u64, of: u64 },
    Preview(Preview),
    Problem(Box<protocol::Problem>),
}

/// Lines of JSON, as they come. What is wrong with the proposal itself is a problem document.
pub(super) async fn what_if(
    State(broker): App,
    Json(proposal): Json<Proposal, IMPORT_BYTES_MAX>,
) -> Result<Response, Problem> {
    let (lines, mut come) = mpsc::channel(LINES);
    tokio::task::spawn_blocking(move || {
        let progress = |judged, of| drop(lines.try_send(Line::Progress { judged, of }));
        let last = match broker.what_if(proposal, &progress) {
            Ok(preview) => Line::Preview(preview),
            Err(Problem(problem)) => Line::Problem(problem),
        };
        // A reader that is gone has lost nothing: nothing has changed.
        drop(lines.blocking_send(last));
    });
    let first = match come.recv().await {
        None => return Err(Refusal::Internal.plain()),
        Some(Line::Problem(problem)) => return Err(Problem(problem)),
        Some(first) => first,
    };
    let more = stream::unfold(come, |mut come| async move { Some((come.recv().await?, come)) });
    let lines = stream::once(async { first }).chain(more).map(|line| {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(text))
    });
    let media_type = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, media_type)], Body::from_stream(lines)).into_response())
}

/// The digest of the change that was looked at.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Previewed {
    preview: Option<Sha256Digest>,
}

pub(super) async fn withdraw_reference(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
    previewed: Result<Query<Previewed>, QueryRejection>,
) -> Result<axum::Json<Withdrawn>, Problem> {
    let malformed = |rejection: QueryRejection| Refusal::Malformed.because("?preview=SHA256", rejection.body_text());
    let Query(Previewed { preview }) = previewed.map_err(malformed)?;
    let there = broker.references.current().references.get(&id).is_some();
    let missing = || if there { Refusal::PreviewMissing } else { Refusal::ReferenceUnknown };
    let preview = preview.ok_or_else(|| missing().plain())?;
    let name = id.clone();
    let revoked_hosts = to_the_end(async move { broker.withdraw_reference(&operator, &name, preview).await }).await?;
    Ok(axum::Json(Withdrawn { id, revoked_hosts }))
}

/// A manifest of what a host shows, for review; nothing is registered.
pub(super) async fn learn(State(broker): App, Path((id, name)): Path<(String, String)>) -> Result<Response, Problem> {
    let host = HostId::parse(&id).ok_or_else(|| Refusal::HostUnknown.because("a host id", id))?;
    let story = async move { tokio::task::block_in_place(|| broker.learn(&host, &name)) };
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], to_the_end(story).await?.to_json()).into_response())
}

/// Policies in place of all that are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Activation {
    policies: Vec<(String, String)>,
    preview: Option<Sha256Digest>,
}

/// The policies in force.
#[derive(Debug, Serialize)]
pub(super) struct Policies {
    sha256: Sha256Digest,
    policies: Vec<(String, String)>,
}

pub(super) async fn policies(State(broker): App) -> axum::Json<Policies> {
    let governance = broker.references.current();
    let texts = governance.policy.texts().map(|(name, text)| (name.to_owned(), text.to_owned()));
    axum::Json(Policies { sha256: governance.policy.digest(), policies: texts.collect() })
}

/// Policies that are in force now, and what that cost.
#[derive(Debug, Serialize)]
pub(super) struct Activated {
    sha256: Sha256Digest,
    revoked_hosts: u64,
}

pub(super) async fn activate_policies(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(activation): Json<Activation, IMPORT_BYTES_MAX>,
) -> Result<axum::Json<Activated>, Problem> {
    let Activation { policies, preview } = activation;
    let preview = preview.ok_or_else(|| Refusal::PreviewMissing.plain())?;
    let story = std::sync::Arc::clone(&broker);
    let revoked_hosts = to_the_end(async move { story.activate_policies(&operator, &policies, preview).await }).await?;
    Ok(axum::Json(Activated { sha256: broker.references.current().policy.digest(), revoked_hosts }))
}
