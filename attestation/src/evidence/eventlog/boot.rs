//! Tells a boot from the events of replayed PCRs.

use alloc::borrow::ToOwned as _;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use super::claims::{
    Authority, BootClaims, BootImage, DatabaseContents, ExitBootServices, ImageKind, Labelled, Measured, SecureBoot,
    Separator, SignatureDatabase, UkiSection,
};
use super::data::{GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK, Variable, read_signatures, utf16};
use super::event_type::EventType;
use super::log::Event;
use super::replay::is_digest_of;
use super::verify::VerifiedLog;
use crate::claims::{HexBytes, PcrHash};
use crate::digest::Sha256Digest;
use crate::evidence::tpm::algorithm::TpmHash;

/// Data of a separator (PC Client PFP 1.06, 10.4.1): zeros, or ones on some firmware.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];

/// What a separator's digest is of where firmware failed to measure.
pub(super) const SEPARATOR_ERROR: [u8; 4] = [1, 0, 0, 0];

/// INITRD_EVENT_TAG_ID of Linux' EFI stub.
const INITRD_TAG: [u8; 4] = 0x8f3b_22ec_u32.to_le_bytes();

/// What was seen so far, PCR by PCR.
pub(super) struct Story<'l, 'a> {
    verified: &'l VerifiedLog<'a>,
    separators: [Separator; 8],
    late: BTreeSet<u8>,
    secure_boot: Option<SecureBoot>,
    /// An event of PCR 7 before its separator whose words are not its digest's.
    unbound_config: bool,
    databases: [Option<SignatureDatabase>; 4],
    authorities: Vec<Authority>,
    sbat_level: Option<String>,
    mok: Vec<Labelled>,
    images: Vec<BootImage>,
    files: Vec<Labelled>,
    initrds: Vec<Labelled>,
    command_lines: Vec<String>,
    /// An event of a command line's PCR whose text is not known.
    unbound_text: bool,
    uki: Vec<UkiSection>,
    /// A section's name, until its contents follow.
    uki_name: Option<String>,
    unbound_uki: bool,
    exit: (bool, bool),
    drtm: bool,
}

pub(super) fn tell(verified: &VerifiedLog<'_>) -> BootClaims {
    let mut story = Story::new(verified);
    for event in verified.log().events().filter(Event::is_extended) {
        story.drtm |= (17..23).contains(&event.pcr_index);
        if verified.explains(event.pcr_index) {
            story.read(&event);
        }
    }
    story.end()
}

impl<'l, 'a> Story<'l, 'a> {
    pub(super) const fn new(verified: &'l VerifiedLog<'a>) -> Self {
        Self {
            verified,
            separators: [Separator::Missing; 8],
            late: BTreeSet::new(),
            secure_boot: None,
            unbound_config: false,
            databases: [const { None }; 4],
            authorities: Vec::new(),
            sbat_level: None,
            mok: Vec::new(),
            images: Vec::new(),
            files: Vec::new(),
            initrds: Vec::new(),
            command_lines: Vec::new(),
            unbound_text: false,
            uki: Vec::new(),
            uki_name: None,
            unbound_uki: false,
            exit: (false, false),
            drtm: false,
        }
    }

    pub(super) fn read(&mut self, event: &Event<'a>) {
        let slot = usize::try_from(event.pcr_index).unwrap_or(usize::MAX);
        let before = self.separators.get(slot).copied();
        // By digest, not by type: a relabelled separator still separates.
        if let (Some(Separator::Missing), Some(separator)) = (before, self.separator(event)) {
            if let Some(slot) = self.separators.get_mut(slot) {
                *slot = separator;
            }
            return;
        }
        if matches!((event.pcr_index, before), (0..=3 | 6, Some(Separator::Present | Separator::Error))) {
            self.late.extend(u8::try_from(event.pcr_index));
        }
        match (event.pcr_index, before) {
            (2 | 4, _) => self.read_image(event),
            (5, _) => self.read_action(event),
            (7, Some(Separator::Missing)) => self.read_config(event),
            (7, _) => self.read_authority(event),
            (8 | 12, _) => self.read_text(event),
            (9, _) => self.read_file(event),
            (11, _) => self.read_uki(event),
            (14, _) => {
                let labelled = self.labelled(event);
                self.mok.push(labelled);
            }
            (_, _) => {}
        }
    }

