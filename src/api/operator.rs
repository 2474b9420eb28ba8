//! Operator routes: hosts, references, the log, metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::protocol::HostId;
use countersign_policies::signed::SIGNED_BYTES_MAX;
use serde::{Deserialize, Serialize};

use crate::api::body::Json;
use crate::api::host::to_the_end;
use crate::api::{App, Operator, public};
use crate::broker::explain::Explanation;
use crate::broker::order::{Order, Ordered};
use crate::broker::{Broker, Latest};
use crate::problem::{Problem, Refusal};
use crate::trust::hosts::Host;
use crate::trust::state::{HostTrust, Standing};

/// A signed manifest as a JSON string: each of its quotation marks and newlines takes two bytes there.
const SIGNED_REQUEST_BYTES_MAX: usize = 2 * SIGNED_BYTES_MAX;

/// A host as operators see it.
#[derive(Debug, Serialize)]
pub(super) struct HostView {
    #[serde(flatten)]
    host: Host,
    trust: HostTrust,
    latest: Option<Latest>,
}

/// What changed, and where it is recorded.
#[derive(Debug, Serialize)]
pub(super) struct Changed {
    pub(super) id: String,
    pub(super) log_index: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    id: HostId,
    ek_sha256: Sha256Digest,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Labels are facts for policies, not a database.
const LABELS_MAX: usize = 32;
const LABEL_BYTES_MAX: usize = 128;

/// The body of a revocation or re-admission: nothing, said explicitly.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

pub(super) async fn list_hosts(State(broker): App) -> Result<axum::Json<Vec<HostView>>, Problem> {
    let hosts = broker.hosts.list()?.into_iter();
    Ok(axum::Json(hosts.map(|host| view(&broker, host)).collect::<Result<_, _>>()?))
}

pub(super) async fn show_host(State(broker): App, Path(id): Path<String>) -> Result<axum::Json<HostView>, Problem> {
    let host = broker.hosts.find(&host_id(&id)?)?;
    Ok(axum::Json(view(&broker, host)?))
}

pub(super) async fn explain_host(
    State(broker): App,
    Path(id): Path<String>,
) -> Result<axum::Json<Explanation>, Problem> {
    let id = host_id(&id)?;
    // Judges again: signatures, and logs that may be long.
    to_the_end(async move { tokio::task::block_in_place(|| broker.explain_host(&id)) }).await.map(axum::Json)
}

pub(super) async fn explain(State(broker): App, Path(of): Path<String>) -> Result<axum::Json<Explanation>, Problem> {
    to_the_end(async move { tokio::task::block_in_place(|| broker.explain(&of)) }).await.map(axum::Json)
}

fn view(broker: &Broker, host: Host) -> Result<HostView, Problem> {
    let trust = broker.trust.host(&host.id)?.unwrap_or_else(HostTrust::new);
    let latest = broker.latest(&host.id)?;
    Ok(HostView { host, trust, latest })
}

fn host_id(text: &str) -> Result<HostId, Problem> {
    HostId::parse(text).ok_or_else(|| Refusal::HostUnknown.because("a host id", text))
}

pub(super) async fn register_host(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(registration): Json<Registration>,
) -> Result<(StatusCode, axum::Json<HostView>), Problem> {
    let long = |text: &String| LABEL_BYTES_MAX < text.len();
    let labels = &registration.labels;
    if LABELS_MAX < labels.len() || labels.iter().any(|(key, value)| key.is_empty() || long(key) || long(value)) {
        let expected = format!("at most {LABELS_MAX} labels of at most {LABEL_BYTES_MAX} bytes");
        return Err(Refusal::Malformed.because(expected, "others"));
    }
    let Registration { id, ek_sha256, labels } = registration;
    let story = Arc::clone(&broker);
    let host = to_the_end(async move { story.register(&operator, id, ek_sha256, labels).await }).await?;
    Ok((StatusCode::CREATED, axum::Json(view(&broker, host)?)))
}

pub(super) async fn revoke_host(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<axum::Json<Changed>, Problem> {
    let host = host_id(&id)?;
    let recorded = to_the_end(async move { broker.revoke(&operator, &host).await }).await?;
    Ok(axum::Json(Changed { id, log_index: Some(recorded.index()) }))
}

pub(super) async fn readmit_host(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<axum::Json<Changed>, Problem> {
    let host = host_id(&id)?;
    let recorded = to_the_end(async move { broker.readmit(&operator, &host).await }).await?;
    Ok(axum::Json(Changed { id, log_index: Some(recorded.index()) }))
}

pub(super) async fn remove_host(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Path(id): Path<String>,
) -> Result<axum::Json<Changed>, Problem> {
    let host = host_id(&id)?;
    to_the_end(async move { broker.remove(&operator, &host).await }).await?;
    Ok(axum::Json(Changed { id, log_index: None }))
}

/// A manifest in a list.
#[derive(Debug, Serialize)]
pub(super) struct ReferenceView {
    id: String,
    version: u32,
    sha256: Sha256Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<UnixMillis>,
    signers: Vec<String>,
}

/// A manifest as operators signed it, and the digest of the preview where it takes another version's place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedReference {
    note: String,
    preview: Option<Sha256Digest>,
}

pub(super) async fn list_references(State(broker): App) -> axum::Json<Vec<ReferenceView>> {
    let governance = broker.references.current();
    let views = governance.manifests.iter().map(|signed| ReferenceView {
        id: signed.manifest().id().to_owned(),
        version: signed.manifest().version(),
        sha256: signed.manifest().digest(),
        until: signed.manifest().until(),
        signers: signed.signers().to_vec(),
    });
    axum::Json(views.collect())
}

pub(super) async fn show_reference(State(broker): App, Path(id): Path<String>) -> Result<Response, Problem> {
    let governance = broker.references.current();
    let manifest = governance.references.get(&id).ok_or_else(|| Refusal::ReferenceUnknown.plain())?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], manifest.to_json()).into_response())
}

