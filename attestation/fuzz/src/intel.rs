//! TCB info and identities of quoting enclaves: any text, as Intel would have signed it. Extensions of PCK
//! certificates: any value, in a certificate that Intel's CA would have signed.

use std::sync::LazyLock;

use countersign_attestation::UnixMillis;
use countersign_attestation::endorsement::intel::{QeIdentity, TcbInfo, UnverifiedPlatform, VerifiedCollateral};

use crate::sim_intel::{IntelSimulator, pem};

/// 2026-11-23.
const NOW: UnixMillis = UnixMillis(1_795_392_000_000);

static INTEL: LazyLock<(IntelSimulator, VerifiedCollateral)> = LazyLock::new(|| {
    let intel = IntelSimulator::new();
    let collateral = VerifiedCollateral::endorse(&intel.collateral().parts(), &[intel.anchor()], NOW);
    (intel, collateral.expect("simulated collateral"))
});

/// The value of a PCK's SGX extension. Which platform an unverified chain says it is of is what the verified one says.
pub fn pck_extensions(bytes: &[u8]) {
    let (intel, collateral) = &*INTEL;
    let pck = intel.pck_with(&intel.platform_ca, |profile| {
        let sgx = profile.extensions.iter_mut().find(|(id, ..)| id.ends_with(&[0x4d, 1, 13, 1]));
        sgx.expect("an SGX extension").2 = bytes.to_vec();
    });
    let chain = pem(&[&pck, &intel.platform_ca_der, &intel.root_der]);
    let unverified = UnverifiedPlatform::of(chain.as_bytes());
    let verified = collateral.endorse_pck(chain.as_bytes(), NOW);
    assert_eq!(unverified.is_ok(), verified.is_ok());
    if let (Ok(unverified), Ok(verified)) = (unverified, verified) {
        assert_eq!(unverified.fmspc, verified.extensions().fmspc);
        // Any other chain has not this one's bytes.
        assert_eq!(verified.chain(), chain.as_bytes());
    }
    drop(UnverifiedPlatform::of(bytes));
}

/// Text of TCB info or of an identity. What is read is one of both, and has levels.
pub fn intel_collateral(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    let (info, identity) = (TcbInfo::read(text), QeIdentity::read(text));
    assert!(info.is_err() || identity.is_err(), "no text is both");
    if let Ok(info) = info {
        assert!(0 < info.levels());
        // What it says of time and platform stands there.
        assert!(text.contains(&info.issue_date.to_string()[..19]) || text.contains('\\'));
        assert!(TcbInfo::read(&format!("{text}x")).is_err(), "nothing follows it");
    }
    if let Ok(identity) = identity {
        assert!(0 < identity.levels());
        assert!(QeIdentity::read(&format!("{text}x")).is_err(), "nothing follows it");
    }
}
