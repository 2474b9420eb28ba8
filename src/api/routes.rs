//! The table of routes. Each names its audience; what is not in the table is not a route.

use axum::http::Method;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Anyone: the answer is signed, or the request proves itself.
    Anyone,
    /// The enrolled host that the channel certificate names, with the very key it enrolled.
    Host,
    /// An operator on this broker's list.
    Operator,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Method.
    pub method: Method,
    /// Path, with `{parameters}`.
    pub path: &'static str,
    /// Audience.
    pub audience: Audience,
}

const fn route(method: Method, path: &'static str, audience: Audience) -> Route {
    Route { method, path, audience }
}

/// Every route there is.
pub const ROUTES: &[Route] = &[
    route(Method::POST, "/v1/enrollments", Audience::Anyone),
    route(Method::POST, "/v1/enrollments/{id}/activation", Audience::Anyone),
    route(Method::POST, "/v1/challenges", Audience::Host),
    route(Method::POST, "/v1/attestations", Audience::Host),
    route(Method::GET, "/v1/pulse", Audience::Anyone),
    route(Method::GET, "/v1/pulse/stream", Audience::Anyone),
    route(Method::GET, "/v1/pulse/stream/critical", Audience::Anyone),
    route(Method::POST, "/v1/pulses/nonce", Audience::Anyone),
    route(Method::GET, "/v1/status-lists/{n}", Audience::Anyone),
    route(Method::GET, "/v1/status-lists/{n}/since/{digest}", Audience::Anyone),
    route(Method::GET, "/v1/authorities", Audience::Anyone),
    route(Method::GET, "/v1/bundle", Audience::Anyone),
    route(Method::GET, "/.well-known/jwks.json", Audience::Anyone),
    route(Method::GET, "/.well-known/openid-configuration", Audience::Anyone),
    route(Method::GET, "/v1/hosts", Audience::Operator),
    route(Method::POST, "/v1/hosts", Audience::Operator),
    route(Method::GET, "/v1/hosts/{id}", Audience::Operator),
    route(Method::DELETE, "/v1/hosts/{id}", Audience::Operator),
    route(Method::GET, "/v1/hosts/{id}/explanation", Audience::Operator),
    route(Method::GET, "/v1/hosts/{id}/manifest/{name}", Audience::Operator),
    route(Method::POST, "/v1/hosts/{id}/revocation", Audience::Operator),
    route(Method::POST, "/v1/hosts/{id}/readmission", Audience::Operator),
    route(Method::POST, "/v1/revocations", Audience::Operator),
    route(Method::GET, "/v1/references", Audience::Operator),
    route(Method::POST, "/v1/references", Audience::Operator),
    route(Method::GET, "/v1/references/{id}", Audience::Operator),
    route(Method::DELETE, "/v1/references/{id}", Audience::Operator),
    route(Method::POST, "/v1/what-if", Audience::Operator),
    route(Method::GET, "/v1/policies", Audience::Operator),
    route(Method::POST, "/v1/policies", Audience::Operator),
    route(Method::GET, "/v1/waivers", Audience::Operator),
    route(Method::POST, "/v1/waivers", Audience::Operator),
    route(Method::GET, "/v1/waivers/{id}", Audience::Operator),
    route(Method::DELETE, "/v1/waivers/{id}", Audience::Operator),
    route(Method::GET, "/v1/denials", Audience::Operator),
    route(Method::POST, "/v1/denials", Audience::Operator),
    route(Method::DELETE, "/v1/denials/{id}", Audience::Operator),
    route(Method::GET, "/v1/collateral", Audience::Operator),
    route(Method::POST, "/v1/collateral", Audience::Operator),
    route(Method::GET, "/v1/collateral/documents", Audience::Operator),
    route(Method::POST, "/v1/collateral/refresh", Audience::Operator),
    route(Method::GET, "/v1/collateral/forecast", Audience::Operator),
    route(Method::GET, "/v1/log/checkpoint", Audience::Anyone),
    route(Method::GET, "/v1/log/entries/{index}", Audience::Operator),
    route(Method::GET, "/v1/log/entries/{index}/explanation", Audience::Operator),
    route(Method::GET, "/log/checkpoint", Audience::Anyone),
    route(Method::GET, "/log/tile/entries/{*path}", Audience::Operator),
    route(Method::GET, "/log/tile/{*path}", Audience::Anyone),
    route(Method::GET, "/healthz", Audience::Anyone),
    route(Method::GET, "/readyz", Audience::Anyone),
    route(Method::GET, "/metrics", Audience::Operator),
    route(Method::GET, "/openapi.json", Audience::Anyone),
];
