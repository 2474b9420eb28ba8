//! Event types (TCG PC Client Platform Firmware Profile 1.06, 10.4.1, table 27), and those that are used here.

/// TCG_EVENTTYPE. The log's own word: no digest covers it, so nothing is believed because of it alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)+) => {
        impl EventType {
            $($(#[$doc])* pub const $name: Self = Self($value);)+

            /// The profile's name, where it has one.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(stringify!($name)),)+ _ => None }
            }
        }
    };
}

event_types! {
    /// Reserved for certificates before the boot.
    EV_PREBOOT_CERT = 0x0000_0000;
    /// Firmware volumes, ACPI tables and the like.
    EV_POST_CODE = 0x0000_0001;
    /// Unused.
    EV_UNUSED = 0x0000_0002;
    /// Said, never extended.
    EV_NO_ACTION = 0x0000_0003;
    /// Between the firmware's and the boot loader's events.
    EV_SEPARATOR = 0x0000_0004;
    /// A string.
    EV_ACTION = 0x0000_0005;
    /// A tagged structure: systemd's stub, Linux' EFI stub, Windows' SIPA events.
    EV_EVENT_TAG = 0x0000_0006;
    /// The S-CRTM's contents.
    EV_S_CRTM_CONTENTS = 0x0000_0007;
    /// The S-CRTM's version.
    EV_S_CRTM_VERSION = 0x0000_0008;
    /// CPU microcode.
    EV_CPU_MICROCODE = 0x0000_0009;
    /// Configuration of the platform.
    EV_PLATFORM_CONFIG_FLAGS = 0x0000_000a;
    /// Devices.
    EV_TABLE_OF_DEVICES = 0x0000_000b;
    /// A compact hash; the data says which.
    EV_COMPACT_HASH = 0x0000_000c;
    /// What a boot loader loads: GRUB, shim, systemd.
    EV_IPL = 0x0000_000d;
    /// The boot loader's partition data.
    EV_IPL_PARTITION_DATA = 0x0000_000e;
    /// Code that is no host code.
    EV_NONHOST_CODE = 0x0000_000f;
    /// Configuration that is no host's.
    EV_NONHOST_CONFIG = 0x0000_0010;
    /// Information that is no host's.
    EV_NONHOST_INFO = 0x0000_0011;
    /// A boot device was left out.
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012;
    /// TCG_EFI_POST_CODE 2.
    EV_POST_CODE2 = 0x0000_0013;
    /// Variables of Secure Boot: the digest is over the whole UEFI_VARIABLE_DATA.
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001;
    /// Boot variables: the digest is over the variable's value.
    EV_EFI_VARIABLE_BOOT = 0x8000_0002;
    /// An application: the digest is Authenticode's.
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003;
    /// A boot services driver: the digest is Authenticode's.
    EV_EFI_BOOT_SERVICES_DRIVER = 0x8000_0004;
    /// A runtime driver: the digest is Authenticode's.
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005;
    /// The partition table.
    EV_EFI_GPT_EVENT = 0x8000_0006;
    /// A string.
    EV_EFI_ACTION = 0x8000_0007;
    /// A firmware volume.
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008;
    /// Tables.
    EV_EFI_HANDOFF_TABLES = 0x8000_0009;
    /// A firmware volume, with a description.
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a;
    /// Tables, with a description.
    EV_EFI_HANDOFF_TABLES2 = 0x8000_000b;
    /// Boot variables: the digest is over the whole UEFI_VARIABLE_DATA.
    EV_EFI_VARIABLE_BOOT2 = 0x8000_000c;
    /// The partition table, without its identifiers.
    EV_EFI_GPT_EVENT2 = 0x8000_000d;
    /// Measured before TPM2_Startup, at locality 4.
    EV_EFI_HCRTM_EVENT = 0x8000_0010;
    /// The variable that let an image be loaded.
    EV_EFI_VARIABLE_AUTHORITY = 0x8000_00e0;
    /// Firmware of a device, over SPDM.
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1;
    /// Configuration of a device, over SPDM.
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2;
    /// Policy about devices.
    EV_EFI_SPDM_DEVICE_POLICY = 0x8000_00e3;
    /// Authority of a device.
    EV_EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4;
}

impl core::fmt::Debug for EventType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::fmt::Display for EventType {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}
