//! The library door: a `tower` layer for services that terminate mutual TLS themselves. Each request is judged, so that
//! a connection that outlives its caller's trust carries nothing more.

use core::task::{Context, Poll};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use crate::decide::Decision;
use crate::forward_auth::{Door, REASON};
use crate::reason::{Denial, GateReason};

/// The caller's certificates, leaf first, DER: what the TLS stack that checked possession of the leaf's key says of the
/// connection. Whoever accepts connections puts it into each request's extensions; nothing of a request can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificates(pub Arc<Vec<Vec<u8>>>);

/// Lets requests through whose caller is trusted now, with [`Allowed`](crate::decide::Allowed) among their extensions.
#[derive(Clone, Debug)]
pub struct GateLayer(Door);

impl GateLayer {
    /// A layer that judges by this door's state and clock.
    #[must_use]
    pub const fn new(door: Door) -> Self {
        Self(door)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { door: self.0.clone(), inner }
    }
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    door: Door,
    inner: S,
}

impl<S, B> Service<Request<B>> for Gate<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let decision = match request.extensions().get::<PeerCertificates>() {
            Some(PeerCertificates(chain)) => self.door.state.decide(chain, self.door.clock.now()),
            None => Decision::Deny(GateReason::NoCertificate.because("a client certificate", "none")),
        };
        self.door.metrics.decided(&decision);
        match decision {
            Decision::Allow(allowed) => {
                request.extensions_mut().insert(allowed);
                Either::Left(self.inner.call(request))
            }
            Decision::Deny(denial) => {
                tracing::info!(code = denial.code(), expected = denial.expected(), found = denial.found(), "denied");
                Either::Right(ready(Ok(deny(&denial))))
            }
        }
    }
}

fn deny(denial: &Denial) -> Response<Body> {
    // Strings and a number always serialize.
    let mut response = Response::new(Body::from(serde_json::to_vec(&denial.for_caller()).unwrap_or_default()));
    *response.status_mut() = StatusCode::FORBIDDEN;
    for (name, value) in [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
        (REASON, HeaderValue::from_static(denial.code())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ] {
        response.headers_mut().insert(name, value);
    }
    response
}
