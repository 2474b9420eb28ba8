//! What the broker signs for hosts and operators: execution credentials, and channel credentials.

pub mod channel;
pub mod execution;
