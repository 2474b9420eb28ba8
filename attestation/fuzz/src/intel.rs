//! TCB info and identities of quoting enclaves: any text, as Intel would have signed it.

use countersign_attestation::endorsement::intel::{QeIdentity, TcbInfo};

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
