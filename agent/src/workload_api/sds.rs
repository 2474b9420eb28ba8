//! Envoy's secret discovery (SDS v3, state of the world): the same SVID as a TLS certificate, the same roots as a
//! validation context, pushed at each rotation.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use envoy_types::pb::google::protobuf::Any;
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use prost::{Message as _, Name as _};
use tonic::{Request, Response, Status, Streaming};

use super::caller::Caller;
use super::feed::{Feed, Source, refused};
use super::x509::key_in_tpm;
use crate::der;
use crate::svid::{Svid, SvidKey};

/// Names that need no knowledge of the host's SPIFFE id, as other agents have them.
const CERTIFICATE: &str = "default";
const ROOTS: &str = "ROOTCA";
/// Most names one stream may ask for.
const NAMES_MAX: usize = 16;

/// The service.
#[derive(Clone, Debug)]
pub struct Sds {
    source: Source,
}

impl Sds {
    /// Serves from `source`.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        Self { source }
    }

    fn feed<T>(&self, request: &Request<T>) -> Result<Feed, Status> {
        let caller = request.extensions().get::<Caller>().ok_or_else(refused)?;
        Ok(self.source.feed(caller.clone()))
    }
}

/// What follows from a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Answer with the newest SVID.
    Answer,
    /// Wait for the next one.
    Wait,
}

/// What one stream has asked for and was sent; no I/O.
#[derive(Debug, Default)]
struct Subscription {
    names: Vec<String>,
    asked: bool,
    sent: u64,
}

impl Subscription {
    /// Takes a request (xDS protocol, "ACK/NACK and resource type instance version").
    fn on(&mut self, request: &DiscoveryRequest) -> Result<Next, Status> {
        if !request.type_url.is_empty() && request.type_url != Secret::type_url() {
            return Err(Status::invalid_argument("only secrets are discovered here"));
        }
        // An answer to what is not the newest answer any more: the one to the newest is under way.
        if self.asked && request.response_nonce != self.sent.to_string() {
            return Ok(Next::Wait);
        }
        if let Some(error) = &request.error_detail {
            // A NACK: the proxy keeps what it has. The same again would be refused again.
            tracing::error!(nonce = self.sent, code = error.code, message = error.message, "a proxy refused a secret");
        }
        if NAMES_MAX < request.resource_names.len() {
            return Err(Status::invalid_argument(format!("more than {NAMES_MAX} names")));
        }
        let same = self.asked && self.names == request.resource_names;
        self.asked = true;
        self.names.clone_from(&request.resource_names);
        Ok(if same { Next::Wait } else { Next::Answer })
    }

    /// The answer with `svid`.
    fn answer(&mut self, svid: &Svid) -> Result<DiscoveryResponse, Status> {
        let secrets = secrets(svid, &self.names)?;
        self.sent = self.sent.saturating_add(1);
        Ok(DiscoveryResponse {
            version_info: svid.serial().to_owned(),
            resources: secrets
                .iter()
                .map(|secret| Any { type_url: Secret::type_url(), value: secret.encode_to_vec() })
                .collect(),
            type_url: Secret::type_url(),
            nonce: self.sent.to_string(),
            ..DiscoveryResponse::default()
        })
    }
}

/// The named secrets; both kinds when none is named.
fn secrets(svid: &Svid, names: &[String]) -> Result<Vec<Secret>, Status> {
    if names.is_empty() {
        return Ok(vec![certificate(svid, CERTIFICATE)?, roots(svid, ROOTS)]);
    }
    let (id, trust_domain) = (svid.id().to_string(), svid.trust_domain_id());
    let mut secrets = Vec::new();
    for name in names {
        secrets.push(if name == CERTIFICATE || *name == id {
            certificate(svid, name)?
        } else if name == ROOTS || *name == trust_domain {
            roots(svid, name)
        } else {
            let known = format!("{CERTIFICATE}, {id}, {ROOTS} and {trust_domain}");
            return Err(Status::invalid_argument(format!("there is no secret \"{name}\"; there are {known}")));
        });
    }
    Ok(secrets)
}

