//! Runtime data: what a paravisor says of itself and of the virtual machine, under the hash in its hardware report.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::ParavisorReason;
use super::json::Json;
use crate::claims::{HexBytes, Presented};
use crate::evidence::tpm::public::Key;
use crate::rejection::Rejection;

/// `kid` of the attestation key of the virtual TPM.
const AK: &str = "HCLAkPub";
/// `kid` of its endorsement key.
const EK: &str = "HCLEkPub";

/// Bytes of user data: it has the size of a report's own.
const USER_DATA_BYTES: usize = 64;

/// Exponent 65537 as a JWK writes it (RFC 7518, 6.3.1.2).
const EXPONENT: &str = "AQAB";

/// One entry of `vm-configuration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// Not set.
    Unset,
    /// On or off.
    Flag(bool),
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
}

/// An RSA key that runtime data names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeKey {
    spki: Vec<u8>,
}

impl RuntimeKey {
    /// `SubjectPublicKeyInfo`, DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }
}

/// Runtime data, read. Whether anything signed it is not known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeData {
    kids: Vec<String>,
    ak: RuntimeKey,
    ek: Presented<RuntimeKey>,
    vm_configuration: BTreeMap<String, Setting>,
    user_data: HexBytes,
}

impl RuntimeData {
    /// Reads runtime data: all of `json`, strictly.
    ///
    /// # Errors
    /// [`ParavisorReason::Runtime`] or [`ParavisorReason::RuntimeKey`].
    pub fn read(json: &[u8]) -> Result<Self, Rejection> {
        let value = Json::read(json).map_err(|error| malformed("strict JSON", error.to_string()))?;
        let Json::Object(mut members) = value else { return Err(malformed("a JSON object", "another value")) };
        let mut take = |name: &str| members.remove(name).ok_or_else(|| malformed(name, "no such member"));
        let (keys, settings, user_data) = (take("keys")?, take("vm-configuration")?, take("user-data")?);
        if let Some(name) = members.keys().next() {
            return Err(malformed("keys, vm-configuration and user-data", name));
        }
        let (kids, ak, ek) = read_keys(keys)?;
        let vm_configuration = read_settings(settings)?;
        Ok(Self { kids, ak, ek, vm_configuration, user_data: read_user_data(user_data)? })
    }

    /// HCLAkPub: the attestation key of the virtual TPM.
    #[must_use]
    pub const fn ak(&self) -> &RuntimeKey {
        &self.ak
    }

    /// HCLEkPub: its endorsement key.
    #[must_use]
    pub const fn ek(&self) -> &Presented<RuntimeKey> {
        &self.ek
    }

    /// The `kid` of each key, in the order of the data.
    #[must_use]
    pub fn kids(&self) -> &[String] {
        &self.kids
    }

    /// vm-configuration.
    #[must_use]
    pub const fn vm_configuration(&self) -> &BTreeMap<String, Setting> {
        &self.vm_configuration
    }

    /// vmUniqueId.
    #[must_use]
    pub fn vm_id(&self) -> Option<&str> {
        match self.vm_configuration.get("vmUniqueId") {
            Some(Setting::Text(id)) => Some(id),
            Some(Setting::Unset | Setting::Flag(_) | Setting::Number(_)) | None => None,
        }
    }

    /// user-data: 64 bytes that the guest wrote.
    #[must_use]
    pub const fn user_data(&self) -> &HexBytes {
        &self.user_data
    }
}

fn malformed(expected: &str, found: impl core::fmt::Display) -> Rejection {
    ParavisorReason::Runtime.because(expected, found)
}

