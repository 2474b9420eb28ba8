//! A value that was read from bytes under a checked signature.

use core::ops::Deref;

use crate::signature::SignedBytes;

/// A `T` read from signed bytes. There is no other constructor, no `Default` and no `Deserialize`:
///
/// ```compile_fail
/// let forged = countersign_attestation::Verified { value: 7 };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
}

impl<T> Verified<T> {
    /// Reads a value from bytes whose signature was checked.
    ///
    /// # Errors
    /// Whatever `read` refuses.
    pub fn read<'a, E>(signed: SignedBytes<'a>, read: impl FnOnce(&'a [u8]) -> Result<T, E>) -> Result<Self, E> {
        read(signed.bytes()).map(|value| Self { value })
    }

    /// The value alone, for a caller that has judged it.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
