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
//! * `files`: by path, the digests a file may have. A path that ends with `/` is a directory: any file below it may have
//!   any of its digests.
//! * `excludes`: directories (ending with `/`, two names deep or one of those an operating system empties) and single
//!   files of which nothing is judged. Everything excluded can run anything.
//! * `signature_keys`: a file with a valid `security.ima` signature of one of these needs no digest.
//! * `buffers`: what the kernel measured from memory (`ima-buf`), by name, for instance keys by their keyring.
//! * The last four say whether what is weaker is `admitted`; left out, it is refused.
//!
//! [`ImaRules::parse_keylime`] reads a Keylime runtime policy.

mod excludes;
mod keylime;
mod rules;
mod table;
mod tally;

pub use rules::ImaRules;
pub use tally::{ImaTally, Offence, OffenceKind};
