//! Which TPM a verified certificate speaks for: manufacturer, model, firmware, and what kind of TPM that is.

use alloc::string::{String, ToString as _};
use core::fmt;

use serde::{Deserialize, Serialize};

/// What carries out the TPM's commands. Each kind has its own ways to lose its secrets, so a policy may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TpmKind {
    /// A chip of its own. Its bus can be probed.
    Discrete,
    /// Firmware on a processor that the platform already has (Intel PTT, AMD fTPM).
    Firmware,
    /// A hypervisor's or a cloud's device.
    Virtual,
    /// Software without any hardware behind it.
    Simulated,
    /// A manufacturer, or a model of one, that the table below does not know.
    Unknown,
}

impl TpmKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Discrete, Self::Firmware, Self::Virtual, Self::Simulated, Self::Unknown];

    /// The kind as it is written in claims and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Firmware => "firmware",
            Self::Virtual => "virtual",
            Self::Simulated => "simulated",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for TpmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a verified EK, IAK or cloud AK certificate says its TPM is. A part of the enrolment record and of every claim
/// made from it; it deserializes only because that record and the archive hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmIdentity {
    /// Vendor id of the TCG vendor id registry as text (`IFX`, `INTC`), its eight hex digits where it is no text
    /// (`00001014`), or `unnamed` where the certificate names none.
    pub manufacturer: String,
    /// tpmModel.
    pub model: String,
    /// tpmVersion without its `id:`: the firmware the certificate was issued for. The running one is in each quote.
    pub firmware_version: String,
    /// What kind of TPM that manufacturer makes, or that model is.
    pub kind: TpmKind,
}

/// What stands where a certificate names nothing.
const UNNAMED: &str = "unnamed";

impl TpmIdentity {
    /// The identity that tpmManufacturer, tpmModel and tpmVersion spell (TCG EK Credential Profile 2.6, 3.1.2).
    #[must_use]
    pub fn from_attributes(manufacturer: &str, model: &str, version: &str) -> Self {
        let manufacturer = vendor(manufacturer);
        let kind = kind(&manufacturer, model);
        let firmware_version = version.strip_prefix("id:").unwrap_or(version).to_string();
        Self { manufacturer, model: model.to_string(), firmware_version, kind }
    }

    /// A TPM whose certificate says only who made it: a cloud's AK certificate.
    #[must_use]
    pub fn unnamed(kind: TpmKind) -> Self {
        let unnamed = || UNNAMED.to_string();
        Self { manufacturer: unnamed(), model: unnamed(), firmware_version: unnamed(), kind }
    }
}

impl fmt::Display for TpmIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ({})", self.manufacturer, self.model, self.firmware_version, self.kind)
    }
}

/// TPM_PT_MANUFACTURER as `id:` and eight hex digits: the four characters it stands for, where it stands for some
/// (TCG TPM Vendor ID Registry 1.06, 2). Anything else is left as it is.
fn vendor(text: &str) -> String {
    let digits = text.strip_prefix("id:").unwrap_or(text);
    let mut octets = [0; 4];
    if hex::decode_to_slice(digits, &mut octets).is_err() {
        return digits.to_string();
    }
    // Shorter ids are padded at their end, with zeros or with spaces.
    let end = octets.iter().rposition(|octet| ![0, b' '].contains(octet)).map_or(0, |last| last.saturating_add(1));
    let characters = octets.get(..end).unwrap_or_default();
    match core::str::from_utf8(characters) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => text.to_string(),
        Ok(_) | Err(_) => digits.to_ascii_uppercase(),
    }
}

