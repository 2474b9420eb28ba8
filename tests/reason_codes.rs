//! Every code a denial can carry, as one page. `UPDATE_GOLDEN=1 cargo test --test reason_codes` writes it anew; a code
//! that is gone from it is a broken promise, since codes are API.

use std::collections::BTreeMap;
use std::path::Path;

use countersign::problem::Refusal;
use countersign_attestation::Reason;
use countersign_gate::reason::GateReason;
use countersign_policies::PolicyReason;

const HEAD: &str = "# Reason codes

Every code that a denial, a refused request or a log entry can carry. A code is API: it is never renamed and never used
for anything else. Problem documents carry it as `code`, and as `type` after `urn:countersign:reason:`; the gate sends
it as `X-Countersign-Reason`; it is the label of the metrics. What was expected and found goes with it where the reader
may know it: a host learns its own values, never the references it is judged by.

This page is written by `UPDATE_GOLDEN=1 cargo test --test reason_codes`.
";

/// Code, then sentence and remedy.
type Codes = BTreeMap<String, (String, String)>;

fn sections() -> [(&'static str, Codes); 4] {
    let evidence = Reason::all().map(|reason| row(reason.code(), reason.sentence(), reason.remedy()));
    let policy = PolicyReason::ALL.iter().map(|reason| row(reason.code(), reason.sentence(), reason.remedy()));
    // What an operator's policies say of a request is said at a gate.
    let (authorize, policy): (Codes, Codes) = policy.partition(|(code, _)| code.starts_with("authorize."));
    let gate = GateReason::ALL.iter().map(|reason| row(reason.code(), reason.sentence(), reason.remedy()));
    let gate = gate.chain(authorize);
    let refusal = Refusal::ALL.iter().map(|refusal| {
        let problem = refusal.plain().0;
        row(&problem.code, &format!("{} (HTTP {})", problem.title, problem.status), &problem.remedy)
    });
    [
        ("Evidence and signed statements", evidence.collect()),
        ("Appraisal", policy),
        ("Requests to the broker", refusal.collect()),
        ("The gate", gate.collect()),
    ]
}

fn row(code: &str, sentence: &str, remedy: &str) -> (String, (String, String)) {
    (code.to_owned(), (sentence.to_owned(), remedy.to_owned()))
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, codes) in sections() {
        page.push_str(&format!("\n## {title}\n\n| code | what is wrong | what to do |\n| --- | --- | --- |\n"));
        for (code, (sentence, remedy)) in codes {
            page.push_str(&format!("| `{code}` | {} | {} |\n", cell(&sentence), cell(&remedy)));
        }
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[test]
fn the_page_lists_every_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reason-codes.md");
    let page = page();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(golden, page, "run: UPDATE_GOLDEN=1 cargo test --test reason_codes");
}

#[test]
fn codes_of_different_rooms_differ() {
    let mut seen = BTreeMap::new();
    for (title, codes) in sections() {
        for code in codes.into_keys() {
            let well_formed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte);
            assert!(code.contains('.') && code.bytes().all(well_formed), "{code}");
            let before = seen.insert(code.clone(), title);
            assert_eq!(before, None, "{code} is used in two rooms");
        }
    }
}
