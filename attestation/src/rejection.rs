//! The closed set of reasons why evidence is rejected. A code is API: it is never renamed, it is the metric's label and
//! the name under which a test exists.

use alloc::string::{String, ToString};
use core::fmt;

/// One room's reasons: for each a stable code, one sentence, and what to do about it.
///
/// ```ignore
/// reasons! {
///     /// Why a quote is rejected.
///     TpmReason {
///         /// TPM 2.0 Part 2, 10.12.12.
///         Magic = "tpm.attest.magic", "the structure was not made by a TPM", "quote with TPM2_Quote";
///     }
/// }
/// ```
macro_rules! reasons {
    ($(#[$enum_doc:meta])* $room:ident { $($(#[$doc:meta])* $variant:ident = $code:literal, $sentence:literal, $remedy:literal;)+ }) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $room { $($(#[$doc])* #[doc = concat!("Code `", $code, "`: ", $sentence, ".")] $variant,)+ }

        impl $room {
            /// Every reason of this room, in the order of its definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant => $code,)+ } }

            /// What is wrong, as one sentence without a full stop.
            #[must_use]
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)+ } }

            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Self::$variant => $remedy,)+ } }

            /// The rejection for this reason, with what was expected and what was found.
            #[must_use]
            pub fn because(
                self,
                expected: impl ::core::fmt::Display,
                found: impl ::core::fmt::Display,
            ) -> $crate::rejection::Rejection {
                $crate::rejection::Rejection::new($crate::rejection::Reason::from(self), expected, found)
            }
        }
    };
}
pub(crate) use reasons;

macro_rules! rooms {
    ($($variant:ident($room:path)),+ $(,)?) => {
        /// Why something was rejected: one reason of one room.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $(#[doc = concat!("A reason of [`", stringify!($room), "`].")] $variant($room),)+ }

        impl Reason {
            /// Every reason there is.
            pub fn all() -> impl Iterator<Item = Self> {
                core::iter::empty()$(.chain(<$room>::ALL.iter().copied().map(Self::$variant)))+
            }
            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str { match self { $(Self::$variant(reason) => reason.code(),)+ } }
            /// What is wrong, as one sentence without a full stop.
            #[must_use]
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant(reason) => reason.sentence(),)+ } }
            /// What to do about it.
            #[must_use]
            pub const fn remedy(self) -> &'static str { match self { $(Self::$variant(reason) => reason.remedy(),)+ } }
        }

        $(impl From<$room> for Reason { fn from(reason: $room) -> Self { Self::$variant(reason) } })+
    };
}

rooms! {
    Binding(crate::binder::BindingReason),
    Bundle(crate::evidence::bundle::BundleReason),
    Cmw(crate::cmw::CmwReason),
    X509(crate::x509::X509Reason),
    Tpm(crate::evidence::tpm::TpmReason),
    Logs(crate::evidence::logs::LogReason),
    EventLog(crate::evidence::eventlog::EventLogReason),
    Snp(crate::evidence::snp::SnpReason),
    Intel(crate::endorsement::intel::IntelReason),
    Issue(crate::endorsement::issue::IssueReason),
    Tdx(crate::evidence::tdx::TdxReason),
    Rtmr(crate::evidence::tdx::rtmr::RtmrReason),
    Ima(crate::evidence::ima::ImaReason),
    Paravisor(crate::evidence::paravisor::ParavisorReason),
    Launch(crate::launch::LaunchReason),
    Result(crate::result::ResultReason),
    Clock(crate::time::ClockReason),
    Pulse(crate::pulse::PulseReason),
    NoncePulse(crate::nonce_pulse::NoncePulseReason),
    Staple(crate::staple::StapleReason),
    StatusDelta(crate::status_delta::StatusDeltaReason),
    StatusList(crate::status_list::StatusListReason),
    Lineage(crate::lineage::LineageReason),
    WorkloadKey(crate::workload_key::WorkloadKeyReason),
}

/// A reason with what was expected and what was found. `found` never carries a secret: evidence has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: Reason,
    expected: String,
    found: String,
}

/// Longest `expected` or `found` text kept; evidence is hostile and its text ends up in logs and problem documents.
const TEXT_BYTES_MAX: usize = 512;

impl Rejection {
    /// A rejection; texts are cut to 512 bytes and stripped of control characters.
    #[must_use]
    pub fn new(reason: Reason, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { reason, expected: printable(&expected.to_string()), found: printable(&found.to_string()) }
    }

    /// Why.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// The stable code of the reason.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.reason.code()
    }

    /// What would have been accepted.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was there instead.
    #[must_use]
    pub fn found(&self) -> &str {
        &self.found
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; expected {}, found {}", self.code(), self.reason.sentence(), self.expected, self.found)
    }
}

impl core::error::Error for Rejection {}

fn printable(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if TEXT_BYTES_MAX < kept.len().saturating_add(character.len_utf8()) {
            kept.push('…');
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use alloc::{collections::BTreeSet, string::String};

    use super::{Reason, printable};

    #[test]
    fn every_code_is_unique_and_well_formed() {
        let mut codes = BTreeSet::new();
        for reason in Reason::all() {
            let code = reason.code();
            assert!(codes.insert(code), "{code} is used twice");
            let words = code.split('.').count();
            assert!((2..=4).contains(&words), "{code}: room.thing[.fault]");
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
            assert!(code.chars().all(plain), "{code}: lower case, digits, _ and . only");
            assert!(!reason.sentence().ends_with('.'), "{code}: no full stop");
            assert!(!reason.remedy().is_empty(), "{code}: a remedy");
        }
    }

    #[test]
    fn hostile_text_is_cut_and_has_no_control_characters() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a[31mb");
        assert!(printable(&String::from_iter(core::iter::repeat_n('é', 1000))).len() <= 512 + '…'.len_utf8());
    }
}
