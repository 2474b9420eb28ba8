//! The workload API's socket and its clients: the `spiffe` crate, the Python package `spiffe`, Envoy, and bare gRPC.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod clients;

use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use countersign_agent::clock;
use countersign_agent::svid::{Offer, Svid, SvidKey};
use countersign_agent::trust::Lease;
use countersign_agent::workload_api::Socket;
use countersign_agent::workload_api::feed::Source;
use countersign_agent::workload_api::proto::{
    X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use countersign_agent::workload_api::selector::Admission;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use futures_util::StreamExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use tokio::sync::watch;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

const ID: &str = "spiffe://a.example/host/host-1";
const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// The broker's workload authority.
pub(crate) struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "workloads");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names.push(SanType::URI("spiffe://a.example".try_into().unwrap()));
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key, PEM.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(SanType::URI(ID.try_into().unwrap()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn svid(&self) -> Arc<Svid> {
        let (certificate, key) = self.issue();
        let end = clock::wall().plus(3_600_000);
        Arc::new(Svid::new(&certificate, &self.certificate, SvidKey::from_pem(&key).unwrap(), end).unwrap())
    }
}

/// A socket that is served, and what it serves.
pub(crate) struct Served {
    directory: tempfile::TempDir,
    pub(crate) authority: Authority,
    offers: watch::Sender<Option<Offer>>,
    _server: tokio::task::JoinHandle<()>,
}

impl Served {
    /// By these rules. Whoever runs the tests is `uid:OWN`.
    fn by(rules: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let own = format!("uid:{}", rustix::process::geteuid().as_raw());
        let rules = rules.iter().map(|rule| rule.replace("uid:OWN", &own).parse().unwrap()).collect();
        let (offers, offered) = watch::channel(None);
        let socket = Socket::bind(&directory.path().join("agent.sock")).unwrap();
        let server =
            tokio::spawn(async move { socket.serve(Source::new(offered, Admission::new(rules))).await.unwrap() });
        Self { directory, authority: Authority::new(), offers, _server: server }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// A new SVID for so long; its serial number.
    pub(crate) fn offer(&self, lease_ms: u64) -> String {
        let svid = self.authority.svid();
        let serial = svid.serial().to_owned();
        self.offers.send_replace(Some(Offer { svid, lease: lease(lease_ms) }));
        serial
    }

    pub(crate) fn lose(&self) {
        self.offers.send_replace(None);
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("unix:{}", self.path().display())).unwrap().connect().await.unwrap()
    }
}

fn lease(lease_ms: u64) -> Lease {
    let now = clock::now();
    Lease::new(now.wall.plus(lease_ms), now)
}

/// A call with these values of the security header.
async fn call<Q, A>(
    channel: Channel,
    path: &'static str,
    message: Q,
    header: &[&'static str],
) -> Result<Streaming<A>, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut request = Request::new(message);
    for value in header {
        request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(path);
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    client.server_streaming(request, path, codec).await.map(tonic::Response::into_inner)
}

async fn fetch(channel: Channel) -> Result<Streaming<X509svidResponse>, Status> {
    call(channel, FETCH, X509svidRequest {}, &["true"]).await
}

/// Nothing may take long enough here for a person to notice.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("not within twenty seconds: {what}"),
    }
}

