//! Recorded cases of confidential computing evidence.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use countersign_attestation::UnixMillis;
use serde::Deserialize;

/// One case of `MANIFEST-cc.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Its name.
    pub id: String,
    /// What kind of evidence it holds.
    pub kind: String,
    /// Files by role.
    pub files: BTreeMap<String, String>,
    evaluation_time: String,
    /// `accept` or `reject`.
    pub expect: String,
    /// Whether that is for a policy to say.
    #[serde(default)]
    pub policy_dependent: bool,
}

impl Case {
    /// When it is judged.
    pub fn now(&self) -> UnixMillis {
        let time: jiff::Timestamp = self.evaluation_time.parse().expect("RFC 3339");
        UnixMillis(u64::try_from(time.as_millisecond()).expect("since 1970"))
    }

    /// The file of this role, if the case has one.
    pub fn read(&self, role: &str) -> Option<Vec<u8>> {
        let path = folder()?.join(self.files.get(role)?);
        Some(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }
}

/// The folder of the cases, where there is one.
pub fn folder() -> Option<PathBuf> {
    let default = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").to_owned();
    let folder = PathBuf::from(std::env::var("COUNTERSIGN_VECTORS").unwrap_or_else(|_| default()));
    folder.is_dir().then_some(folder)
}

/// The cases of these kinds; none, with a word about it, where the folder is absent.
pub fn of_kinds(kinds: &[&str]) -> Vec<Case> {
    let Some(folder) = folder() else {
        println!("no recorded cases here: skipped");
        return Vec::new();
    };
    let text = fs::read(folder.join("MANIFEST-cc.json")).expect("a manifest");
    let cases: Vec<Case> = serde_json::from_slice(&text).expect("a list of cases");
    cases.into_iter().filter(|case| kinds.contains(&case.kind.as_str())).collect()
}
