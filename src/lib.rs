//! The Countersign broker and its operator command line.
pub mod clock;
pub mod collateral;
pub mod config;
pub mod keys;
pub mod problem;
pub mod store;
