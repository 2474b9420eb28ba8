//! Firmware images for confidential guests, and what is measured of them.

use countersign_attestation::launch::firmware::Firmware;
use countersign_attestation::launch::snp::{Boot, GUEST_FEATURES, Kernel, Launch, Vmm, measurement};
use countersign_attestation::launch::tdx::{PageOrder, mr_td};

const PAGE: usize = 4096;

/// An image whose last bytes these are: padded in front to whole pages.
pub fn firmware(bytes: &[u8]) {
    let mut image = vec![0; bytes.len().next_multiple_of(PAGE) - bytes.len()];
    image.extend(bytes);
    let Ok(firmware) = Firmware::parse(&image) else { return };
    assert_eq!(firmware.gpa() + image.len() as u64, 1 << 32);
    let launch = Launch {
        vmm: Vmm::Qemu,
        vcpus: 1,
        vcpu_signature: 0x00a0_0f11,
        guest_features: GUEST_FEATURES,
        boot: Boot::Firmware,
    };
    if let Ok(one) = measurement(&firmware, &launch) {
        assert_eq!(measurement(&firmware, &launch), Ok(one), "the same again");
        let other = measurement(&firmware, &Launch { guest_features: 0x21, ..launch });
        assert_ne!(other, Ok(one), "other features");
        // What needs more of the image is refused, or is another launch.
        assert_ne!(measurement(&firmware, &Launch { vcpus: 2, ..launch }), Ok(one));
        let boot = Boot::Kernel(Kernel { image: b"kernel", initrd: b"", append: "" });
        assert_ne!(measurement(&firmware, &Launch { boot, ..launch }), Ok(one));
    }
    if let Ok(register) = mr_td(&firmware, PageOrder::PageByPage) {
        assert_eq!(mr_td(&firmware, PageOrder::PageByPage), Ok(register), "the same again");
    }
}
