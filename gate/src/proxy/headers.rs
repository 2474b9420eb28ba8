//! What of a request and an answer goes on, and what the service is told in the caller's place.

use core::net::IpAddr;

use axum::http::header::{self, Entry};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version, uri::Authority};
use countersign_policies::authorize::Asked;

use crate::authorize::{asked, host_of};
use crate::decide::Allowed;
use crate::door::{ASSURANCE, DECISION, SPIFFE_ID, text};
use crate::reason::{Denial, GateReason};

/// RFC 9110, 7.6.1, and what older clients treat alike: of one connection, and of no interest beyond it.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Headers in which services believe a proxy: whole names, and how names begin.
const OF_PROXIES: [&str; 4] = ["forwarded", "client-cert", "client-cert-chain", "x-real-ip"];
const OF_PROXIES_BEGIN: [&str; 5] = ["x-countersign-", "x-forwarded-", "x-original-", "x-ssl-client-", "x-client-cert"];

/// Headers by which some services take a request for another one than its first line says. What was judged would not be
/// what is served.
const OVERRIDES: [&str; 5] =
    ["x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What a request's first line and its Host say together.
#[derive(Clone, Debug)]
pub(super) struct Heading {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) host: Option<HeaderValue>,
}

/// Reads a request's heading. What has two readings has none.
///
/// # Errors
/// [`GateReason::ProxyMethod`] or [`GateReason::RequestAmbiguous`].
pub(super) fn heading<B>(request: &Request<B>) -> Result<Heading, Denial> {
    let method = request.method();
    // CONNECT asks for a tunnel to an address of the caller's choice; TRACE shows the caller what we told the service.
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(GateReason::ProxyMethod.because("a request to the service", method));
    }
    let ambiguous = |expected: &str, found: &str| Err(GateReason::RequestAmbiguous.because(expected, found));
    for name in request.headers().keys() {
        if OVERRIDES.contains(&plain(name).as_str()) {
            return ambiguous("one method and one target", "a header that overrides them");
        }
    }
    let host = host_of(request.uri(), request.headers())?;
    // RFC 9112, 3.2: a request of HTTP/1.1 has a Host.
    if host.is_none() && Version::HTTP_10 < request.version() {
        return ambiguous("a host", "none");
    }
    if host.is_some_and(|host| host.parse::<Authority>().is_err() || host.contains('@')) {
        return ambiguous("a host's name, perhaps with a port", "something else");
    }
    let Some(target) = request.uri().path_and_query() else { return ambiguous("a path", "none") };
    let host = host.map(HeaderValue::from_str).transpose();
    let host = host.map_err(|_| GateReason::RequestAmbiguous.because("a host's name", "other than visible ASCII"))?;
    Ok(Heading { method: method.clone(), target: target.as_str().to_owned(), host })
}

impl Heading {
    /// The request as policies see it.
    pub(super) fn asked(&self, peer: IpAddr) -> Result<Asked, Denial> {
        let host = self.host.as_ref().and_then(|host| host.to_str().ok());
        asked(self.method.as_str(), &self.target, host, Some(peer))
    }
}

/// What the service gets: the caller's headers without those of one connection and those that speak for a proxy; and
/// who the caller is.
pub(super) fn to_service(headers: &mut HeaderMap, heading: &Heading, allowed: &Allowed, peer: IpAddr) {
    strip_hop_by_hop(headers);
    // The wait for 100 is between the caller and us.
    drain(headers, &header::EXPECT);
    strip(headers, |name| {
        let name = plain(name);
        OF_PROXIES.contains(&name.as_str()) || OF_PROXIES_BEGIN.iter().any(|begin| name.starts_with(begin))
    });
    join_cookies(headers);
    if let Some(host) = &heading.host {
        headers.insert(header::HOST, host.clone());
    }
    headers.insert(SPIFFE_ID, text(&allowed.spiffe_id().to_string()));
    headers.insert(DECISION, text(&allowed.decision().to_hex()));
    headers.insert(ASSURANCE, text(&allowed.assurance().to_string()));
    headers.insert(FORWARDED_FOR, text(&peer.to_canonical().to_string()));
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
}

/// What the caller gets of the service's headers.
///
/// # Errors
/// [`GateReason::UpstreamAnswer`] for an answer with two lengths.
pub(super) fn to_caller(headers: &mut HeaderMap) -> Result<(), Denial> {
    if headers.contains_key(header::TRANSFER_ENCODING) && headers.contains_key(header::CONTENT_LENGTH) {
        return Err(GateReason::UpstreamAnswer.because("one length", "Content-Length and Transfer-Encoding"));
    }
    strip_hop_by_hop(headers);
    // What stands under these names is the gate's word.
    strip(headers, |name| plain(name).starts_with("x-countersign-"));
    Ok(())
}

/// Whether a caller asks to go on as a WebSocket (RFC 6455, 4.1). No other protocol is switched to: h2c, for one, would
/// carry requests that nobody judges.
pub(super) fn asks_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && switches_to_websocket(request.headers())
        && !request.headers().contains_key(header::CONTENT_LENGTH)
        && !request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// Whether these headers say that this connection goes on as a WebSocket.
pub(super) fn switches_to_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    protocols.next().is_some_and(websocket)
        && protocols.next().is_none()
        && connection_tokens(headers).iter().any(|token| token == "upgrade")
}

