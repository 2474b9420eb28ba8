//! The caller's certificate, as the proxy in front wrote it into a header. Exactly one of the known headers, exactly
//! once: a second one could be the caller's own.

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::reason::{Denial, GateReason};

/// nginx: `$ssl_client_escaped_cert`, PEM with percent-encoding.
pub const NGINX: HeaderName = HeaderName::from_static("x-ssl-client-cert");
/// Envoy: `Cert="…"` and `Chain="…"`, PEM with percent-encoding.
pub const ENVOY: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// RFC 9440, 2.2: one byte sequence.
pub const RFC_9440: HeaderName = HeaderName::from_static("client-cert");
/// RFC 9440, 2.3: a list of byte sequences, only together with [`RFC_9440`].
pub const RFC_9440_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Longest header value read: four certificates of 4 KiB in base64 and percent-encoding.
const VALUE_BYTES_MAX: usize = 32 * 1024;

/// Certificates in a chain: a leaf and three intermediates.
const CHAIN_MAX: usize = 4;

/// Reads the caller's chain, leaf first, DER.
///
/// # Errors
/// [`GateReason::NoCertificate`], [`GateReason::Ambiguous`] or [`GateReason::Unreadable`].
pub fn from_headers(headers: &HeaderMap) -> Result<Vec<Vec<u8>>, Denial> {
    let nginx = only(headers, &NGINX)?;
    let envoy = only(headers, &ENVOY)?;
    let standard = only(headers, &RFC_9440)?;
    let chain = only(headers, &RFC_9440_CHAIN)?;
    match (nginx, envoy, standard, chain) {
        (Some(value), None, None, None) => one(percent_decoded_pem(value)?),
        (None, Some(value), None, None) => xfcc(value),
        (None, None, Some(leaf), chain) => rfc_9440(leaf, chain),
        (None, None, None, None) => Err(GateReason::NoCertificate.because("a certificate header", "none")),
        (None, None, None, Some(_)) => Err(GateReason::NoCertificate.because("Client-Cert", "Client-Cert-Chain alone")),
        _ => Err(GateReason::Ambiguous.because("one certificate header", "several")),
    }
}

/// Reads the caller's certificate as Envoy's external authorization has it: PEM with percent-encoding, the leaf alone.
///
/// # Errors
/// [`GateReason::Unreadable`].
pub fn from_envoy(text: &str) -> Result<Vec<Vec<u8>>, Denial> {
    if VALUE_BYTES_MAX < text.len() {
        return Err(unreadable(&format!("a certificate of {} bytes", text.len())));
    }
    one(percent_decoded_pem(text)?)
}

/// The value of a header that is there once; an empty one is nginx's way to say that there is no certificate.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Denial> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    if more.is_some() {
        return Err(GateReason::Ambiguous.because(format!("{name} once"), "several times"));
    }
    if VALUE_BYTES_MAX < value.len() {
        return Err(unreadable(&format!("{name} of {} bytes", value.len())));
    }
    let text = value.to_str().map_err(|_| unreadable(&format!("{name} with other than visible ASCII")))?;
    if text.is_empty() {
        return Err(GateReason::NoCertificate.because("a client certificate", format!("an empty {name}")));
    }
    Ok(Some(text))
}

fn unreadable(found: &str) -> Denial {
    GateReason::Unreadable.because("a certificate as the header's definition writes it", found)
}

fn one(chain: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Denial> {
    if chain.len() == 1 { Ok(chain) } else { Err(unreadable(&format!("{} certificates", chain.len()))) }
}

/// Envoy's XFCC: elements by commas, pairs by semicolons, values quoted where they hold either. One element only: with
/// two, the first is what an earlier hop, perhaps the caller, claimed.
fn xfcc(value: &str) -> Result<Vec<Vec<u8>>, Denial> {
    let (mut cert, mut chain) = (None, None);
    let mut rest = value;
    loop {
        let (name, after) = rest.split_once('=').ok_or_else(|| unreadable("an XFCC pair without ="))?;
        let (content, after) = xfcc_value(after)?;
        let slot = if name.eq_ignore_ascii_case("cert") {
            Some(&mut cert)
        } else if name.eq_ignore_ascii_case("chain") {
            Some(&mut chain)
        } else {
            None
        };
        if let Some(slot) = slot
            && slot.replace(content).is_some()
        {
            return Err(GateReason::Ambiguous.because("Cert and Chain once", "one of them twice"));
        }
        match after.split_at_checked(1) {
            None => break,
            Some((";", more)) => rest = more,
            Some((",", _)) => return Err(GateReason::Ambiguous.because("one XFCC element", "several hops")),
            Some(_) => return Err(unreadable("text after an XFCC value")),
        }
    }
    let cert = cert.ok_or_else(|| GateReason::NoCertificate.because("Cert in XFCC", "none"))?;
    let leaf = one(percent_decoded_pem(cert)?)?;
    let Some(chain) = chain else { return Ok(leaf) };
    let chain = percent_decoded_pem(chain)?;
    // Envoy writes the whole chain, the leaf included: both must speak of one caller.
    if chain.first() != leaf.first() {
        return Err(GateReason::Ambiguous.because("Chain that starts with Cert", "another leaf"));
    }
    Ok(chain)
}

/// A value and what follows it: up to `;` or `,`, or quoted. Percent-encoded PEM has no quote to escape.
fn xfcc_value(text: &str) -> Result<(&str, &str), Denial> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (content, after) = quoted.split_once('"').ok_or_else(|| unreadable("an open quote"))?;
        // An escaped quote would end the value early for us and later for the writer.
        return if content.contains('\\') {
            Err(unreadable("an escape in an XFCC value"))
        } else {
            Ok((content, after))
        };
    }
    let end = text.find([';', ',']).unwrap_or(text.len());
    text.split_at_checked(end).ok_or_else(|| unreadable("an XFCC value"))
}

