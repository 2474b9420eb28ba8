//! The little DER this agent writes: keys in the forms that X.509 and OpenSSL providers read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// DER tag INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// DER tag BIT STRING.
pub(crate) const BIT_STRING: u8 = 0x03;
/// DER tag OCTET STRING.
pub(crate) const OCTET_STRING: u8 = 0x04;
/// DER tag SEQUENCE, constructed.
pub(crate) const SEQUENCE: u8 = 0x30;

/// One value: tag, definite length in the shortest form (X.690, 10.1), and `parts` one after the other.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let significant = length.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    let mut der = vec![tag];
    match significant.as_slice() {
        [] => der.push(0),
        [short] if *short < 0x80 => der.push(*short),
        // A length has at most eight octets.
        long => {
            der.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
            der.extend_from_slice(long);
        }
    }
    der.extend(content);
    der
}

/// An INTEGER with the value of the unsigned big-endian `bytes`.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let significant = bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    // The sign bit stays clear, and zero is one octet (X.690, 8.3.2).
    let sign: &[u8] = if significant.first().is_some_and(|first| *first < 0x80) { &[] } else { &[0] };
    value(INTEGER, &[sign, &significant])
}

/// The first whole DER value in `bytes`, without the padding that follows it in TPM NV memory.
pub(crate) fn first_value(bytes: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = bytes.get(1..)?.split_first()?;
    let (content_length, header) = if length < 0x80 {
        (usize::from(length), 2_usize)
    } else {
        let octets = usize::from(length & 0x7f);
        let digits = rest.get(..octets).filter(|digits| (1..=4).contains(&digits.len()))?;
        let number =
            digits.iter().fold(0_usize, |number, digit| number.saturating_mul(256).saturating_add(usize::from(*digit)));
        (number, octets.saturating_add(2))
    };
    bytes.get(..header.saturating_add(content_length))
}

/// PEM (RFC 7468): `der` in lines of 64 under `label`.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (index, character) in STANDARD.encode(der).chars().enumerate() {
        if index != 0 && index % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// `SubjectPublicKeyInfo` of a P-256 key (RFC 5480) from its uncompressed point.
pub(crate) fn p256_spki(point: &[u8]) -> Vec<u8> {
    // id-ecPublicKey 1.2.840.10045.2.1, prime256v1 1.2.840.10045.3.1.7
    const ALGORITHM: [u8; 21] = [
        0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
        0x03, 0x01, 0x07,
    ];
    value(SEQUENCE, &[&ALGORITHM, &value(BIT_STRING, &[&[0], point])])
}

#[cfg(test)]
mod tests {
    use super::{OCTET_STRING, first_value, pem, unsigned, value};

    #[test]
    fn lengths_are_the_shortest() {
        assert_eq!(value(OCTET_STRING, &[]), [4, 0]);
        assert_eq!(value(OCTET_STRING, &[&[1], &[2]]), [4, 2, 1, 2]);
        assert_eq!(value(OCTET_STRING, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(value(OCTET_STRING, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(value(OCTET_STRING, &[&[0; 300]])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn integers_stay_positive() {
        assert_eq!(unsigned(&[0x40, 0, 0, 1]), [2, 4, 0x40, 0, 0, 1]);
        assert_eq!(unsigned(&[0x81, 0, 0, 1]), [2, 5, 0, 0x81, 0, 0, 1]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
    }

    #[test]
    fn padding_after_a_value_is_cut_and_a_short_value_is_refused() {
        for content in [0, 5, 127, 128, 700] {
            let der = value(OCTET_STRING, &[&vec![7; content]]);
            let padded = [der.clone(), vec![0xff; 9]].concat();
            assert_eq!(first_value(&padded), Some(&*der));
            assert_eq!(first_value(&der[..der.len() - 1]), None);
        }
        assert_eq!(first_value(&[0x30, 0x80, 0, 0]), None); // indefinite length is not DER
    }

    #[test]
    fn pem_lines_have_64_characters() {
        assert_eq!(pem("X", &[0; 48]), format!("-----BEGIN X-----\n{}\n-----END X-----\n", "A".repeat(64)));
        assert_eq!(pem("X", &[0; 51]), format!("-----BEGIN X-----\n{}\nAAAA\n-----END X-----\n", "A".repeat(64)));
    }
}
