//! What a confidential guest will measure at launch, computed from what it is launched from: firmware, kernel, initial
//! file system, command line, virtual CPUs. Pure calculation; a reference value is what it comes to.

use crate::rejection::reasons;

pub mod firmware;
pub mod snp;
pub mod tdx;

reasons! {
    /// Why a launch measurement cannot be computed.
    LaunchReason {
        /// The image as a whole.
        FirmwareSize = "launch.firmware.size",
            "the firmware image does not have the size of one",
            "give the image that the VMM maps below 4 GiB: whole pages of 4 KiB, 64 MiB at most";
        /// The table of GUIDs that ends 32 bytes before the image's end.
        FirmwareTable = "launch.firmware.table",
            "the firmware image has no table of GUIDs that can be read",
            "give an OVMF image with its reset vector (OVMF.fd, not OVMF_VARS.fd), built for confidential guests";
        /// SEV or TDX metadata.
        FirmwareMetadata = "launch.firmware.metadata",
            "the firmware image has no metadata of this technology that can be read",
            "give an image built for SEV-SNP or for TDX, whichever the guest is";
        /// A section of the metadata.
        FirmwareSection = "launch.firmware.section",
            "a section of the firmware's metadata is not defined, or not where memory is",
            "use a version that knows this firmware";
        /// The reset block or the area of kernel hashes.
        FirmwareEntry = "launch.firmware.entry",
            "the firmware image lacks an entry that this launch needs",
            "give an image that supports several CPUs and, for a kernel beside it, kernel hashes (AmdSev or a recent OvmfX64)";
        /// Number of virtual CPUs.
        Vcpus = "launch.vcpus",
            "the guest has no number of CPUs that can be measured",
            "give the number of virtual CPUs that the guest is launched with";
        /// A kernel's command line.
        Append = "launch.append",
            "the command line cannot be measured as it is",
            "give the command line as the VMM gets it, without NUL characters";
        /// A register.
        Register = "launch.rtmr",
            "there is no such measurement register",
            "name RTMR 0 to 3";
    }
}
