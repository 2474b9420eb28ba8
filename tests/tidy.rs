//! The house rules that a compiler cannot check, as one test. Every failure names the file, the rule and what to do.
//! Without dependencies, and in milliseconds.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Packages and which others they may name.
const PACKAGE_MAY_USE: &[(&str, &[&str])] = &[
    ("attestation", &["attestation"]),
    ("policies", &["policies", "attestation"]),
    ("clock", &["clock", "attestation"]),
    ("gate", &["gate", "attestation", "policies", "clock"]),
    ("agent", &["agent", "attestation", "clock"]),
    ("src", &["attestation", "policies", "clock"]),
];

/// What the gate may name of the judge: it asks what an operator permits, and appraises nothing.
const GATE_MAY_NAME: &[&str] = &["authorize", "Finding"];

/// Rooms of the broker, top floor first. A room calls rooms on floors below its own.
const FLOORS: &[&[&str]] = &[
    &["main", "cli", "api"],
    &["broker", "relay"],
    &["credentials"],
    &["trust", "references", "collateral"],
    &["lineage"],
    &["store"],
    &["clock", "config", "keys", "metrics", "problem"],
];

/// Calls on one floor, each with its reason.
const ARGUED: &[(&str, &str, &str)] = &[
    ("cli", "api", "`countersign broker` is the command that opens the doors"),
    ("references", "collateral", "what hosts are judged by is one snapshot: references, policy and collateral"),
    ("keys", "config", "the settings name the places that keys lie in"),
    ("keys", "clock", "certificates are dated"),
];

/// Names that say nothing about the domain.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "misc", "types", "manager", "base", "core"];

/// Text that never reaches the main branch, and what to write instead.
const BANNED: &[(&str, &str)] = &[
    ("FIXME", "finish it"),
    ("TODO", "finish it"),
    ("dbg!(", "tracing::debug!, or nothing"),
    ("serde_json::Value", "a typed struct with deny_unknown_fields"),
    ("#[should_panic", "assert on the returned rejection"),
    ("#[ignore", "assert the wrong behaviour and say why it is wrong"),
    ("use super::*", "name what you import"),
];

/// Files that handle JSON whose shape is not theirs, each with its reason.
const UNTYPED: &[(&str, &str)] = &[
    ("attestation/src/lineage/mod.rs", "test vectors of others"),
    ("attestation/src/result/jws.rs", "the JSON writer escapes a key id"),
    ("policies/src/authorize.rs", "Cedar's own JSON form of a policy"),
    ("policies/src/policy.rs", "Cedar's own JSON form of a policy"),
    ("src/cli/verify/eventlog.rs", "claims as they are printed"),
    ("src/cli/verify/mod.rs", "a manifest's expectations and the claims it prints are of many kinds"),
    ("src/cli/verify/ima.rs", "claims as they are printed"),
    ("src/cli/verify/intel.rs", "claims as they are printed"),
    ("src/cli/verify/snp.rs", "claims as they are printed"),
    ("src/cli/verify/tdx.rs", "claims as they are printed"),
    ("src/cli/verify/tpm.rs", "claims as they are printed"),
    ("benches/ratios/fleet.rs", "a bench writes requests as an operator would"),
];

const LINE_COLUMNS_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 600;

#[test]
fn tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut untidy = Vec::new();
    let files = files(root);
    assert!(100 < files.len(), "the walk found {} files only", files.len());
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        if shown == "tests/tidy.rs" {
            continue; // The lists of banned words name them.
        }
        check_product_only(&shown, &text, &mut untidy);
        if shown.ends_with(".rs") {
            check_names(&shown, &mut untidy);
            check_direction(&shown, &text, &mut untidy);
            check_text(&shown, &text, &mut untidy);
            check_functions(&shown, &text, &mut untidy);
        }
    }
    assert!(untidy.is_empty(), "{} untidy:\n{}", untidy.len(), untidy.join("\n"));
}

/// The repository speaks of the product, not of how or where it is made.
fn check_product_only(shown: &str, text: &str, untidy: &mut Vec<String>) {
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        // Where tests and the gate of the main branch look for vectors and advisories by default.
        let vectors = (shown.ends_with(".rs") || shown == ".ci/run") && line.contains("../shared/");
        if line.contains("shared/") && !vectors {
            untidy.push(format!("{shown}:{number}: `shared/` is no part of the product"));
        }
        if !line.contains("ssue ") {
            continue;
        }
        for (at, word) in line.to_lowercase().match_indices("issue ") {
            let rest = line.to_lowercase().split_at(at + word.len()).1.to_owned();
            if rest.trim_start_matches('#').starts_with(|c: char| c.is_ascii_digit()) {
                untidy.push(format!("{shown}:{number}: say what it is about, not the number of an issue"));
            }
        }
    }
}

