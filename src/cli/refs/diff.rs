//! `countersign refs diff`: what one manifest says and another does not, value by value.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A manifest as far as comparing needs to know it: names, lists, values.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub(super) enum Written {
    Members(BTreeMap<String, Self>),
    List(Vec<Self>),
    Text(String),
    Number(i64),
    Truth(bool),
}

/// Lines that begin with `-` for what only the first says, and with `+` for what only the second does.
pub(super) fn diff(before: &Written, after: &Written) -> Vec<String> {
    let (before, after) = (values(before), values(after));
    let gone = before.difference(&after).map(|(path, value)| (path, '-', value));
    let come = after.difference(&before).map(|(path, value)| (path, '+', value));
    let mut lines: Vec<_> = gone.chain(come).collect();
    lines.sort();
    lines.into_iter().map(|(path, sign, value)| format!("{sign} {path} {value}")).collect()
}

/// Every value with the path to it. Lists are sets: of several accepted values, the order says nothing.
fn values(manifest: &Written) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    collect(manifest, "", &mut found);
    found
}

fn collect(value: &Written, path: &str, found: &mut BTreeSet<(String, String)>) {
    let mut put = |text: String| {
        found.insert((path.to_owned(), text));
    };
    match value {
        Written::Members(members) => {
            for (name, value) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(value, &path, found);
            }
        }
        Written::List(values) => values.iter().for_each(|value| collect(value, path, found)),
        Written::Text(text) => put(text.clone()),
        Written::Number(number) => put(number.to_string()),
        Written::Truth(truth) => put(truth.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Written, diff};

    #[test]
    fn what_differs_is_told_by_path_and_the_order_of_a_list_is_nothing() {
        let read = |json| serde_json::from_value::<Written>(json).unwrap();
        let old = read(json!({ "id": "a", "tpm": { "pcrs": { "sha256": { "4": ["aa", "bb"], "7": ["cc"] } } } }));
        let new = read(
            json!({ "id": "b", "tpm": { "pcrs": { "sha256": { "4": ["bb", "dd"], "7": ["cc"] } } }, "acpi": "igvm" }),
        );
        let said = ["+ acpi igvm", "+ id b", "- id a", "+ tpm.pcrs.sha256.4 dd", "- tpm.pcrs.sha256.4 aa"];
        assert_eq!(diff(&old, &new), said);
        assert!(diff(&old, &old.clone()).is_empty());
    }
}
