//! What the fuzz targets call: one module for each family of readers. Each function takes any bytes, must not panic,
//! and asserts what holds for every input that is accepted.

pub mod bundle;
pub mod ccel;
pub mod eventlog;
pub mod hcl;
pub mod ima;
pub mod intel;
pub mod launch;
pub mod lineage;
pub mod peers;
pub mod snp;
pub mod tdx;
pub mod tokens;
pub mod tpm;
pub mod x509;

#[path = "../../../tests/sim/intel.rs"]
pub mod sim_intel;
