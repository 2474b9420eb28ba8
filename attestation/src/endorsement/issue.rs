//! What vendors issue anew from time to time: revocation lists, TCB info, enclave identities. Of each subject the
//! newest issue that was ever seen counts, since an older one is signed as well and hides what was revoked since.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::anchor::{AmdAnchor, Assurance, IntelAnchor, TpmAnchor};
use crate::claims::HexBytes;
use crate::digest::Sha256Digest;
use crate::endorsement::intel::{
    QeIdentity, TcbInfo, TcbKind, check_pck_crl_alone, check_qe_identity_alone, check_tcb_info_alone,
};
use crate::rejection::{Rejection, reasons};
use crate::time::UnixMillis;
use crate::x509::{Certificate, Crl, X509Reason};

reasons! {
    /// Why something that a vendor issued is not taken into use.
    IssueReason {
        /// ATTACKS: signed and stale.
        Older = "collateral.older",
            "a newer issue was seen before",
            "find out why the source serves an old one: it would hide what was revoked since";
        /// From the future.
        NotYetValid = "collateral.not_yet_valid",
            "it was issued in the future",
            "check the clock";
        /// No pinned anchor's.
        Issuer = "collateral.issuer",
            "no pinned anchor issued it",
            "pin the vendor's root, or take it from the vendor's own service";
        /// It never becomes stale.
        NoEnd = "collateral.no_end",
            "a list without nextUpdate can never be found stale",
            "take the list from a service that states nextUpdate";
    }
}

/// One issue of a subject, its signature checked. What it says is checked again, with lists and time, wherever it is
/// used: this only tells what may replace what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issue {
    /// What it is about, and under which root: `amd.crl/milan#1a2b3c4d`, `intel.tcb/tdx/50806f000000#…`.
    pub subject: String,
    /// What the root is worth.
    pub assurance: Assurance,
    /// cRLNumber or tcbEvaluationDataNumber, big-endian without leading zeros; empty where there is none.
    pub number: HexBytes,
    /// thisUpdate or issueDate.
    pub issued: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
}

/// How an issue follows the one that was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// It is of the same number and time.
    Same,
    /// It is newer.
    Newer,
}

impl Issue {
    /// AMD's revocation list of a product line, signed by a pinned ARK.
    ///
    /// # Errors
    /// An [`IssueReason`] or [`X509Reason`].
    pub fn of_amd_crl(der: &[u8], anchors: &[AmdAnchor], now: UnixMillis) -> Result<Self, Rejection> {
        let list = Crl::parse(der)?;
        let mut closest = None;
        for anchor in anchors {
            let ark = Certificate::parse(&anchor.ark)?;
            match list.check_signed_by(&ark) {
                Ok(()) => {
                    let product = format!("{}", anchor.product).to_lowercase();
                    let subject = format!("amd.crl/{product}#{}", fingerprint(&anchor.ark));
                    return Self::of_list(&list, subject, anchor.assurance, now);
                }
                Err(rejection) => closest = closer(closest, rejection),
            }
        }
        Err(closest.unwrap_or_else(|| unpinned("a pinned ARK")))
    }

    /// The list of a TPM manufacturer's or cloud's authority: a pinned root, or an intermediate that is kept beside it.
    ///
    /// # Errors
    /// An [`IssueReason`] or [`X509Reason`].
    pub fn of_tpm_crl(der: &[u8], anchors: &[TpmAnchor], now: UnixMillis) -> Result<Self, Rejection> {
        let list = Crl::parse(der)?;
        let mut closest = None;
        for anchor in anchors {
            for authority in core::iter::once(&anchor.root).chain(&anchor.intermediates) {
                let issuer = Certificate::parse(authority)?;
                match list.check_signed_by(&issuer) {
                    Ok(()) => {
                        // By what its certificate says: an operator may name an anchor's file anew.
                        let name = issuer.subject_common_name().unwrap_or("unnamed");
                        let subject = format!("tpm.crl/{name}#{}", fingerprint(authority));
                        return Self::of_list(&list, subject, anchor.assurance, now);
                    }
                    Err(rejection) => closest = closer(closest, rejection),
                }
            }
        }
        Err(closest.unwrap_or_else(|| unpinned("a pinned authority of TPM or AK certificates")))
    }

