//! Launch measurements of images made here, against values that other tools computed; and what cannot be measured.

use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::launch::firmware::Firmware;
use countersign_attestation::launch::snp::{
    Boot, GUEST_FEATURES, Kernel, Launch, Vmm, measurement, signature, vcpu_signature, vcpu_types,
};
use countersign_attestation::launch::tdx::{EventDigest, PageOrder, Rtmrs, mr_td};

#[path = "../../tests/sim/ovmf.rs"]
mod ovmf;
use ovmf::Image;

const QEMU: Launch<'static> = Launch {
    vmm: Vmm::Qemu,
    vcpus: 3,
    vcpu_signature: 0x00a0_0f11,
    guest_features: GUEST_FEATURES,
    boot: Boot::Firmware,
};

const KERNEL: Kernel<'static> = Kernel { image: b"kernel", initrd: b"initrd", append: "console=ttyS0" };

/// The measurement in hex, or the code.
fn snp(image: &[u8], launch: &Launch<'_>) -> String {
    Firmware::parse(image)
        .and_then(|firmware| measurement(&firmware, launch))
        .map_or_else(|rejection| rejection.code().to_owned(), hex::encode)
}

fn tdx(image: &[u8], order: PageOrder) -> String {
    Firmware::parse(image)
        .and_then(|firmware| mr_td(&firmware, order))
        .map_or_else(|rejection| rejection.code().to_owned(), hex::encode)
}

/// The measurement of an image after a change to how it is made.
fn sev_with(change: impl FnOnce(&mut Image), launch: &Launch<'_>) -> String {
    let mut image = Image::sev();
    change(&mut image);
    snp(&image.build(), launch)
}

fn tdx_with(change: impl FnOnce(&mut Image)) -> String {
    let mut image = Image::tdx();
    change(&mut image);
    tdx(&image.build(), PageOrder::PageByPage)
}

#[test]
fn snp_measurements_are_those_of_sev_snp_measure() {
    let image = Image::sev().build();
    // The values below are of sev-snp-measure 0.0.13 on this image.
    let expected = "865bb710ce30c412003c5761676904c9468c9a2d5ad653ab111f9f82b9cf9230";
    assert_eq!(Sha256Digest::of(&[&image]).to_hex(), expected, "the image is what was measured");
    let of = |name: &str| vcpu_signature(name).expect("a CPU model");
    let kernel = |kernel| Boot::Kernel(kernel);
    let rows = [
        (
            Launch { vcpus: 1, vcpu_signature: of("EPYC-v4"), ..QEMU },
            "c625c83ff18bdc13c6fd9c74ec1b72343d4b27d9181bdb797fd5868d37d16b38262878f45c2d7d7f4b1508b591661393",
        ),
        (
            Launch { vcpus: 4, guest_features: 0x21, ..QEMU },
            "515c17d22eb0356ddba20212397ee33e0e4b3d2287cbd656ce80d0d10eb5e7bc0998986d190c05f765d1b297f3cf66aa",
        ),
        (
            Launch { vcpus: 2, vcpu_signature: of("EPYC-Genoa-v1"), boot: kernel(KERNEL), ..QEMU },
            "275a730eea74c06748387b33a929510c17647e00962ff8eaf796a09436c199d5347d1563c4863eb2ff639a0013cca720",
        ),
        (
            Launch {
                vcpu_signature: of("EPYC-Turin"),
                boot: kernel(Kernel { initrd: b"", append: "", ..KERNEL }),
                ..QEMU
            },
            "866a6694ea2d21ed4fdc655bd64cd731479fa0babb50c66db5aa634c9ad37acfdf0bd11561425864e7c13b2c46de21e0",
        ),
        (
            Launch { vcpu_signature: of("EPYC-Rome"), boot: kernel(Kernel { append: "", ..KERNEL }), ..QEMU },
            "da1bfd6494da11274ddd017b33d3b7a4223219317d82b66423b381f4526c089f9d19f3bd7b72e0fdf6497ead60af796d",
        ),
        (
            Launch { vmm: Vmm::Ec2, ..QEMU },
            "08f418c3538fb102a2d16e8711c32395d3a0e86c382171752adde315c64e3b79e96dd1ba85e6b8b131763d7781567a0e",
        ),
        (
            Launch { vmm: Vmm::Gce, ..QEMU },
            "599903b1dc90dc847e8c8a076db604e640a7523c12428df15d3c0694c00e52625806eedb9d643a8aabe755a8ed406669",
        ),
    ];
    for (launch, expected) in rows {
        assert_eq!(snp(&image, &launch), expected, "{launch:?}");
    }
}

