//! Who gets the SVID. Without a rule, nobody.

use core::fmt;
use core::str::FromStr;

use countersign_attestation::digest::Sha256Digest;

/// One demand on a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Effective user id when it connected.
    Uid(u32),
    /// Effective group id when it connected.
    Gid(u32),
    /// SHA-256 of the program's file.
    Sha256(Sha256Digest),
    /// cgroup (v2), or one below it.
    Cgroup(String),
}

/// Why a rule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not uid:NUMBER, gid:NUMBER, sha256:64 HEX DIGITS or cgroup:/PATH (not the root), joined by commas")]
pub struct NoRule(String);

impl FromStr for Selector {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        let no_rule = || NoRule(text.to_owned());
        let (kind, value) = text.split_once(':').ok_or_else(no_rule)?;
        // Digits only: a parser of numbers takes "+7" too.
        let number = || value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok()).flatten();
        let selector = match kind {
            "uid" => number().map(Self::Uid),
            "gid" => number().map(Self::Gid),
            "sha256" => Sha256Digest::from_hex(value).map(Self::Sha256),
            // The root holds every process, and would demand nothing.
            "cgroup" => {
                let path = value.strip_suffix('/').unwrap_or(value);
                let below = path.strip_prefix('/').is_some_and(|below| !below.is_empty());
                (below && path.split('/').skip(1).all(segment)).then(|| Self::Cgroup(path.to_owned()))
            }
            _ => None,
        };
        selector.ok_or_else(no_rule)
    }
}

fn segment(segment: &str) -> bool {
    !segment.is_empty() && segment != "." && segment != ".."
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Gid(gid) => write!(f, "gid:{gid}"),
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Cgroup(path) => write!(f, "cgroup:{path}"),
        }
    }
}

/// Demands that must all hold; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Vec<Selector>);

impl FromStr for Rule {
    type Err = NoRule;

    fn from_str(text: &str) -> Result<Self, NoRule> {
        text.split(',').map(Selector::from_str).collect::<Result<_, _>>().map(Self)
    }
}

/// What was found out about a process. What could not be found out is not there, and matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// SHA-256 of the program's file.
    pub sha256: Option<Sha256Digest>,
    /// cgroup (v2).
    pub cgroup: Option<String>,
}

/// The rules; one that holds is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission(Vec<Rule>);

impl Admission {
    /// By these rules.
    #[must_use]
    pub const fn new(rules: Vec<Rule>) -> Self {
        Self(rules)
    }

    /// Whether a rule looks at the program's file. Digesting it takes time that is not spent for nothing.
    #[must_use]
    pub fn needs_sha256(&self) -> bool {
        self.0.iter().flat_map(|rule| &rule.0).any(|selector| matches!(selector, Selector::Sha256(_)))
    }

    /// Admits, or says which selectors failed.
    ///
    /// # Errors
    /// The failed selectors, for the log and not for the caller.
    pub fn admit(&self, facts: &Facts) -> Result<(), String> {
        let mut failed = Vec::new();
        for rule in &self.0 {
            let before = failed.len();
            failed.extend(rule.0.iter().filter(|selector| !holds(selector, facts)).map(Selector::to_string));
            if failed.len() == before && !rule.0.is_empty() {
                return Ok(());
            }
        }
        Err(if failed.is_empty() { "no rule admits anyone".to_owned() } else { failed.join(" ") })
    }
}

fn holds(selector: &Selector, facts: &Facts) -> bool {
    match selector {
        Selector::Uid(uid) => *uid == facts.uid,
        Selector::Gid(gid) => *gid == facts.gid,
        Selector::Sha256(digest) => facts.sha256 == Some(*digest),
        Selector::Cgroup(path) => facts.cgroup.as_deref().is_some_and(|found| {
            found.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
    }
}

#[cfg(test)]
mod tests {
    use countersign_attestation::digest::Sha256Digest;

    use super::{Admission, Facts, Rule};

    fn admission(rules: &[&str]) -> Admission {
        Admission::new(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    fn facts() -> Facts {
        let cgroup = Some("/system.slice/inference.service/worker".to_owned());
        Facts { pid: 7, uid: 1000, gid: 100, sha256: Some(Sha256Digest([0xab; 32])), cgroup }
    }

    #[test]
    fn all_selectors_of_one_rule_must_hold() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for good in ["uid:1000", "gid:100", &digest, "cgroup:/system.slice/inference.service", "cgroup:/system.slice/"]
        {
            assert_eq!(admission(&[good]).admit(&facts()), Ok(()), "{good}");
            assert_eq!(admission(&["uid:1", good]).admit(&facts()), Ok(()), "{good} is enough");
            let both = format!("{good},uid:1");
            assert_eq!(admission(&[&both]).admit(&facts()).unwrap_err(), "uid:1", "{good}");
        }
        let other = format!("sha256:{}", "cd".repeat(32));
        for bad in ["uid:0", "gid:1000", &other, "cgroup:/system.slice/inference", "cgroup:/user.slice"] {
            assert_eq!(admission(&[bad]).admit(&facts()).unwrap_err(), bad);
        }
    }

    #[test]
    fn what_is_not_known_matches_nothing_and_no_rule_admits_nobody() {
        let unknown = Facts { sha256: None, cgroup: None, ..facts() };
        let digest = format!("sha256:{}", "ab".repeat(32));
        assert!(admission(&[&digest]).admit(&unknown).is_err());
        assert!(admission(&["cgroup:/system.slice"]).admit(&unknown).is_err());
        assert_eq!(Admission::default().admit(&facts()).unwrap_err(), "no rule admits anyone");
        assert!(admission(&["uid:1", &digest]).needs_sha256() && !admission(&["uid:1"]).needs_sha256());
    }

    #[test]
    fn rules_that_say_nothing_or_too_much_are_refused() {
        for bad in [
            "",
            "uid",
            "uid:",
            "uid:-1",
            "uid:+1",
            "uid:4294967296",
            "UID:1",
            "user:root",
            "sha256:ab",
            "cgroup:",
            "cgroup:/",
            "cgroup://",
            "cgroup:system.slice",
            "cgroup:/a/../b",
            "cgroup:/a//b",
            "uid:1,",
            ",uid:1",
            "uid:1 ,gid:1",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }
}