/// Says that this connection goes on as a WebSocket.
pub(super) fn switch_to_websocket(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
}

fn connection_tokens(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|token| token.trim_ascii().to_ascii_lowercase()).collect()
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Before ours are set: a caller that lists X-Countersign-Spiffe-Id here takes nothing of what we say away.
    for token in connection_tokens(headers) {
        if let Ok(name) = HeaderName::try_from(token) {
            drain(headers, &name);
        }
    }
    for name in &HOP_BY_HOP {
        drain(headers, name);
    }
}

/// Gateways of the CGI family make one name of dashes and underscores.
fn plain(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        drain(headers, &name);
    }
}

/// Removes every value of a header.
fn drain(headers: &mut HeaderMap, name: &HeaderName) {
    match headers.entry(name) {
        Entry::Occupied(entry) => drop(entry.remove_entry_mult()),
        Entry::Vacant(_) => {}
    }
}

/// RFC 9113, 8.2.3: HTTP/2 may split cookies, HTTP/1.1 has one header of them.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() < 2 {
        return;
    }
    let joined = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
    drain(headers, &header::COOKIE);
    // Values joined by visible characters are a value.
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, Method, Request, Version, header};

    use super::{Heading, asks_websocket, heading, join_cookies, strip, strip_hop_by_hop, to_caller};

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri(uri);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
    }

    fn code(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<Heading, &'static str> {
        heading(&request(method, uri, headers)).map_err(|denial| denial.code())
    }

    #[test]
    fn e14_a_request_has_one_reading() {
        let host = ("host", "API.test:8443");
        let read = code("GET", "/a?b", &[host]).unwrap();
        assert_eq!((read.method, read.target.as_str()), (Method::GET, "/a?b"));
        assert_eq!(read.host.unwrap(), "API.test:8443");
        assert_eq!(code("GET", "http://api.test:8443/a", &[host]).unwrap().target, "/a");
        assert_eq!(code("PROPFIND", "/a", &[host]).unwrap().method.as_str(), "PROPFIND");
        for (uri, headers) in [
            ("/", &[][..]),
            ("/", &[host, host]),
            ("http://other.test/", &[host]),
            ("/", &[("host", "a b")]),
            ("/", &[("host", "")]),
            ("/", &[("host", "user@api.test")]),
            ("http://user@api.test/", &[("host", "user@api.test")]),
            ("/", &[host, ("x-http-method-override", "DELETE")]),
            ("/", &[host, ("X_HTTP_Method_Override", "DELETE")]),
            ("/", &[host, ("x-original-url", "/admin")]),
            ("/", &[host, ("x-rewrite-url", "/admin")]),
        ] {
            assert_eq!(code("GET", uri, headers).map(drop), Err("gate.request.ambiguous"), "{uri} {headers:?}");
        }
        for (method, uri) in [("CONNECT", "169.254.169.254:80"), ("TRACE", "/")] {
            assert_eq!(code(method, uri, &[host]).map(drop), Err("gate.proxy.method"), "{method}");
        }
    }

    #[test]
    fn what_is_of_one_connection_stays_on_it() {
        let listed = [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("transfer-encoding", "x")];
        let mut headers = request("GET", "/", &[&listed[..], &[("upgrade", "h2c"), ("kept", "1")]].concat());
        strip_hop_by_hop(headers.headers_mut());
        let left: Vec<&str> = headers.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["kept"]);
        let mut twice = request("GET", "/", &[("x-a", "1"), ("x-a", "2"), ("x-b", "3")]);
        strip(twice.headers_mut(), |name| name == "x-a");
        assert_eq!(twice.headers().len(), 1, "every value of a name goes");
    }

    #[test]
    fn an_answer_has_one_length_and_speaks_in_its_own_name() {
        let answer = |headers: &[(&str, &str)]| request("GET", "/", headers).headers().clone();
        let mut headers = answer(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        assert_eq!(to_caller(&mut headers).map_err(|denial| denial.code()), Err("gate.proxy.upstream_answer"));
        let mut headers = answer(&[("content-length", "3"), ("x-countersign-reason", "x"), ("connection", "close")]);
        to_caller(&mut headers).unwrap();
        assert_eq!(headers, answer(&[("content-length", "3")]));
    }

    #[test]
    fn only_websockets_are_switched_to() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert!(asks_websocket(&request("GET", "/", &websocket)));
        for headers in [
            &websocket[..1],
            &websocket[1..],
            &[websocket[0], ("upgrade", "h2c")],
            &[websocket[0], ("upgrade", "websocket, h2c")],
            &[websocket[0], websocket[1], ("upgrade", "h2c")],
            &[websocket[0], websocket[1], ("content-length", "5")],
            &[websocket[0], websocket[1], ("transfer-encoding", "chunked")],
        ] {
            assert!(!asks_websocket(&request("GET", "/", headers)), "{headers:?}");
        }
        assert!(!asks_websocket(&request("POST", "/", &websocket)));
        let mut old = request("GET", "/", &websocket);
        *old.version_mut() = Version::HTTP_10;
        assert!(!asks_websocket(&old));
    }

    #[test]
    fn cookies_are_one_header() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=1", "b=2"] {
            headers.append(header::COOKIE, cookie.parse().unwrap());
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
