//! Evidence, collected from the hardware of this host.

pub mod hardware;
pub mod ima;
pub mod kds;
pub mod logs;
pub mod snp;
pub mod snp_table;
pub mod tdx;
pub mod tpm;
pub mod tsm;
