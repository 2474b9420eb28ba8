use core::cell::{Cell, RefCell};
use std::path::Path;

use super::{TdxError, TdxSource};
use crate::collect::tsm::{ReportEntry, TsmError};

/// Behaves as the kernel does with a TDX guest: there is no `auxblob`.
struct Kernel {
    generation: Cell<u64>,
    inblob: RefCell<Vec<u8>>,
    version: u16,
    offset: usize,
}

impl Kernel {
    fn new(version: u16, offset: usize) -> Self {
        Self { generation: Cell::new(1), inblob: RefCell::default(), version, offset }
    }
}

impl ReportEntry for Kernel {
    fn path(&self) -> &Path {
        Path::new("/fake")
    }

    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, TsmError> {
        Ok(match attribute {
            "generation" => format!("{}\n", self.generation.get()).into(),
            "outblob" => {
                let mut quote = vec![0; 5006];
                quote[..2].copy_from_slice(&self.version.to_le_bytes());
                quote[self.offset..self.offset + 64].copy_from_slice(&self.inblob.borrow());
                quote
            }
            other => panic!("{other} is not read"),
        })
    }

    fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), TsmError> {
        assert_eq!(attribute, "inblob");
        self.generation.set(self.generation.get() + 1);
        *self.inblob.borrow_mut() = value.to_vec();
        Ok(())
    }
}

#[test]
fn a_quote_is_about_the_binder_in_either_version() {
    for (version, offset) in [(4, 568), (5, 574)] {
        let quote = TdxSource::quote(&Kernel::new(version, offset), &[7; 64]).unwrap();
        assert_eq!(quote[offset..offset + 64], [7; 64]);
    }
}

#[test]
fn a_quote_about_something_else_is_refused() {
    for (version, offset) in [(4, 574), (5, 568), (3, 568), (6, 574)] {
        let refused = TdxSource::quote(&Kernel::new(version, offset), &[7; 64]);
        assert!(matches!(refused, Err(TdxError::Quote(_))), "{version} at {offset}");
    }
}
