//! Countersign's gate: decides for a relying party whether the holder of an execution credential is trusted **now**.
//!
//! It holds the newest pulse and its status lists, and answers from them alone; nothing is asked over the network while
//! a caller waits. Without an unexpired pulse it denies. It never falls back to an older one.
//!
//! * as a service: `countersign-gate`, asked by a proxy that terminates mutual TLS, over HTTP ([`forward_auth`]) or by
//!   Envoy over gRPC ([`ext_authz`])
//! * as a `tower` layer in a service that terminates mutual TLS itself: [`layer::GateLayer`]
//! * as a proxy for services that have none: it terminates mutual TLS, judges each request, and cuts what is open when
//!   its caller is trusted no more ([`proxy`])
//! * as a library: [`state::GateState`], fed by [`feed::Feed`], asked with [`state::GateState::decide`]; open sessions
//!   are judged again at every pulse ([`state::GateState::subscribe`])
//!
//! With nginx (a complete file is `deploy/nginx/countersign-gate.conf`):
//!
//! ```nginx
//! ssl_client_certificate /etc/countersign/trust-bundle.pem;
//! ssl_verify_client on;
//!
//! location / {
//!     auth_request /_countersign;
//!     proxy_pass http://inference;
//! }
//! location = /_countersign {
//!     internal;
//!     proxy_pass http://127.0.0.1:8444/authorize;
//!     proxy_pass_request_headers off;
//!     proxy_pass_request_body off;
//!     proxy_set_header Content-Length "";
//!     proxy_set_header X-SSL-Client-Cert $ssl_client_escaped_cert;
//! }
//! ```
#![forbid(unsafe_code)]

pub mod authorize;
pub mod certificate;
pub mod clock;
pub mod decide;
pub mod door;
pub mod ext_authz;
pub mod feed;
pub mod forward_auth;
pub mod layer;
pub mod metrics;
pub mod proxy;
pub mod reason;
pub mod reread;
pub mod settings;
pub use countersign_attestation::sse;
pub mod state;