/// Every key, each `kid` once, and HCLAkPub among them.
fn read_keys(keys: Json) -> Result<(Vec<String>, RuntimeKey, Presented<RuntimeKey>), Rejection> {
    let Json::List(keys) = keys else { return Err(malformed("a list of keys", "another value")) };
    let mut kids = Vec::new();
    let (mut ak, mut ek) = (None, Presented::NotPresented);
    for key in keys {
        let (kid, key) = read_key(key)?;
        if kids.contains(&kid) {
            return Err(ParavisorReason::RuntimeKey.because("each kid once", kid));
        }
        match kid.as_str() {
            AK => ak = Some(key),
            EK => ek = Presented::Verified(key),
            _ => {}
        }
        kids.push(kid);
    }
    let ak = ak.ok_or_else(|| ParavisorReason::RuntimeKey.because(AK, alloc::format!("{kids:?}")))?;
    Ok((kids, ak, ek))
}

/// One RSA JWK (RFC 7517, 4; RFC 7518, 6.3.1) with exactly the members a paravisor writes.
fn read_key(key: Json) -> Result<(String, RuntimeKey), Rejection> {
    let refused = |expected: &str, found: &str| ParavisorReason::RuntimeKey.because(expected, found);
    let Json::Object(mut members) = key else { return Err(refused("a JWK", "another value")) };
    let mut text = |name: &str| match members.remove(name) {
        Some(Json::Text(text)) => Ok(text),
        Some(Json::Null | Json::Flag(_) | Json::Number(_) | Json::List(_) | Json::Object(_)) => {
            Err(refused(name, "another type"))
        }
        None => Err(refused(name, "no such member")),
    };
    let (kid, kty, e, n) = (text("kid")?, text("kty")?, text("e")?, text("n")?);
    let operations = members.remove("key_ops");
    if let Some(name) = members.keys().next() {
        return Err(refused("kid, key_ops, kty, e and n", name));
    }
    // Which they are says nothing: earlier paravisors wrote "encrypt" for the attestation key too. What the key is used
    // for here is decided by its kid and by what it signs.
    let stated = match &operations {
        Some(Json::List(stated)) => !stated.is_empty() && stated.iter().all(|one| matches!(one, Json::Text(_))),
        Some(Json::Null | Json::Flag(_) | Json::Number(_) | Json::Text(_) | Json::Object(_)) | None => false,
    };
    if !stated {
        return Err(refused("key_ops of texts", &kid));
    }
    if kty != "RSA" || e != EXPONENT {
        return Err(refused("an RSA key with exponent 65537", &alloc::format!("{kty} {e}")));
    }
    let modulus = URL_SAFE_NO_PAD.decode(&n).map_err(|_| refused("n as base64url without padding", "another text"))?;
    // The sizes that a TPM of today makes; a leading zero would be a second spelling of one number.
    if ![256, 384, 512].contains(&modulus.len()) || modulus.first().is_none_or(|first| *first < 0x80) {
        return Err(refused("a modulus of 2048, 3072 or 4096 bits", &alloc::format!("{} bytes", modulus.len())));
    }
    Ok((kid, RuntimeKey { spki: Key::Rsa { modulus: &modulus }.spki() }))
}

fn read_settings(settings: Json) -> Result<BTreeMap<String, Setting>, Rejection> {
    let refused = || malformed("vm-configuration of flags, numbers and texts", "another value");
    let Json::Object(members) = settings else { return Err(refused()) };
    let setting = |(name, value)| {
        let setting = match value {
            Json::Null => Setting::Unset,
            Json::Flag(flag) => Setting::Flag(flag),
            Json::Number(number) => Setting::Number(number),
            Json::Text(text) => Setting::Text(text),
            Json::List(_) | Json::Object(_) => return Err(refused()),
        };
        Ok((name, setting))
    };
    members.into_iter().map(setting).collect()
}

fn read_user_data(value: Json) -> Result<HexBytes, Rejection> {
    let refused = || malformed("user-data of 128 hex digits", "another value");
    let Json::Text(text) = value else { return Err(refused()) };
    let bytes = hex::decode(&text).map_err(|_| refused())?;
    if bytes.len() == USER_DATA_BYTES { Ok(HexBytes(bytes)) } else { Err(refused()) }
}
