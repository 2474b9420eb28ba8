//! The TPM's key derivation functions (TPM 2.0 Part 1, 11.4.10).

use alloc::vec::Vec;

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use super::algorithm::TpmHash;

/// A seed or a key on its way; cleared when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// Digest and key sizes are tens of bytes.
pub(super) fn bits(bytes: usize) -> u32 {
    u32::try_from(bytes).map_or(u32::MAX, |bytes| bytes.saturating_mul(8))
}

/// KDFa (Part 1, 11.4.10.2): SP 800-108 in counter mode with HMAC. `label` is without its terminating zero.
#[must_use]
pub fn kdfa(hash: TpmHash, key: &[u8], label: &[u8], context_u: &[u8], context_v: &[u8], bits: u32) -> Secret {
    let key = hmac::Key::new(hash.hmac(), key);
    derive(bits, |counter, out| {
        let mut context = hmac::Context::with_key(&key);
        for part in [&counter[..], label, &[0], context_u, context_v, &bits.to_be_bytes()] {
            context.update(part);
        }
        out.extend_from_slice(context.sign().as_ref());
    })
}

/// KDFe (Part 1, 11.4.10.3): SP 800-56A. `label` carries its terminating zero.
#[must_use]
pub fn kdfe(hash: TpmHash, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8], bits: u32) -> Secret {
    derive(bits, |counter, out| {
        let mut context = digest::Context::new(hash.digest());
        for part in [&counter[..], z, label, party_u, party_v] {
            context.update(part);
        }
        out.extend_from_slice(context.finish().as_ref());
    })
}

/// Blocks of a counter that starts at one, cut to `bits`, unused bits of the first octet cleared.
fn derive(bits: u32, mut block: impl FnMut([u8; 4], &mut Vec<u8>)) -> Secret {
    let size = usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX);
    // Whole blocks of up to 64 bytes: it never moves.
    let mut out = Secret::new(Vec::with_capacity(size.saturating_add(64)));
    for counter in 1_u32.. {
        if size <= out.len() {
            break;
        }
        block(counter.to_be_bytes(), &mut out);
    }
    out.truncate(size);
    if let (Some(first), unused @ 1..) = (out.first_mut(), bits.wrapping_neg() % 8) {
        *first &= 0xff >> unused;
    }
    out
}
