//! Names (RFC 5280, 4.1.2.4): their text, and when two are the same.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::der::{Der, Element, NotDer, tag};

/// SET.
pub(crate) const SET: u8 = 0x31;
/// The string types that names are written in (X.690, 8.23): UTF8String, PrintableString, TeletexString, IA5String.
const STRINGS: [u8; 4] = [0x0c, 0x13, 0x14, tag::IA5_STRING];
/// BMPString: UTF-16, big-endian.
const BMP_STRING: u8 = 0x1e;

/// The text of a DirectoryString or IA5String.
pub(crate) fn text(value: Element<'_>) -> Result<String, NotDer> {
    if value.tag == BMP_STRING && value.content.len().is_multiple_of(2) {
        let units = value.content.chunks_exact(2).filter_map(|unit| unit.try_into().ok().map(u16::from_be_bytes));
        char::decode_utf16(units).collect::<Result<String, _>>().map_err(|_| NotDer)
    } else if STRINGS.contains(&value.tag) {
        core::str::from_utf8(value.content).map(ToOwned::to_owned).map_err(|_| NotDer)
    } else {
        Err(NotDer)
    }
}

/// Whether two Names (DER) are the same: byte for byte, or attribute by attribute in whatever string types they are
/// written, without regard to case and repeated spaces (RFC 5280, 7.1). A genuine authority of STMicroelectronics
/// spells its issuer in another string type than that one's own certificate does.
pub(super) fn same(one: &[u8], other: &[u8]) -> bool {
    one == other
        || match (prepared(one), prepared(other)) {
            (Ok(one), Ok(other)) => one == other,
            (Err(NotDer), _) | (_, Err(NotDer)) => false,
        }
}

/// The attributes of a relative name in their order: kind and prepared text.
type Prepared<'a> = Vec<(&'a [u8], String)>;

fn prepared(name: &[u8]) -> Result<Vec<Prepared<'_>>, NotDer> {
    let mut outer = Der::new(name);
    let mut rdns = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let mut all = Vec::new();
    while !rdns.is_empty() {
        let mut attributes = rdns.inner(SET)?;
        let mut rdn = Vec::new();
        while !attributes.is_empty() {
            let mut attribute = attributes.inner(tag::SEQUENCE)?;
            let kind = attribute.content(tag::OID)?;
            let value = text(attribute.any()?)?.to_lowercase();
            attribute.finish()?;
            let words: Vec<_> = value.split_whitespace().collect();
            rdn.push((kind, words.join(" ")));
        }
        all.push(rdn);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::same;

    /// A Name of one commonName in the given string type.
    fn name(string: u8, text: &[u8]) -> Vec<u8> {
        let length = |more: usize| u8::try_from(text.len().saturating_add(more)).unwrap();
        let head = [0x30, length(11), 0x31, length(9), 0x30, length(7), 6, 3, 0x55, 4, 3, string, length(0)];
        [&head, text].concat()
    }

    #[test]
    fn names_are_the_same_whatever_their_string_type_and_nothing_else() {
        let printable = name(0x13, b"STM TPM ECC Root CA 01");
        assert!(same(&printable, &printable));
        assert!(same(&printable, &name(0x0c, b"STM TPM ECC Root CA 01")), "UTF8String");
        assert!(same(&printable, &name(0x0c, b" stm  TPM ECC root CA 01")), "case and spaces");
        assert!(same(&name(0x1e, b"\0A\0b"), &name(0x0c, b"ab")), "BMPString");
        assert!(!same(&printable, &name(0x0c, b"STM TPM ECC Root CA 02")));
        assert!(!same(&printable, &name(0x0c, b"")));
        assert!(!same(&name(0x04, b"a"), &name(0x0c, b"a")), "no string at all");
        let mut other_kind = printable.clone();
        other_kind[10] = 10;
        assert!(!same(&printable, &other_kind), "organizationName");
        assert!(!same(&printable[..9], &name(0x0c, b"a")) && !same(b"", &printable));
    }
}
