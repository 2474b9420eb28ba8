//! An event log as a story: what started what, in the words of a system administrator.
//!
//! A sentence says where it is from (the event's number). Text that was not measured is called not proven, or claimed
//! where no firmware measures it: the path of a loaded image, for instance.

use countersign_attestation::evidence::eventlog::{EventType, must_hash_to_digest};

use super::document::Text;
use super::eventlog::{Bound, GRUB_CMDLINE, GRUB_COMMAND, LoggedEvent};
use super::uefi::{Signatures, Variable, image_path, subject, utf16};

/// Names listed in one sentence.
const NAMES_MAX: usize = 12;

/// Event numbers listed in one sentence.
const NUMBERS_MAX: usize = 20;

/// The story of a log's events, which were extended into a `register`: a PCR, or what a trust domain has for them.
pub(super) fn tell(events: &[LoggedEvent<'_>], register: &'static str) -> Vec<Text> {
    let mut story = Story { register, ..Story::default() };
    for event in events {
        story.event(event);
    }
    story.end(events);
    story.sentences.iter().map(|sentence| Text::new(sentence)).collect()
}

#[derive(Default)]
struct Story {
    register: &'static str,
    sentences: Vec<String>,
    secure_boot: bool,
    handed_over: bool,
    grub_commands: Vec<usize>,
    separators: Vec<String>,
    uki_sections: Vec<String>,
    windows: Vec<usize>,
}

impl Story {
    fn say(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }

    /// Says what an event's text says, and whether that was measured.
    fn say_of(&mut self, event: &LoggedEvent<'_>, sentence: &str) {
        let number = event.number;
        self.say(match event.bound {
            Bound::Yes => format!("{sentence} (event {number}, hash matches)"),
            Bound::No => format!("NOT PROVEN, the hash in event {number} is of something else: {sentence}"),
            Bound::Nothing => format!("NOT PROVEN, event {number} was not measured: {sentence}"),
        });
    }

    fn event(&mut self, event: &LoggedEvent<'_>) {
        match event.event_type {
            EventType::EV_NO_ACTION => self.no_action(event),
            EventType::EV_S_CRTM_VERSION => {
                let version = super::uefi::text(event.data).map_or_else(|| hex::encode(event.data), |t| quoted(&t));
                self.say_of(event, &format!("firmware started; its version is {version}"));
            }
            EventType::EV_SEPARATOR => self.separator(event),
            EventType::EV_EFI_VARIABLE_DRIVER_CONFIG => self.variable(event),
            EventType::EV_EFI_VARIABLE_AUTHORITY => self.authority(event),
            EventType::EV_EFI_BOOT_SERVICES_APPLICATION
            | EventType::EV_EFI_BOOT_SERVICES_DRIVER
            | EventType::EV_EFI_RUNTIME_SERVICES_DRIVER => {
                self.image(event);
            }
            EventType::EV_EFI_ACTION => self.action(event),
            EventType::EV_IPL => self.loader(event),
            EventType::EV_EVENT_TAG => self.tagged(event),
            _ => {}
        }
    }

    /// StartupLocality (PFP 10.4.5.3): its last byte is where PCR 0 starts.
    fn no_action(&mut self, event: &LoggedEvent<'_>) {
        if let Some([locality]) = event.data.strip_prefix(b"StartupLocality\0") {
            self.say(format!(
                "the TPM was started at locality {locality}, where PCR 0 starts (event {}; PCR 0 shows whether it is so)",
                event.number
            ));
        }
    }

    fn separator(&mut self, event: &LoggedEvent<'_>) {
        match event.data {
            // PFP 10.4.1, EV_SEPARATOR: 1 says that an error is measured.
            [1, 0, 0, 0] => {
                self.say_of(event, &format!("{} {}: the firmware reported an ERROR", self.register, event.pcr_index))
            }
            _ => self.separators.push(event.pcr_index.to_string()),
        }
    }

    fn variable(&mut self, event: &LoggedEvent<'_>) {
        let Some(variable) = Variable::read(event.data) else { return };
        match variable.name.as_str() {
            "SecureBoot" => {
                self.secure_boot = true;
                let state = match variable.value {
                    [1] => "ON",
                    [0] => "OFF",
                    [] => "OFF (the variable is empty)",
                    _ => "UNCLEAR (the variable is neither 0 nor 1)",
                };
                self.say_of(event, &format!("Secure Boot was {state}"));
            }
            name @ ("PK" | "KEK" | "db" | "dbx" | "dbt" | "dbr") => {
                let holds = Signatures::read(variable.value);
                let mut sentence = format!("{name} has {}", count(holds.subjects.len(), "certificate"));
                if !holds.subjects.is_empty() {
                    sentence.push_str(&format!(" ({})", names(&holds.subjects)));
                }
                if 0 < holds.others {
                    sentence.push_str(&format!(" and {}", count(holds.others, "image hash")));
                }
                if !holds.whole {
                    sentence.push_str(", and is cut short");
                }
                self.say_of(event, &sentence);
            }
            _ => {}
        }
    }

    /// Which entry of db (or of shim's lists) allowed an image.
    fn authority(&mut self, event: &LoggedEvent<'_>) {
        let Some(variable) = Variable::read(event.data) else { return };
        let name = variable.name.as_str();
        match name {
            "SbatLevel" => {
                let level = Text::of_bytes(variable.value.split(|byte| *byte == b'\n').next().unwrap_or_default());
                self.say_of(event, &format!("shim revokes by SBAT level {}", quoted(&level)));
            }
            "db" | "Shim" | "MokList" | "vendor_db" => {
                // EFI_SIGNATURE_DATA: the owner's GUID, then the certificate; shim writes its certificate alone.
                let whole = subject(variable.value);
                let owned = variable.value.get(16..).map(subject);
                let readable = |text: &Text| text.as_str() != "(unreadable certificate)";
                let who = [Some(whole), owned].into_iter().flatten().find(readable);
                let who =
                    who.map_or_else(|| "an image hash".to_owned(), |who| format!("the certificate {}", who.as_str()));
                self.say_of(event, &format!("an image was allowed by {name}: {who}"));
            }
            _ => {}
        }
    }

    fn image(&mut self, event: &LoggedEvent<'_>) {
        let path = image_path(event.data).filter(|path| !path.as_str().is_empty());
        let path = path.map_or_else(|| "an unnamed place".to_owned(), |path| path.as_str().to_owned());
        let what = if event.event_type == EventType::EV_EFI_BOOT_SERVICES_APPLICATION { "program" } else { "driver" };
        let loader = known_loader(&path).map(|name| format!(", by its name {name},")).unwrap_or_default();
        let measured = measured(event);
        self.say(format!("a {what}{loader} was loaded: Authenticode {measured}; claimed to come from {path}"));
    }

    fn action(&mut self, event: &LoggedEvent<'_>) {
        let text = Text::of_bytes(event.data.split(|byte| *byte == 0).next().unwrap_or_default());
        match text.as_str() {
            "Calling EFI Application from Boot Option" => {
                self.say_of(event, "the firmware tried a boot option");
            }
            "Returning from EFI Application from Boot Option" => {
                self.say_of(event, "the boot option came back without starting a system");
            }
            "Exit Boot Services Invocation" => {
                self.say_of(event, "the operating system took over: ExitBootServices was called");
            }
            "Exit Boot Services Returned with Success" => {
                self.handed_over = true;
                self.say_of(event, "ExitBootServices succeeded; the firmware's part of the boot ends here");
            }
            "Exit Boot Services Returned with Failure" => self.say_of(event, "ExitBootServices FAILED"),
            "UEFI Debug Mode" => self.say_of(event, "the firmware was in DEBUG mode"),
            "DMA Protection Disabled" => self.say_of(event, "protection against DMA was OFF"),
            _ => {}
        }
    }

    /// EV_IPL: GRUB in PCR 8 and 9, systemd-boot and systemd-stub in 11 to 13, shim in 14. Confidential VMs without a
    /// TPM have other registers: what GRUB says is told by its text.
    fn loader(&mut self, event: &LoggedEvent<'_>) {
        let line = Text::of_bytes(event.data.split(|byte| *byte == 0).next().unwrap_or_default());
        let line = line.as_str();
        if GRUB_COMMAND.iter().any(|prefix| line.starts_with(prefix)) {
            self.grub_commands.push(event.number);
        } else if let Some(command) = GRUB_CMDLINE.iter().find_map(|prefix| line.strip_prefix(prefix)) {
            self.say_of(event, &format!("GRUB started the kernel with: `{command}`"));
        } else if line.starts_with("MokList") {
            self.say(format!("shim measured {line}: {}", measured(event)));
        } else if event.data.get(1) == Some(&0) {
            self.stub(event);
        } else if ["vmlinuz", "initr", "grub_linux"].iter().any(|part| line.contains(part)) {
            self.say(format!("GRUB read a file: {}; claimed to be {line}", measured(event)));
        }
    }

    /// UTF-16: a section of a unified kernel image, or a command line.
    fn stub(&mut self, event: &LoggedEvent<'_>) {
        let text = utf16(event.data);
        match (text.as_str().strip_prefix('.'), event.bound) {
            // The section's name is measured first, then its content under the same name.
            (Some(_), Bound::Yes) => {}
            (Some(_), Bound::No | Bound::Nothing) => {
                let digest =
                    event.best_digest().map(|(hash, digest)| format!(" ({hash} {digest})")).unwrap_or_default();
                self.uki_sections.push(format!("{}{digest}", text.as_str()));
            }
            (None, _) if event.pcr_index == 13 => {
                self.say_of(event, &format!("systemd's stub measured an extension of the system, `{}`", text.as_str()));
            }
            (None, _) => {
                self.say_of(event, &format!("the boot loader gave the kernel the command line `{}`", text.as_str()));
            }
        }
    }

    /// EV_EVENT_TAG: of the Linux EFI stub, whose digest is of what it names, or of Windows.
    fn tagged(&mut self, event: &LoggedEvent<'_>) {
        let id = event.data.first_chunk().copied().map(u32::from_le_bytes);
        match id {
            Some(0x8f3b_22ec) => self.say(format!("the kernel's EFI stub measured the initrd: {}", measured(event))),
            Some(0x8f3b_22ed) => {
                self.say(format!("the kernel's EFI stub measured its load options: {}", measured(event)));
            }
            // SIPAEVENT_TRUSTBOUNDARY
            Some(0x4001_0001) => self.windows.push(event.number),
            Some(_) | None => {}
        }
    }

    fn end(&mut self, events: &[LoggedEvent<'_>]) {
        if !self.uki_sections.is_empty() {
            let sections = self.uki_sections.join(", ");
            self.say(format!("a unified kernel image measured its sections, their names being claimed: {sections}"));
        }
        if let (Some(first), Some(last)) = (self.grub_commands.first(), self.grub_commands.last()) {
            let ran = count(self.grub_commands.len(), "command");
            self.sentences.push(format!("GRUB ran {ran} (events {first} to {last})"));
        }
        if let (Some(first), Some(last)) = (self.windows.first(), self.windows.last()) {
            let groups = count(self.windows.len(), "group");
            self.say(format!("Windows measured {groups} of its boot settings and modules (events {first} to {last})"));
        }
        if !self.separators.is_empty() {
            let pcrs = self.separators.join(", ");
            self.say(format!("the firmware closed its own measurements with separators in {} {pcrs}", self.register));
        }
        if !self.secure_boot {
            self.say("the log does not say whether Secure Boot was on".to_owned());
        }
        if !self.handed_over {
            self.say("the log does not show that an operating system took over (no ExitBootServices)".to_owned());
        }
        let lying = |event: &&LoggedEvent<'_>| must_hash_to_digest(event.event_type) && event.bound == Bound::No;
        let numbers: Vec<String> = events.iter().filter(lying).map(|event| event.number.to_string()).collect();
        if !numbers.is_empty() {
            let more = numbers.len().saturating_sub(NUMBERS_MAX);
            let listed = numbers.iter().take(NUMBERS_MAX).cloned().collect::<Vec<_>>().join(", ");
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.say(format!("DO NOT BELIEVE the text of events {listed}{more}: it is not what was measured"));
        }
    }
}

/// A digest of something that is not in the log.
fn measured(event: &LoggedEvent<'_>) -> String {
    let digest =
        event.best_digest().map_or_else(|| "no digest".to_owned(), |(hash, digest)| format!("{hash} {digest}"));
    format!("{digest} (event {})", event.number)
}

fn known_loader(path: &str) -> Option<&'static str> {
    let name = path.rsplit(['\\', '/']).next().unwrap_or_default().to_ascii_lowercase();
    let known = [
        ("shim", "shim"),
        ("grub", "GRUB"),
        ("bootmgfw", "Windows Boot Manager"),
        ("winload", "Windows loader"),
        ("systemd-boot", "systemd-boot"),
        ("fwupd", "fwupd"),
        ("vmlinuz", "a Linux kernel"),
        ("linux", "a Linux kernel"),
    ];
    known.iter().find(|(part, _)| name.contains(part)).map(|(_, loader)| *loader)
}

fn quoted(text: &Text) -> String {
    format!("\"{}\"", text.as_str())
}

fn count(number: usize, what: &str) -> String {
    match (number, what.strip_suffix("sh")) {
        (1, _) => format!("1 {what}"),
        (_, Some(_)) => format!("{number} {what}es"),
        (_, None) => format!("{number} {what}s"),
    }
}

fn names(subjects: &[Text]) -> String {
    let listed: Vec<&str> = subjects.iter().take(NAMES_MAX).map(Text::as_str).collect();
    let more = subjects.len().saturating_sub(NAMES_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("{}{more}", listed.join("; "))
}
