//! What an operator adds to the core's answer: policies over each request of a trusted caller
//! ([`countersign_policies::authorize`]). They are parsed at the start and when their files change, never while a
//! caller waits.

use core::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use countersign_attestation::UnixMillis;
use countersign_policies::Finding;
use countersign_policies::authorize::{Action, Asked, AuthorizationSet, Caller, Resource};

use crate::decide::Allowed;
use crate::reason::{Denial, GateReason};

/// Files in a folder of policies, and bytes in one: more is a mistake before it is a policy.
const FILES_MAX: usize = 64;
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// nginx's usual names, and the host beside them.
const ORIGINAL: Names = Names {
    method: HeaderName::from_static("x-original-method"),
    target: HeaderName::from_static("x-original-uri"),
    host: HeaderName::from_static("x-original-host"),
};
/// Traefik's and Caddy's names.
const FORWARDED: Names = Names {
    method: HeaderName::from_static("x-forwarded-method"),
    target: HeaderName::from_static("x-forwarded-uri"),
    host: HeaderName::from_static("x-forwarded-host"),
};

/// The headers in which a proxy says what it was asked.
struct Names {
    method: HeaderName,
    target: HeaderName,
    host: HeaderName,
}

/// What is asked beside the core.
#[derive(Clone, Debug)]
pub enum Authorize {
    /// Nothing: whoever is trusted now may ask for anything.
    CoreAlone,
    /// These policies, which must permit each request.
    ByPolicies(Arc<OperatorPolicies>),
}

impl Authorize {
    /// Whether each request must be permitted.
    #[must_use]
    pub const fn asks(&self) -> bool {
        match self {
            Self::CoreAlone => false,
            Self::ByPolicies(_) => true,
        }
    }

    /// Asks about one request of a caller that the core let in; `asked` is read only where policies are asked.
    ///
    /// # Errors
    /// The denial of the request itself, or of the policies.
    pub fn check(
        &self,
        allowed: &Allowed,
        asked: impl FnOnce() -> Result<Asked, Denial>,
        now: UnixMillis,
    ) -> Result<(), Denial> {
        let policies = match self {
            Self::CoreAlone => return Ok(()),
            Self::ByPolicies(policies) => policies.current.load(),
        };
        let caller = Caller {
            host: allowed.spiffe_id().host(),
            assurance: allowed.assurance(),
            generation: allowed.generation(),
            waivers: allowed.waivers(),
        };
        let permit = policies.authorize(&caller, &asked()?, now)?;
        tracing::debug!(caller = %allowed.spiffe_id(), policies = permit.policies().join(" "), "permitted");
        Ok(())
    }
}

/// Why policies cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file or folder.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Neither text nor of a size.
    #[error("{0} is no policy text of at most {FILE_BYTES_MAX} bytes")]
    Text(PathBuf),
    /// A folder with nothing, or with too much.
    #[error("{0} holds {1} files *.cedar, expected 1 to {FILES_MAX}")]
    Files(PathBuf, usize),
    /// What they say.
    #[error("cannot use {0}: {1}")]
    Policies(PathBuf, Box<Finding>),
}

/// What became of a look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// They say what they said.
    Same,
    /// They say something else, which decides from now on.
    Changed,
}

/// An operator's policies and the place they are read from.
#[derive(Debug)]
pub struct OperatorPolicies {
    place: PathBuf,
    current: ArcSwap<AuthorizationSet>,
}

impl OperatorPolicies {
    /// Reads a file, or the `*.cedar` files of a folder.
    ///
    /// # Errors
    /// [`LoadError`]: nothing that is not wholly understood is put in force.
    pub fn load(place: &Path) -> Result<Self, LoadError> {
        Ok(Self { place: place.to_owned(), current: ArcSwap::from_pointee(read(place)?) })
    }

    /// Reads them again. What cannot be loaded changes nothing: what was in force stays so.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn reread(&self) -> Result<Reread, LoadError> {
        let set = read(&self.place)?;
        if set.digest() == self.current.load().digest() {
            return Ok(Reread::Same);
        }
        self.current.store(Arc::new(set));
        Ok(Reread::Changed)
    }

    /// What is in force.
    #[must_use]
    pub fn current(&self) -> Arc<AuthorizationSet> {
        self.current.load_full()
    }
}