    fn separator(&self, event: &Event<'_>) -> Option<Separator> {
        let digests = || {
            let banks = self.verified.banks(event.pcr_index).map(TpmHash::from);
            banks.filter_map(|hash| Some((hash, event.digest(hash)?)))
        };
        // Only events that could be one are hashed: by type, or by four bytes of data.
        if event.event_type != EventType::EV_SEPARATOR && event.data.len() != 4 {
            let zero = digests().any(|(hash, digest)| is_separator_digest(hash, digest));
            return zero.then_some(Separator::Present);
        }
        if digests().any(|(hash, digest)| is_digest_of(hash, digest, &[&SEPARATOR_ERROR])) {
            return Some(Separator::Error);
        }
        digests().any(|(hash, digest)| is_separator_digest(hash, digest)).then_some(Separator::Present)
    }

    fn digests(&self, event: &Event<'_>) -> BTreeMap<PcrHash, HexBytes> {
        let banks = self.verified.banks(event.pcr_index);
        banks.filter_map(|bank| Some((bank, HexBytes(event.digest(bank.into())?.to_vec())))).collect()
    }

    fn labelled(&self, event: &Event<'_>) -> Labelled {
        let text = core::str::from_utf8(event.data).ok().map(|text| text.trim_end_matches('\0').to_owned());
        let label = text.filter(|text| text.len() <= 256 && !text.contains('\0')).unwrap_or_default();
        Labelled { pcr: u8::try_from(event.pcr_index).unwrap_or(u8::MAX), label, digest: self.digests(event) }
    }

    /// Images: the digest is Authenticode's and covers nothing of UEFI_IMAGE_LOAD_EVENT (PC Client PFP 1.06, 10.2.3).
    fn read_image(&mut self, event: &Event<'_>) {
        let kind = match event.event_type {
            EventType::EV_EFI_BOOT_SERVICES_APPLICATION => ImageKind::Application,
            EventType::EV_EFI_BOOT_SERVICES_DRIVER => ImageKind::BootDriver,
            EventType::EV_EFI_RUNTIME_SERVICES_DRIVER => ImageKind::RuntimeDriver,
            EventType(_) => return,
        };
        let pcr = u8::try_from(event.pcr_index).unwrap_or(u8::MAX);
        self.images.push(BootImage { pcr, kind, digest: self.digests(event) });
    }

    fn read_action(&mut self, event: &Event<'_>) {
        // PC Client PFP 1.06, 10.4.4.
        if !matches!(event.data, b"Exit Boot Services Invocation" | b"Exit Boot Services Returned with Success") {
            return;
        }
        if self.verified.binds(event, event.data) {
            let returned = event.data.ends_with(b"Success");
            self.exit = (self.exit.0 || !returned, self.exit.1 || returned);
        }
    }

    /// The firmware's own words in PCR 7, whatever the log calls the event: only what was measured before the separator
    /// is the firmware's.
    fn read_config(&mut self, event: &Event<'_>) {
        if !self.verified.binds(event, event.data) {
            self.unbound_config = true;
            return;
        }
        let Ok(variable) = Variable::read(event.data) else { return };
        if variable.is(&GLOBAL_VARIABLE, "SecureBoot") {
            let said = match variable.value {
                [1] => SecureBoot::On,
                [] | [0] => SecureBoot::Off,
                _ => SecureBoot::Unknown,
            };
            // Measured twice and differently, the worse one counts.
            self.secure_boot = match (self.secure_boot, said) {
                (None | Some(SecureBoot::On), said) => Some(said),
                (Some(SecureBoot::Off), _) | (_, SecureBoot::Off) => Some(SecureBoot::Off),
                (Some(SecureBoot::Unmeasured | SecureBoot::Unknown), _) => Some(SecureBoot::Unknown),
            };
            return;
        }
        let names = [(&GLOBAL_VARIABLE, "PK"), (&GLOBAL_VARIABLE, "KEK")];
        let names = names.into_iter().chain([(&IMAGE_SECURITY_DATABASE, "db"), (&IMAGE_SECURITY_DATABASE, "dbx")]);
        for (slot, (guid, name)) in self.databases.iter_mut().zip(names) {
            if variable.is(guid, name) {
                *slot = Some(database(variable.value));
            }
        }
    }