#[test]
fn every_input_of_an_snp_launch_changes_its_measurement() {
    let image = Image::sev().build();
    let boot = |change: &dyn Fn(&mut Kernel<'static>)| {
        let mut kernel = KERNEL;
        change(&mut kernel);
        snp(&image, &Launch { boot: Boot::Kernel(kernel), ..QEMU })
    };
    let mut found = vec![
        snp(&image, &QEMU),
        snp(&image, &Launch { vcpus: 2, ..QEMU }),
        snp(&image, &Launch { vcpu_signature: 1, ..QEMU }),
        snp(&image, &Launch { guest_features: 0x21, ..QEMU }),
        snp(&image, &Launch { vmm: Vmm::Ec2, ..QEMU }),
        snp(&image, &Launch { vmm: Vmm::Gce, ..QEMU }),
        boot(&|_| {}),
        boot(&|kernel| kernel.image = b"kernel2"),
        boot(&|kernel| kernel.initrd = b""),
        boot(&|kernel| kernel.append = "console=ttyS1"),
        sev_with(|image| image.entries[1].1[0] ^= 4, &QEMU),
        sev_with(|image| image.sev.swap(1, 2), &QEMU),
        sev_with(|image| image.sev[0].1 += 0x1000, &QEMU),
    ];
    for page in 0..15 {
        let mut other = image.clone();
        other[page * 4096] ^= 1;
        found.push(snp(&other, &QEMU));
    }
    let count = found.len();
    assert!(found.iter().all(|measurement| measurement.len() == 96), "{found:?}");
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), count);
}

#[test]
fn cpu_models_have_the_signatures_of_amds_cpuid() {
    let rows = [
        ("EPYC", 0x0080_0f12),
        ("EPYC-v4", 0x0080_0f12),
        ("EPYC-IBPB", 0x0080_0f12),
        ("EPYC-Rome", 0x0083_0f10),
        ("EPYC-Rome-v2", 0x0083_0f10),
        ("EPYC-Milan", 0x00a0_0f11),
        ("EPYC-Milan-v2", 0x00a0_0f11),
        ("EPYC-Genoa", 0x00a1_0f10),
        ("EPYC-Turin", 0x00b0_0f00),
    ];
    for (name, expected) in rows {
        assert_eq!(vcpu_signature(name), Some(expected), "{name}");
    }
    for unknown in ["", "epyc", "EPYC-", "EPYC-Milan-", "EPYC-Milan-vX", "EPYC-Milan-v123", "EPYC-Rome-IBPB", "host"] {
        assert_eq!(vcpu_signature(unknown), None, "{unknown}");
    }
    assert!(vcpu_types().all(|name| vcpu_signature(name).is_some()));
    assert_eq!(signature(0x0f, 0x21, 3), 0x0002_0f13, "no extended family up to 0Fh");
}

#[test]
fn mr_td_is_what_the_modules_operations_hash() {
    let image = Image::tdx().build();
    // The values below were computed apart, from the module's specification, for this image.
    let expected = "d4fda99abc23297f8e527f8817415f4cff8fa947797ea5968e67aeb5ba0c1a4f";
    assert_eq!(Sha256Digest::of(&[&image]).to_hex(), expected, "the image is what was measured");
    assert_eq!(
        tdx(&image, PageOrder::PageByPage),
        "f73e8e49bf925800846c8bd1067f70d582a408a6b45504b8ad46dcf0b669906a9a5bf989d2fac69994eed6957b364e2a"
    );
    assert_eq!(
        tdx(&image, PageOrder::SectionBySection),
        "0e049ceb8fb394a85b9621d2be54d32150239bc6232126ad28b32c250b353a9a8319daa2dd5b4f97e80485bece4a5278"
    );
    // Measured: contents of sections that say so, addresses of all that are added. Not measured: what comes later.
    let at = |byte: usize| {
        let mut other = image.clone();
        other[byte] ^= 1;
        tdx(&other, PageOrder::PageByPage)
    };
    let whole = tdx(&image, PageOrder::PageByPage);
    assert_ne!(at(0x2000), whole, "the code volume");
    assert_ne!(at(0x100), whole, "a payload of part of a page");
    assert_eq!(at(0x1000), whole, "the volume of variables is added, not measured");
    assert_ne!(tdx_with(|image| image.tdx[2].2 += 0x1000), whole, "an address");
    assert_eq!(tdx_with(|image| image.tdx.truncate(6)).len(), 96);
    assert_eq!(tdx_with(|image| image.tdx[6].2 += 0x1000).len(), 96);
}