fn read(place: &Path) -> Result<AuthorizationSet, LoadError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error| LoadError::Read(path, error)
    };
    let mut files = Vec::new();
    if std::fs::metadata(place).map_err(unreadable(place))?.is_dir() {
        for entry in std::fs::read_dir(place).map_err(unreadable(place))? {
            let path = entry.map_err(unreadable(place))?.path();
            if path.extension().is_some_and(|extension| extension == "cedar") {
                files.push(path);
            }
        }
        if files.is_empty() || FILES_MAX < files.len() {
            return Err(LoadError::Files(place.to_owned(), files.len()));
        }
        files.sort_unstable();
    } else {
        files.push(place.to_owned());
    }
    let mut texts = Vec::new();
    for file in &files {
        if FILE_BYTES_MAX < std::fs::metadata(file).map_err(unreadable(file))?.len() {
            return Err(LoadError::Text(file.clone()));
        }
        let bytes = std::fs::read(file).map_err(unreadable(file))?;
        let name = file.file_stem().and_then(|name| name.to_str()).ok_or_else(|| LoadError::Text(file.clone()))?;
        texts.push((name, String::from_utf8(bytes).map_err(|_| LoadError::Text(file.clone()))?));
    }
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    AuthorizationSet::parse(&texts).map_err(|finding| LoadError::Policies(place.to_owned(), Box::new(finding)))
}

/// A request as policies see it. `host` is what a Host header says.
///
/// # Errors
/// What has no one reading: the method, the target, the host.
pub fn asked(method: &str, target: &str, host: Option<&str>, peer: Option<IpAddr>) -> Result<Asked, Denial> {
    let host = host.map(name_of).transpose()?;
    // An address has one spelling, whichever family the socket is of.
    let peer = peer.map(|peer| peer.to_canonical());
    Ok(Asked { action: Action::parse(method)?, resource: Resource::parse(target)?, host, peer })
}

/// The name in a Host header: lower case, without the port.
fn name_of(host: &str) -> Result<String, Denial> {
    let refused = || GateReason::RequestAmbiguous.because("a host's name, perhaps with a port", "something else");
    let authority: Authority = host.parse().map_err(|_| refused())?;
    if host.contains('@') || authority.host().is_empty() {
        return Err(refused());
    }
    Ok(authority.host().to_ascii_lowercase())
}

/// The request that a proxy asks about over HTTP: `X-Original-Method`, `-URI` and `-Host`, or `X-Forwarded-Method`,
/// `-Uri` and `-Host`. One family, each member once: a second one could be the caller's own.
///
/// # Errors
/// [`GateReason::RequestMissing`], [`GateReason::RequestAmbiguous`], or what [`asked`] says.
pub fn from_headers(headers: &HeaderMap) -> Result<Asked, Denial> {
    let names =
        |names: &Names| [&names.method, &names.target, &names.host].into_iter().any(|n| headers.contains_key(n));
    let family = match (names(&ORIGINAL), names(&FORWARDED)) {
        (true, false) => ORIGINAL,
        (false, true) => FORWARDED,
        (true, true) => return Err(GateReason::RequestAmbiguous.because("one family of headers", "both")),
        (false, false) => return Err(GateReason::RequestMissing.because("method and target", "neither")),
    };
    let missing = |name: &HeaderName| GateReason::RequestMissing.because(name, "none");
    let method = once(headers, &family.method)?.ok_or_else(|| missing(&family.method))?;
    let target = once(headers, &family.target)?.ok_or_else(|| missing(&family.target))?;
    asked(method, target, once(headers, &family.host)?, None)
}

/// The host that a request is for, with its port: from the first line or from Host, and the same where both say it.
/// RFC 9112, 3.2.2, lets the first line win, RFC 9113, 8.3.1, wants them equal, and servers do not agree.
///
/// # Errors
/// [`GateReason::RequestAmbiguous`].
pub fn host_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a str>, Denial> {
    let told = once(headers, &header::HOST)?;
    match (uri.authority(), told) {
        (Some(line), Some(told)) if !line.as_str().eq_ignore_ascii_case(told) => {
            Err(GateReason::RequestAmbiguous.because("one host", "another one in the target than in Host"))
        }
        (Some(line), _) => Ok(Some(line.as_str())),
        (None, told) => Ok(told),
    }
}