/// Vendor ids of the registry by what their holder makes. Absent are those who only ever made TPM 1.2 parts or from
/// whom no TPM 2.0 certificate is known: their kind is unknown until someone looks.
const KINDS: [(TpmKind, &[&str]); 4] = [
    (TpmKind::Discrete, &["IFX", "STM", "NTC", "NTZ", "NSG", "NSM", "ATML", "SNS", "TXN", "WEC", "SEAL"]),
    (TpmKind::Firmware, &["INTC", "AMD", "QCOM", "HISI", "ROCC", "SMSN"]),
    // MSFT: Hyper-V and Azure. AMZN: Nitro.
    (TpmKind::Virtual, &["MSFT", "VMW", "AMZN", "ALYU"]),
    // 00001014 is the PCI vendor id that swtpm_localca writes; TPM_PT_MANUFACTURER of the same code says IBM.
    (TpmKind::Simulated, &["IBM", "00001014", "SIM0", "SIM1", "SIM2", "SIM3", "SIM4", "SIM5", "SIM6", "SIM7"]),
];

/// The kind by manufacturer, refined by model where one manufacturer makes several.
fn kind(manufacturer: &str, model: &str) -> TpmKind {
    let model = model.to_ascii_lowercase();
    if model.contains("swtpm") || model.contains("simulator") {
        return TpmKind::Simulated;
    }
    match manufacturer {
        // Google's vTPM; its Titan and GSC chips carry the same id.
        "GOOG" if model == "vtpm" => TpmKind::Virtual,
        "CROS" => TpmKind::Discrete,
        // Pluton is a part of the processor.
        "MSFT" if model.contains("pluton") => TpmKind::Firmware,
        _ => KINDS
            .iter()
            .find(|(_, vendors)| vendors.contains(&manufacturer))
            .map_or(TpmKind::Unknown, |(kind, _)| *kind),
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, TpmIdentity, TpmKind};

    #[test]
    fn vendor_ids_are_the_characters_they_stand_for() {
        for (id, text) in [
            ("id:49465800", "IFX"),
            ("id:53544D20", "STM"),
            ("id:4E544300", "NTC"),
            ("id:494E5443", "INTC"),
            ("id:414d4400", "AMD"),
            ("id:00001014", "00001014"),
            ("id:00000000", "00000000"),
            ("IFX", "IFX"),
            ("id:49", "49"),
            ("id:\u{1}\u{1}", "\u{1}\u{1}"),
        ] {
            assert_eq!(TpmIdentity::from_attributes(id, "m", "id:1").manufacturer, text, "{id}");
        }
        let identity = TpmIdentity::from_attributes("id:49465800", "SLB 9670 TPM2.0", "id:073f");
        assert_eq!((identity.model.as_str(), identity.firmware_version.as_str()), ("SLB 9670 TPM2.0", "073f"));
        assert_eq!(alloc::format!("{identity}"), "IFX SLB 9670 TPM2.0 073f (discrete)");
    }

    #[test]
    fn a_kind_is_known_or_unknown_never_guessed() {
        let kind = |manufacturer: &str, model: &str| TpmIdentity::from_attributes(manufacturer, model, "id:1").kind;
        assert_eq!(kind("id:494E5443", "SPT"), TpmKind::Firmware);
        assert_eq!(kind("id:53544D20", "ST33HTPHAHB4"), TpmKind::Discrete);
        assert_eq!(kind("id:474F4F47", "vTPM"), TpmKind::Virtual);
        assert_eq!(kind("id:474F4F47", "GSC"), TpmKind::Unknown, "another device of one manufacturer");
        assert_eq!(kind("id:564D5700", "VMware TPM2"), TpmKind::Virtual);
        assert_eq!(kind("id:00001014", "swtpm"), TpmKind::Simulated);
        assert_eq!(kind("id:4D534654", "TPM Simulator"), TpmKind::Simulated);
        assert_eq!(kind("id:49465800", "swtpm"), TpmKind::Simulated, "a simulator under a chip maker's id");
        assert_eq!(kind("id:58585858", "swatch"), TpmKind::Unknown);
        assert_eq!(kind("", ""), TpmKind::Unknown);
    }

    #[test]
    fn no_vendor_is_of_two_kinds() {
        let mut all: alloc::vec::Vec<_> = KINDS.iter().flat_map(|(_, vendors)| vendors.iter()).collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
