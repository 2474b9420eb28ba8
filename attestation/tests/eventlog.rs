//! Event logs: form, replay to signed values, and what is believed of their words.

#![expect(clippy::as_conversions, clippy::arithmetic_side_effects, clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeMap;

use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::eventlog::claims::{ExitBootServices, Separator};
use countersign_attestation::evidence::eventlog::data::read_signatures;
use countersign_attestation::evidence::eventlog::{BootClaims, EventLog, LogFormat, Measured, SecureBoot, verify};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

#[path = "../../tests/sim/eventlog.rs"]
#[expect(clippy::allow_attributes, reason = "shared by several test crates")]
#[allow(dead_code, unreachable_pub, clippy::allow_attributes_without_reason)]
mod builder;

use builder::{
    CERT_SHA256, CERT_X509, GLOBAL, LogBank, LogBuilder, LogEvent, SECURITY_DATABASE, boot_events, boot_log,
    signature_list,
};

const LINE: &str = "/vmlinuz root=UUID=1 ro";

type Signed = BTreeMap<PcrHash, PcrBank>;

fn hash_of(bank: LogBank) -> TpmHash {
    TpmHash::from_id(bank.id()).unwrap()
}

/// What a quote over everything the log extends would sign.
fn signed(log: &LogBuilder, banks: &[LogBank]) -> Signed {
    let bank = |bank: &LogBank| {
        let values = log.pcrs(*bank).into_iter().map(|(index, value)| (index, HexBytes(value))).collect();
        (hash_of(*bank).bank().unwrap(), values)
    };
    banks.iter().map(bank).collect()
}

fn claims(log: &LogBuilder) -> BootClaims {
    verify(&log.bytes(), &signed(log, &[LogBank::Sha256])).unwrap().claims()
}

fn code(bytes: &[u8], pcrs: &Signed) -> &'static str {
    verify(bytes, pcrs).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

fn parse_code(bytes: &[u8]) -> &'static str {
    EventLog::parse(bytes).map_or_else(|rejection| rejection.code(), |_| "accepted")
}

/// Offset of `needle`, which is there once.
fn find(bytes: &[u8], needle: &[u8]) -> usize {
    let mut found = bytes.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
    let (at, _) = found.next().unwrap();
    assert!(found.next().is_none(), "only once");
    at
}

fn built(events: &[LogEvent]) -> LogBuilder {
    let mut log = LogBuilder::new(&[LogBank::Sha1, LogBank::Sha256]);
    events.iter().for_each(|event| log.event(event));
    log
}

#[test]
fn a_boot_is_told_from_its_log() {
    let banks = [LogBank::Sha1, LogBank::Sha256, LogBank::Sha384];
    let log = boot_log(&banks, true, LINE);
    let pcrs = signed(&log, &banks[1..]);
    let bytes = log.bytes();
    let verified = verify(&bytes, &pcrs).unwrap();
    let told = verified.claims();
    assert_eq!(told.secure_boot, SecureBoot::On);
    assert_eq!(told.pk.measured().unwrap().contents.measured().unwrap().certificates.len(), 1);
    assert_eq!(told.dbx.measured().unwrap().contents.measured().unwrap().hashes, 2);
    assert_eq!(told.sbat_level, Measured::Measured("sbat,1,2021030218\n".to_owned()));
    assert_eq!(told.command_lines, Measured::Measured(vec![LINE.to_owned()]));
    assert_eq!(told.exit_boot_services, ExitBootServices::Reached);
    let images = told.images.measured().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[1].digest[&PcrHash::Sha384].0, LogBank::Sha384.hash(&[b"kernel"]));
    assert_eq!(told.initrds.measured().unwrap()[0].digest[&PcrHash::Sha256].0, LogBank::Sha256.hash(&[b"initrd"]));
    assert_eq!(told.files.measured().unwrap()[0].label, "(hd0,gpt1)/vmlinuz");
    assert_eq!(told.mok.measured().unwrap()[0].label, "MokList");
    assert_eq!(told.uki, Measured::Unknown, "PCR 11 was not quoted");
    assert_eq!(told.separators, (0..8).map(|index| (index, Separator::Present)).collect());
    assert!(told.extended_after_separator.is_empty() && told.unexplained.is_empty() && !told.drtm_logged);
    let kept = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<BootClaims>(&kept).unwrap(), told);
    assert!(serde_json::from_str::<BootClaims>(&kept.replacen('{', "{\"more\":1,", 1)).is_err());
}