#[test]
fn rtmrs_are_determined_by_events_alone() {
    let mut rtmrs = Rtmrs::default();
    assert_eq!(rtmrs.determined().count(), 0, "no events, no values: not zero either");
    // What Linux's EFI stub measures where the firmware boots a kernel beside it.
    rtmrs.extend(2, EventDigest::of_load_options("console=ttyS0 initrd=initrd").expect("a text")).expect("a register");
    rtmrs.extend(2, EventDigest::of_bytes(b"initrd")).expect("a register");
    let expected = "8df12e8852dbefc4990441727587784d458eaebd424a7449df4cac5ff5c5697136089e5d23371935abdd67d6e7cc1bb7";
    assert_eq!(
        rtmrs.determined().map(|(index, value)| (index, hex::encode(value))).collect::<Vec<_>>(),
        [(2, expected.to_owned())]
    );
    let refused = rtmrs.extend(4, EventDigest([0; 48])).map_err(|rejection| rejection.code());
    assert_eq!(refused, Err("launch.rtmr"));
    let refused = EventDigest::of_load_options("a\0b").map_err(|rejection| rejection.code());
    assert_eq!(refused, Err("launch.append"));
}

#[test]
fn images_that_are_not_firmware_are_refused() {
    let image = Image::sev().build();
    for size in [0, 1, 4095, 4097, image.len() - 1] {
        assert_eq!(snp(&image[..size.min(image.len())], &QEMU), "launch.firmware.size", "{size} bytes");
    }
    assert_eq!(snp(&vec![0; 64 * 1024 * 1024 + 4096], &QEMU), "launch.firmware.size");
    assert_eq!(snp(&[0; 4096], &QEMU), "launch.firmware.table", "no footer");
    let end = image.len() - 32;
    let changed = |at: usize, bytes: &[u8]| {
        let mut other = image.clone();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        snp(&other, &QEMU)
    };
    assert_eq!(changed(end - 18, &[0, 0]), "launch.firmware.table", "a footer without itself");
    assert_eq!(changed(end - 18, &[0xff, 0xff]), "launch.firmware.table", "a table longer than its image");
    assert_eq!(changed(end - 16, &[0]), "launch.firmware.table", "another GUID");
    // The last entry: the SEV metadata's, 4 bytes of data.
    assert_eq!(changed(end - 36, &[17, 0]), "launch.firmware.table", "an entry without its own head");
    assert_eq!(changed(end - 36, &[0xff, 0]), "launch.firmware.table", "an entry longer than the table");
    let twice = sev_with(|image| image.entries.push((ovmf::RESET_BLOCK, vec![0; 4])), &QEMU);
    assert_eq!(twice, "launch.firmware.table", "a GUID twice");
}

#[test]
fn metadata_is_read_whole_and_closed() {
    let image = Image::sev().build();
    let at = image.len() - 0x800;
    let changed = |offset: usize, word: u32| {
        let mut other = image.clone();
        other[at + offset..at + offset + 4].copy_from_slice(&word.to_le_bytes());
        snp(&other, &QEMU)
    };
    assert_eq!(changed(0, 0), "launch.firmware.metadata", "signature");
    assert_eq!(changed(4, 16 + 12 * 5), "launch.firmware.metadata", "another size than its sections");
    assert_eq!(changed(8, 2), "launch.firmware.metadata", "version");
    assert_eq!(changed(12, u32::MAX), "launch.firmware.metadata", "count");
    assert_eq!(sev_with(|image| image.sev.clear(), &QEMU), "launch.firmware.metadata", "none");
    assert_eq!(sev_with(|image| image.sev = vec![(0, 0x1000, 1); 65], &QEMU), "launch.firmware.metadata");
    for section in [
        (0x80_d000, 0x1000, 0),
        (0x80_d000, 0x1000, 5),
        (0x80_d000, 0x1000, 0x11),
        (0x80_d000, 0x2000, 2),
        (0x80_d000, 0, 3),
        (0x80_d000, 0x2000, 0x10),
        (0x80_d001, 0x1000, 1),
        (0x80_d000, 0x0800, 1),
        (0x80_d000, 0, 1),
        (0x80_d000, 0x0100_1000, 1),
    ] {
        let found = sev_with(|image| image.sev[1] = section, &QEMU);
        assert_eq!(found, "launch.firmware.section", "{section:x?}");
    }
    let far = |guid, from_end: u32| {
        let image = Image { entries: vec![(guid, from_end.to_le_bytes().to_vec())], sev: vec![], ..Image::sev() };
        image.build()
    };
    for from_end in [0, 15, 16, 0x1_0001, u32::MAX] {
        assert_eq!(snp(&far(ovmf::SEV_METADATA, from_end), &QEMU), "launch.firmware.metadata", "{from_end:#x}");
        let found = tdx(&far(ovmf::TDX_METADATA, from_end), PageOrder::PageByPage);
        assert_eq!(found, "launch.firmware.metadata", "{from_end:#x}");
    }
    assert_eq!(tdx(&image, PageOrder::PageByPage), "launch.firmware.metadata", "SEV's alone");
}

