//! Evidence, collected from the hardware of this host.

pub mod ima;
pub mod logs;
pub mod snp;
pub mod snp_table;
pub mod tpm;
