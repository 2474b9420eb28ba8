//! The one reader of binary structures: every read is bounded, and [`Reader::finish`] demands that nothing is left.

/// A structure ended before a field did, or went on after its last field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// A field needs more bytes than are left.
    Short {
        /// Offset of the field from the start of the structure.
        offset: usize,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes follow the last field.
    Trailing {
        /// Offset of the first such byte.
        offset: usize,
        /// How many.
        left: usize,
    },
}

impl core::fmt::Display for ReadError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short { offset, needed, left } => {
                write!(f, "{left} bytes left at offset {offset}, where {needed} are needed")
            }
            Self::Trailing { offset, left } => write!(f, "{left} bytes after the end at offset {offset}"),
        }
    }
}

/// Reads a borrowed structure front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes, offset: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let short = ReadError::Short { offset: self.offset, needed: count, left: self.left.len() };
        let (taken, left) = self.left.split_at_checked(count).ok_or(short)?;
        self.left = left;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let short = ReadError::Short { offset: self.offset, needed: N, left: self.left.len() };
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(short)?;
        self.left = left;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`ReadError::Short`] at the end.
    pub fn u8(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// The next two bytes, big-endian (TPM structures are).
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u16_be(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes, big-endian.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u32_be(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes, big-endian.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u64_be(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next two bytes, little-endian (quotes of SGX and TDX are).
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u16_le(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes, little-endian (SEV-SNP structures are).
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u32_le(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes, little-endian.
    ///
    /// # Errors
    /// [`ReadError::Short`] when fewer are left.
    pub fn u64_le(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A TPM2B: a big-endian 16-bit size and that many bytes.
    ///
    /// # Errors
    /// [`ReadError::Short`] when the size or the bytes are not all there.
    pub fn tpm2b(&mut self) -> Result<&'a [u8], ReadError> {
        let size = self.u16_be()?;
        self.bytes(usize::from(size))
    }

    /// Ends the reading: nothing may be left.
    ///
    /// # Errors
    /// [`ReadError::Trailing`] when something is.
    pub const fn finish(self) -> Result<(), ReadError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(ReadError::Trailing { offset: self.offset, left: self.left.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ReadError, Reader};

    #[test]
    fn reads_are_bounded_and_the_end_is_checked() {
        let mut reader = Reader::new(&[0, 2, 7, 8, 9]);
        assert_eq!(reader.tpm2b(), Ok(&[7, 8][..]));
        assert_eq!(reader.finish(), Err(ReadError::Trailing { offset: 4, left: 1 }));
        assert_eq!(reader.u16_be(), Err(ReadError::Short { offset: 4, needed: 2, left: 1 }));
        assert_eq!(reader.u8(), Ok(9));
        assert_eq!(reader.finish(), Ok(()));
    }
}