    /// The list of Intel's root.
    ///
    /// # Errors
    /// An [`IssueReason`] or [`X509Reason`].
    pub fn of_intel_root_crl(der: &[u8], anchors: &[IntelAnchor], now: UnixMillis) -> Result<Self, Rejection> {
        let list = Crl::parse(der)?;
        let mut closest = None;
        for anchor in anchors {
            match list.check_signed_by(&Certificate::parse(&anchor.root)?) {
                Ok(()) => {
                    let subject = format!("intel.root_crl#{}", fingerprint(&anchor.root));
                    return Self::of_list(&list, subject, anchor.assurance, now);
                }
                Err(rejection) => closest = closer(closest, rejection),
            }
        }
        Err(closest.unwrap_or_else(|| unpinned("a pinned root of Intel's")))
    }

    /// The list of one of Intel's CAs of PCKs; `chain` is the CA and the root, PEM.
    ///
    /// # Errors
    /// An [`IssueReason`], [`crate::endorsement::intel::IntelReason`] or [`X509Reason`].
    pub fn of_intel_pck_crl(
        der: &[u8],
        chain: &str,
        anchors: &[IntelAnchor],
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let list = Crl::parse(der)?;
        let (anchor, authority) = check_pck_crl_alone(&list, chain, anchors, in_its_time(&list, now)?)?;
        let subject = format!("intel.pck_crl/{authority}#{}", fingerprint(&anchor.root));
        Self::of_list(&list, subject, anchor.assurance, now)
    }

    /// TCB info of a family of Intel's platforms.
    ///
    /// # Errors
    /// An [`IssueReason`], [`crate::endorsement::intel::IntelReason`] or [`X509Reason`].
    pub fn of_tcb_info(
        text: &str,
        signature: &[u8],
        chain: &str,
        anchors: &[IntelAnchor],
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        // Read for its dates alone: it is judged at a time when it held, and believed only then.
        let unverified = TcbInfo::read(text)?;
        let at = now.min(unverified.next_update);
        let (info, anchor) = check_tcb_info_alone(text, signature, chain, anchors, at)?;
        let technology = match info.kind {
            TcbKind::Sgx => "sgx",
            TcbKind::Tdx => "tdx",
        };
        let (fmspc, root) = (hex::encode(info.fmspc), fingerprint(&anchor.root));
        Ok(Self {
            subject: format!("intel.tcb/{technology}/{fmspc}#{root}"),
            assurance: anchor.assurance,
            number: big_endian(info.evaluation_data_number),
            issued: info.issue_date,
            next_update: info.next_update,
        })
    }

    /// Identity of one of Intel's quoting enclaves.
    ///
    /// # Errors
    /// An [`IssueReason`], [`crate::endorsement::intel::IntelReason`] or [`X509Reason`].
    pub fn of_qe_identity(
        text: &str,
        signature: &[u8],
        chain: &str,
        anchors: &[IntelAnchor],
        now: UnixMillis,
    ) -> Result<Self, Rejection> {
        let unverified = QeIdentity::read(text)?;
        let at = now.min(unverified.next_update);
        let (identity, anchor) = check_qe_identity_alone(text, signature, chain, anchors, at)?;
        let enclave = identity.id.name().to_lowercase();
        Ok(Self {
            subject: format!("intel.qe_identity/{enclave}#{}", fingerprint(&anchor.root)),
            assurance: anchor.assurance,
            number: big_endian(identity.evaluation_data_number),
            issued: identity.issue_date,
            next_update: identity.next_update,
        })
    }

    /// A list whose signature was checked.
    fn of_list(list: &Crl<'_>, subject: String, assurance: Assurance, now: UnixMillis) -> Result<Self, Rejection> {
        in_its_time(list, now)?;
        let next_update = list.next_update().ok_or_else(no_end)?;
        let number = HexBytes(list.number().unwrap_or_default().to_vec());
        Ok(Self { subject, assurance, number, issued: list.this_update(), next_update })
    }

