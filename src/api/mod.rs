//! The doors: HTTP/JSON over TLS 1.3. They decode, ask a story of [`crate::broker`], and encode; they decide nothing.

pub mod body;
pub mod collateral;
pub mod exceptions;
pub mod federation;
pub mod governance;
pub mod host;
pub mod listener;
pub mod log;
pub mod operator;
pub mod public;
pub mod relay;
pub mod routes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use countersign_attestation::binder::ChannelBinding;
use countersign_attestation::protocol::HostId;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::listener::Peer;
use crate::api::routes::{Audience, ROUTES, Route};
use crate::broker::Broker;
use crate::clock::monotonic;
use crate::credentials::channel::Holder;
use crate::keys::listed::is_listed;
use crate::problem::{Problem, Refusal};

/// What every handler gets.
pub type App = State<Arc<Broker>>;

/// The operator a request was authorised as.
#[derive(Clone, Debug)]
pub struct Operator(pub HostId);

/// The enrolled host a request was authorised as, and the connection it came on.
#[derive(Clone, Debug)]
pub struct Channel(pub HostId, pub ChannelBinding);

/// Requests end within this; the pulse stream, which does not, is exempt once its head is sent.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The router: exactly the table's routes, each behind its audience's check.
pub fn router(broker: Arc<Broker>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let authorize = {
            let broker = Arc::clone(&broker);
            move |request: Request, next: Next| authorize(Arc::clone(&broker), route.audience, request, next)
        };
        router = router.route(route.path, handler(route).layer(middleware::from_fn(authorize)));
    }
    let measured = Arc::clone(&broker);
    router
        .fallback(async || Refusal::UnknownRoute.plain())
        .method_not_allowed_fallback(async || Refusal::Method.plain())
        .layer(CatchPanicLayer::custom(|_| Refusal::Internal.plain().into_response()))
        .layer(middleware::from_fn(move |request: Request, next: Next| measure(Arc::clone(&measured), request, next)))
        .with_state(broker)
}

