//! The SPIFFE Workload API: the service, and its X.509 profile.

use core::fmt;
use std::collections::BTreeMap;

use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::caller::Caller;
use super::feed::{Feed, Source};
use super::jwt;
use super::proto::spiffe_workload_api_server::SpiffeWorkloadApi;
use super::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};
use crate::svid::{Svid, SvidKey};

/// SPIFFE Workload Endpoint, 4: every request carries it, so that no request that a browser or proxy was made to send
/// is answered.
const SECURITY_HEADER: &str = "workload.spiffe.io";

impl fmt::Debug for X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// What to do about a key that cannot be handed over.
pub(crate) fn key_in_tpm() -> Status {
    Status::failed_precondition(
        "this host's credential key lives in its TPM and cannot be exported; read key.pem in the credential directory \
         through a TSS2 provider",
    )
}

/// The service.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    source: Source,
}

impl WorkloadApi {
    /// Serves from `source`.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source }
    }

    fn feed<T>(&self, request: &Request<T>) -> Result<Feed, Status> {
        check_header(request)?;
        let caller = request.extensions().get::<Caller>().ok_or_else(super::feed::refused)?;
        Ok(self.source.feed(caller.clone()))
    }
}

fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    let mut values = request.metadata().get_all(SECURITY_HEADER).iter();
    if values.next().is_some_and(|value| value == "true") && values.next().is_none() {
        Ok(())
    } else {
        Err(Status::invalid_argument("the metadata must hold workload.spiffe.io: true, once"))
    }
}

fn svid_response(svid: &Svid) -> Result<X509svidResponse, Status> {
    let key = match svid.key() {
        SvidKey::Pkcs8(key) => key.to_vec(),
        SvidKey::InTpm => return Err(key_in_tpm()),
    };
    let answer = X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.chain().concat(),
        x509_svid_key: key,
        bundle: svid.roots().concat(),
        hint: String::new(),
    };
    Ok(X509svidResponse { svids: vec![answer], ..X509svidResponse::default() })
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of an answer")]
fn bundles_response(svid: &Svid) -> Result<X509BundlesResponse, Status> {
    let bundles = BTreeMap::from([(svid.trust_domain_id(), svid.roots().concat())]);
    Ok(X509BundlesResponse { bundles, ..X509BundlesResponse::default() })
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;
    type FetchJWTBundlesStream = BoxStream<'static, Result<JwtBundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Ok(Response::new(self.feed(&request)?.answers(svid_response)))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Ok(Response::new(self.feed(&request)?.answers(bundles_response)))
    }

    async fn fetch_jwtsvid(&self, request: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        let mut feed = self.feed(&request)?;
        let svid = feed.next().await?;
        jwt::svid_response(&svid, request.get_ref()).map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let feed = self.feed(&request)?;
        // Read anew with each SVID: a token of a new key comes with the key.
        let bundle = self.source.jwt_bundle();
        Ok(Response::new(feed.answers(move |svid| jwt::bundles_response(svid, bundle.get().as_deref()))))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        check_header(&request)?;
        // A JWT-SVID here is for whoever holds its key: a verdict that leaves this out would mislead.
        Err(Status::unimplemented(
            "validate JWT-SVIDs by the keys of FetchJWTBundles, and their cnf by the sender's key",
        ))
    }
}
