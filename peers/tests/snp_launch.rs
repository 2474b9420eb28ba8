//! Launch measurements and ID blocks beside sev 8.0.0.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_attestation::claims::{HexBytes, Presented};
use countersign_attestation::evidence::snp::id_block::verify_id_block;
use countersign_attestation::launch::firmware::Firmware;
use countersign_attestation::launch::snp::{Boot, Kernel, Launch, Vmm, measurement, vcpu_signature};
use countersign_peers::mutate::Seeded;
use sev::measurement::idblock::snp_calculate_id;
use sev::measurement::idblock_types::FamilyId;
use sev::measurement::snp::{SnpLaunchDigest, SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures, VMMType};
use sev::parser::ByteParser as _;

#[path = "../../tests/sim/ovmf.rs"]
mod ovmf;

/// A folder of this test's own; gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("countersign-peers-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

const CPUS: [(&str, CpuType); 6] = [
    ("EPYC", CpuType::Epyc),
    ("EPYC-IBPB", CpuType::EpycIBPB),
    ("EPYC-Rome-v3", CpuType::EpycRomeV3),
    ("EPYC-Milan-v2", CpuType::EpycMilanV2),
    ("EPYC-Genoa-v1", CpuType::EpycGenoaV1),
    ("EPYC-Turin", CpuType::EpycTurin),
];

fn theirs(ovmf: &Path, files: [Option<PathBuf>; 2], launch: &Launch<'_>, cpu: CpuType) -> Option<Vec<u8>> {
    let [kernel_file, initrd_file] = files;
    let append = match launch.boot {
        Boot::Kernel(kernel) if !kernel.append.is_empty() => Some(kernel.append),
        Boot::Kernel(_) | Boot::Firmware => None,
    };
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: launch.vcpus,
        vcpu_type: cpu,
        ovmf_file: ovmf.to_path_buf(),
        guest_features: GuestFeatures(launch.guest_features),
        kernel_file,
        initrd_file,
        append,
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    });
    digest.ok().and_then(|digest| digest.try_into().ok())
}

/// QEMU's launches. EC2's differ: sev starts every CPU with RDX 0, sev-snp-measure and we with 600h, which is what KVM
/// leaves there when it was given no CPUID; no document of Amazon's says which, and sev has no Google.
#[test]
fn launch_measurements_are_the_same() {
    let scratch = Scratch::new("launch");
    let mut seed = Seeded::new(7);
    for round in 0..200 {
        let mut image = ovmf::Image::sev();
        image.pages = 1 + seed.below(24);
        for section in &mut image.sev {
            if section.2 == 1 {
                section.1 = 0x1000 * (1 + seed.below(16) as u32);
            }
        }
        let (one, other) = (seed.below(image.sev.len()), seed.below(image.sev.len()));
        image.sev.swap(one, other);
        let mut bytes = image.build();
        let at = seed.below(bytes.len() - 0x900);
        bytes[at] ^= 0x5a;
        let path = scratch.write("ovmf.fd", &bytes);
        let (kernel, initrd) = (vec![round as u8; seed.below(9000)], vec![7; seed.below(5000)]);
        let (name, cpu) = CPUS[seed.below(CPUS.len())];
        let append = ["", "console=ttyS0 root=/dev/vda1", "é"][seed.below(3)];
        let loaded = seed.below(2) == 0;
        let boot = Boot::Kernel(Kernel { image: &kernel, initrd: &initrd, append });
        let launch = Launch {
            vmm: Vmm::Qemu,
            vcpus: 1 + seed.below(9) as u32,
            vcpu_signature: vcpu_signature(name).expect("a CPU model"),
            guest_features: [1, 0x21, 0x8001][seed.below(3)],
            boot: if loaded { boot } else { Boot::Firmware },
        };
        let files = loaded.then(|| {
            let initrd = (!initrd.is_empty()).then(|| scratch.write("initrd", &initrd));
            [Some(scratch.write("kernel", &kernel)), initrd]
        });
        let theirs = theirs(&path, files.unwrap_or_default(), &launch, cpu).expect("a measurement");
        let ours = Firmware::parse(&bytes).and_then(|firmware| measurement(&firmware, &launch)).expect("ours too");
        assert_eq!(hex::encode(ours), hex::encode(theirs), "round {round}: {launch:?}");
    }
}

/// An ID block that sev made is one; every field it says is what sev put there.
#[test]
fn id_blocks_that_sev_signs_verify() {
    let scratch = Scratch::new("id-block");
    let key = |name: &str| {
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
        let text = STANDARD.encode(key.as_ref());
        scratch.write(name, format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n").as_bytes())
    };
    let digest = SnpLaunchDigest::new([0x4d; 48]);
    let family = FamilyId::new([3; 16]);
    let made = snp_calculate_id(Some(digest), Some(family), None, Some(9), None, key("id"), key("author"))
        .expect("an ID block");
    let block = made.id_block.to_bytes().expect("bytes");
    let auth = made.id_auth.to_bytes().expect("bytes");
    let verified = verify_id_block(block.as_ref(), auth.as_ref()).expect("signed by both keys");
    assert_eq!((verified.launch_digest(), verified.guest_svn(), verified.policy()), ([0x4d; 48], 9, 0x3_0000));
    assert_eq!(hex::encode(verified.id_key_digest()), made.id_key_digest.get_hex_ld());
    let Presented::Verified(HexBytes(author)) = verified.author_key_digest() else { panic!("an author signed") };
    assert_eq!(hex::encode(author), made.auth_key_digest.get_hex_ld());
}