/// The value of a header that is there at most once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Denial> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    if more.is_some() {
        return Err(GateReason::RequestAmbiguous.because(format!("{name} once"), "several times"));
    }
    let text = value.to_str().map_err(|_| GateReason::RequestAmbiguous.because(format!("{name} in ASCII"), "bytes"))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    use super::{LoadError, OperatorPolicies, Reread, asked, from_headers};

    fn read(headers: &[(&'static str, &str)]) -> Result<String, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let asked = from_headers(&map).map_err(|denial| denial.code())?;
        Ok(format!("{} {} {}", asked.action, asked.resource, asked.host.unwrap_or_else(|| "-".to_owned())))
    }

    #[test]
    fn a_proxy_says_which_request_it_asks_about() {
        let nginx = [("x-original-method", "GET"), ("x-original-uri", "/v1?x"), ("x-original-host", "API.test:443")];
        assert_eq!(read(&nginx).as_deref(), Ok("http:GET /v1 api.test"));
        let traefik = [("x-forwarded-method", "POST"), ("x-forwarded-uri", "/v1/x"), ("x-forwarded-host", "[::1]:8")];
        assert_eq!(read(&traefik).as_deref(), Ok("http:POST /v1/x [::1]"));
        assert_eq!(read(&nginx[..2]).as_deref(), Ok("http:GET /v1 -"));
        for some in [&nginx[..0], &nginx[..1], &nginx[1..], &nginx[2..]] {
            assert_eq!(read(some), Err("gate.request.missing"), "{some:?}");
        }
    }

    #[test]
    fn e14_two_requests_are_ambiguous() {
        let nginx = [("x-original-method", "GET"), ("x-original-uri", "/v1"), ("x-original-host", "a")];
        for more in [
            ("x-original-uri", "/v1"),
            ("x-original-method", "GET"),
            ("x-original-host", "a"),
            ("x-forwarded-uri", "/"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-host", "a"),
        ] {
            assert_eq!(read(&[&nginx[..], &[more]].concat()), Err("gate.request.ambiguous"), "{more:?}");
        }
        for host in ["user@a", "", "a b", "a/b", "é"] {
            let with = [nginx[0], nginx[1], ("x-original-host", host)];
            assert_eq!(read(&with), Err("gate.request.ambiguous"), "{host}");
        }
        assert_eq!(read(&[nginx[0], ("x-original-uri", "/a/../b")]), Err("authorize.resource"));
        assert_eq!(read(&[("x-original-method", "TRACE"), nginx[1]]), Err("authorize.action"));
    }

    #[test]
    fn an_address_has_one_spelling() {
        let peer = asked("GET", "/", None, Some("::ffff:192.0.2.7".parse().unwrap())).unwrap().peer;
        assert_eq!(peer, Some("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn policies_are_read_whole_or_not_at_all_and_stay_until_better_ones_load() {
        let folder = tempfile::tempdir().unwrap();
        let (file, place) = (folder.path().join("a.cedar"), folder.path());
        assert!(matches!(OperatorPolicies::load(&folder.path().join("none")), Err(LoadError::Read(..))));
        assert!(matches!(OperatorPolicies::load(place), Err(LoadError::Files(_, 0))));
        fs::write(&file, "").unwrap();
        let Err(LoadError::Policies(_, finding)) = OperatorPolicies::load(place) else { panic!("empty policies") };
        assert_eq!(finding.code, "policy.load.empty");
        fs::write(&file, [0xff]).unwrap();
        assert!(matches!(OperatorPolicies::load(&file), Err(LoadError::Text(_))));
        fs::write(&file, " ".repeat(256 * 1024 + 1)).unwrap();
        assert!(matches!(OperatorPolicies::load(&file), Err(LoadError::Text(_))));
        fs::write(&file, "permit (principal, action, resource);").unwrap();
        fs::write(folder.path().join("README"), "not a policy").unwrap();
        let policies = OperatorPolicies::load(place).unwrap();
        let first = policies.current().digest();
        assert_eq!(policies.reread().unwrap(), Reread::Same);
        fs::write(folder.path().join("b.cedar"), "permit (principal, action, resource) when { oops };").unwrap();
        assert!(matches!(policies.reread(), Err(LoadError::Policies(..))));
        assert_eq!(policies.current().digest(), first);
        fs::write(folder.path().join("b.cedar"), r#"forbid (principal, action, resource in Path::"/x");"#).unwrap();
        assert_eq!(policies.reread().unwrap(), Reread::Changed);
        assert_ne!(policies.current().digest(), first);
    }
}
