//! The Countersign broker and its operator command line: everything we need to run.
//!
//! Floors, from the top; calls go down only: [`cli`] and [`api`]; [`broker`]; [`credentials`]; [`trust`],
//! [`references`] and [`collateral`]; [`lineage`]; [`store`]; [`clock`], [`config`], [`keys`], [`metrics`] and
//! [`problem`].
#![forbid(unsafe_code)]

pub mod api;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod collateral;
pub mod config;
pub mod credentials;
pub mod keys;
pub mod lineage;
pub mod metrics;
pub mod problem;
pub mod references;
pub mod relay;
pub mod store;
pub mod trust;
