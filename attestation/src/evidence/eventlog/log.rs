//! Logs as firmware writes them: TCG_PCR_EVENT2 behind a Spec ID header, or the older TCG_PCR_EVENT with SHA-1 alone
//! (PC Client PFP 1.06, section 10). Everything is borrowed: the whole form is checked once, and reading the events
//! again allocates nothing.

use alloc::format;
use alloc::string::String;

use super::EventLogReason;
use super::event_type::EventType;
use crate::evidence::tpm::algorithm::TpmHash;
use crate::reader::{ReadError, Reader};
use crate::rejection::Rejection;

/// Banks of one log. TPM 2.0 defines nine hashes; a count beyond this is no log.
pub const BANKS_MAX: usize = 16;

/// PCRs of a PC Client TPM (PTP 1.06, 4.6.2).
pub const PCRS: u8 = 24;

/// Largest digest: SHA-512. Declared algorithms we do not know may not be larger.
const DIGEST_BYTES_MAX: usize = 64;

const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// How the events of a log are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// TCG_PCR_EVENT2: a digest for each bank.
    CryptoAgile,
    /// TCG_PCR_EVENT: SHA-1 alone.
    Sha1,
}

impl LogFormat {
    /// `crypto-agile` or `sha1`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CryptoAgile => "crypto-agile",
            Self::Sha1 => "sha1",
        }
    }
}

/// A bank that the header declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// TPM_ALG_ID.
    pub algorithm: u16,
    /// Bytes in a digest.
    pub size: u16,
}

impl Bank {
    /// The hash, where it is one that can be replayed. SM3 and SHA-3 are only stepped over.
    #[must_use]
    pub fn hash(self) -> Option<TpmHash> {
        TpmHash::from_id(self.algorithm).ok()
    }

    /// The name people and tpm2-tools write.
    #[must_use]
    pub fn name(self) -> String {
        match (self.hash(), self.algorithm) {
            (Some(hash), _) => hash.name().into(),
            (None, 0x0012) => "sm3_256".into(),
            (None, 0x0027) => "sha3_256".into(),
            (None, 0x0028) => "sha3_384".into(),
            (None, 0x0029) => "sha3_512".into(),
            (None, other) => format!("{other:#06x}"),
        }
    }
}

/// TCG_EfiSpecIDEvent (PC Client PFP 1.06, 10.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecId<'a> {
    /// platformClass: 0 client, 1 server.
    pub platform_class: u32,
    /// specVersionMajor.
    pub major: u8,
    /// specVersionMinor.
    pub minor: u8,
    /// specErrata.
    pub errata: u8,
    /// uintnSize: 1 for 32-bit, 2 for 64-bit firmware.
    pub uintn_size: u8,
    /// vendorInfo.
    pub vendor_info: &'a [u8],
}

/// `2.0 errata 0 uintn 2`.
impl core::fmt::Display for SpecId<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{} errata {} uintn {}", self.major, self.minor, self.errata, self.uintn_size)
    }
}

/// The banks of a log, at most [`BANKS_MAX`], each once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Banks {
    list: [Bank; BANKS_MAX],
    count: usize,
}

impl Banks {
    const fn none() -> Self {
        Self { list: [Bank { algorithm: 0, size: 0 }; BANKS_MAX], count: 0 }
    }

    fn as_slice(&self) -> &[Bank] {
        self.list.get(..self.count).unwrap_or_default()
    }

    fn position(&self, algorithm: u16) -> Option<usize> {
        self.as_slice().iter().position(|bank| bank.algorithm == algorithm)
    }

