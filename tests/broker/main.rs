//! The broker's stories with the logs of a host, in one process: what a restart, a reset TPM or another list changes.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

#[path = "../sim/amd.rs"]
mod amd;
mod authority;
mod bound;
mod bundle;
mod collateral;
mod exceptions;
mod house;
#[path = "../sim/intel.rs"]
mod intel;
mod lists;
mod logs;
mod measured;
mod signed;
#[path = "../sim/tpm.rs"]
mod tpm;
#[path = "../sim/vendor.rs"]
mod vendor;
mod what_if;
mod workload_keys;