    /// Variables that let an image be loaded. Shim hashes one byte less than it logs: what was hashed is read.
    fn read_authority(&mut self, event: &Event<'a>) {
        let shorter = event.data.split_last().map_or(event.data, |(_, rest)| rest);
        let Some(bound) = [event.data, shorter].into_iter().find(|data| self.verified.binds(event, data)) else {
            return;
        };
        let Ok(variable) = Variable::read(bound) else { return };
        if variable.is(&SHIM_LOCK, "SbatLevel") {
            self.sbat_level =
                core::str::from_utf8(variable.value).ok().map(|text| text.trim_end_matches('\0').to_owned());
        }
        if let Some(name) = variable.name() {
            self.authorities.push(Authority { variable: name, digest: Sha256Digest::of(&[variable.value]) });
        }
    }

    /// GRUB hashes what follows its label; systemd hashes UTF-16, with its NUL. GRUB's own label says which text is the
    /// command line and is not measured, so a `linux` command counts as one whatever it is called.
    fn read_text(&mut self, event: &Event<'_>) {
        let trimmed = trim_nul(event.data);
        if let Some((label, text)) = split_label(trimmed) {
            // Red Hat's GRUB logs a byte of what lies behind the text's NUL.
            let until_nul = text.split(|byte| *byte == 0).next().unwrap_or(text);
            for bound in [text, trim_nul(text), until_nul] {
                if self.verified.binds(event, bound) || self.verified.binds_parts(event, &[bound, &[0]]) {
                    let Ok(text) = core::str::from_utf8(bound) else { break };
                    let command =
                        ["linux ", "linuxefi ", "linux16 "].into_iter().find_map(|word| text.strip_prefix(word));
                    if let Some(line) =
                        command.or(matches!(label, b"kernel_cmdline" | b"grub_kernel_cmdline").then_some(text))
                    {
                        self.add_command_line(line);
                    }
                    return;
                }
            }
        }
        // systemd-boot before 250 logs one byte less than it hashes: the last NUL's second half.
        let cut = event.data.split_last().filter(|_| self.verified.binds_parts(event, &[event.data, &[0]]));
        if let Some(text) = cut.and_then(|(_, rest)| utf16(rest)) {
            return self.add_command_line(&text);
        }
        let tagged = event.data.get(8..).filter(|_| event.event_type == EventType::EV_EVENT_TAG);
        for data in [Some(event.data), tagged].into_iter().flatten() {
            if self.verified.binds(event, data) {
                match utf16(data) {
                    Some(text) => self.add_command_line(&text),
                    None => self.unbound_text |= core::str::from_utf8(data).is_err(),
                }
                return;
            }
        }
        self.unbound_text = true;
    }

    fn add_command_line(&mut self, line: &str) {
        if !self.command_lines.iter().any(|known| known == line) {
            self.command_lines.push(line.to_owned());
        }
    }

    fn read_file(&mut self, event: &Event<'_>) {
        let labelled = self.labelled(event);
        if event.event_type == EventType::EV_EVENT_TAG && event.data.starts_with(&INITRD_TAG) {
            self.initrds.push(Labelled { label: "Linux initrd".to_owned(), ..labelled });
        } else {
            self.files.push(labelled);
        }
    }

    /// systemd's stub: the section's name with its NUL, logged in UTF-16, then the contents under the same label.
    fn read_uki(&mut self, event: &Event<'_>) {
        let name = utf16(event.data).filter(|name| self.verified.binds_parts(event, &[name.as_bytes(), &[0]]));
        match (self.uki_name.take(), name) {
            (None, Some(name)) => self.uki_name = Some(name),
            (Some(name), None) => self.uki.push(UkiSection { name, digest: self.digests(event) }),
            (Some(_), Some(_)) | (None, None) => self.unbound_uki = true,
        }
    }