    fn push(&mut self, bank: Bank) -> Result<(), Rejection> {
        let known = bank.hash().map(TpmHash::size);
        let size = usize::from(bank.size);
        if known.is_some_and(|known| known != size) || size == 0 || DIGEST_BYTES_MAX < size {
            let expected =
                known.map_or_else(|| format!("1 to {DIGEST_BYTES_MAX} bytes"), |size| format!("{size} bytes"));
            return Err(EventLogReason::Header.because(format_args!("{}: {expected}", bank.name()), size));
        }
        if self.position(bank.algorithm).is_some() {
            return Err(EventLogReason::Header.because("each bank once", format_args!("{} twice", bank.name())));
        }
        let slot = self.list.get_mut(self.count);
        *slot.ok_or_else(|| EventLogReason::Header.because(format_args!("at most {BANKS_MAX} banks"), "more"))? = bank;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

/// One event, borrowed from its log.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// pcrIndex; for CC logs the index of the measurement register. Up to 23, and anything for EV_NO_ACTION.
    pub pcr_index: u32,
    /// eventType.
    pub event_type: EventType,
    /// The digests.
    pub digests: Digests<'a>,
    /// The event's data. Covered by the digests only where its type says so.
    pub data: &'a [u8],
}

impl<'a> Event<'a> {
    /// Whether the event was extended: EV_NO_ACTION never is (PC Client PFP 1.06, 10.4.5).
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.event_type != EventType::EV_NO_ACTION
    }

    /// The locality that a StartupLocality event names (PC Client PFP 1.06, 10.4.5.3).
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        let (signature, rest) = self.data.split_first_chunk::<16>()?;
        match (self.is_extended(), signature == STARTUP_LOCALITY, rest) {
            (false, true, [locality, ..]) => Some(*locality),
            (true | false, true | false, _) => None,
        }
    }

    /// The digest of this hash, if the event carries one.
    #[must_use]
    pub fn digest(&self, hash: TpmHash) -> Option<&'a [u8]> {
        self.digests.iter().find(|(algorithm, _)| *algorithm == hash.id()).map(|(_, digest)| digest)
    }
}

/// The digests of one event.
#[derive(Clone, Copy, Debug)]
pub struct Digests<'a> {
    bytes: &'a [u8],
    count: usize,
    /// Where a bank's size stands: the header's data, or nothing for SHA-1 logs.
    banks: Banks,
}

impl<'a> Digests<'a> {
    /// TPM_ALG_ID and digest, in the log's order.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let Self { bytes, count, banks } = *self;
        let mut reader = Reader::new(bytes);
        let sha1_log = banks.count == 0;
        (0..count).map_while(move |_| {
            if sha1_log {
                return reader.bytes(TpmHash::Sha1.size()).ok().map(|digest| (TpmHash::Sha1.id(), digest));
            }
            let algorithm = u16::from_le_bytes(reader.array().ok()?);
            let bank = banks.list.get(banks.position(algorithm)?)?;
            Some((algorithm, reader.bytes(usize::from(bank.size)).ok()?))
        })
    }
}

/// A log whose form was checked to its end.
#[derive(Clone, Copy, Debug)]
pub struct EventLog<'a> {
    bytes: &'a [u8],
    /// Where the padding begins, or the end.
    end: usize,
    spec_id: Option<SpecId<'a>>,
    banks: Banks,
    event_count: usize,
    startup_locality: Option<u8>,
    hcrtm_event: bool,
}

