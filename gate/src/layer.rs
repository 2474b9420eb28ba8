//! The library door: a `tower` layer for services that terminate mutual TLS themselves. Each request is judged, so that
//! a connection that outlives its caller's trust carries nothing more.

use core::net::SocketAddr;
use core::task::{Context, Poll};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use countersign_policies::authorize::Asked;
use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use crate::authorize;
use crate::decide::Decision;
use crate::door::{Door, refusal, staple_of};
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
        let chain = request.extensions().get::<PeerCertificates>().map(|PeerCertificates(chain)| Arc::clone(chain));
        let chain = chain.ok_or_else(|| GateReason::NoCertificate.because("a client certificate", "none"));
        self.door.take_staple(staple_of(request.headers()));
        let decision = self.door.judge(chain.as_deref().map_err(Clone::clone), || asked(&request));
        match decision {
            Decision::Allow(allowed) => {
                request.extensions_mut().insert(allowed);
                Either::Left(self.inner.call(request))
            }
            Decision::Deny(denial) => Either::Right(ready(Ok(refusal(&denial, StatusCode::FORBIDDEN)))),
        }
    }
}

/// The request as the service will see it; the address is known where the service was made with connect info.
fn asked<B>(request: &Request<B>) -> Result<Asked, Denial> {
    let host = authorize::host_of(request.uri(), request.headers())?;
    let target = request.uri().path_and_query().map_or("", |target| target.as_str());
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    authorize::asked(request.method().as_str(), target, host, peer)
}
