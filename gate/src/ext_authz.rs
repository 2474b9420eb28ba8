//! Envoy's door: `envoy.service.auth.v3.Authorization/Check` (gRPC, v3), on the address of [`forward_auth`].
//!
//! Judged is the certificate that Envoy verified and hands over (`include_peer_certificate: true`): never a header, and
//! never a principal's name, which any authority that Envoy trusts can write. Envoy must deny where the gate does not
//! answer: `failure_mode_allow: false`.
//!
//! [`forward_auth`]: crate::forward_auth

use axum::Router;
use countersign_policies::authorize::Asked;
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::rpc;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use crate::decide::{Allowed, Decision};
use crate::door::{ASSURANCE, DECISION, Door, REASON, SPIFFE_ID, STAPLE};
use crate::reason::{Denial, GateReason};
use crate::{authorize, certificate};

/// Longest request: headers of 60 KiB, which Envoy limits, and a certificate.
const REQUEST_BYTES_MAX: usize = 256 * 1024;

/// The gRPC service, as routes beside the others.
pub fn router(door: Door) -> Router {
    let server = AuthorizationServer::new(Envoy(door)).max_decoding_message_size(REQUEST_BYTES_MAX);
    Routes::new(server).into_axum_router()
}

#[derive(Debug)]
struct Envoy(Door);

#[tonic::async_trait]
impl Authorization for Envoy {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let Self(door) = self;
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let certificate = attributes.source.as_ref().map(|peer| peer.certificate.as_str());
        let chain = match certificate.filter(|certificate| !certificate.is_empty()) {
            Some(certificate) => certificate::from_envoy(certificate),
            None => Err(GateReason::NoCertificate.because("source.certificate (include_peer_certificate)", "none")),
        };
        let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
        door.take_staple(http.and_then(|http| http.headers.get(STAPLE.as_str())).map(String::as_str));
        Ok(Response::new(match door.judge(chain, || asked(&attributes)) {
            Decision::Allow(allowed) => allow(&allowed),
            Decision::Deny(denial) => deny(&denial),
        }))
    }
}

/// The request as Envoy has it, and the address it was connected from.
fn asked(attributes: &AttributeContext) -> Result<Asked, Denial> {
    let http = attributes.request.as_ref().and_then(|request| request.http.as_ref());
    let http = http.ok_or_else(|| GateReason::RequestMissing.because("request.http", "none"))?;
    let address = attributes.source.as_ref().and_then(|peer| peer.address.as_ref()?.address.as_ref());
    let peer = match address {
        Some(Address::SocketAddress(socket)) => socket.address.parse().ok(),
        Some(Address::Pipe(_) | Address::EnvoyInternalAddress(_)) | None => None,
    };
    let host = Some(http.host.as_str()).filter(|host| !host.is_empty());
    authorize::asked(&http.method, &http.path, host, peer)
}

/// What the upstream is told of the caller, in the place of whatever the caller said of itself.
fn allow(allowed: &Allowed) -> CheckResponse {
    let headers = vec![
        header(SPIFFE_ID.as_str(), allowed.spiffe_id().to_string()),
        header(DECISION.as_str(), allowed.decision().to_hex()),
        header(ASSURANCE.as_str(), allowed.assurance().to_string()),
    ];
    answer(Code::Ok, HttpResponse::OkResponse(OkHttpResponse { headers, ..OkHttpResponse::default() }))
}

fn deny(denial: &Denial) -> CheckResponse {
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: StatusCode::Forbidden.into() }),
        headers: vec![
            header("content-type", "application/problem+json".to_owned()),
            header(REASON.as_str(), denial.code().to_owned()),
            header("cache-control", "no-store".to_owned()),
        ],
        // Strings and a number always serialize.
        body: serde_json::to_string(&denial.for_caller()).unwrap_or_default(),
    };
    answer(Code::PermissionDenied, HttpResponse::DeniedResponse(denied))
}

fn answer(code: Code, response: HttpResponse) -> CheckResponse {
    let status = rpc::Status { code: code.into(), ..rpc::Status::default() };
    CheckResponse { status: Some(status), http_response: Some(response), ..CheckResponse::default() }
}

fn header(name: &str, value: String) -> HeaderValueOption {
    let value = HeaderValue { key: name.to_owned(), value, ..HeaderValue::default() };
    HeaderValueOption {
        header: Some(value),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}