fn check_names(shown: &str, untidy: &mut Vec<String>) {
    for part in shown.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            untidy.push(format!("{shown}: `{part}` says nothing; name it after its domain word"));
        }
    }
}

fn check_direction(shown: &str, text: &str, untidy: &mut Vec<String>) {
    let folder = shown.split('/').next().unwrap();
    let in_production = folder == "src" || shown.split('/').nth(1) == Some("src");
    let allowed = PACKAGE_MAY_USE.iter().find(|(name, _)| in_production && *name == folder);
    for (index, line) in production(text).lines().enumerate() {
        let number = index + 1;
        if let Some((_, allowed)) = allowed {
            for other in ["attestation", "policies", "clock", "gate", "agent"] {
                if line.contains(&format!("countersign_{other}::")) && !allowed.contains(&other) {
                    untidy.push(format!("{shown}:{number}: {folder} may not use {other}"));
                }
            }
        }
        if folder == "gate" && in_production {
            for (at, word) in line.match_indices("countersign_policies::") {
                let named = room(line.split_at(at + word.len()).1);
                if !GATE_MAY_NAME.contains(&named) {
                    untidy.push(format!("{shown}:{number}: the gate may use `authorize` of policies, not `{named}`"));
                }
            }
        }
        let Some(here) = shown.strip_prefix("src/").map(room).filter(|room| floor(room).is_some()) else { continue };
        for (at, word) in line.match_indices("crate::") {
            let there = room(line.split_at(at + word.len()).1);
            let below = floor(here) < floor(there);
            let argued = ARGUED.iter().any(|(from, to, _)| *from == here && *to == there);
            if floor(there).is_some() && here != there && !below && !argued {
                untidy.push(format!("{shown}:{number}: {there} is not below {here}; calls go down only"));
            }
        }
    }
}

fn room(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn check_text(shown: &str, text: &str, untidy: &mut Vec<String>) {
    let is_test = shown.contains("tests");
    let lines = production(text).lines().count();
    if FILE_LINES_MAX < lines && !is_test {
        untidy.push(format!("{shown}: {lines} lines without tests (max {FILE_LINES_MAX}); a folder wants to be born"));
    }
    for (index, line) in text.lines().enumerate() {
        // rustfmt leaves texts and macro patterns whole.
        let whole = line.contains('"') || line.contains("$(");
        if LINE_COLUMNS_MAX < line.chars().count() && !whole {
            untidy.push(format!("{shown}:{}: longer than {LINE_COLUMNS_MAX} columns", index + 1));
        }
    }
    for (banned, instead) in BANNED {
        let untyped = is_test || UNTYPED.iter().any(|(file, _)| *file == shown);
        if let Some(at) = production(text).find(banned).filter(|_| !untyped || *banned != "serde_json::Value") {
            let number = text.split_at(at).0.matches('\n').count() + 1;
            untidy.push(format!("{shown}:{number}: `{banned}` is banned, use {instead}"));
        }
    }
}

/// Relies on rustfmt: a function closes at the first `}` indented like its `fn` line.
fn check_functions(shown: &str, text: &str, untidy: &mut Vec<String>) {
    let mut open: BTreeMap<usize, (String, usize)> = BTreeMap::new();
    for (index, line) in production(text).lines().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words = ["pub(crate) ", "pub(super) ", "pub ", "const ", "async "];
        let head = words.iter().fold(code, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        if let Some(rest) = head.strip_prefix("fn ") {
            if !line.ends_with(['}', ';']) {
                open.insert(indent, (room(rest).to_owned(), index));
            }
        } else if code == "}"
            && let Some((name, start)) = open.remove(&indent)
        {
            let length = index - start + 1;
            if FUNCTION_LINES_MAX < length && !shown.contains("tests/") {
                let number = start + 1;
                untidy.push(format!("{shown}:{number}: fn {name} has {length} lines (max {FUNCTION_LINES_MAX})"));
            }
        }
    }
}

/// The text above the test module, which by house style is the last item of a file.
fn production(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| text.split_at(at).0)
}

/// What is written by hand: not build output, data, or what version control keeps for itself.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.join(".ci/run")];
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !["target", "firmware-refs", "countersign-data"].contains(&name.as_str()) {
                if !name.starts_with('.') {
                    folders.push(path);
                }
            } else if ["rs", "md", "toml", "sh", "conf", "cedar", "service"].iter().any(|end| name.ends_with(end)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
