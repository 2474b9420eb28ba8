//! Request bodies: JSON with exactly the documented members, bounded before it is read.

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use countersign_attestation::evidence::bundle::{EVENT_LOG_BYTES_MAX, IMA_ENTRIES_BYTES_MAX};
use serde::de::DeserializeOwned;

use crate::problem::{Problem, Refusal};

/// Enough for every request but an attestation with its logs and a manifest with an allow-list, twice over.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// The largest request is an attestation with both logs at their limits, in base64url, and 4 KiB for each other record.
pub const ATTESTATION_BYTES_MAX: usize = (EVENT_LOG_BYTES_MAX + IMA_ENTRIES_BYTES_MAX).div_ceil(3) * 4 + BODY_BYTES_MAX;

/// A JSON body of at most so many bytes.
#[derive(Clone, Debug)]
pub struct Json<T, const BYTES_MAX: usize = BODY_BYTES_MAX>(pub T);

/// A JSON body, as it was sent.
#[derive(Clone, Debug)]
pub struct RawJson<const BYTES_MAX: usize = BODY_BYTES_MAX>(pub Bytes);

impl<S: Send + Sync, const BYTES_MAX: usize> FromRequest<S> for RawJson<BYTES_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = media_type.and_then(|value| value.split(';').next()).map(str::trim);
        if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
            return Err(Refusal::MediaType.because("application/json", media_type.unwrap_or("none")));
        }
        let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let declared = declared.and_then(|length| length.parse::<usize>().ok());
        if let Some(length) = declared.filter(|length| BYTES_MAX < *length) {
            return Err(Refusal::TooLarge.because(format!("at most {BYTES_MAX} bytes"), length));
        }
        let body = to_bytes(request.into_body(), BYTES_MAX).await;
        body.map(Self).map_err(|_| Refusal::TooLarge.because(format!("at most {BYTES_MAX} bytes"), "more"))
    }
}

impl<T: DeserializeOwned, S: Send + Sync, const BYTES_MAX: usize> FromRequest<S> for Json<T, BYTES_MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let RawJson(bytes) = RawJson::<BYTES_MAX>::from_request(request, state).await?;
        let malformed = |error: serde_json::Error| Refusal::Malformed.because("the documented JSON members", error);
        serde_json::from_slice(&bytes).map(Self).map_err(malformed)
    }
}