pub(super) async fn register_reference(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(SignedReference { note, preview }): Json<SignedReference, SIGNED_REQUEST_BYTES_MAX>,
) -> Result<(StatusCode, axum::Json<Withdrawn>), Problem> {
    let story = async move { broker.register_reference(&operator, &note, preview).await };
    let (id, revoked_hosts) = to_the_end(story).await?;
    Ok((StatusCode::CREATED, axum::Json(Withdrawn { id, revoked_hosts })))
}

/// What hosts can no longer stand on, and what that cost.
#[derive(Debug, Serialize)]
pub(super) struct Withdrawn {
    pub(super) id: String,
    pub(super) revoked_hosts: u64,
}

/// A log entry as operators read it.
#[derive(Debug, Serialize)]
pub(super) struct EntryView {
    index: u64,
    leaf_hash: Sha256Digest,
    /// The deterministic encoding, base64url.
    bytes: String,
    at: UnixMillis,
    event: &'static str,
    host: Option<String>,
    reasons: Vec<String>,
}

pub(super) async fn log_entry(State(broker): App, Path(index): Path<String>) -> Result<axum::Json<EntryView>, Problem> {
    let unknown = || Refusal::EntryUnknown.because(format!("below {}", broker.lineage.head().size), &index);
    let number = index.parse::<u64>().ok().ok_or_else(unknown)?;
    let bytes = broker.lineage.read(number).map_err(|_| Refusal::LineageFailed.plain())?.ok_or_else(unknown)?;
    let entry = Entry::decode(&bytes)?;
    Ok(axum::Json(EntryView {
        index: number,
        leaf_hash: countersign_attestation::lineage::tree::leaf_hash(&bytes),
        bytes: URL_SAFE_NO_PAD.encode(&bytes),
        at: entry.at(),
        event: entry.event().name(),
        host: entry.host().map(ToString::to_string),
        reasons: entry.reasons().to_vec(),
    }))
}

pub(super) async fn revoke_selected(
    State(broker): App,
    Extension(Operator(operator)): Extension<Operator>,
    Json(order): Json<Order>,
) -> Result<axum::Json<Ordered>, Problem> {
    to_the_end(async move { broker.revoke_selected(&operator, order).await }).await.map(axum::Json)
}

pub(super) async fn metrics(State(broker): App) -> Result<Response, Problem> {
    for (name, standing) in [
        ("registered", Standing::Registered),
        ("enrolled", Standing::Enrolled),
        ("trusted", Standing::Trusted),
        ("lapsed", Standing::Lapsed),
        ("revoked", Standing::Revoked),
    ] {
        broker.metrics.hosts(name, broker.trust.standings(|standings| standings.count(standing))?);
    }
    let age = broker.pulse.newest().map_or(u64::MAX, |newest| broker.clock.now().since(newest.pulse.basis));
    broker.metrics.clock(broker.clock.error());
    broker.metrics.progress(broker.lineage.head().size, age);
    let collateral = broker.collateral();
    for item in &collateral.items {
        broker.metrics.collateral(&item.issue.subject, item.issue.next_update, item.ends);
    }
    broker.metrics.warnings(collateral.warnings.len().saturating_add(broker.authority_warnings().len()));
    let now = broker.clock.now();
    broker.metrics.issuing(broker.keys.workload.ends(now).map_or(0, |end| end.since(now)));
    let text = broker.metrics.encode().map_err(|_| Refusal::Internal.plain())?;
    Ok(public::open_metrics(text))
}
