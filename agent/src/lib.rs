//! Countersign's attester. It runs on the inference host, collects evidence, keeps the execution credential, and
//! enforces the broker's verdict. It judges nothing itself.
//!
//! * [`enroll`]: one host, one TPM, one AK; [`endorser`]: who vouches for it
//! * [`attester`]: challenge, evidence, decision; again and again, on one [`channel`]
//! * [`run`]: what follows from each decision
//! * [`collect`]: what the hardware signs
//! * [`enforce`]: the workload
//! * [`workload_api`]: the credential, for processes of this host

pub mod attester;
pub mod backoff;
pub mod broker_client;
pub mod certificate;
pub mod cgroup;
pub mod channel;
pub mod clock;
pub mod collect;
pub mod config;
pub mod credential_directory;
mod der;
pub mod device;
pub mod endorser;
pub mod enforce;
pub mod enroll;
pub mod error;
pub mod events;
mod files;
pub mod follow;
pub mod guard;
pub mod identity;
pub mod keys;
pub mod possession;
pub mod pulse_watch;
pub mod run;
pub mod sse;
pub mod state;
pub mod svid;
pub mod trust;
pub mod watch;
pub mod workload_api;
pub mod workload_key;

pub use files::FileError;
