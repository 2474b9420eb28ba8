//! A Keylime runtime policy, read as rules.
//!
//! What differs there is stricter here, and said: a digest counts for the hash of its length alone; excludes are paths
//! ([`Excludes::read_keylime`]); violations and padded SHA-1 are refused; `ignored_keyrings: ["*"]` and device-mapper
//! policies do not load; a key that the kernel measured into a keyring verifies nothing until it is registered.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::ima::{DigestKind, HashAlgorithm, ImaKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::excludes::Excludes;
use super::rules::{ImaRules, Weaker, check_size, read_pem_key, read_table};
use super::table::{Listed, Table, Templates};
use crate::finding::{Finding, PolicyReason};
use crate::json::Members;

/// The format's version that is read.
const VERSION: u64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    meta: Meta,
    #[serde(default)]
    #[expect(dead_code, reason = "says nothing about files")]
    release: Option<IgnoredAny>,
    digests: Members<Vec<String>>,
    #[serde(default)]
    excludes: Option<Vec<String>>,
    #[serde(default)]
    keyrings: Option<Members<Vec<String>>>,
    ima: Ima,
    #[serde(default, rename = "ima-buf")]
    ima_buf: Option<Members<Vec<String>>>,
    #[serde(default, rename = "verification-keys")]
    verification_keys: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ima {
    #[serde(default)]
    ignored_keyrings: Vec<String>,
    /// The hash of the list's template hashes: the list itself says it by their length.
    #[serde(default)]
    #[expect(dead_code, reason = "told by the list")]
    log_hash_alg: Option<String>,
    #[serde(default)]
    dm_policy: Option<IgnoredAny>,
}

/// `ImaKeyring.to_json`.
#[derive(Deserialize)]
struct Keyring {
    #[serde(default)]
    pubkeys: Vec<String>,
    #[serde(default)]
    keyids: Vec<u32>,
}

impl ImaRules {
    /// Reads a Keylime runtime policy (`meta.version` 1), and keys (PEM) that were registered beside it. Without a
    /// policy, the keys alone are the rules.
    ///
    /// # Errors
    /// A finding that says what is not acceptable, what would be, and how to correct it.
    pub fn parse_keylime(policy: Option<&[u8]>, keys: &[&[u8]]) -> Result<Self, Finding> {
        let syntax =
            |expected: &str, found: &dyn core::fmt::Display| PolicyReason::ImaRulesKeylime.because(expected, found);
        let mut registered: Vec<ImaKey> = keys.iter().map(|pem| read_pem_key(pem)).collect::<Result<_, _>>()?;
        let mut digested: Vec<&[u8]> = alloc::vec![b"countersign/v1/ima-rules/keylime\0"];
        let digests: Vec<Sha256Digest> = keys.iter().map(|pem| Sha256Digest::of(&[pem])).collect();
        digested.extend(digests.iter().map(|digest| &digest.0[..]));
        digested.extend(policy);
        let digest = Sha256Digest::of(&digested);
        let written: Option<Written> = policy
            .map(|json| {
                check_size(json)?;
                serde_json::from_slice(json).map_err(|error| syntax("a Keylime runtime policy", &error))
            })
            .transpose()?;
        let Some(written) = written else {
            let files = read_table(None, read_hex, true)?;
            return Self::of_keylime(digest, files, Table::default(), BTreeSet::new(), Excludes::default(), registered);
        };
        if written.meta.version != VERSION {
            return Err(syntax("meta.version 1", &written.meta.version));
        }
        if written.ima.dm_policy.is_some() {
            return Err(syntax("ima.dm_policy null: device-mapper entries are listed in `ima-buf` here", &"a policy"));
        }
        if written.ima.ignored_keyrings.iter().any(|name| name == "*" || name.is_empty()) {
            return Err(PolicyReason::ImaExclude.because("keyrings by name in ima.ignored_keyrings", "`*`"));
        }
        registered.extend(read_keyring(written.verification_keys.as_deref().unwrap_or_default())?);
        // Names of keyrings start with a dot or underscore, those of other buffers do not: one table holds both.
        let mut buffers = written.keyrings.unwrap_or(Members(Default::default()));
        for (name, digests) in written.ima_buf.unwrap_or(Members(Default::default())).0 {
            buffers.0.entry(name).or_default().extend(digests);
        }
        buffers.0.retain(|_, digests| !digests.is_empty());
        let mut files = written.digests;
        files.0.retain(|_, digests| !digests.is_empty());
        Self::of_keylime(
            digest,
            read_table(Some(files), read_hex, true)?,
            read_table(Some(buffers), read_hex, false)?.0,
            written.ima.ignored_keyrings.into_iter().map(String::into_bytes).collect(),
            Excludes::read_keylime(&written.excludes.unwrap_or_default())?,
            registered,
        )
    }

    fn of_keylime(
        digest: Sha256Digest,
        (files, templates): (Table, Templates),
        buffers: Table,
        ignored_buffers: BTreeSet<Vec<u8>>,
        excludes: Excludes,
        keys: Vec<ImaKey>,
    ) -> Result<Self, Finding> {
        Self {
            digest,
            files,
            templates,
            buffers,
            ignored_buffers,
            excludes,
            keys,
            violations: Weaker::Refused,
            padded_sha1: Weaker::Refused,
            pcrs: BTreeSet::from([10]),
        }
        .checked()
    }
}

/// Hex alone; the hash is told by the length. Keylime lists whatever the kernel hashes with, SHA-1 too; the tally
/// counts those apart.
fn read_hex(text: &str) -> Result<Option<Listed>, Finding> {
    let malformed = || PolicyReason::ImaRulesDigest.because("hex digits of a digest", format_args!("`{text}`"));
    let digits = text.split_once(':').map_or(text, |(_, digits)| digits);
    let digest = hex::decode(digits).map_err(|_| malformed())?;
    let algorithm = match digest.len() {
        20 => HashAlgorithm::Sha1,
        32 => HashAlgorithm::Sha256,
        48 => HashAlgorithm::Sha384,
        64 => HashAlgorithm::Sha512,
        _ => return Err(malformed()),
    };
    // Zero is the digest of a violation.
    let measured = digest.iter().any(|byte| *byte != 0);
    Ok(measured.then_some(Listed { kind: DigestKind::File, algorithm, digest }))
}

fn read_keyring(text: &str) -> Result<Vec<ImaKey>, Finding> {
    if text.is_empty() || text == "[]" {
        return Ok(Vec::new());
    }
    let refused = |found: &dyn core::fmt::Display| {
        PolicyReason::ImaRulesKey.because("verification-keys as Keylime writes them: pubkeys and keyids", found)
    };
    let keyring: Keyring = serde_json::from_str(text).map_err(|error| refused(&error))?;
    let mut keys = Vec::new();
    for (index, base64) in keyring.pubkeys.iter().enumerate() {
        let der = STANDARD.decode(base64).map_err(|error| refused(&error))?;
        let key = ImaKey::from_der(&der).map_err(|rejection| refused(&rejection))?;
        keys.push(match keyring.keyids.get(index) {
            Some(id) => key.with_id(id.to_be_bytes()),
            None => key,
        });
    }
    Ok(keys)
}
