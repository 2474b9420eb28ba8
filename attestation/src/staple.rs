//! A staple: the newest pulse and the one list that covers a credential, carried by whom it speaks of. Nobody signs it
//! again: the pulse is signed, and names the list by its digest.

use alloc::format;
use alloc::string::{String, ToString as _};

use crate::rejection::{Rejection, reasons};
use crate::status_list::{BITS, StatusList, StatusListClaim};

reasons! {
    /// Why a staple is refused.
    StapleReason {
        /// Before anything is parsed.
        TooLarge = "staple.too_large",
            "the staple is longer than a pulse and a list can be",
            "send the file that the agent keeps beside the credential, as it is";
        /// A pulse, a tilde, and a list.
        Malformed = "staple.malformed",
            "the staple is not a pulse and a list",
            "send the file that the agent keeps beside the credential, as it is";
        /// A list that the newest pulse does not name says nothing about now.
        Superseded = "staple.superseded",
            "the list is not the one that the newest pulse names",
            "send the newest staple: the agent writes one with each pulse";
    }
}

/// Longest staple: a list that does not compress, and a pulse over a hundred lists.
pub const BYTES_MAX: usize = 40 * 1024;

/// A pulse that is not verified yet, and a list that no pulse has named yet.
#[derive(Clone, Debug)]
pub struct Staple<'a> {
    pulse: &'a str,
    list: StatusList,
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
        let parts = text.split_once('~');
        let (pulse, list) = parts.ok_or_else(|| StapleReason::Malformed.because("PULSE~LIST", "no tilde"))?;
        let list = StatusList::decode(&StatusListClaim { bits: BITS, lst: list.to_string() })?;
        Ok(Self { pulse, list })
    }

    /// The pulse, compact JWS: to be verified.
    #[must_use]
    pub const fn pulse(&self) -> &'a str {
        self.pulse
    }

    /// The list, worth something when a verified pulse names its digest.
    #[must_use]
    pub fn into_list(self) -> StatusList {
        self.list
    }
}

/// The text of a staple: characters that a header may carry. None where it would be longer than anyone reads.
#[must_use]
pub fn encode(pulse: &str, list: &StatusListClaim) -> Option<String> {
    let text = format!("{pulse}~{}", list.lst);
    (text.len() <= BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::{BYTES_MAX, Staple, encode};
    use crate::status_list::StatusList;

    #[test]
    fn a_staple_is_bounded_before_it_is_read_and_carries_both_parts() {
        let list = StatusList::new();
        let text = encode("a.b.c", &list.encode()).unwrap();
        assert!(text.len() < 200 && text.bytes().all(|byte| byte.is_ascii_graphic()));
        let staple = Staple::parse(&text).unwrap();
        assert_eq!(staple.pulse(), "a.b.c");
        assert_eq!(staple.into_list(), list);
        let code = |text: &str| Staple::parse(text).unwrap_err().code();
        assert_eq!(code(&"~".repeat(BYTES_MAX + 1)), "staple.too_large");
        assert_eq!(code("a.b.c"), "staple.malformed");
        assert_eq!(code("a.b.c~!"), "status_list.encoding");
        assert_eq!(encode(&String::from("a").repeat(BYTES_MAX), &list.encode()), None);
    }
}
