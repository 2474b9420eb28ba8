//! What is left aside. Everything excluded can run anything, so no exclude may take in where programs live.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::finding::{Finding, PolicyReason};

/// More is no exception any more.
const EXCLUDES_MAX: usize = 256;

/// Where operating systems keep what they run. An exclude that takes in one of these wholly takes in everything.
const PROTECTED: [&str; 16] = [
    "/bin/",
    "/boot/",
    "/etc/",
    "/lib/",
    "/lib64/",
    "/lib/modules/",
    "/opt/",
    "/sbin/",
    "/usr/bin/",
    "/usr/lib/",
    "/usr/lib64/",
    "/usr/libexec/",
    "/usr/local/bin/",
    "/usr/local/lib/",
    "/usr/local/sbin/",
    "/usr/sbin/",
];

/// One exclude.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exclude {
    /// One name.
    Name(Vec<u8>),
    /// Every name that starts so.
    Prefix(Vec<u8>),
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Excludes(Vec<Exclude>);

impl Excludes {
    /// Whether `name` is left aside.
    pub(super) fn cover(&self, name: &[u8]) -> bool {
        self.0.iter().any(|exclude| match exclude {
            Exclude::Name(excluded) => excluded == name,
            Exclude::Prefix(prefix) => name.starts_with(prefix),
        })
    }

    /// Paths: a directory ends with `/`.
    pub(super) fn read(texts: &[String]) -> Result<Self, Finding> {
        Self::collect(texts, |text| {
            // What looks like a pattern was meant as one, and would match nothing as a path.
            if text.contains(['*', '?', '[', '^', '$', '\\']) {
                return Err(refused(text, "a path without wildcards; a directory ends with `/`"));
            }
            if text.ends_with('/') { prefix(text, text) } else { name(text, text) }.map(|exclude| alloc::vec![exclude])
        })
    }

    /// Keylime's: regular expressions, matched from the start of the name on. Of those, the ones that name a path, or
    /// all below one, are understood; any other is refused, because what it takes in cannot be bounded here.
    pub(super) fn read_keylime(texts: &[String]) -> Result<Self, Finding> {
        Self::collect(texts, |text| {
            let refuse = || refused(text, "a path as it is, or followed by `/.*`, `.*`, `(/.*)?` or `$`");
            let body = text.strip_prefix('^').unwrap_or(text);
            if let Some(path) = body.strip_suffix("(/.*)?$").or_else(|| body.strip_suffix("(/.*)?")) {
                let path = literal(path).ok_or_else(refuse)?;
                return Ok(alloc::vec![name(&path, text)?, prefix(&format!("{path}/"), text)?]);
            }
            if let Some(path) = body.strip_suffix(".*").or_else(|| body.strip_suffix(".*$")) {
                return Ok(alloc::vec![prefix(&literal(path).ok_or_else(refuse)?, text)?]);
            }
            if let Some(path) = body.strip_suffix('$') {
                return Ok(alloc::vec![name(&literal(path).ok_or_else(refuse)?, text)?]);
            }
            let path = literal(body).ok_or_else(refuse)?;
            // Without an end it matches every name that starts so, there; what is no path is one name here.
            Ok(alloc::vec![if path.starts_with('/') { prefix(&path, text)? } else { name(&path, text)? }])
        })
    }

    fn collect(texts: &[String], read: impl Fn(&str) -> Result<Vec<Exclude>, Finding>) -> Result<Self, Finding> {
        if EXCLUDES_MAX < texts.len() {
            return Err(PolicyReason::ImaExclude
                .because(format_args!("at most {EXCLUDES_MAX} excludes"), format_args!("{}", texts.len())));
        }
        let mut excludes = Vec::new();
        for text in texts {
            excludes.extend(read(text)?);
        }
        Ok(Self(excludes))
    }
}

fn refused(text: &str, expected: &str) -> Finding {
    PolicyReason::ImaExclude.because(expected, format_args!("`{text}`"))
}

fn name(path: &str, written: &str) -> Result<Exclude, Finding> {
    check_plain(path, written)?;
    Ok(Exclude::Name(path.as_bytes().to_vec()))
}

