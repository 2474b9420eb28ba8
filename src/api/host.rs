//! Host routes: enrolment, challenges, attestations.

use std::future::Future;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{FromRequest as _, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, AttestationRequest, AttestationResponse, Challenge, EnrollmentChallenge,
    EnrollmentRequest,
};
use serde::Deserialize;

use crate::api::body::{ATTESTATION_BYTES_MAX, BODY_BYTES_MAX, Json};
use crate::api::{App, Channel};
use crate::problem::{Problem, Refusal};

type Answer<T> = Result<(StatusCode, axum::Json<T>), Problem>;

pub(super) async fn enroll(State(broker): App, Json(request): Json<EnrollmentRequest>) -> Answer<EnrollmentChallenge> {
    // RSA-OAEP and a certificate chain: off the threads that answer others.
    let challenge = to_the_end(async move { tokio::task::block_in_place(|| broker.begin_enrollment(request)) }).await?;
    Ok((StatusCode::CREATED, axum::Json(challenge)))
}

pub(super) async fn activate(
    State(broker): App,
    Path(id): Path<String>,
    Json(request): Json<ActivationRequest>,
) -> Answer<ActivationResponse> {
    let response = to_the_end(async move { broker.activate_enrollment(&id, request).await }).await?;
    Ok((StatusCode::OK, axum::Json(response)))
}

/// The body of a challenge request: nothing, said explicitly.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChallengeRequest {}

pub(super) async fn challenge(
    State(broker): App,
    Extension(Channel(host, _)): Extension<Channel>,
    Json(ChallengeRequest {}): Json<ChallengeRequest>,
) -> Answer<Challenge> {
    Ok((StatusCode::CREATED, axum::Json(broker.challenge(&host)?)))
}

pub(super) async fn attest(
    State(broker): App,
    Extension(Channel(host, channel)): Extension<Channel>,
    request: Request,
) -> Answer<AttestationResponse> {
    // A body with whole logs takes megabytes: a fleet that starts at once waits here, and not in memory.
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let _turn = match declared {
        Some(length) if length <= BODY_BYTES_MAX => None,
        Some(_) | None => Some(broker.long_bodies.acquire().await.map_err(|_| Refusal::Internal.plain())?),
    };
    let Json(request) = Json::<AttestationRequest, ATTESTATION_BYTES_MAX>::from_request(request, &()).await?;
    let broker = Arc::clone(&broker);
    let response = to_the_end(async move { broker.attest(&host, channel, request).await }).await?;
    Ok((StatusCode::OK, axum::Json(response)))
}

/// Runs a story to its end also when the peer hangs up: what is recorded takes effect. A panic in it denies.
pub(super) async fn to_the_end<T: Send + 'static>(
    story: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(story).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a story ended in a panic");
        Err(Refusal::Internal.plain())
    })
}
