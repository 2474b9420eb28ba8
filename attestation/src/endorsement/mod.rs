//! What vendors signed about hardware.

pub mod tpm;
