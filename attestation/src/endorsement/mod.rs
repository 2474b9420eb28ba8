//! What vendors signed about hardware.