impl<'a> EventLog<'a> {
    /// Reads a log. Firmware hands out its whole buffer: zeros, or 0xff, to the end are padding.
    ///
    /// # Errors
    /// An [`EventLogReason`] for a log that is not in the form the specification gives it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Rejection> {
        let (spec_id, banks) = read_header(bytes)?;
        let mut log = Self {
            bytes,
            end: bytes.len(),
            spec_id,
            banks,
            event_count: 0,
            startup_locality: None,
            hcrtm_event: false,
        };
        let padding = padding_start(bytes);
        let mut reader = Reader::new(bytes);
        while reader.offset() < bytes.len() {
            let offset = reader.offset();
            if padding <= offset {
                log.end = offset;
                break;
            }
            let event = log.read_event(&mut reader)?;
            log.note(&event, offset)?;
            log.event_count = log.event_count.saturating_add(1);
        }
        Ok(log)
    }

    fn read_event(&self, reader: &mut Reader<'a>) -> Result<Event<'a>, Rejection> {
        let header = reader.offset() == 0;
        match self.spec_id {
            Some(_) if !header => read_event2(reader, self.banks),
            Some(_) | None => read_event(reader),
        }
    }

    /// Checks the event's index, and keeps what decides the start value of PCR 0.
    fn note(&mut self, event: &Event<'a>, offset: usize) -> Result<(), Rejection> {
        if event.is_extended() && u32::from(PCRS) <= event.pcr_index {
            let found = format!("{} at offset {offset}", event.pcr_index);
            return Err(EventLogReason::PcrIndex.because("an index up to 23", found));
        }
        if let Some(locality) = event.startup_locality() {
            // TPM2_Startup comes from locality 0 or 3; 4 stands for an H-CRTM (PC Client PFP 1.06, 10.4.5.3).
            if !matches!(locality, 0 | 3 | 4) {
                return Err(EventLogReason::StartupLocality.because("0, 3 or 4", locality));
            }
            if let Some(before) = self.startup_locality.filter(|before| *before != locality) {
                return Err(EventLogReason::StartupLocality.because(before, format_args!("{locality} later on")));
            }
            self.startup_locality = Some(locality);
        }
        self.hcrtm_event |= event.event_type == EventType::EV_EFI_HCRTM_EVENT && event.pcr_index == 0;
        Ok(())
    }

    /// How the events are laid out.
    #[must_use]
    pub const fn format(&self) -> LogFormat {
        match self.spec_id {
            Some(_) => LogFormat::CryptoAgile,
            None => LogFormat::Sha1,
        }
    }

    /// The header of a crypto-agile log.
    #[must_use]
    pub const fn spec_id(&self) -> Option<SpecId<'a>> {
        self.spec_id
    }

    /// The banks that the header declares, in its order; SHA-1 for a log without header.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        const SHA1: &[Bank] = &[Bank { algorithm: 0x0004, size: 20 }];
        match self.spec_id {
            Some(_) => self.banks.as_slice(),
            None => SHA1,
        }
    }

    /// Whether the log has this bank.
    #[must_use]
    pub fn has_bank(&self, hash: TpmHash) -> bool {
        self.banks().iter().any(|bank| bank.algorithm == hash.id())
    }

    /// Every event in order, the header among them.
    pub fn events(&self) -> impl Iterator<Item = Event<'a>> + use<'a> {
        let log = *self;
        let mut reader = Reader::new(log.bytes.get(..log.end).unwrap_or_default());
        // Every event was read once, with the same code.
        (0..log.event_count).map_while(move |_| log.read_event(&mut reader).ok())
    }

    /// Number of events, the header among them.
    #[must_use]
    pub const fn event_count(&self) -> usize {
        self.event_count
    }

    /// What the StartupLocality event says, if there is one.
    #[must_use]
    pub const fn startup_locality(&self) -> Option<u8> {
        self.startup_locality
    }

    /// Whether something was measured into PCR 0 before TPM2_Startup.
    #[must_use]
    pub const fn has_hcrtm_event(&self) -> bool {
        self.hcrtm_event
    }

    /// Bytes of padding after the last event.
    #[must_use]
    pub const fn trailing_padding(&self) -> usize {
        self.bytes.len().saturating_sub(self.end)
    }
}

/// Offset of the run of one value, 0 or 0xff, that reaches to the end. Found once, from the end, so that hostile zeros
/// cost nothing.
fn padding_start(bytes: &[u8]) -> usize {
    let Some(last) = bytes.last().filter(|last| matches!(last, 0 | 0xff)) else { return bytes.len() };
    bytes.iter().rposition(|byte| byte != last).map_or(0, |position| position.saturating_add(1))
}