    /// Checks that this issue may stand where `seen` did: neither its number nor its time goes back.
    ///
    /// # Errors
    /// [`IssueReason::Older`].
    pub fn check_follows(&self, seen: &Self) -> Result<Follows, Rejection> {
        // Numbers without leading zeros: the longer one is the larger.
        let (number, known) = (&self.number.0, &seen.number.0);
        let order = number.len().cmp(&known.len()).then_with(|| number.cmp(known));
        if order.is_lt() || self.issued < seen.issued {
            return Err(IssueReason::Older.because(shown(known, seen.issued), shown(number, self.issued)));
        }
        Ok(if order.is_eq() && self.issued == seen.issued { Follows::Same } else { Follows::Newer })
    }
}

fn shown(number: &[u8], issued: UnixMillis) -> String {
    match u64_of(number) {
        Some(0) => format!("issued {issued}"),
        Some(number) => format!("number {number}, issued {issued}"),
        None => format!("number {}h, issued {issued}", hex::encode(number)),
    }
}

fn u64_of(number: &[u8]) -> Option<u64> {
    let mut octets = [0; 8];
    let start = octets.len().checked_sub(number.len())?;
    octets.get_mut(start..)?.copy_from_slice(number);
    Some(u64::from_be_bytes(octets))
}

fn big_endian(number: u32) -> HexBytes {
    HexBytes(number.to_be_bytes().into_iter().skip_while(|octet| *octet == 0).collect::<Vec<_>>())
}

/// The start of a root's digest: two roots of one vendor have subjects of their own.
fn fingerprint(root: &[u8]) -> String {
    Sha256Digest::of(&[root]).to_hex().chars().take(8).collect::<String>()
}

/// Of two reasons the one that is not "another's name".
fn closer(closest: Option<Rejection>, rejection: Rejection) -> Option<Rejection> {
    if rejection.reason() == X509Reason::Issuer.into() { closest } else { Some(rejection) }
}

fn unpinned(expected: &str) -> Rejection {
    IssueReason::Issuer.because(expected, "another issuer")
}

fn no_end() -> Rejection {
    IssueReason::NoEnd.because("nextUpdate", "none")
}

/// The last moment up to now at which the list was current; a list of the future has none.
fn in_its_time(list: &Crl<'_>, now: UnixMillis) -> Result<UnixMillis, Rejection> {
    let next_update = list.next_update().ok_or_else(no_end)?;
    if now < list.this_update() {
        return Err(IssueReason::NotYetValid.because(format_args!("a time from {}", list.this_update()), now));
    }
    Ok(now.min(UnixMillis(next_update.0.saturating_sub(1))))
}