fn certificate(svid: &Svid, name: &str) -> Result<Secret, Status> {
    let SvidKey::Pkcs8(key) = svid.key() else { return Err(key_in_tpm()) };
    let certificate = TlsCertificate {
        certificate_chain: Some(certificates(svid.chain())),
        private_key: Some(inline(der::pem("PRIVATE KEY", key))),
        ..TlsCertificate::default()
    };
    Ok(Secret { name: name.to_owned(), r#type: Some(secret::Type::TlsCertificate(certificate)) })
}

fn roots(svid: &Svid, name: &str) -> Secret {
    let context = CertificateValidationContext { trusted_ca: Some(certificates(svid.roots())), ..Default::default() };
    Secret { name: name.to_owned(), r#type: Some(secret::Type::ValidationContext(context)) }
}

fn certificates(ders: &[Vec<u8>]) -> DataSource {
    inline(ders.iter().map(|certificate| der::pem("CERTIFICATE", certificate)).collect())
}

fn inline(pem: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(pem.into_bytes())), ..DataSource::default() }
}

/// One stream.
struct Conversation {
    feed: Feed,
    requests: Streaming<DiscoveryRequest>,
    subscription: Subscription,
    newest: Option<Arc<Svid>>,
}

impl Conversation {
    /// The next answer; `None` when the proxy hangs up.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            tokio::select! {
                next = self.feed.next(), if self.subscription.asked => {
                    let svid = next?;
                    let answer = self.subscription.answer(&svid)?;
                    self.newest = Some(svid);
                    return Ok(Some(answer));
                }
                request = self.requests.message() => {
                    let Some(request) = request? else { return Ok(None) };
                    let newest = self.newest.clone().filter(|svid| self.feed.offers_still(svid));
                    match (self.subscription.on(&request)?, newest) {
                        // Without one, the feed has the next one, or the end, in a moment.
                        (Next::Wait, _) | (Next::Answer, None) => {}
                        (Next::Answer, Some(svid)) => return self.subscription.answer(&svid).map(Some),
                    }
                }
            }
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let feed = self.feed(&request)?;
        let requests = request.into_inner();
        let talk = Conversation { feed, requests, subscription: Subscription::default(), newest: None };
        let answers = unfold(Some(talk), |talk| async {
            let mut talk = talk?;
            match talk.next().await {
                Ok(answer) => answer.map(|answer| (Ok(answer), Some(talk))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("use StreamSecrets (api_type: GRPC)"))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let mut feed = self.feed(&request)?;
        let mut subscription = Subscription::default();
        subscription.on(request.get_ref())?;
        let svid = feed.next().await?;
        subscription.answer(&svid).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
    use envoy_types::pb::google::rpc;
    use prost::Message as _;
    use tonic::Code;

    use super::{NAMES_MAX, Next, Secret, Subscription, secret};
    use crate::svid::tests::{ID, offer};

    fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
        let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
        DiscoveryRequest { resource_names, response_nonce: nonce.to_owned(), ..DiscoveryRequest::default() }
    }

    fn names(answer: &DiscoveryResponse) -> Vec<(String, bool)> {
        let decode = |any: &super::Any| Secret::decode(any.value.as_slice()).unwrap();
        let is_certificate = |secret: &Secret| matches!(secret.r#type, Some(secret::Type::TlsCertificate(_)));
        answer.resources.iter().map(decode).map(|secret| (secret.name.clone(), is_certificate(&secret))).collect()
    }

    #[test]
    fn an_ack_is_not_answered_a_nack_neither_and_other_names_are() {
        let (first, second) = (offer(1).svid, offer(1).svid);
        let mut subscription = Subscription::default();
        assert_eq!(subscription.on(&request(&["default"], "")).unwrap(), Next::Answer);
        let answer = subscription.answer(&first).unwrap();
        assert_eq!((answer.nonce.as_str(), answer.version_info.as_str()), ("1", first.serial()));
        assert_eq!(subscription.on(&request(&["default"], "1")).unwrap(), Next::Wait, "an ACK");
        assert_eq!(subscription.on(&request(&["default", "ROOTCA"], "1")).unwrap(), Next::Answer, "more");
        assert_eq!(subscription.answer(&first).unwrap().nonce, "2");
        assert_eq!(subscription.on(&request(&["default"], "1")).unwrap(), Next::Wait, "of an older answer");
        assert_eq!(subscription.names, ["default", "ROOTCA"]);
        let error_detail = Some(rpc::Status { code: 3, message: "no".to_owned(), details: Vec::new() });
        let nack = DiscoveryRequest { error_detail, ..request(&["default", "ROOTCA"], "2") };
        assert_eq!(subscription.on(&nack).unwrap(), Next::Wait);
        let rotated = subscription.answer(&second).unwrap();
        assert_eq!((rotated.nonce.as_str(), rotated.version_info.as_str()), ("3", second.serial()));
        assert_ne!(first.serial(), second.serial());
    }

    #[test]
    fn names_are_the_ids_or_the_well_known_ones() {
        let svid = offer(1).svid;
        let answer = |names: &[&str]| {
            let mut subscription = Subscription::default();
            subscription.on(&request(names, ""))?;
            subscription.answer(&svid)
        };
        let all = ["default", ID, "ROOTCA", "spiffe://a.example"];
        let found = names(&answer(&all).unwrap());
        assert_eq!(found, all.map(|name| (name.to_owned(), name == "default" || name == ID)));
        assert_eq!(names(&answer(&[]).unwrap()), [("default".to_owned(), true), ("ROOTCA".to_owned(), false)]);
        for name in ["spiffe://a.example/host/host-2", "spiffe://b.example", "", "DEFAULT"] {
            assert_eq!(answer(&["default", name]).unwrap_err().code(), Code::InvalidArgument, "{name}");
        }
        assert_eq!(answer(&["default"; NAMES_MAX + 1]).unwrap_err().code(), Code::InvalidArgument);
        let clusters = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        let other = DiscoveryRequest { type_url: clusters, ..request(&[], "") };
        assert_eq!(Subscription::default().on(&other).unwrap_err().code(), Code::InvalidArgument);
    }
}
