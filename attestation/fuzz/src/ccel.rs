//! Event logs of trust domains, in both forms.

use countersign_attestation::evidence::tdx::rtmr::{RegisterLog, verify_registers};

/// A log against the registers that it gives itself, and against others.
pub fn ccel(bytes: &[u8]) {
    let Ok(log) = RegisterLog::read(bytes) else { return };
    assert!(log.end() <= log.binary().len());
    assert!(RegisterLog::read(log.binary()).is_ok_and(|again| again.values() == log.values()), "one log in two forms");
    let extended: Vec<u8> = log.register_indexes().collect();
    for (index, value) in (1_u8..).zip(log.values()) {
        assert_eq!(extended.contains(&index), *value != [0; 48], "nobody finds a digest that extends to zero");
    }
    let Ok(claims) = verify_registers(bytes, log.values()) else { return };
    assert!(serde_json::to_vec(&claims).is_ok());
    assert!(claims.check_whole().is_ok() && log.check_data().is_ok());
    assert!(!claims.replayed.is_empty(), "an empty log proves nothing");
    for register in &claims.replayed {
        let mut other = *log.values();
        other[usize::from(*register)][0] ^= 1;
        assert!(verify_registers(bytes, &other).is_err(), "RTMR{register} has another value");
    }
}
