//! Name constraints of an authority (RFC 5280, 4.2.1.10), for the one form of name that workloads have: the URI.

use alloc::vec::Vec;

use super::der::{Der, NotDer, tag};
use super::{Certificate, VerifiedPath, X509Reason, hex_text, oid};
use crate::rejection::Rejection;

/// `uniformResourceIdentifier [6]` of GeneralName (RFC 5280, 4.2.1.6).
const URI: u8 = 0x86;

/// Subtrees of one authority. One trust domain needs one.
const SUBTREES_MAX: usize = 16;

impl VerifiedPath<'_> {
    /// Checks the URIs of every certificate of the path under the nameConstraints of the authorities above it. For
    /// those who say that they process nameConstraints: subtrees of another form, and excluded ones, reject the path.
    ///
    /// # Errors
    /// [`X509Reason::NameConstraints`].
    pub fn check_uri_constraints(&self) -> Result<(), Rejection> {
        let certificates = self.certificates();
        for (position, authority) in certificates.iter().enumerate().skip(1) {
            let Some(extension) = authority.extension(oid::NAME_CONSTRAINTS) else { continue };
            let permitted = permitted(extension.value).map_err(|NotDer| {
                X509Reason::NameConstraints.because("permitted URI subtrees alone", hex_text(extension.value))
            })?;
            for below in certificates.iter().take(position) {
                check_names(below, &permitted)?;
            }
        }
        Ok(())
    }
}

fn check_names(certificate: &Certificate<'_>, permitted: &[&str]) -> Result<(), Rejection> {
    let Some(names) = certificate.extension(oid::SUBJECT_ALT_NAME) else { return Ok(()) };
    let refused = |found: &str| X509Reason::NameConstraints.because(permitted.join(", "), found);
    let uris = uris(names.value).map_err(|NotDer| refused("names that cannot be read"))?;
    for uri in uris {
        let text = str::from_utf8(uri).map_err(|_| refused("a URI that is not text"))?;
        let host = host(text).ok_or_else(|| refused(text))?;
        if !permitted.iter().any(|base| is_within(host, base)) {
            return Err(refused(text));
        }
    }
    Ok(())
}

/// The URI names of GeneralNames (RFC 5280, 4.2.1.6).
pub(crate) fn uris(names: &[u8]) -> Result<Vec<&[u8]>, NotDer> {
    let mut outer = Der::new(names);
    let mut names = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let mut uris = Vec::new();
    while !names.is_empty() {
        let name = names.any()?;
        if name.tag == URI {
            uris.push(name.content);
        }
    }
    Ok(uris)
}

/// The bases of permitted URI subtrees; anything else is [`NotDer`], because nobody here would process it.
fn permitted(value: &[u8]) -> Result<Vec<&str>, NotDer> {
    let mut outer = Der::new(value);
    let mut constraints = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let mut subtrees = constraints.inner(tag::CONTEXT_0)?;
    constraints.finish()?;
    let mut bases = Vec::new();
    while !subtrees.is_empty() {
        // Without minimum and maximum, which the profile does not use.
        let mut subtree = subtrees.inner(tag::SEQUENCE)?;
        let base = str::from_utf8(subtree.content(URI)?).map_err(|_| NotDer)?;
        subtree.finish()?;
        if base.trim_start_matches('.').is_empty() || !base.is_ascii() || bases.len() == SUBTREES_MAX {
            return Err(NotDer);
        }
        bases.push(base);
    }
    if bases.is_empty() { Err(NotDer) } else { Ok(bases) }
}

/// The host of a URI. A name without one, or with more than a host, is under no constraint of hosts.
fn host(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    (!authority.is_empty() && !authority.contains(['@', ':', '[', ']'])).then_some(authority)
}

/// RFC 5280, 4.2.1.10: a base that begins with a period is any host of one or more labels before it, another is that
/// host.
fn is_within(host: &str, base: &str) -> bool {
    if !base.starts_with('.') {
        return host.eq_ignore_ascii_case(base);
    }
    host.len()
        .checked_sub(base.len())
        .filter(|before| 0 < *before)
        .and_then(|before| host.get(before..))
        .is_some_and(|end| end.eq_ignore_ascii_case(base))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{host, is_within, permitted};

    #[test]
    fn a_base_is_one_host_and_one_with_a_period_every_host_below() {
        for (name, base, within) in [
            ("a.example", "a.example", true),
            ("A.example", "a.EXAMPLE", true),
            ("b.a.example", "a.example", false),
            ("ba.example", "a.example", false),
            ("b.a.example", ".a.example", true),
            ("a.example", ".a.example", false),
            (".a.example", ".a.example", false),
            ("example", ".a.example", false),
        ] {
            assert_eq!(is_within(name, base), within, "{name} {base}");
        }
    }

    #[test]
    fn the_host_stands_alone() {
        assert_eq!(host("spiffe://a.example/host/x"), Some("a.example"));
        assert_eq!(host("spiffe://a.example"), Some("a.example"));
        assert_eq!(host("https://a.example?x#y"), Some("a.example"));
        for none in ["urn:a.example", "spiffe:///x", "spiffe://a.example:1/x", "spiffe://a@a.example/", "a.example"] {
            assert_eq!(host(none), None, "{none}");
        }
    }

    #[test]
    fn only_permitted_uris_are_processed() {
        let element = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
        let constraints = |parts: &[Vec<u8>]| element(0x30, &parts.concat());
        let uri = element(0x30, &element(0x86, b"a.example"));
        let sound = element(0xa0, &uri);
        assert_eq!(permitted(&constraints(core::slice::from_ref(&sound))), Ok(Vec::from(["a.example"])));
        for unsound in [
            constraints(&[]),
            constraints(&[element(0xa0, &[])]),
            constraints(&[sound.clone(), element(0xa1, &uri)]),
            constraints(&[element(0xa1, &uri)]),
            constraints(&[element(0xa0, &element(0x30, &element(0x82, b"a.example")))]),
            constraints(&[element(0xa0, &element(0x30, &element(0x86, b"")))]),
            constraints(&[element(0xa0, &element(0x30, &element(0x86, b".")))]),
            constraints(&[element(0xa0, &element(0x30, &[element(0x86, b"a"), element(0x81, &[1])].concat()))]),
            constraints(&[element(0xa0, &uri.repeat(17))]),
            [constraints(&[sound]), Vec::from([5, 0])].concat(),
        ] {
            assert!(permitted(&unsound).is_err(), "{unsound:x?}");
        }
    }
}
