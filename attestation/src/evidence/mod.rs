//! What the hardware signed: one module per technology, and [`bundle`], in which a host sends them together.

pub mod bundle;
pub mod snp;
pub mod tpm;
