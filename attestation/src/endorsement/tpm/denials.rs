//! What an operator no longer believes of TPMs whose certificates are genuine: endorsement keys that leaked, and
//! firmware that gives its keys away (arXiv 2304.14717 glitches them out of AMD's).

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::claims::TpmClaims;
use crate::digest::Sha256Digest;
use crate::evidence::tpm::TpmReason;
use crate::rejection::Rejection;

use super::identity::TpmIdentity;

/// TPMS_ATTEST.firmwareVersion, written as people do: four numbers of 16 bits, `3.90.0.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FirmwareVersion(pub u64);

impl FirmwareVersion {
    /// The version that four numbers with points between them spell, if they do.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut version = 0_u64;
        for _ in 0..4 {
            let part = parts.next().filter(|part| !part.starts_with('+'))?;
            version = version << 16 | u64::from(part.parse::<u16>().ok()?);
        }
        parts.next().is_none().then_some(Self(version))
    }
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |shift: u32| self.0 >> shift & 0xffff;
        write!(f, "{}.{}.{}.{}", part(48), part(32), part(16), part(0))
    }
}

impl Serialize for FirmwareVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FirmwareVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected a firmware version, as in 3.90.0.5"))
    }
}

/// The lowest firmware of one manufacturer's TPMs that is believed. A TPM tells its firmware in every quote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumFirmware {
    /// As in [`TpmIdentity::manufacturer`].
    pub manufacturer: String,
    /// As in [`TpmIdentity::model`]; every model of the manufacturer where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The lowest that is believed.
    pub version: FirmwareVersion,
}

impl MinimumFirmware {
    fn is_about(&self, identity: &TpmIdentity) -> bool {
        self.manufacturer == identity.manufacturer && self.model.as_ref().is_none_or(|model| *model == identity.model)
    }
}

/// What an operator denies beside all that certificates say: data beside the revocation lists, archived with every
/// decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmDenials {
    /// SHA-256 of the `SubjectPublicKeyInfo` of EKs that are no longer believed.
    #[serde(default)]
    pub endorsement_keys: BTreeSet<Sha256Digest>,
    /// Firmware floors; where several are about one TPM, all of them hold.
    #[serde(default)]
    pub minimum_firmware: Vec<MinimumFirmware>,
}

impl TpmDenials {
    /// Whether this EK is still believed.
    ///
    /// # Errors
    /// [`TpmReason::EkDenied`].
    pub fn check_ek(&self, ek: Sha256Digest) -> Result<(), Rejection> {
        if self.endorsement_keys.contains(&ek) {
            return Err(TpmReason::EkDenied.because("an endorsement key that is not on the deny list", ek));
        }
        Ok(())
    }

    /// Whether what a TPM says under this EK and firmware is still believed.
    ///
    /// # Errors
    /// [`TpmReason::EkDenied`] or [`TpmReason::FirmwareBelowMinimum`].
    pub fn check(&self, tpm: &TpmClaims) -> Result<(), Rejection> {
        self.check_ek(tpm.ek)?;
        let running = FirmwareVersion(tpm.firmware_version);
        let about = self.minimum_firmware.iter().filter(|minimum| minimum.is_about(&tpm.identity));
        match about.map(|minimum| minimum.version).max() {
            Some(lowest) if running < lowest => Err(TpmReason::FirmwareBelowMinimum
                .because(format_args!("{} {lowest} or newer", tpm.identity.manufacturer), running.to_string())),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::string::ToString as _;

    use super::{FirmwareVersion, TpmDenials};
    use crate::anchor::Assurance;
    use crate::claims::{
        ClockInfo, HexBytes, KeyAuthorization, Presented, Revocation, TpmClaims, TpmIdentity, TpmKeyClaims,
    };
    use crate::digest::Sha256Digest;

    fn claims(manufacturer: &str, model: &str, firmware: &str) -> TpmClaims {
        TpmClaims {
            assurance: Assurance::Hardware,
            ak_name: HexBytes([].into()),
            ek: Sha256Digest([7; 32]),
            identity: TpmIdentity::from_attributes(manufacturer, model, "id:1"),
            pcrs: BTreeMap::new(),
            firmware_version: FirmwareVersion::parse(firmware).unwrap().0,
            clock: ClockInfo { clock: 0, reset_count: 0, restart_count: 0, safe: true },
            credential_key: TpmKeyClaims {
                authorization: KeyAuthorization::Password,
                creation: Presented::NotPresented,
            },
            revocation: Revocation::NotPresented,
            lists_until: None,
        }
    }

    #[test]
    fn a17_a_denied_ek_and_firmware_below_its_minimum_are_refused() {
        let denials: TpmDenials = serde_json::from_str(
            r#"{"minimum_firmware": [{"manufacturer": "AMD", "version": "3.90.0.5"},
                {"manufacturer": "AMD", "model": "old", "version": "6.0.0.0"}]}"#,
        )
        .unwrap();
        let code = |claims: &TpmClaims| denials.check(claims).map_or_else(|rejection| rejection.code(), |()| "ok");
        assert_eq!(code(&claims("id:414D4400", "AMD", "3.90.0.4")), "tpm.firmware.below_minimum");
        assert_eq!(code(&claims("id:414D4400", "AMD", "3.90.0.5")), "ok");
        assert_eq!(code(&claims("id:414D4400", "AMD", "3.89.65535.65535")), "tpm.firmware.below_minimum");
        assert_eq!(code(&claims("id:414D4400", "old", "5.0.0.0")), "tpm.firmware.below_minimum", "both floors hold");
        assert_eq!(code(&claims("id:414D4400", "old", "6.0.0.0")), "ok");
        assert_eq!(code(&claims("id:49465800", "AMD", "0.0.0.1")), "ok", "another manufacturer's numbers");
        let listed = |ek: u8| TpmDenials { endorsement_keys: [Sha256Digest([ek; 32])].into(), ..denials.clone() };
        let amd = claims("id:414D4400", "AMD", "9.0.0.0");
        assert_eq!(listed(7).check(&amd).unwrap_err().code(), "tpm.ek.denied");
        assert_eq!(listed(7).check_ek(amd.ek).unwrap_err().code(), "tpm.ek.denied");
        assert!(listed(8).check(&amd).is_ok());
    }

    #[test]
    fn versions_have_one_form() {
        assert_eq!(FirmwareVersion::parse("3.90.0.5"), Some(FirmwareVersion(0x0003_005a_0000_0005)));
        assert_eq!(FirmwareVersion(0x0003_005a_0000_0005).to_string(), "3.90.0.5");
        for wrong in ["", "3", "3.90.0", "3.90.0.5.1", "3.90.0.65536", "3.-1.0.5", "+3.90.0.5", "3.90.0. 5"] {
            assert_eq!(FirmwareVersion::parse(wrong), None, "{wrong}");
        }
        assert!(serde_json::from_str::<TpmDenials>(r#"{"eks": []}"#).is_err(), "an unknown member");
    }
}
