//! A boot told from measurement registers of a confidential VM, which stand for several PCRs each (UEFI 2.10, 38.4.1,
//! table 38.4: RTMR0 for PCR 1 and 7, RTMR1 for 2 to 6, RTMR2 for 8 to 15).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::boot::Story;
use super::claims::{BootClaims, Measured};
use super::data::{GLOBAL_VARIABLE, Variable};
use super::event_type::EventType;
use super::log::{Event, EventLog};
use super::replay::is_digest_of;
use super::verify::VerifiedLog;
use crate::claims::{HexBytes, PcrBank, PcrHash};
use crate::evidence::tpm::algorithm::TpmHash;

/// The PCRs that RTMR0 to RTMR2 stand for, one bit each.
const STANDS_FOR: [u32; 3] = [0b1000_0010, 0b0111_1100, 0xff00];

/// The event's digest is of `data`.
fn binds(event: &Event<'_>, data: &[u8]) -> bool {
    event.digest(TpmHash::Sha384).is_some_and(|digest| is_digest_of(TpmHash::Sha384, digest, &[data]))
}

/// What the boot was, as far as replayed registers say (`replayed` has one bit for each of RTMR0 to RTMR2), and every
/// command line that was measured, whether or not the list of them is whole.
pub(in crate::evidence) fn tell(log: EventLog<'_>, replayed: u32) -> (BootClaims, Vec<String>) {
    let bits = (0..3_u32).zip(STANDS_FOR).filter(|(register, _)| replayed >> register & 1 == 1);
    let mask = bits.fold(0, |mask, (_, pcrs)| mask | pcrs);
    // Only which PCRs there are counts; the registers were compared with their signed values before.
    let bank: PcrBank =
        (0..24).filter(|index| mask >> index & 1 == 1).map(|index| (index, HexBytes(Vec::new()))).collect();
    let pcrs = BTreeMap::from([(PcrHash::Sha384, bank)]);
    let verified = VerifiedLog::of_registers(log, &pcrs, mask);
    let mut story = Story::new(&verified);
    for event in log.events().filter(Event::is_extended) {
        let Some(pcr_index) = pcr_of(&event, &story).filter(|pcr| mask >> pcr & 1 == 1) else { continue };
        let event = Event { pcr_index, ..event };
        if pcr_index == LOADER {
            story.read_loader(&event);
        } else {
            story.read(&event);
        }
    }
    let command_lines = story.command_lines().to_vec();
    let mut claims = story.end();
    // Several PCRs share one register and its separators: only those that Secure Boot and the boot loader stand on are
    // told apart, and what came after them is not.
    let open = matches!(claims.command_lines, Measured::Unknown);
    for list in [&mut claims.files, &mut claims.initrds, &mut claims.mok] {
        // They differ by what the log calls them: one that is empty may be hidden among the others.
        if *list == Measured::Unmeasured && open {
            *list = Measured::Unknown;
        }
    }
    claims.separators.retain(|index, _| [4, 7].contains(index));
    claims.extended_after_separator.clear();
    (claims, command_lines)
}

/// Where boot loaders' events are read: any of PCR 8 to 15 would do.
const LOADER: u32 = 8;

/// The PCR that an event's meaning is that of; none for MRTD, RTMR3 and registers that are not there.
fn pcr_of(event: &Event<'_>, story: &Story<'_, '_>) -> Option<u32> {
    match (event.pcr_index, event.event_type) {
        // Until its separator the register is the firmware's: whatever the log calls an event, it is configuration.
        (1, _) if !story.config_ended() => Some(7),
        (1, _) => {
            // Boot variables belong to PCR 1, what let an image be loaded to PCR 7. The variable itself says which.
            let variable = Variable::read(event.data).ok().filter(|_| binds(event, event.data));
            let shorter = event.data.split_last().map(|(_, rest)| rest).filter(|rest| binds(event, rest));
            let variable = variable.or_else(|| Variable::read(shorter?).ok());
            Some(if variable.is_some_and(|variable| variable.guid != GLOBAL_VARIABLE) { 7 } else { 1 })
        }
        (2, EventType::EV_EFI_ACTION) => Some(5),
        (2, EventType::EV_EFI_BOOT_SERVICES_DRIVER | EventType::EV_EFI_RUNTIME_SERVICES_DRIVER) => Some(2),
        (2, EventType(_)) => Some(4),
        (3, _) => Some(LOADER),
        (_, _) => None,
    }
}