#[test]
fn a14_a_bank_the_firmware_left_unextended_proves_nothing() {
    let mut log = LogBuilder::new(&[LogBank::Sha1, LogBank::Sha256]);
    boot_events(true, LINE).iter().for_each(|event| log.event_in(event, &[LogBank::Sha1]));
    let zero: PcrBank = (0..8).map(|index| (index, HexBytes(vec![0; 32]))).collect();
    assert_eq!(code(&log.bytes(), &[(PcrHash::Sha256, zero)].into()), "eventlog.bank.unused");
    // Extended later, by whoever runs: not what the log says.
    let later: PcrBank = (0..8).map(|index| (index, HexBytes(vec![7; 32]))).collect();
    assert_eq!(code(&log.bytes(), &[(PcrHash::Sha256, later)].into()), "eventlog.bank.unused");
    let sha384 = [(PcrHash::Sha384, PcrBank::from([(0, HexBytes(vec![0; 48]))]))].into();
    assert_eq!(code(&log.bytes(), &sha384), "eventlog.bank.missing");
}

#[test]
fn a18_signature_header_size_never_makes_a_hash_of_header_bytes() {
    let hash = [9_u8; 32];
    let honest = signature_list(&CERT_SHA256, &[], &[&hash]);
    assert_eq!(read_signatures(&honest).unwrap().hashes.len(), 1);
    // A header that looks like another signature is stepped over.
    let mut injected = vec![7; 16];
    injected.extend([1; 32]);
    let found = read_signatures(&signature_list(&CERT_SHA256, &injected, &[&hash])).unwrap();
    assert_eq!(found.hashes.iter().map(|digest| digest.0).collect::<Vec<_>>(), [hash]);
    // Sizes that do not fit into each other: header and list size, signature size, and a list beyond the end.
    for (at, values) in
        [(16, [0, 27, 75, 77, u32::MAX]), (20, [1, 47, 49, 0x8000_0000, u32::MAX]), (24, [0, 1, 15, 16, u32::MAX])]
    {
        for value in values {
            let mut broken = honest.clone();
            broken[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let refused = read_signatures(&broken).map_err(|rejection| rejection.code());
            assert_eq!(refused, Err("eventlog.signature_list"), "{value} at {at}");
        }
    }
    let mut header = honest.clone();
    header[20..24].copy_from_slice(&48_u32.to_le_bytes());
    assert_eq!(read_signatures(&header).unwrap().hashes, [], "all header, no signature");
    // A database that cannot be read is known by its digest, and nothing is said of its contents.
    let mut events = boot_events(true, LINE);
    let mut broken = honest;
    broken[20..24].copy_from_slice(&49_u32.to_le_bytes());
    events[5] = LogEvent::variable(&SECURITY_DATABASE, "dbx", &broken);
    let told = claims(&built(&events));
    assert_eq!(told.dbx.measured().unwrap().contents, Measured::Unknown);
    assert_eq!(read_signatures(&signature_list(&CERT_X509, &[], &[b"der"])).unwrap().certificates.len(), 1);
}

#[test]
fn a19_edited_data_with_its_digest_kept_is_refused_or_never_a_claim() {
    let log = boot_log(&[LogBank::Sha256], false, LINE);
    let pcrs = signed(&log, &[LogBank::Sha256]);
    // Secure Boot switched on in the log, the digest kept: the replay still holds.
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut edited = log.bytes();
    let at = find(&edited, &name) + name.len();
    edited[at] = 1;
    let replay = |bytes: &[u8]| EventLog::parse(bytes).unwrap().replay().values();
    assert_eq!(replay(&edited), replay(&log.bytes()));
    assert_eq!(code(&edited, &pcrs), "eventlog.data_edited");
    for text in [&b"Exit Boot Services Invocation"[..], b"EFI PART and so on"] {
        let mut edited = log.bytes();
        let at = find(&edited, text);
        edited[at] ^= 1;
        assert_eq!(code(&edited, &pcrs), "eventlog.data_edited");
    }
    // Called something that need not hash to its digest: then nothing is known of it.
    let mut relabelled = edited;
    let start = find(&relabelled, &name) - 32 - 4 - 32 - 2 - 4 - 4;
    assert_eq!(relabelled[start..start + 4], 0x8000_0001_u32.to_le_bytes());
    relabelled[start..start + 4].copy_from_slice(&0x0d_u32.to_le_bytes());
    assert_eq!(verify(&relabelled, &pcrs).unwrap().claims().secure_boot, SecureBoot::Unknown);
}

#[test]
fn a19_texts_that_do_not_hash_to_their_digest_are_never_claims() {
    let log = boot_log(&[LogBank::Sha256], true, LINE);
    let pcrs = signed(&log, &[LogBank::Sha256]);
    let mut edited = log.bytes();
    let at = find(&edited, format!("kernel_cmdline: {LINE}").as_bytes());
    edited[at + 20] ^= 1;
    assert_eq!(verify(&edited, &pcrs).unwrap().claims().command_lines, Measured::Unknown);
    // The label is not measured: renaming it does not make a command line vanish.
    let mut renamed = boot_events(true, LINE);
    let evil = "init=/bin/sh";
    for event in renamed.iter_mut().filter(|event| event.pcr == 8) {
        let linux = event.measured.starts_with(b"linux ");
        event.measured = if linux { format!("linux {evil}") } else { evil.to_owned() }.into_bytes();
        event.data = [b"grub_cmd: ", &event.measured[..], b"\0"].concat();
    }
    renamed.push(LogEvent::labelled(8, 0xd, LINE.as_bytes(), format!("kernel_cmdline: {LINE}\0").as_bytes()));
    let lines = claims(&built(&renamed)).command_lines;
    assert_eq!(lines, Measured::Measured(vec![evil.to_owned(), LINE.to_owned()]));
    // SbatLevel of other words than were measured.
    let mut edited = log.bytes();
    let at = find(&edited, b"2021030218");
    edited[at] = b'9';
    assert_eq!(verify(&edited, &pcrs).unwrap().claims().sbat_level, Measured::Unmeasured);
}

#[test]
fn a19_what_runs_after_the_separator_does_not_speak_for_the_firmware() {
    let without = |kinds: fn(&LogEvent) -> bool| boot_events(true, LINE).into_iter().filter(kinds).collect::<Vec<_>>();
    // Firmware that measures no SecureBoot, and a system that extends one later.
    let mut late = without(|event| !(event.pcr == 7 && event.kind == 0x8000_0001 && event.data.ends_with(&[1])));
    late.push(LogEvent::variable(&GLOBAL, "SecureBoot", &[1]));
    assert_eq!(claims(&built(&late)).secure_boot, SecureBoot::Unmeasured);
    // The true separator under another name does not move it.
    let separator = late.iter_mut().find(|event| event.pcr == 7 && event.kind == 4).unwrap();
    (separator.kind, separator.data) = (0xd, b"something else".to_vec());
    late.push(LogEvent::of(7, 0x4, &[0; 4]));
    assert_eq!(claims(&built(&late)).secure_boot, SecureBoot::Unmeasured);
    // Without any separator nothing in PCR 7 is known to be the firmware's.
    let told = claims(&built(&without(|event| !(event.pcr == 7 && event.kind == 4))));
    assert_eq!((told.secure_boot, told.separators[&7]), (SecureBoot::Unknown, Separator::Missing));
    let mut error = boot_events(true, LINE);
    let separator = error.iter_mut().find(|event| event.pcr == 3).unwrap();
    (separator.measured, separator.data) = (vec![1, 0, 0, 0], b"why".to_vec());
    error.push(LogEvent::of(2, 0x5, b"late"));
    let told = claims(&built(&error));
    assert_eq!((told.separators[&3], told.extended_after_separator), (Separator::Error, [2].into()));
}

#[test]
fn secure_boot_said_twice_counts_the_worse() {
    let cases: [(&[&[u8]], SecureBoot); 6] = [
        (&[&[1], &[0]], SecureBoot::Off),
        (&[&[0], &[1]], SecureBoot::Off),
        (&[&[]], SecureBoot::Off),
        (&[&[1], &[1]], SecureBoot::On),
        (&[&[2]], SecureBoot::Unknown),
        (&[&[1], &[1, 1]], SecureBoot::Unknown),
    ];
    for (values, expected) in cases {
        let said = values.iter().map(|value| LogEvent::variable(&GLOBAL, "SecureBoot", value));
        let events: Vec<_> = said.chain(boot_events(true, LINE).into_iter().skip(2)).collect();
        assert_eq!(claims(&built(&events)).secure_boot, expected, "{values:?}");
    }
}

#[test]
fn a_log_that_does_not_give_the_signed_values_is_refused() {
    let log = boot_log(&[LogBank::Sha256], true, LINE);
    for index in [0, 4, 7, 8, 9, 14] {
        let mut pcrs = signed(&log, &[LogBank::Sha256]);
        pcrs.get_mut(&PcrHash::Sha256).unwrap().get_mut(&index).unwrap().0[0] ^= 1;
        assert_eq!(code(&log.bytes(), &pcrs), "eventlog.replay", "PCR {index}");
    }
    assert_eq!(code(&log.bytes(), &Signed::new()), "eventlog.replay");
    let only = |index: u8| Signed::from([(PcrHash::Sha256, PcrBank::from([(index, HexBytes(vec![0; 32]))]))]);
    for index in [10, 11, 16, 23] {
        assert_eq!(code(&log.bytes(), &only(index)), "eventlog.replay", "PCR {index} alone explains nothing");
    }
    // A PCR that was not quoted gives no claims, whatever the log says.
    let mut pcrs = signed(&log, &[LogBank::Sha256]);
    pcrs.get_mut(&PcrHash::Sha256).unwrap().remove(&7);
    let bytes = log.bytes();
    let told = verify(&bytes, &pcrs).unwrap().claims();
    assert_eq!(
        (told.secure_boot, told.dbx, told.sbat_level),
        (SecureBoot::Unknown, Measured::Unknown, Measured::Unknown)
    );
}

#[test]
fn what_the_system_extended_later_is_unexplained_and_claims_nothing() {
    let mut events = boot_events(true, LINE);
    let wide = |text: &str| text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    events.push(LogEvent::labelled(11, 0xd, b".linux\0", &wide(".linux")));
    events.push(LogEvent::labelled(11, 0xd, b"a kernel", &wide(".linux")));
    events.push(LogEvent::of(12, 0xd, &wide("quiet")));
    let log = built(&events);
    let told = claims(&log);
    assert_eq!(told.uki.measured().unwrap()[0].name, ".linux");
    assert_eq!(told.uki.measured().unwrap()[0].digest[&PcrHash::Sha256].0, LogBank::Sha256.hash(&[b"a kernel"]));
    assert_eq!(told.command_lines, Measured::Measured(vec![LINE.to_owned(), "quiet".to_owned()]));
    let mut pcrs = signed(&log, &[LogBank::Sha256]);
    for index in [11, 12] {
        pcrs.get_mut(&PcrHash::Sha256).unwrap().get_mut(&index).unwrap().0[0] ^= 1;
    }
    let bytes = log.bytes();
    let told = verify(&bytes, &pcrs).unwrap().claims();
    assert_eq!(told.unexplained, [11, 12].into());
    assert_eq!((told.uki, told.command_lines), (Measured::Unknown, Measured::Unknown));
}

#[test]
fn sha1_logs_are_read_and_no_evidence() {
    let mut bytes = vec![];
    bytes.extend([0; 4]);
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(LogBank::Sha1.hash(&[b"data"]));
    bytes.extend([4, 0, 0, 0]);
    bytes.extend(b"data");
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!((log.format(), log.event_count(), log.banks().len()), (LogFormat::Sha1, 1, 1));
    let value = LogBank::Sha1.hash(&[&[0; 20], &LogBank::Sha1.hash(&[b"data"])]);
    assert_eq!(log.replay().values()[&TpmHash::Sha1][&0].0, value);
    assert_eq!(code(&bytes, &Signed::new()), "eventlog.sha1_only");
}

#[test]
fn pcr_0_starts_where_the_tpm_was_started() {
    for locality in [0, 3, 4] {
        let mut log = LogBuilder::new(&[LogBank::Sha256]);
        log.startup_locality(locality);
        log.event(&LogEvent::of(0, 8, b"version"));
        let replay = EventLog::parse(&log.bytes()).unwrap().replay();
        assert_eq!(replay.values()[&TpmHash::Sha256][&0].0, log.pcrs(LogBank::Sha256)[&0]);
    }
    let mut log = LogBuilder::new(&[LogBank::Sha256]);
    log.event(&LogEvent::of(0, 0x8000_0010, b"HCRTM"));
    let mut start = [0; 32];
    start[31] = 4;
    let expected = LogBank::Sha256.hash(&[&start, &LogBank::Sha256.hash(&[b"HCRTM"])]);
    assert_eq!(EventLog::parse(&log.bytes()).unwrap().replay().values()[&TpmHash::Sha256][&0].0, expected);
    let mut two = LogBuilder::new(&[LogBank::Sha256]);
    two.startup_locality(0);
    two.startup_locality(3);
    assert_eq!(parse_code(&two.bytes()), "eventlog.startup_locality");
    let mut one = LogBuilder::new(&[LogBank::Sha256]);
    one.startup_locality(1);
    assert_eq!(parse_code(&one.bytes()), "eventlog.startup_locality");
}

#[test]
fn a19_no_action_is_never_extended_whatever_its_pcr() {
    let mut log = boot_log(&[LogBank::Sha256], true, LINE);
    let before = EventLog::parse(&log.bytes()).unwrap().replay().values();
    for pcr in [0, 7, 23, u32::MAX] {
        log.event(&LogEvent::of(pcr, 3, b"SP800-155 Event3"));
    }
    assert_eq!(EventLog::parse(&log.bytes()).unwrap().replay().values(), before);
    let mut beyond = LogBuilder::new(&[LogBank::Sha256]);
    beyond.event(&LogEvent::of(24, 8, b""));
    assert_eq!(parse_code(&beyond.bytes()), "eventlog.pcr_index");
}

#[test]
fn padding_to_the_end_is_no_event_and_anything_else_is() {
    let log = boot_log(&[LogBank::Sha256], true, LINE);
    let count = EventLog::parse(&log.bytes()).unwrap().event_count();
    for filler in [0, 0xff] {
        for length in [1, 8, 31, 4096] {
            let bytes = [log.bytes(), vec![filler; length]].concat();
            let padded = EventLog::parse(&bytes).unwrap();
            assert_eq!((padded.event_count(), padded.trailing_padding()), (count, length));
        }
        let broken = [log.bytes(), vec![filler; 8], vec![1]].concat();
        assert_eq!(parse_code(&broken), "eventlog.truncated");
    }
    assert_eq!(EventLog::parse(&[]).unwrap().event_count(), 0);
    assert_eq!(EventLog::parse(&[0; 9]).unwrap().event_count(), 0);
    assert_eq!(code(&[], &signed(&log, &[LogBank::Sha256])), "eventlog.sha1_only");
}

#[test]
fn headers_and_digests_must_fit() {
    let bytes = LogBuilder::new(&[LogBank::Sha1, LogBank::Sha256]).bytes();
    // Offsets: version at 52, count at 56, then algorithm and size of each bank, and the vendor's size.
    let cases: [(usize, &[u8]); 8] =
        [(53, &[1]), (56, &[0]), (56, &[1]), (56, &[17]), (59, &[0xff]), (62, &[21]), (64, &[4, 0, 20]), (68, &[1])];
    for (at, change) in cases {
        let mut broken = bytes.clone();
        broken[at..at + change.len()].copy_from_slice(change);
        assert_eq!(parse_code(&broken), "eventlog.header", "{change:?} at {at}");
    }
    let mut log = LogBuilder::new(&[LogBank::Sha1, LogBank::Sha256]);
    log.event(&LogEvent::of(7, 8, b"version"));
    let first = bytes.len();
    let mut undeclared = log.bytes();
    undeclared[first + 12] = 0x99;
    assert_eq!(parse_code(&undeclared), "eventlog.digests");
    let mut twice = LogBuilder::new(&[LogBank::Sha1, LogBank::Sha256]);
    twice.event_in(&LogEvent::of(0, 8, b"version"), &[LogBank::Sha1, LogBank::Sha1]);
    assert_eq!(parse_code(&twice.bytes()), "eventlog.digests");
    for count in [3, u32::MAX] {
        let mut many = log.bytes();
        many[first + 8..first + 12].copy_from_slice(&count.to_le_bytes());
        assert_eq!(parse_code(&many), "eventlog.digests");
    }
    let mut huge = log.bytes();
    let at = huge.len() - 7 - 4;
    huge[at..at + 4].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    assert_eq!(parse_code(&huge), "eventlog.truncated");
    for end in first + 1..log.bytes().len() {
        assert_ne!(parse_code(&log.bytes()[..end]), "accepted", "cut at {end}");
    }
}

fn banks() -> impl Strategy<Value = Vec<LogBank>> {
    prop::sample::subsequence(vec![LogBank::Sha1, LogBank::Sha256, LogBank::Sha384, LogBank::Sha512], 1..=4)
}

fn event() -> impl Strategy<Value = LogEvent> {
    let kind = prop_oneof![Just(1), Just(3), Just(4), Just(0xd), Just(0x8000_0001), Just(0x8000_0003), any::<u32>()];
    (0..24_u32, kind, prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(1..0xff_u8, 1..40))
        .prop_filter("an H-CRTM moves the start", |(_, kind, ..)| *kind != 0x8000_0010)
        .prop_map(|(pcr, kind, measured, data)| LogEvent { pcr, kind, measured, data })
}

proptest! {
    #[test]
    fn what_is_built_is_read_and_replays(banks in banks(), events in prop::collection::vec(event(), 0..24)) {
        let mut log = LogBuilder::new(&banks);
        events.iter().for_each(|event| log.event(event));
        let bytes = log.bytes();
        let read = EventLog::parse(&bytes).unwrap();
        prop_assert_eq!(read.event_count(), events.len() + 1);
        for (read, built) in read.events().skip(1).zip(&events) {
            prop_assert_eq!((read.pcr_index, read.event_type.0, read.data), (built.pcr, built.kind, &built.data[..]));
            prop_assert_eq!(read.digests.iter().count(), banks.len());
        }
        for bank in banks {
            let replayed: BTreeMap<u8, Vec<u8>> =
                read.replay_bank(hash_of(bank)).extended().map(|(index, value)| (index, value.to_vec())).collect();
            prop_assert_eq!(replayed, log.pcrs(bank));
        }
    }

    #[test]
    fn a_changed_log_is_refused_or_says_the_same_digests(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let log = boot_log(&[LogBank::Sha256], true, LINE);
        let pcrs = signed(&log, &[LogBank::Sha256]);
        let mut bytes = log.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Ok(verified) = verify(&bytes, &pcrs) {
            let (told, honest) = (verified.claims(), claims(&log));
            prop_assert!(told.secure_boot == honest.secure_boot || told.secure_boot == SecureBoot::Unknown);
            let lines = told.command_lines;
            prop_assert!(lines == honest.command_lines || lines == Measured::Unknown);
            prop_assert!(told.dbx == honest.dbx || told.dbx.measured().is_none());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), header in any::<bool>()) {
        let mut log = if header { LogBuilder::new(&[LogBank::Sha256]).bytes() } else { Vec::new() };
        log.extend(&bytes);
        if let Ok(read) = EventLog::parse(&log) {
            prop_assert_eq!(read.events().count(), read.event_count());
            let _ = read.replay();
        }
        let _ = read_signatures(&bytes);
    }
}