/// The Spec ID header, if the first event is one. Any other first event makes it a log of TCG_PCR_EVENT: some firmware
/// begins those with an EV_NO_ACTION of its own.
fn read_header(bytes: &[u8]) -> Result<(Option<SpecId<'_>>, Banks), Rejection> {
    let first = read_event(&mut Reader::new(bytes)).ok().filter(|event| !event.is_extended());
    let Some(data) = first.map(|event| event.data).filter(|data| data.starts_with(SPEC_ID_03)) else {
        return Ok((None, Banks::none()));
    };
    let short = |error: ReadError| EventLogReason::Header.because("TCG_EfiSpecIDEvent", error);
    let mut reader = Reader::new(data);
    reader.bytes(SPEC_ID_03.len()).map_err(short)?;
    let platform_class = reader.u32_le().map_err(short)?;
    let [minor, major, errata, uintn_size] = reader.array().map_err(short)?;
    if major != 2 {
        return Err(EventLogReason::Header.because("specification version 2", format_args!("{major}.{minor}")));
    }
    let count = reader.u32_le().map_err(short)?;
    let mut banks = Banks::none();
    for _ in 0..count {
        let algorithm = u16::from_le_bytes(reader.array().map_err(short)?);
        let size = u16::from_le_bytes(reader.array().map_err(short)?);
        banks.push(Bank { algorithm, size })?;
    }
    if banks.count == 0 {
        return Err(EventLogReason::Header.because("at least one bank", "none"));
    }
    let vendor_info_size = reader.u8().map_err(short)?;
    let vendor_info = reader.bytes(usize::from(vendor_info_size)).map_err(short)?;
    reader.finish().map_err(short)?;
    Ok((Some(SpecId { platform_class, major, minor, errata, uintn_size, vendor_info }), banks))
}

/// TCG_PCR_EVENT (PC Client PFP 1.06, 10.2.1).
fn read_event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, Rejection> {
    let pcr_index = reader.u32_le().map_err(truncated)?;
    let event_type = EventType(reader.u32_le().map_err(truncated)?);
    let digests =
        Digests { bytes: reader.bytes(TpmHash::Sha1.size()).map_err(truncated)?, count: 1, banks: Banks::none() };
    let data = read_data(reader)?;
    Ok(Event { pcr_index, event_type, digests, data })
}

/// TCG_PCR_EVENT2 (PC Client PFP 1.06, 10.2.2): digests of declared banks only, each at most once. A bank may be
/// missing: Windows extends fewer banks than firmware does.
fn read_event2<'a>(reader: &mut Reader<'a>, banks: Banks) -> Result<Event<'a>, Rejection> {
    let pcr_index = reader.u32_le().map_err(truncated)?;
    let event_type = EventType(reader.u32_le().map_err(truncated)?);
    let count = reader.u32_le().map_err(truncated)?;
    let declared = banks.as_slice().len();
    let count = usize::try_from(count).ok().filter(|count| *count <= declared).ok_or_else(|| {
        EventLogReason::Digests
            .because(format_args!("at most {declared} digests"), format_args!("{count} in one event"))
    })?;
    let mut rest = *reader;
    let mut seen = 0_u32;
    let mut size = 0_usize;
    for _ in 0..count {
        let algorithm = u16::from_le_bytes(rest.array().map_err(truncated)?);
        let undeclared = || EventLogReason::Digests.because("a bank of the header", format_args!("{algorithm:#06x}"));
        let position = banks.position(algorithm).ok_or_else(undeclared)?;
        let bit = u32::try_from(position).ok().and_then(|position| 1_u32.checked_shl(position)).unwrap_or_default();
        if seen & bit != 0 {
            return Err(
                EventLogReason::Digests.because("one digest for each bank", format_args!("{algorithm:#06x} twice"))
            );
        }
        seen |= bit;
        let bytes = banks.list.get(position).map_or(0, |bank| usize::from(bank.size));
        rest.bytes(bytes).map_err(truncated)?;
        size = size.saturating_add(2).saturating_add(bytes);
    }
    let digests = Digests { bytes: reader.bytes(size).map_err(truncated)?, count, banks };
    let data = read_data(reader)?;
    Ok(Event { pcr_index, event_type, digests, data })
}

/// eventSize and that many bytes, where there are so many.
fn read_data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Rejection> {
    let size = reader.u32_le().map_err(truncated)?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    reader.bytes(size).map_err(truncated)
}

fn truncated(error: ReadError) -> Rejection {
    EventLogReason::Truncated.because("whole events to the end of the log", error)
}
