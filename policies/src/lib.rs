//! The judge: verified [`Claims`](countersign_attestation::claims::Claims), [reference values](mod@reference),
//! [Cedar policy](policy) and an explicit time go in; a [`Decision`] comes out.
//!
//! This crate is pure. It performs no I/O and reads no clock, randomness or environment, so whoever holds the inputs
//! can make the decision again, bit for bit. It never sees evidence that was not verified.
//!
//! * [`mod@reference`]: which measurements an operator registered as good; [`matching`]: claims compared with them
//! * [`signed`]: manifests with the signatures of k of n operators
//! * [`policy`]: what else must hold, in Cedar, validated against one schema
//! * [`authorize`]: what an operator lets a trusted host ask of a service, also in Cedar, against a schema of its own
//! * [`ima`]: which files a host's kernel may measure
//! * [`waiver`]: what an operator accepts for a while; [`instance`]: hardware that is no longer believed
//! * [`decision`]: [`appraise`] and its result
//! * [`finding`]: the closed set of reasons, each with what was expected, what was found and what to do
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::as_conversions, clippy::float_arithmetic)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod authorize;
mod boot;
#[cfg(test)]
#[path = "../tests/judge/claims.rs"]
mod claims;
mod context;
pub mod decision;
pub mod finding;
pub mod ima;
pub mod instance;
mod json;
pub mod learn;
pub mod matching;
mod mitigation;
mod moment;
mod nesting;
mod paravisor;
pub mod policy;
pub mod reference;
pub mod signed;
mod tdx;
pub mod waiver;

pub use decision::{Decision, HostFacts, Standards, Terms, appraise};
pub use finding::{Finding, PolicyReason};