fn rfc_9440(leaf: &str, chain: Option<&str>) -> Result<Vec<Vec<u8>>, Denial> {
    let mut certificates = vec![byte_sequence(leaf)?];
    for item in chain.into_iter().flat_map(|chain| chain.split(',')) {
        certificates.push(byte_sequence(item.trim_matches([' ', '\t']))?);
    }
    bounded(certificates)
}

/// RFC 8941, 3.3.5: base64 between colons.
fn byte_sequence(item: &str) -> Result<Vec<u8>, Denial> {
    let base64 = item
        .strip_prefix(':')
        .and_then(|item| item.strip_suffix(':'))
        .ok_or_else(|| unreadable("an item that is no byte sequence"))?;
    STANDARD.decode(base64).map_err(|_| unreadable("a byte sequence that is not base64"))
}

fn percent_decoded_pem(text: &str) -> Result<Vec<Vec<u8>>, Denial> {
    let pem = percent_decode(text).ok_or_else(|| unreadable("a broken percent-encoding"))?;
    bounded(pem_certificates(&pem).ok_or_else(|| unreadable("other than PEM certificates"))?)
}

fn bounded(chain: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Denial> {
    if CHAIN_MAX < chain.len() { Err(unreadable(&format!("{} certificates", chain.len()))) } else { Ok(chain) }
}

/// RFC 3986, 2.1. A plus sign is itself.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let mut value = [0];
            hex::decode_to_slice(digits, &mut value).ok()?;
            decoded.extend_from_slice(&value);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

/// The certificates of a PEM text that holds certificates and white space, and nothing else (RFC 7468, 5).
fn pem_certificates(pem: &str) -> Option<Vec<Vec<u8>>> {
    let mut certificates = Vec::new();
    let mut rest = pem.trim_ascii();
    while !rest.is_empty() {
        let (body, after) =
            rest.strip_prefix("-----BEGIN CERTIFICATE-----")?.split_once("-----END CERTIFICATE-----")?;
        let base64: String = body.chars().filter(|character| !character.is_ascii_whitespace()).collect();
        certificates.push(STANDARD.decode(base64).ok()?);
        rest = after.trim_ascii_start();
    }
    Some(certificates)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{ENVOY, NGINX, RFC_9440, RFC_9440_CHAIN, from_headers};

    fn read(headers: &[(&HeaderName, &str)]) -> Result<Vec<Vec<u8>>, &'static str> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        from_headers(&map).map_err(|denial| denial.code())
    }

    fn pem(der: &[u8]) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(der))
    }

    /// As nginx and Envoy escape: everything but unreserved characters.
    fn escaped(text: &str) -> String {
        text.bytes()
            .map(
                |byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") },
            )
            .collect()
    }

    // Its base64 holds a plus and a slash.
    const LEAF: &[u8] = &[0x30, 0xfb, 0xef, 0xff, 0xfe];
    const ISSUER: &[u8] = &[0x30, 2, 5, 0];

    #[test]
    fn each_proxys_header_is_read() {
        let leaf = escaped(&pem(LEAF));
        assert_eq!(read(&[(&NGINX, &leaf)]), Ok(vec![LEAF.to_vec()]));
        let xfcc = format!("By=spiffe://a/b;Hash=00;Cert=\"{leaf}\";Subject=\"CN=x,O=y;z\";URI=");
        assert_eq!(read(&[(&ENVOY, &xfcc)]), Ok(vec![LEAF.to_vec()]));
        let chain = escaped(&format!("{}{}", pem(LEAF), pem(ISSUER)));
        let xfcc = format!("Cert=\"{leaf}\";Chain=\"{chain}\"");
        assert_eq!(read(&[(&ENVOY, &xfcc)]), Ok(vec![LEAF.to_vec(), ISSUER.to_vec()]));
        let (leaf, issuer) = (format!(":{}:", STANDARD.encode(LEAF)), format!(":{}:", STANDARD.encode(ISSUER)));
        assert_eq!(read(&[(&RFC_9440, &leaf)]), Ok(vec![LEAF.to_vec()]));
        let chain = format!("{issuer}, {issuer}");
        let read = read(&[(&RFC_9440, &leaf), (&RFC_9440_CHAIN, &chain)]);
        assert_eq!(read, Ok(vec![LEAF.to_vec(), ISSUER.to_vec(), ISSUER.to_vec()]));
    }

    #[test]
    fn none_is_missing() {
        let missing = Err("gate.certificate.missing");
        assert_eq!(read(&[]), missing);
        assert_eq!(read(&[(&NGINX, "")]), missing);
        assert_eq!(read(&[(&ENVOY, "By=spiffe://a/b;Hash=00")]), missing);
        assert_eq!(read(&[(&RFC_9440_CHAIN, ":AAAA:")]), missing);
    }

    #[test]
    fn two_are_ambiguous() {
        let ambiguous = Err("gate.certificate.ambiguous");
        let (leaf, binary) = (escaped(&pem(LEAF)), format!(":{}:", STANDARD.encode(LEAF)));
        let xfcc = format!("Cert=\"{leaf}\"");
        assert_eq!(read(&[(&NGINX, &leaf), (&NGINX, &leaf)]), ambiguous);
        assert_eq!(read(&[(&NGINX, &leaf), (&RFC_9440, &binary)]), ambiguous);
        assert_eq!(read(&[(&NGINX, &leaf), (&ENVOY, &xfcc)]), ambiguous);
        assert_eq!(read(&[(&ENVOY, &xfcc), (&RFC_9440, &binary)]), ambiguous);
        assert_eq!(read(&[(&NGINX, &leaf), (&RFC_9440_CHAIN, &binary)]), ambiguous);
        assert_eq!(read(&[(&ENVOY, &format!("{xfcc},{xfcc}"))]), ambiguous);
        assert_eq!(read(&[(&ENVOY, &format!("Hash=0,{xfcc}"))]), ambiguous);
        assert_eq!(read(&[(&ENVOY, &format!("{xfcc};cert=\"{leaf}\""))]), ambiguous);
        let chain = escaped(&format!("{}{}", pem(ISSUER), pem(LEAF)));
        assert_eq!(read(&[(&ENVOY, &format!("{xfcc};Chain=\"{chain}\""))]), ambiguous);
    }

    #[test]
    fn what_no_proxy_writes_is_malformed() {
        let (leaf, plain) = (escaped(&pem(LEAF)), STANDARD.encode(LEAF));
        for value in [
            "x".to_owned(),
            leaf.replace("%2D", "-").replace("BEGIN", "BEGIN%00"),
            escaped(&format!("{}x", pem(LEAF))),
            escaped(&format!("x{}", pem(LEAF))),
            escaped(&pem(LEAF).replace("CERTIFICATE", "PRIVATE KEY")),
            escaped(&format!("{}{}", pem(LEAF), pem(ISSUER))),
            escaped(&pem(LEAF).replace("-----END", "")),
            format!("{leaf}%"),
            format!("{leaf}%4"),
            format!("{leaf}%zz"),
            format!("{leaf}%ff"),
            "a".repeat(33 * 1024),
        ] {
            assert_eq!(read(&[(&NGINX, &value)]), Err("gate.certificate.malformed"), "{value:.80}");
        }
        for value in [
            "Cert".to_owned(),
            format!("Cert=\"{leaf}"),
            format!("Cert=\"{leaf}\"x"),
            format!("Cert=\"{leaf}\\\""),
            format!("Cert=\"{leaf}\";"),
        ] {
            assert_eq!(read(&[(&ENVOY, &value)]), Err("gate.certificate.malformed"), "{value:.80}");
        }
        for value in [plain.clone(), format!(":{plain}"), format!("{plain}:"), ":*:".to_owned(), ":".to_owned()] {
            assert_eq!(read(&[(&RFC_9440, &value)]), Err("gate.certificate.malformed"), "{value}");
        }
        let (leaf, many) = (format!(":{plain}:"), [":AAAA:"; 4].join(","));
        for chain in [many.as_str(), ":AAAA:,", "AAAA", ":AAAA:;x=1"] {
            let read = read(&[(&RFC_9440, &leaf), (&RFC_9440_CHAIN, chain)]);
            assert_eq!(read, Err("gate.certificate.malformed"), "{chain}");
        }
    }
}