#[test]
fn tdx_sections_are_memory_and_data_that_are_there() {
    for section in [
        (0x2000, 0xe001, 0xffff_2000, 0xf000, 0, 1),
        (0x2000, 0xe000, 0xffff_2000, 0xd000, 0, 1),
        (u32::MAX, 1, 0xffff_2000, 0x1000, 0, 1),
        (0, 0, 0x801, 0x1000, 3, 0),
        (0, 0, 0x1000, 0x801, 3, 0),
        (0, 0, !0xfff, 0x1000, 3, 0),
        (0, 0, 0x1000, 0x1000_1000, 3, 0),
        (0, 0, 0x1000, !0xfff, 3, 0),
        (0, 0, 0x1000, 0x1000, 8, 0),
        (0, 0, 0x1000, 0x1000, 3, 4),
        (0, 0, 0x1000, 0x1000, 3, 3),
    ] {
        assert_eq!(tdx_with(|image| image.tdx[0] = section), "launch.firmware.section", "{section:x?}");
    }
    let many = tdx_with(|image| image.tdx = vec![(0, 0, 0x1000, 0x0500_0000, 3, 2); 2]);
    assert_eq!(many, "launch.firmware.section", "more memory together than apart");
    let image = Image::tdx().build();
    let at = image.len() - 0x600;
    for (offset, word) in [(0, 0_u32), (4, 16), (8, 2), (12, 65)] {
        let mut other = image.clone();
        other[at + offset..at + offset + 4].copy_from_slice(&word.to_le_bytes());
        assert_eq!(tdx(&other, PageOrder::PageByPage), "launch.firmware.metadata", "at {offset}");
    }
}

#[test]
fn launches_that_the_firmware_cannot_do_are_refused() {
    let image = Image::sev().build();
    for vcpus in [0, 4097, u32::MAX] {
        assert_eq!(snp(&image, &Launch { vcpus, ..QEMU }), "launch.vcpus");
    }
    let no_reset_block = |image: &mut Image| drop(image.entries.pop());
    assert_eq!(sev_with(no_reset_block, &QEMU), "launch.firmware.entry");
    assert_eq!(sev_with(no_reset_block, &Launch { vcpus: 1, ..QEMU }).len(), 96, "one CPU needs none");
    assert_eq!(sev_with(|image| image.entries[1].1.fill(0), &QEMU), "launch.firmware.entry", "CS:IP 0");
    let boot = Launch { boot: Boot::Kernel(KERNEL), ..QEMU };
    assert_eq!(
        sev_with(|image| image.sev.retain(|section| section.2 != 0x10), &boot),
        "launch.firmware.entry",
        "no page for hashes"
    );
    assert_eq!(sev_with(|image| drop(image.entries.remove(0)), &boot), "launch.firmware.entry", "no place for hashes");
    let place = |gpa: u32| move |image: &mut Image| image.entries[0].1[..4].copy_from_slice(&gpa.to_le_bytes());
    assert_eq!(sev_with(place(0x81_0f58), &boot).len(), 96, "168 bytes up to the page's end");
    for gpa in [0x81_0f59, 0x80_f000, 0x81_1000, u32::MAX] {
        assert_eq!(sev_with(place(gpa), &boot), "launch.firmware.section", "{gpa:#x}");
    }
    let nul = Boot::Kernel(Kernel { append: "a\0b", ..KERNEL });
    assert_eq!(snp(&image, &Launch { boot: nul, ..QEMU }), "launch.append");
}
