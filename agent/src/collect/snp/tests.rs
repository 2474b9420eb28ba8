use core::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};

use super::{SnpError, SnpSource, signing_key};
use crate::collect::snp_table::{Vek, tests::table};
use crate::collect::tsm::{Answer, Auxblob, ReportEntry, TsmError};

/// Behaves as the kernel does: each write of `inblob` counts, and `outblob` answers the last one.
struct Kernel {
    generation: Cell<u64>,
    inblob: RefCell<Vec<u8>>,
    /// Writes of another process that slip in before each answer is read.
    disturbances: Cell<u32>,
    key_info: u32,
    certificates: Vec<u8>,
}

impl Kernel {
    fn new(key_info: u32, certificates: Vec<u8>) -> Self {
        let inblob = RefCell::default();
        Self { generation: Cell::new(4), inblob, disturbances: Cell::new(0), key_info, certificates }
    }
}

fn report(key_info: u32, report_data: &[u8]) -> Vec<u8> {
    let mut report = vec![0; 1184];
    report[0x48..0x4c].copy_from_slice(&key_info.to_le_bytes());
    report[0x50..0x90].copy_from_slice(report_data);
    report
}

impl ReportEntry for Kernel {
    fn path(&self) -> &Path {
        Path::new("/fake")
    }

    fn read(&self, attribute: &'static str) -> Result<Vec<u8>, TsmError> {
        if attribute == "outblob" && 0 < self.disturbances.get() {
            self.disturbances.set(self.disturbances.get() - 1);
            self.write("inblob", &[9; 64])?;
        }
        Ok(match attribute {
            "generation" => format!("{}\n", self.generation.get()).into(),
            "outblob" => report(self.key_info, &self.inblob.borrow()),
            "auxblob" => self.certificates.clone(),
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

fn source(vek: Option<PathBuf>) -> SnpSource {
    SnpSource { device: "/nonexistent".into(), vek, kds: None }
}

#[test]
fn a_report_comes_with_the_certificate_of_its_signing_key() {
    let vcek = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
    let kernel = Kernel::new(0, table(&[(vcek, b"certificate")]));
    let evidence = source(None).ask_configfs(&kernel, &[7; 64]).unwrap();
    assert_eq!((evidence.report.len(), &*evidence.vek), (1184, &b"certificate"[..]));
}

#[test]
fn an_answer_to_another_process_is_never_taken() {
    let once = Kernel::new(0, Vec::new());
    once.disturbances.set(1);
    let Answer { outblob, .. } = once.answer(&[7; 64], Auxblob::Read).unwrap();
    assert_eq!(outblob[0x50..0x90], [7; 64], "the second attempt is ours");
    let always = Kernel::new(0, Vec::new());
    always.disturbances.set(100);
    assert!(matches!(always.answer(&[7; 64], Auxblob::Read), Err(TsmError::Generation { .. })));
}

#[test]
fn a_report_about_something_else_is_refused() {
    assert!(matches!(signing_key(&report(0, &[7; 64]), &[7; 64]), Ok(Vek::Vcek)));
    assert!(matches!(signing_key(&report(4, &[7; 64]), &[7; 64]), Ok(Vek::Vlek)));
    assert!(matches!(signing_key(&report(0x1c, &[7; 64]), &[7; 64]), Err(SnpError::Report(_)))); // SIGNING_KEY = none
    assert!(matches!(signing_key(&report(0, &[8; 64]), &[7; 64]), Err(SnpError::Report(_))));
    assert!(matches!(signing_key(&report(0, &[7; 64])[1..], &[7; 64]), Err(SnpError::Report(_))));
}

#[test]
fn without_a_certificate_the_operators_file_is_used_or_the_lack_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vcek.der");
    let evidence = |vek| source(vek).evidence(report(0, &[7; 64]), &[], &[7; 64]);
    assert!(matches!(evidence(None), Err(SnpError::NoVek(Vek::Vcek))));
    assert!(matches!(evidence(Some(file.clone())), Err(SnpError::Tsm(TsmError::Io { .. }))));
    fs::write(&file, "no certificate").unwrap();
    assert!(matches!(evidence(Some(file.clone())), Err(SnpError::VekFile(_))));
    fs::write(&file, crate::der::value(0x30, &[b"abc"])).unwrap();
    assert_eq!(evidence(Some(file.clone())).unwrap().vek, b"\x30\x03abc");
    fs::write(&file, crate::der::pem("CERTIFICATE", b"\x30\x03abc")).unwrap();
    assert_eq!(evidence(Some(file)).unwrap().vek, b"\x30\x03abc");
    let broken = source(None).evidence(report(0, &[7; 64]), &[1; 20], &[7; 64]);
    assert!(matches!(broken, Err(SnpError::Table(_))));
}
