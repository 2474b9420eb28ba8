//! A staple: the newest pulse, the one list that covers a credential, and what the broker says of its keys, carried by
//! whom it speaks of. Nobody signs it again: pulse and statement are signed, and the pulse names the list's digest.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use crate::rejection::{Rejection, reasons};
use crate::status_list::{BITS, StatusList, StatusListClaim};

reasons! {
    /// Why a staple is refused.
    StapleReason {
        /// Before anything is parsed.
        TooLarge = "staple.too_large",
            "the staple is longer than a pulse and a list can be",
            "send the file that the agent keeps beside the credential, as it is";
        /// A pulse, a list and a statement, with tildes between them.
        Malformed = "staple.malformed",
            "the staple is not a pulse, a list and a statement of keys",
            "send the file that the agent keeps beside the credential, as it is";
        /// A list that the newest pulse does not name says nothing about now.
        Superseded = "staple.superseded",
            "the list is not the one that the newest pulse names",
            "send the newest staple: the agent writes one with each pulse";
    }
}

/// Longest staple: a list that does not compress, a pulse over a hundred lists, and a statement of a few keys.
pub const BYTES_MAX: usize = 48 * 1024;

/// A pulse that is not verified yet, and a list that no pulse has named yet.
#[derive(Clone, Debug)]
pub struct Staple<'a> {
    pulse: &'a str,
    list: StatusList,
    authorities: &'a str,
}

impl<'a> Staple<'a> {
    /// Reads a staple, bounded before it is parsed.
    ///
    /// # Errors
    /// A [`StapleReason`], or one of the list.
    pub fn parse(text: &'a str) -> Result<Self, Rejection> {
        if BYTES_MAX < text.len() {
            return Err(StapleReason::TooLarge.because(format!("at most {BYTES_MAX} bytes"), text.len()));
        }
        let parts: Vec<&str> = text.splitn(4, '~').collect();
        let [pulse, list, authorities] = parts[..] else {
            return Err(StapleReason::Malformed.because("PULSE~LIST~AUTHORITIES", format!("{} parts", parts.len())));
        };
        let list = StatusList::decode(&StatusListClaim { bits: BITS, lst: list.to_string() })?;
        Ok(Self { pulse, list, authorities })
    }

    /// The pulse, compact JWS: to be verified.
    #[must_use]
    pub const fn pulse(&self) -> &'a str {
        self.pulse
    }

    /// What the broker says of its keys, compact JWS: to be verified. Empty where the agent has not heard it.
    #[must_use]
    pub const fn authorities(&self) -> &'a str {
        self.authorities
    }

    /// The list, worth something when a verified pulse names its digest.
    #[must_use]
    pub fn into_list(self) -> StatusList {
        self.list
    }
}

/// The text of a staple: characters that a header may carry. None where it would be longer than anyone reads.
#[must_use]
pub fn encode(pulse: &str, list: &StatusListClaim, authorities: &str) -> Option<String> {
    let text = format!("{pulse}~{}~{authorities}", list.lst);
    (text.len() <= BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::{BYTES_MAX, Staple, encode};
    use crate::status_list::StatusList;

    #[test]
    fn a_staple_is_bounded_before_it_is_read_and_carries_its_parts() {
        let list = StatusList::new();
        let text = encode("a.b.c", &list.encode(), "d.e.f").unwrap();
        assert!(text.len() < 200 && text.bytes().all(|byte| byte.is_ascii_graphic()));
        let staple = Staple::parse(&text).unwrap();
        assert_eq!((staple.pulse(), staple.authorities()), ("a.b.c", "d.e.f"));
        assert_eq!(staple.into_list(), list);
        let code = |text: &str| Staple::parse(text).unwrap_err().code();
        assert_eq!(code(&"~".repeat(BYTES_MAX + 1)), "staple.too_large");
        assert_eq!(code("a.b.c"), "staple.malformed");
        assert_eq!(code("a.b.c~!"), "staple.malformed");
        assert_eq!(code("a~b~c~d"), "staple.malformed");
        assert_eq!(code("a.b.c~!~"), "status_list.encoding");
        assert_eq!(encode(&String::from("a").repeat(BYTES_MAX), &list.encode(), ""), None);
    }
}
