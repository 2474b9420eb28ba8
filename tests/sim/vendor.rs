//! A vendor's collateral service, or a cache of it, on a loopback port: what a test says it serves, and nothing while
//! it is down. Include it with `#[path]`; it is in no binary.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test crates, each uses a part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use countersign_attestation::UnixMillis;

use crate::intel::Collateral;

/// A running service.
#[derive(Clone)]
pub(crate) struct Vendor {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    down: bool,
    served: BTreeMap<String, (HeaderMap, Vec<u8>)>,
    asked: Vec<String>,
}

impl Vendor {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Mutex<Shared>>::default());
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared }
    }

    /// The address a broker is told.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers nothing but 503 from now on, or answers again.
    pub(crate) fn set_down(&self, down: bool) {
        self.shared.lock().unwrap().down = down;
    }

    /// Serves these bytes under a path with its query.
    pub(crate) fn serve(&self, path: &str, body: &[u8]) {
        self.serve_with(path, body, &[]);
    }

    /// The paths that were asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().unwrap().asked)
    }

    /// Serves Intel's collateral as PCS and PCCS do.
    pub(crate) fn serve_intel(&self, fmspc: &str, collateral: &Collateral) {
        let encoded = |chain: &str| chain.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let answer = |name: &str, body: &str, signature: &[u8]| {
            format!(r#"{{"{name}":{body},"signature":"{}"}}"#, hex::encode(signature)).into_bytes()
        };
        self.serve("/sgx/certification/v4/rootcacrl", hex::encode(&collateral.root_ca_crl).as_bytes());
        self.serve_with(
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            &collateral.pck_crl,
            &[("SGX-PCK-CRL-Issuer-Chain", &encoded(&collateral.pck_crl_issuer_chain))],
        );
        self.serve_with(
            &format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            &answer("tcbInfo", &collateral.tcb_info, &collateral.tcb_info_signature),
            &[("TCB-Info-Issuer-Chain", &encoded(&collateral.tcb_info_issuer_chain))],
        );
        self.serve_with(
            "/tdx/certification/v4/qe/identity",
            &answer("enclaveIdentity", &collateral.qe_identity, &collateral.qe_identity_signature),
            &[("SGX-Enclave-Identity-Issuer-Chain", &encoded(&collateral.qe_identity_issuer_chain))],
        );
    }

    fn serve_with(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) {
        let header =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        let headers = headers.iter().map(header).collect();
        self.shared.lock().unwrap().served.insert(path.to_owned(), (headers, body.to_vec()));
    }
}

async fn answer(State(shared): State<Arc<Mutex<Shared>>>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let mut shared = shared.lock().unwrap();
    shared.asked.push(path.clone());
    if shared.down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match shared.served.get(&path) {
        Some((headers, body)) => (headers.clone(), body.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A time as certificates and lists write it, UTCTime, in whole seconds.
pub(crate) fn utc_time(at: UnixMillis) -> String {
    let text: String = at.to_string().chars().filter(char::is_ascii_digit).collect();
    format!("{}Z", text.get(2..14).unwrap())
}