/// The handler of a route. A route of the table without one answers like no route.
fn handler(route: &Route) -> MethodRouter<Arc<Broker>> {
    let none = || axum::routing::any(async || Refusal::UnknownRoute.plain());
    match (&route.method, route.path) {
        (&Method::POST, "/v1/enrollments") => post(host::enroll),
        (&Method::POST, "/v1/enrollments/{id}/activation") => post(host::activate),
        (&Method::POST, "/v1/challenges") => post(host::challenge),
        (&Method::POST, "/v1/attestations") => post(host::attest),
        (&Method::GET, "/v1/pulse") => get(public::pulse),
        (&Method::GET, "/v1/pulse/stream") => get(public::pulse_stream),
        (&Method::GET, "/v1/pulse/stream/critical") => get(public::critical_stream),
        (&Method::POST, "/v1/pulses/nonce") => post(public::nonce_pulse),
        (&Method::GET, "/v1/status-lists/{n}") => get(public::status_list),
        (&Method::GET, "/v1/status-lists/{n}/since/{digest}") => get(public::status_list_since),
        (&Method::GET, "/v1/authorities") => get(public::authorities),
        (&Method::GET, "/v1/bundle") => get(public::bundle),
        (&Method::GET, "/.well-known/jwks.json") => get(public::jwks),
        (&Method::GET, "/.well-known/openid-configuration") => get(public::openid_configuration),
        (&Method::GET, "/v1/hosts") => get(operator::list_hosts),
        (&Method::POST, "/v1/hosts") => post(operator::register_host),
        (&Method::GET, "/v1/hosts/{id}") => get(operator::show_host),
        (&Method::DELETE, "/v1/hosts/{id}") => delete(operator::remove_host),
        (&Method::GET, "/v1/hosts/{id}/explanation") => get(operator::explain_host),
        (&Method::GET, "/v1/hosts/{id}/manifest/{name}") => get(governance::learn),
        (&Method::POST, "/v1/hosts/{id}/revocation") => post(operator::revoke_host),
        (&Method::POST, "/v1/hosts/{id}/readmission") => post(operator::readmit_host),
        (&Method::POST, "/v1/revocations") => post(operator::revoke_selected),
        (&Method::GET, "/v1/references") => get(operator::list_references),
        (&Method::POST, "/v1/references") => post(operator::register_reference),
        (&Method::GET, "/v1/references/{id}") => get(operator::show_reference),
        (&Method::DELETE, "/v1/references/{id}") => delete(governance::withdraw_reference),
        (&Method::POST, "/v1/what-if") => post(governance::what_if),
        (&Method::GET, "/v1/policies") => get(governance::policies),
        (&Method::POST, "/v1/policies") => post(governance::activate_policies),
        (&Method::GET, "/v1/waivers") => get(exceptions::list_waivers),
        (&Method::POST, "/v1/waivers") => post(exceptions::add_waiver),
        (&Method::GET, "/v1/waivers/{id}") => get(exceptions::show_waiver),
        (&Method::DELETE, "/v1/waivers/{id}") => delete(exceptions::end_waiver),
        (&Method::GET, "/v1/denials") => get(exceptions::list_denials),
        (&Method::POST, "/v1/denials") => post(exceptions::deny),
        (&Method::DELETE, "/v1/denials/{id}") => delete(exceptions::withdraw_denial),
        (&Method::GET, "/v1/collateral") => get(collateral::list),
        (&Method::POST, "/v1/collateral") => post(collateral::import),
        (&Method::GET, "/v1/collateral/documents") => get(collateral::documents),
        (&Method::POST, "/v1/collateral/refresh") => post(collateral::refresh),
        (&Method::GET, "/v1/collateral/forecast") => get(collateral::forecast),
        (&Method::GET, "/v1/log/checkpoint") => get(public::checkpoint),
        (&Method::GET, "/v1/log/entries/{index}") => get(operator::log_entry),
        (&Method::GET, "/v1/log/entries/{index}/explanation") => get(operator::explain),
        (&Method::GET, "/log/checkpoint") => get(log::checkpoint),
        (&Method::GET, "/log/tile/entries/{*path}") => get(log::entries),
        (&Method::GET, "/log/tile/{*path}") => get(log::hashes),
        (&Method::GET, "/healthz") => get(public::healthz),
        (&Method::GET, "/readyz") => get(public::readyz),
        (&Method::GET, "/metrics") => get(operator::metrics),
        (&Method::GET, "/openapi.json") => get(public::openapi),
        _ => none(),
    }
}

/// Checks the audience on every request, since a connection may outlive an operator's place on the list or a host's
/// registration.
async fn authorize(broker: Arc<Broker>, audience: Audience, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Anonymous);
    match (audience, holder(&broker, &peer)) {
        (Audience::Anyone, _) => {}
        (Audience::Operator, Some((Holder::Operator(name), _))) => {
            drop(request.extensions_mut().insert(Operator(name)));
        }
        (Audience::Host, Some((Holder::Host(id), channel))) => {
            drop(request.extensions_mut().insert(Channel(id, channel)));
        }
        (Audience::Operator | Audience::Host, _) if peer == Peer::Anonymous => {
            return Refusal::Unauthenticated.plain().into_response();
        }
        (Audience::Operator | Audience::Host, _) => return Refusal::Forbidden.plain().into_response(),
    }
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::Timeout.plain().into_response(),
    }
}

/// Whom the peer's certificate stands for now, on which connection; nobody when its key is not the one on record.
fn holder(broker: &Broker, peer: &Peer) -> Option<(Holder, ChannelBinding)> {
    let Peer::Certified { uri, key, channel } = peer else { return None };
    let holder = Holder::from_uri(uri, &broker.config.trust_domain)?;
    let stands = match &holder {
        Holder::Operator(name) => is_listed(&broker.data, name, *key),
        Holder::Host(id) => broker.hosts.channel_key(id).ok().flatten() == Some(*key),
    };
    stands.then_some((holder, *channel))
}

async fn measure(broker: Arc<Broker>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let started = monotonic();
    let response = next.run(request).await;
    broker.metrics.request(&route, response.status().as_u16(), started.elapsed());
    response
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = axum::http::StatusCode::from_u16(self.0.status).unwrap_or_default();
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, Body::from(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.0.status == 503 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
