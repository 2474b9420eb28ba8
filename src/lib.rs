//! The Countersign broker and its operator command line.
pub mod clock;
pub mod collateral;
pub mod config;
pub mod credentials { pub mod channel; }
pub mod keys;
pub mod lineage;
pub mod problem;
pub mod store;
pub mod trust { pub mod hosts; }
pub mod broker { pub mod challenge; }
pub mod api { pub mod listener; }