fn prefix(path: &str, written: &str) -> Result<Exclude, Finding> {
    check_plain(path, written)?;
    if !path.starts_with('/') {
        return Err(refused(written, "an absolute path"));
    }
    if let Some(directory) = PROTECTED.iter().find(|directory| directory.starts_with(path)) {
        return Err(refused(written, &format!("an exclude that does not take in all of {directory}")));
    }
    Ok(Exclude::Prefix(path.as_bytes().to_vec()))
}

fn check_plain(path: &str, written: &str) -> Result<(), Finding> {
    let unreal = ["//", "/./", "/../"].iter().any(|part| path.contains(part)) || path.chars().any(char::is_control);
    if path.is_empty() || path == "/" || unreal {
        return Err(refused(written, "a path as the kernel writes it, of at least one name"));
    }
    Ok(())
}

/// The text that a regular expression without operators matches. An unescaped dot is taken for a dot: less than it
/// matches there, never more.
fn literal(pattern: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next().filter(|next| !next.is_alphanumeric())?),
            '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec::Vec;

    use super::Excludes;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| String::from(*text)).collect()
    }

    #[test]
    fn a21_no_exclude_takes_in_everything() {
        for text in [
            "",
            "/",
            "/*",
            ".*",
            "*",
            "^",
            "//",
            "/.*",
            "/usr/",
            "/usr/bin/",
            "/bin/",
            "/lib/",
            "/etc/",
            "/../",
            "tmp/",
        ] {
            let refusal = Excludes::read(&texts(&[text])).map_err(|finding| finding.code);
            assert_eq!(refusal, Err("ima.rules.exclude"), "{text}");
        }
        for text in [
            "",
            "/",
            ".*",
            "/.*",
            "^",
            "^/",
            "^.*$",
            "(/.*)?",
            "/u",
            "/usr",
            "/usr/.*",
            "/usr/bin",
            "/usr/bin/.*",
            "/l.*",
            "/(usr|bin)/.*",
            "/[a-z]+",
            "/.+",
            ".",
            "/tmp|/",
            "(?s).*",
            "\\S+",
            "/lib(/.*)?",
            "$",
            "/x{0}.*",
        ] {
            let refusal = Excludes::read_keylime(&texts(&[text])).map_err(|finding| finding.code);
            if text != "." {
                assert_eq!(refusal, Err("ima.rules.exclude"), "{text}");
            } else {
                assert!(!refusal.unwrap().cover(b"/usr/bin/sh"), "a dot is a dot");
            }
        }
        let many: Vec<String> = (0..257).map(|n| alloc::format!("/tmp/{n}")).collect();
        assert_eq!(Excludes::read(&many).map_err(|finding| finding.code), Err("ima.rules.exclude"));
    }

    #[test]
    fn excludes_take_in_what_they_name() {
        let excludes = Excludes::read(&texts(&["/tmp/", "/var/log/journal/", "/usr/bin/dd"])).unwrap();
        for (name, covered) in [
            ("/tmp/a", true),
            ("/tmp/a/b", true),
            ("/tmp", false),
            ("/tmpfile", false),
            ("/var/log/journal/x", true),
            ("/var/log/x", false),
            ("/usr/bin/dd", true),
            ("/usr/bin/ddrescue", false),
            ("/srv/tmp/a", false),
        ] {
            assert_eq!(excludes.cover(name.as_bytes()), covered, "{name}");
        }
        let keylime = Excludes::read_keylime(&texts(&[
            "^/tmp/.*",
            "/var/log(/.*)?",
            "/lib/modules/5\\.4/x.ko$",
            "boot_aggregate",
            "/run/.*$",
        ]));
        let keylime = keylime.unwrap();
        for (name, covered) in [
            ("/tmp/a", true),
            ("/var/log", true),
            ("/var/log/a", true),
            ("/var/logs", false),
            ("/lib/modules/5.4/x.ko", true),
            ("/lib/modules/5.4/x.ko.gz", false),
            ("boot_aggregate", true),
            ("boot_aggregates", false),
            ("/run/x", true),
        ] {
            assert_eq!(keylime.cover(name.as_bytes()), covered, "{name}");
        }
    }
}