#[tokio::test]
async fn a_request_without_the_security_header_is_not_answered() {
    let served = Served::by(&["uid:OWN"]);
    served.offer(60_000);
    let channel = served.channel().await;
    for header in [&[] as &[&str], &["false"], &["TRUE"], &[""], &["true", "true"]] {
        let header = header.to_vec();
        let refused =
            call::<_, X509svidResponse>(channel.clone(), FETCH, X509svidRequest {}, &header).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{header:?}");
        let jwt = call::<_, X509svidResponse>(
            channel.clone(),
            "/SpiffeWorkloadAPI/FetchJWTSVID",
            X509svidRequest {},
            &header,
        );
        assert_eq!(jwt.await.unwrap_err().code(), Code::InvalidArgument, "{header:?}");
    }
    let validate = "/SpiffeWorkloadAPI/ValidateJWTSVID";
    let jwt = call::<_, X509svidResponse>(channel, validate, X509svidRequest {}, &["true"]);
    assert_eq!(jwt.await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_stream_gets_each_svid_once_and_ends_with_trust() {
    let served = Served::by(&["uid:OWN"]);
    let channel = served.channel().await;
    let mut before = fetch(channel.clone()).await.unwrap();
    assert_eq!(before.message().await.unwrap_err().code(), Code::PermissionDenied, "no trust yet");
    let first = served.offer(60_000);
    let mut stream = fetch(channel.clone()).await.unwrap();
    let message = soon("the first SVID", stream.message()).await.unwrap().unwrap();
    assert_eq!((message.svids.len(), message.svids[0].spiffe_id.as_str()), (1, ID));
    let parsed = |der: &[u8]| {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
        assert!(rest.is_empty());
        hex::encode(certificate.raw_serial())
    };
    assert_eq!(parsed(&message.svids[0].x509_svid), first);
    assert!(!format!("{message:?}").contains("key"), "keys are not printed");

    // The lease goes on: nothing to say. The credential rotates: its successor is next.
    served.offers.send_modify(|offer| offer.as_mut().unwrap().lease = lease(90_000));
    let second = served.offer(60_000);
    let message = soon("the second SVID", stream.message()).await.unwrap().unwrap();
    assert_eq!(parsed(&message.svids[0].x509_svid), second);
    let mut bundles: Streaming<X509BundlesResponse> =
        call(channel.clone(), "/SpiffeWorkloadAPI/FetchX509Bundles", X509BundlesRequest {}, &["true"]).await.unwrap();
    let roots = soon("the bundle", bundles.message()).await.unwrap().unwrap().bundles;
    assert_eq!(roots.keys().collect::<Vec<_>>(), ["spiffe://a.example"]);
    assert_eq!(roots["spiffe://a.example"], message.svids[0].bundle);

    served.lose();
    for ended in
        [soon("the end", stream.message()).await.unwrap_err(), soon("the end", bundles.message()).await.unwrap_err()]
    {
        assert_eq!((ended.code(), ended.message()), (Code::PermissionDenied, "no identity issued"));
    }
    let mut after = fetch(channel).await.unwrap();
    assert_eq!(after.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a13_a_stream_ends_with_the_lease_though_nobody_says_so() {
    let served = Served::by(&["uid:OWN"]);
    served.offer(400);
    let channel = served.channel().await;
    let mut stream = fetch(channel.clone()).await.unwrap();
    assert!(soon("the SVID", stream.message()).await.unwrap().is_some());
    let began = clock::boot_ms();
    let ended = soon("the end of the lease", stream.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(clock::boot_ms() - began < 3_000, "{} ms", clock::boot_ms() - began);
    // Still offered, and yet nothing is handed out.
    assert!(served.offers.borrow().is_some());
    let mut late = fetch(channel).await.unwrap();
    assert_eq!(late.message().await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_admitted_processes_get_anything_and_others_learn_nothing() {
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let program = countersign_attestation::digest::Sha256Digest::of(&[&own]).to_hex();
    let admitted = [format!("sha256:{program},uid:OWN"), "uid:OWN".to_owned()];
    for rule in &admitted {
        let served = Served::by(&["uid:4294967294", rule]);
        served.offer(60_000);
        let mut stream = fetch(served.channel().await).await.unwrap();
        assert!(soon("the SVID", stream.message()).await.unwrap().is_some(), "{rule}");
    }
    let other = format!("uid:OWN,sha256:{}", "ab".repeat(32));
    for rules in [&[] as &[&str], &["uid:4294967294"], &[&other], &["uid:OWN,cgroup:/no.such.slice"]] {
        let served = Served::by(rules);
        served.offer(60_000);
        let mut stream = fetch(served.channel().await).await.unwrap();
        let refused = soon("the refusal", stream.message()).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "no identity issued"), "{rules:?}");
        let bundles = call::<_, X509BundlesResponse>(
            served.channel().await,
            "/SpiffeWorkloadAPI/FetchX509Bundles",
            X509BundlesRequest {},
            &["true"],
        );
        let refused = bundles.await.unwrap().message().await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{rules:?}");
        let request = futures_util::stream::iter([DiscoveryRequest::default()]);
        let refused = secrets(served.channel().await, request).await.message().await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "no identity issued"), "{rules:?}");
    }
}

#[tokio::test]
async fn a_key_in_the_tpm_is_not_handed_out_and_the_bundle_is() {
    let served = Served::by(&["uid:OWN"]);
    let (certificate, _) = served.authority.issue();
    let end = clock::wall().plus(3_600_000);
    let svid = Svid::new(&certificate, &served.authority.certificate, SvidKey::InTpm, end).unwrap();
    served.offers.send_replace(Some(Offer { svid: Arc::new(svid), lease: lease(60_000) }));
    let channel = served.channel().await;
    let refused = fetch(channel.clone()).await.unwrap().message().await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("lives in its TPM"), "{}", refused.message());
    let names = |name: &str| DiscoveryRequest { resource_names: vec![name.to_owned()], ..DiscoveryRequest::default() };
    let certificate = secrets(channel.clone(), futures_util::stream::iter([names("default")])).await.message().await;
    assert_eq!(certificate.unwrap_err().code(), Code::FailedPrecondition);
    let roots = secrets(channel.clone(), futures_util::stream::iter([names("ROOTCA")])).await.message().await;
    assert_eq!(roots.unwrap().unwrap().resources.len(), 1);
    let bundles = call::<_, X509BundlesResponse>(
        channel,
        "/SpiffeWorkloadAPI/FetchX509Bundles",
        X509BundlesRequest {},
        &["true"],
    );
    assert_eq!(bundles.await.unwrap().message().await.unwrap().unwrap().bundles.len(), 1);
}

async fn secrets(
    channel: Channel,
    requests: impl futures_util::Stream<Item = DiscoveryRequest> + Send + 'static,
) -> Streaming<DiscoveryResponse> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::default();
    let path = PathAndQuery::from_static(SECRETS);
    // A proxy keeps its side open.
    let requests = requests.chain(futures_util::stream::pending());
    client.streaming(Request::new(requests), path, codec).await.unwrap().into_inner()
}

#[tokio::test]
async fn secrets_are_pushed_at_rotation_and_end_with_trust() {
    let served = Served::by(&["uid:OWN"]);
    let first = served.offer(60_000);
    let (ask, asked) = tokio::sync::mpsc::channel(4);
    let requests = futures_util::stream::unfold(asked, |mut asked| async { Some((asked.recv().await?, asked)) });
    let request = |names: &[&str], nonce: &str| DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    };
    ask.send(request(&["default"], "")).await.unwrap();
    let mut answers = secrets(served.channel().await, requests).await;
    let mut next = async || soon("an answer", answers.message()).await;
    let answer = next().await.unwrap().unwrap();
    assert_eq!((answer.version_info, answer.nonce.as_str(), answer.resources.len()), (first.clone(), "1", 1));
    // An ACK, and then more names: the second is answered and the first is not.
    ask.send(request(&["default"], "1")).await.unwrap();
    ask.send(request(&["default", "ROOTCA"], "1")).await.unwrap();
    let answer = next().await.unwrap().unwrap();
    assert_eq!((answer.version_info, answer.nonce.as_str(), answer.resources.len()), (first, "2", 2));
    ask.send(request(&["default", "ROOTCA"], "2")).await.unwrap();
    let second = served.offer(60_000);
    let answer = next().await.unwrap().unwrap();
    assert_eq!((answer.version_info, answer.nonce.as_str(), answer.resources.len()), (second, "3", 2));
    served.lose();
    assert_eq!(next().await.unwrap_err().code(), Code::PermissionDenied);
}
