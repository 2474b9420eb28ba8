//! Rules for what a host's kernel measured: which files may run, whose signatures count, what is left aside.
//!
//! ```json
//! {
//!   "files": { "/usr/bin/bash": ["sha256:<hex>"], "/opt/engine/": ["sha256:<hex>"] },
//!   "excludes": ["/tmp/"],
//!   "signature_keys": ["-----BEGIN PUBLIC KEY-----\n…"],
//!   "buffers": { ".ima": ["sha256:<hex>"] },
//!   "violations": "refused",
//!   "padded_sha1": "refused",
//!   "sha1_digests": "refused",
//!   "pcrs": [10]
//! }
//! ```
//!
//! * `files`: by path, the digests a file may have. A path that ends with `/` is a directory: any file below it may
//!   have any of its digests.
//! * `excludes`: directories (ending with `/`) and single files of which nothing is judged. Everything excluded can run
//!   anything, so one that takes in all of `/`, `/usr/bin/` or another place of programs does not load. The kernel
//!   writes a path as its process sees it: `/tmp/` is every container's `/tmp/` too.
//! * `signature_keys`: a file with a valid `security.ima` signature of one of these needs no digest.
//! * `buffers`: what the kernel measured from memory (`ima-buf`), by name, for instance keys by their keyring.
//! * `violations`, `padded_sha1` (kernels before 5.8) and `sha1_digests` say whether what is weaker is `admitted`; left
//!   out, it is refused.
//! * `pcrs`: every PCR that must be quoted with measurements.
//!
//! [`ImaRules::parse_keylime`] reads a Keylime runtime policy.

mod excludes;
mod keylime;
mod rules;
mod table;
mod tally;

pub use rules::ImaRules;
pub use tally::{ImaTally, Offence, OffenceKind};