impl core::fmt::Display for Issue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}, {}", self.subject, shown(&self.number.0, self.issued))
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::{Follows, Issue, shown};
    use crate::anchor::Assurance;
    use crate::claims::HexBytes;
    use crate::rejection::Rejection;
    use crate::sim_intel::{Collateral, IntelSimulator};
    use crate::time::UnixMillis;

    /// 2026-11-23.
    const NOW: UnixMillis = UnixMillis(1_795_392_000_000);
    /// After everything simulated has ended.
    const LATE: UnixMillis = UnixMillis(2_400_000_000_000);
    /// Before it began.
    const EARLY: UnixMillis = UnixMillis(1_700_000_000_000);

    fn code<T>(result: Result<T, Rejection>) -> Result<(), &'static str> {
        result.map(drop).map_err(|rejection| rejection.code())
    }

    fn issue(number: &[u8], issued: u64) -> Issue {
        let (subject, number) = (String::from("s"), HexBytes(number.to_vec()));
        let (issued, next_update) = (UnixMillis(issued), UnixMillis(99));
        Issue { subject, assurance: Assurance::Simulated, number, issued, next_update }
    }

    #[test]
    fn c14_neither_a_number_nor_a_time_ever_goes_back() {
        let seen = issue(&[1, 0], 50);
        for (number, issued, expected) in [
            (&[1, 0][..], 50, Ok(Follows::Same)),
            (&[1, 0], 51, Ok(Follows::Newer)),
            (&[1, 1], 50, Ok(Follows::Newer)),
            (&[1, 0, 0], 50, Ok(Follows::Newer)),
            (&[1, 0], 49, Err("collateral.older")),
            (&[1, 1], 49, Err("collateral.older")),
            (&[255], 51, Err("collateral.older")),
            (&[], 51, Err("collateral.older")),
        ] {
            let follows = issue(number, issued).check_follows(&seen).map_err(|rejection| rejection.code());
            assert_eq!(follows, expected, "{number:?} {issued}");
        }
        assert_eq!(issue(&[7], 51).check_follows(&issue(&[], 50)), Ok(Follows::Newer));
        assert_eq!(shown(&[1, 0], UnixMillis(0)), "number 256, issued 1970-01-01T00:00:00.000Z");
        assert_eq!(shown(&[1; 9], UnixMillis(0)), "number 010101010101010101h, issued 1970-01-01T00:00:00.000Z");
    }

    /// Every item of Intel's, at a time.
    fn all(intel: &IntelSimulator, from: &Collateral, now: UnixMillis) -> [Result<Issue, Rejection>; 4] {
        let anchors = [intel.anchor()];
        let parts = from.parts();
        [
            Issue::of_intel_root_crl(parts.root_ca_crl, &anchors, now),
            Issue::of_intel_pck_crl(parts.pck_crl, parts.pck_crl_issuer_chain, &anchors, now),
            Issue::of_tcb_info(parts.tcb_info, parts.tcb_info_signature, parts.tcb_info_issuer_chain, &anchors, now),
            Issue::of_qe_identity(
                parts.qe_identity,
                parts.qe_identity_signature,
                parts.qe_identity_issuer_chain,
                &anchors,
                now,
            ),
        ]
    }

    #[test]
    fn what_has_ended_still_marks_what_was_seen_and_what_is_of_the_future_never_does() {
        let intel = IntelSimulator::new();
        let collateral = intel.collateral();
        let now: Vec<_> = all(&intel, &collateral, NOW).into_iter().map(|issue| issue.expect("an issue")).collect();
        let late: Vec<_> = all(&intel, &collateral, LATE).into_iter().map(|issue| issue.expect("an issue")).collect();
        assert_eq!(now, late);
        let root = now[0].subject.split('#').nth(1).expect("a root");
        let subjects: Vec<_> = now.iter().map(|issue| issue.subject.replace(root, "R")).collect();
        let expected = [
            "intel.root_crl#R",
            "intel.pck_crl/platform#R",
            "intel.tcb/tdx/50806f00aa00#R",
            "intel.qe_identity/td_qe#R",
        ];
        assert_eq!(subjects, expected);
        assert_eq!((&*now[2].number.0, now[2].issued), (&[17][..], UnixMillis(1_735_689_600_000)));
        for early in all(&intel, &collateral, EARLY) {
            let refused = code(early).expect_err("of the future");
            assert!(["collateral.not_yet_valid", "x509.not_yet_valid"].contains(&refused), "{refused}");
        }
    }

    #[test]
    fn what_nobody_pinned_signed_is_no_issue() {
        let (intel, other) = (IntelSimulator::new(), IntelSimulator::new());
        let foreign = all(&intel, &other.collateral(), NOW).map(code);
        // Both simulators' roots have one name: the key decides.
        assert_eq!(foreign, [Err("x509.signature"), Err("intel.root"), Err("intel.root"), Err("intel.root")]);
        let mut changed = intel.collateral();
        changed.tcb_info.push(' ');
        changed.qe_identity.push(' ');
        let last = changed.pck_crl.len() - 1;
        changed.pck_crl[last] ^= 1;
        changed.root_ca_crl[last.min(60)] ^= 1;
        for refused in all(&intel, &changed, NOW).map(code) {
            assert!(refused.is_err());
        }
        let nobody = Issue::of_intel_root_crl(&intel.collateral().root_ca_crl, &[], NOW);
        assert_eq!(code(nobody), Err("collateral.issuer"));
    }
}
