use std::fs;

use super::{Hardware, HardwareSource, Paravisor};
use crate::collect::snp::SnpSource;
use crate::collect::tdx::TdxSource;

fn guest(configfs: &std::path::Path) -> HardwareSource {
    let snp = SnpSource { device: "/nonexistent".into(), vek: None, kds: None };
    HardwareSource::Guest { configfs: configfs.to_path_buf(), snp, tdx: TdxSource { ccel: "/nonexistent".into() } }
}

#[test]
fn a_machine_without_confidential_hardware_has_nothing_to_show() {
    assert_eq!(guest("/nonexistent".as_ref()).collect(&[7; 64]).unwrap(), Hardware::default());
}

#[test]
fn a_directory_that_is_no_configfs_fails_and_is_left_clean() {
    let directory = tempfile::tempdir().unwrap();
    assert!(guest(directory.path()).collect(&[7; 64]).unwrap_err().to_string().contains("provider"));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_paravisors_report_comes_with_what_vouches_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (vek, quote) = (directory.path().join("vek.der"), directory.path().join("quote"));
    fs::write(&vek, crate::der::value(0x30, &[b"abc"])).unwrap();
    fs::write(&quote, b"quote").unwrap();
    let collect = |paravisor| HardwareSource::Paravisor(paravisor).collect(&[7; 64]).unwrap();
    let snp = collect(Paravisor::new(vec![1], Some(&vek), None).unwrap());
    assert_eq!(snp.paravisor.unwrap().vek.unwrap(), b"\x30\x03abc");
    assert_eq!((snp.snp, snp.tdx), (None, None));
    let tdx = collect(Paravisor::new(vec![1], None, Some(&quote)).unwrap());
    assert_eq!((tdx.paravisor.unwrap().vek, tdx.tdx.unwrap().quote), (None, b"quote".to_vec()));
    assert!(Paravisor::new(vec![1], None, Some(&directory.path().join("absent"))).is_err());
}