    pub(super) fn end(self) -> BootClaims {
        let verified = self.verified;
        let explained = |index: u32| verified.explains(index);
        let list_of = |trusted: bool| Trusted { trusted };
        let in_place = explained(7) && !matches!(self.separators.get(7), None | Some(Separator::Missing));
        let [pk, kek, db, dbx] = self.databases.map(|database| match database {
            Some(database) if in_place => Measured::Measured(database),
            None if in_place && !self.unbound_config => Measured::Unmeasured,
            Some(_) | None => Measured::Unknown,
        });
        let secure_boot = match self.secure_boot {
            Some(said) if in_place => said,
            None if in_place && !self.unbound_config => SecureBoot::Unmeasured,
            Some(_) | None => SecureBoot::Unknown,
        };
        // A PCR 12 that was quoted and that something else extended may hold another command line.
        let texts = explained(8) && !self.unbound_text && !verified.unexplained().contains(&12);
        let separators = (0..8_u8).zip(self.separators).filter(|(index, _)| explained(u32::from(*index))).collect();
        BootClaims {
            banks: verified.quoted_banks().collect(),
            replayed: verified.replayed(),
            unexplained: verified.unexplained(),
            secure_boot,
            pk,
            kek,
            db,
            dbx,
            authorities: list_of(in_place).list(self.authorities),
            sbat_level: self.sbat_level.map_or_else(|| list_of(in_place).nothing(), Measured::Measured),
            mok: list_of(explained(14)).list(self.mok),
            images: list_of(explained(4)).list(self.images),
            files: list_of(explained(9)).list(self.files),
            initrds: list_of(explained(9)).list(self.initrds),
            command_lines: list_of(texts).list(self.command_lines),
            uki: list_of(explained(11) && !self.unbound_uki && self.uki_name.is_none()).list(self.uki),
            exit_boot_services: match (explained(5), self.exit) {
                (false, _) => ExitBootServices::Unknown,
                (true, (_, true)) => ExitBootServices::Reached,
                (true, (true, false)) => ExitBootServices::Called,
                (true, (false, false)) => ExitBootServices::Unmeasured,
            },
            separators,
            extended_after_separator: self.late,
            hcrtm: verified.log().has_hcrtm_event() && explained(0),
            drtm_logged: self.drtm,
        }
    }
}

impl Story<'_, '_> {
    /// Whether the firmware's own part of Secure Boot's measurements has ended.
    pub(super) fn config_ended(&self) -> bool {
        !matches!(self.separators.get(7), None | Some(Separator::Missing))
    }

    /// Reads an event of a register that holds what boot loaders measure into PCR 8 to 15, all in one. Whatever is not
    /// text by its digest may be a command line that the log calls something else: then no list of them is whole.
    pub(super) fn read_loader(&mut self, event: &Event<'_>) {
        let before = core::mem::replace(&mut self.unbound_text, false);
        self.read_text(event);
        if self.unbound_text {
            // Where a TPM would hold it: PCR 14 for shim's keys, 9 for files.
            if event.data.starts_with(b"Mok") {
                let labelled = self.labelled(&Event { pcr_index: 14, ..*event });
                self.mok.push(labelled);
            } else {
                self.read_file(&Event { pcr_index: 9, ..*event });
            }
        }
        self.unbound_text |= before;
        self.unbound_uki = true;
    }

    /// Every command line so far, by the digests.
    pub(super) fn command_lines(&self) -> &[String] {
        &self.command_lines
    }
}

/// Whether what a PCR holds is known.
#[derive(Clone, Copy)]
struct Trusted {
    trusted: bool,
}

impl Trusted {
    const fn nothing<T>(self) -> Measured<T> {
        if self.trusted { Measured::Unmeasured } else { Measured::Unknown }
    }

    fn list<T>(self, list: Vec<T>) -> Measured<Vec<T>> {
        match (self.trusted, list.is_empty()) {
            (true, false) => Measured::Measured(list),
            (true, true) => Measured::Unmeasured,
            (false, _) => Measured::Unknown,
        }
    }
}

fn is_separator_digest(hash: TpmHash, digest: &[u8]) -> bool {
    SEPARATORS.iter().any(|data| is_digest_of(hash, digest, &[data]))
}

fn database(value: &[u8]) -> SignatureDatabase {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let contents = match read_signatures(value) {
        Ok(found) => Measured::Measured(DatabaseContents {
            hashes: count(found.hashes.len()),
            others: found.others,
            certificates: found.certificates,
        }),
        Err(_) => Measured::Unknown,
    };
    SignatureDatabase { digest: Sha256Digest::of(&[value]), contents }
}

fn trim_nul(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(&[0]).unwrap_or(bytes)
}

/// `grub_cmd: text`; Red Hat's GRUB writes `grub_cmd text`.
fn split_label(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = data.iter().position(|byte| *byte == b' ')?;
    let (label, rest) = data.split_at_checked(at)?;
    let label = label.strip_suffix(b":").unwrap_or(label);
    let plain = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'_';
    label.iter().all(plain).then_some((label, rest.strip_prefix(b" ")?))
}
