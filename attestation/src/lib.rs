//! What a stranger needs to check Countersign: bytes, collateral, anchors and an explicit time go in; verified
//! [`Claims`](claims::Claims) or a typed [`Rejection`] come out.
//!
//! This crate is pure. It performs no I/O and reads no clock, randomness, environment or global: identical inputs give
//! identical outputs, which is what makes a decision replayable. `#![no_std]` makes the compiler refuse most of the
//! alternatives.
//!
//! * [`evidence`]: what the hardware signed, and the checks that turn it into claims
//! * [`endorsement`]: what a vendor signed about hardware, checked to a pinned [`anchor`]
//! * [`binder`]: the 64 bytes that tie every part of a bundle to one challenge and one credential key
//! * [`result`], [`pulse`], [`status_list`], [`lineage`]: the reading side of everything the broker signs
//! * [`protocol`]: the messages between a host and the broker
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::float_arithmetic)]

extern crate alloc;
#[cfg(test)]
extern crate self as countersign_attestation;

pub mod anchor;
pub mod binder;
pub mod claims;
pub mod cmw;
pub mod digest;
pub mod endorsement;
pub mod evidence;
mod json;
pub mod launch;
pub mod lineage;
pub mod nonce_pulse;
pub mod protocol;
pub mod pulse;
pub mod reader;
pub mod rejection;
pub mod result;
pub mod signature;
pub mod sse;
pub mod staple;
pub mod status_delta;
pub mod status_list;
pub mod time;
pub mod verified;
pub mod workload_key;
pub mod x509;

/// Simulated Intel: named by the tests of more than one room.
#[cfg(test)]
#[path = "../../tests/sim/intel.rs"]
mod sim_intel;

pub use rejection::{Reason, Rejection};
pub use time::{JudgedAt, UnixMillis};
pub use verified::Verified;
