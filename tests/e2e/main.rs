//! The product through its public doors: the real binaries, software TPMs, the gate behind nginx, curl and openssl.
//! Every server has a free loopback port and ends with its test.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

#[path = "../sim/amd.rs"]
mod amd;
mod bad_input;
mod ca;
mod channel_binding;
mod chaos;
mod client;
mod collateral;
mod crash;
mod drift;
mod envoy;
mod exceptions;
mod federation;
#[path = "../sim/firmware.rs"]
mod firmware;
mod fleet;
#[path = "../sim/hcl.rs"]
mod hcl;
mod identity;
#[path = "../sim/ima.rs"]
mod ima;
#[path = "../sim/intel.rs"]
mod intel;
#[path = "../sim/kernel.rs"]
mod kernel;
mod lapse;
mod logs;
mod machine;
mod nonce;
mod operators;
mod proxy;
mod relay;
mod revocation;
mod routes;
mod secrets;
mod sim_host;
mod story;
#[expect(dead_code, reason = "shared with other tests, each uses a part")]
#[path = "../sim/swtpm.rs"]
mod swtpm;
mod tdx;
mod tiles;
mod tokens;
#[path = "../sim/tpm.rs"]
mod tpm;
#[path = "../sim/vendor.rs"]
mod vendor;
mod workload_api;
