//! Logs made here, against registers that they give and others.
#![expect(clippy::arithmetic_side_effects, reason = "test code")]

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use alloc::{format, vec};

use aws_lc_rs::digest::{SHA384, digest};

use super::{CCEL_HEADER, DSTACK_RUNTIME, RegisterLog, RtmrClaims, RuntimeEvent, dstack_preimage, verify_registers};
use crate::claims::HexBytes;
use crate::evidence::eventlog::claims::{ExitBootServices, Measured};
use crate::evidence::eventlog::{EventType, SecureBoot};
use crate::rejection::Rejection;

const ZERO: [u8; 48] = [0; 48];

const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
const SHIM: [u8; 16] = *b"\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23";

fn sha384(data: &[u8]) -> [u8; 48] {
    digest(&SHA384, data).as_ref().try_into().unwrap()
}

fn variable(guid: [u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let length = |length: usize| u64::try_from(length).unwrap().to_le_bytes();
    [&guid[..], &length(name.len()), &length(value.len()), &units, value].concat()
}

/// One event: register index, type, what was hashed, what the log says.
#[derive(Clone)]
struct Entry {
    index: u32,
    kind: EventType,
    digest: [u8; 48],
    data: Vec<u8>,
}

fn entry(index: u32, kind: EventType, data: &[u8]) -> Entry {
    Entry { index, kind, digest: sha384(data), data: data.to_vec() }
}

fn entry_of(index: u32, kind: EventType, hashed: &[u8], data: &[u8]) -> Entry {
    Entry { digest: sha384(hashed), ..entry(index, kind, data) }
}

fn write(entries: &[Entry]) -> Vec<u8> {
    let mut log = CCEL_HEADER.to_vec();
    for Entry { index, kind, digest, data } in entries {
        log.extend(index.to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend([1, 0, 0, 0, 0x0c, 0]);
        log.extend(digest);
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log
}

/// The registers after these events, by the definition of an extension.
fn registers(entries: &[Entry]) -> [[u8; 48]; 4] {
    let mut registers = [ZERO; 4];
    for entry in entries.iter().filter(|entry| entry.kind != EventType::EV_NO_ACTION && entry.index != 0) {
        let register = &mut registers[usize::try_from(entry.index).unwrap() - 1];
        *register = sha384(&[*register, entry.digest].concat());
    }
    registers
}

fn code(verdict: Result<RtmrClaims, Rejection>) -> &'static str {
    verdict.map_or_else(|rejection| rejection.code(), |_| "accepted")
}

/// The log of a boot: firmware, shim, GRUB, Linux.
fn boot() -> Vec<Entry> {
    use EventType as Type;
    let linux = "linux /vmlinuz root=/dev/vda1 quiet";
    vec![
        entry_of(1, Type::EV_EFI_HANDOFF_TABLES2, b"the TD's tables", b"\x09TdxTable\0"),
        entry(1, Type::EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(GLOBAL, "SecureBoot", &[1])),
        entry(1, Type::EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(GLOBAL, "PK", &[])),
        entry(1, Type::EV_SEPARATOR, &[0; 4]),
        entry(1, Type::EV_EFI_VARIABLE_BOOT2, &variable(GLOBAL, "BootOrder", &[1, 0])),
        entry_of(1, Type::EV_EFI_VARIABLE_BOOT, &[1, 0], &variable(GLOBAL, "Boot0001", &[1, 0])),
        entry(2, Type::EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        entry(2, Type::EV_SEPARATOR, &[0; 4]),
        entry_of(2, Type::EV_EFI_BOOT_SERVICES_APPLICATION, b"shim", &[0; 32]),
        entry(1, Type::EV_EFI_VARIABLE_AUTHORITY, &variable(SHIM, "SbatLevel", b"sbat,1,2021030218\n")),
        entry_of(3, Type::EV_IPL, b"keys", b"MokList\0"),
        entry_of(3, Type::EV_IPL, linux.as_bytes(), format!("grub_cmd: {linux}\0").as_bytes()),
        entry_of(3, Type::EV_IPL, b"the kernel", b"/vmlinuz\0"),
        entry(2, Type::EV_EFI_ACTION, b"Exit Boot Services Invocation"),
        entry(2, Type::EV_EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]
}

fn app(event: &str, payload: &[u8]) -> Entry {
    entry(4, DSTACK_RUNTIME, &dstack_preimage(event, payload))
}

#[test]
fn a_boot_is_told_from_the_registers() {
    let claims = verify_registers(&write(&boot()), &registers(&boot())).unwrap();
    assert_eq!(claims.replayed, [0, 1, 2].into());
    assert_eq!(claims.unexplained, [].into());
    assert_eq!(claims.boot.secure_boot, SecureBoot::On);
    assert!(matches!(&claims.boot.pk, Measured::Measured(_)));
    // Another of firmware's events there has words that its digest is not of: what is not told may hide in it.
    assert_eq!(claims.boot.db, Measured::Unknown);
    let Measured::Measured(authorities) = &claims.boot.authorities else { panic!("authorities") };
    let names: Vec<_> = authorities.iter().map(|authority| authority.variable.as_str()).collect();
    assert_eq!(names, ["SbatLevel"], "boot variables let nothing be loaded");
    assert_eq!(claims.boot.sbat_level, Measured::Measured("sbat,1,2021030218\n".to_string()));
    assert!(matches!(&claims.boot.images, Measured::Measured(images) if images.len() == 1));
    assert_eq!(claims.boot.exit_boot_services, ExitBootServices::Reached);
    assert_eq!(claims.command_lines, ["/vmlinuz root=/dev/vda1 quiet"]);
    // The kernel's digest may be of another command line, for all that the log says.
    assert_eq!(claims.boot.command_lines, Measured::Unknown);
    assert_eq!(claims.boot.initrds, Measured::Unknown);
    assert_eq!(claims.boot.uki, Measured::Unknown);
    let Measured::Measured(files) = &claims.boot.files else { panic!("files") };
    assert_eq!((files[0].pcr, files[0].label.as_str()), (9, "/vmlinuz"));
    assert!(claims.runtime.is_empty());
    claims.check_whole().unwrap();
}

#[test]
fn command_lines_are_all_there_where_everything_is_text() {
    let mut entries = boot();
    entries.retain(|entry| entry.index != 3 || entry.data.starts_with(b"grub_cmd"));
    let claims = verify_registers(&write(&entries), &registers(&entries)).unwrap();
    assert_eq!(claims.boot.command_lines, Measured::Measured(vec!["/vmlinuz root=/dev/vda1 quiet".to_string()]));
    assert_eq!(claims.boot.files, Measured::Unmeasured);
}

#[test]
fn an_empty_log_never_proves_a_zero_register() {
    let zero = [ZERO; 4];
    assert_eq!(code(verify_registers(CCEL_HEADER, &zero)), "rtmr.log.empty");
    let padded = [&CCEL_HEADER[..], &[0xff; 64]].concat();
    assert_eq!(code(verify_registers(&padded, &zero)), "rtmr.log.empty");
    assert_eq!(code(verify_registers(b"[]", &zero)), "rtmr.log.empty");
    // What is only said, and what went into MRTD, extends no register.
    let said = [entry(1, EventType::EV_NO_ACTION, b"said"), entry(0, EventType::EV_EFI_HANDOFF_TABLES2, b"built")];
    assert_eq!(code(verify_registers(&write(&said), &zero)), "rtmr.log.empty");
    // A register that nothing extends is in no claim, zero or not.
    let claims = verify_registers(&write(&boot()), &registers(&boot())).unwrap();
    assert!(!claims.replayed.contains(&3) && !claims.unexplained.contains(&3));
}

#[test]
fn c11_every_register_that_the_log_extends_must_replay() {
    let mut entries = boot();
    entries.extend([app("app-id", b"\x01\x02"), app("compose-hash", &[7; 32])]);
    let quoted = registers(&entries);
    let claims = verify_registers(&write(&entries), &quoted).unwrap();
    let dstack = |event: &str, payload: &[u8]| RuntimeEvent::Dstack {
        event: event.to_string(),
        payload: HexBytes(payload.to_vec()),
    };
    assert_eq!(claims.runtime, [dstack("app-id", &[1, 2]), dstack("compose-hash", &[7; 32])]);
    // RTMR3 with one event more, one less, or in another order.
    let more = [entries.clone(), vec![app("app-id", b"\x09")]].concat();
    assert_eq!(code(verify_registers(&write(&more), &quoted)), "rtmr.replay");
    assert_eq!(code(verify_registers(&write(&entries[..entries.len() - 1]), &quoted)), "rtmr.replay");
    let mut swapped = entries.clone();
    let last = swapped.len() - 1;
    swapped.swap(last, last - 1);
    assert_eq!(code(verify_registers(&write(&swapped), &quoted)), "rtmr.replay");
    // Neighbours of different registers may change places.
    let mut neighbours = entries.clone();
    neighbours.swap(8, 9);
    assert_eq!(code(verify_registers(&write(&neighbours), &quoted)), "accepted");
    for register in 0..4 {
        let mut other = quoted;
        other[register][47] ^= 1;
        assert_eq!(code(verify_registers(&write(&entries), &other)), "rtmr.replay", "RTMR{register}");
    }
    // A log that says nothing of a register: firmware's must be told of, the others are dropped, and a recorded log
    // that drops any is not whole.
    for (register, verdict) in [(0, "rtmr.replay"), (1, "rtmr.replay"), (2, "accepted"), (3, "accepted")] {
        let without: Vec<Entry> = entries.iter().filter(|entry| entry.index != register + 1).cloned().collect();
        let claims = verify_registers(&write(&without), &quoted);
        if let Ok(claims) = &claims {
            assert_eq!(claims.unexplained, [u8::try_from(register).unwrap()].into());
            assert_eq!(claims.check_whole().map_err(|r| r.code()), Err("rtmr.replay"));
            assert_eq!(claims.runtime.is_empty(), register == 3);
            assert_eq!(claims.command_lines.is_empty(), register == 2);
        }
        assert_eq!(code(claims), verdict, "RTMR{register}");
    }
}

#[test]
fn event_data_counts_only_where_its_hash_is_the_digest() {
    let quoted = registers(&boot());
    for (at, verdict) in [
        (1, "eventlog.data_edited"),
        (3, "eventlog.data_edited"),
        (6, "eventlog.data_edited"),
        (9, "rtmr.data_edited"),
        (13, "eventlog.data_edited"),
    ] {
        let mut entries = boot();
        let last = entries[at].data.len() - 1;
        entries[at].data[last] ^= 1;
        assert_eq!(code(verify_registers(&write(&entries), &quoted)), verdict, "event {at}");
        let log = write(&entries);
        assert_eq!(RegisterLog::read(&log).unwrap().check_data().map_err(|r| r.code()), Err(verdict));
    }
    // Text that is not what was measured is no command line.
    let mut entries = boot();
    entries[11].data = b"grub_cmd: linux /vmlinuz ima_appraise=off\0".to_vec();
    let claims = verify_registers(&write(&entries), &quoted).unwrap();
    assert!(claims.command_lines.is_empty());
    // Nor does another type make Secure Boot's variable vanish: the register is the firmware's until its separator.
    let mut entries = boot();
    entries[1].kind = EventType::EV_PLATFORM_CONFIG_FLAGS;
    let claims = verify_registers(&write(&entries), &quoted).unwrap();
    assert_eq!(claims.boot.secure_boot, SecureBoot::On);
    // What is measured after it is not the firmware's.
    let mut entries = boot();
    entries.remove(1);
    entries.push(entry(1, EventType::EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(GLOBAL, "SecureBoot", &[1])));
    let claims = verify_registers(&write(&entries), &registers(&entries)).unwrap();
    assert_eq!(claims.boot.secure_boot, SecureBoot::Unknown);
    // Of a runtime event that was edited nothing is left, and dstack's own are refused.
    let mut entries = [boot(), vec![entry(4, EventType::EV_EVENT_TAG, b"LEAA"), app("app-id", b"\x01")]].concat();
    let quoted = registers(&entries);
    entries[15].data = b"LEAB".to_vec();
    let claims = verify_registers(&write(&entries), &quoted).unwrap();
    assert_eq!(claims.runtime[0], RuntimeEvent::Digest { digest: HexBytes(sha384(b"LEAA").to_vec()) });
    entries[16].data = dstack_preimage("app-id", b"\x02");
    assert_eq!(code(verify_registers(&write(&entries), &quoted)), "rtmr.data_edited");
}

#[test]
fn logs_have_sha384_alone_registers_up_to_rtmr3_and_one_digest_for_each_event() {
    let quoted = registers(&boot());
    let good = write(&boot());
    for padding in [0x00, 0xff] {
        let padded = [good.clone(), vec![padding; 100]].concat();
        assert_eq!(code(verify_registers(&padded, &quoted)), "accepted");
        assert_eq!(RegisterLog::read(&padded).unwrap().end(), good.len());
        let behind = [padded, vec![7]].concat();
        assert!(verify_registers(&behind, &quoted).is_err());
    }
    assert_eq!(code(verify_registers(&write(&[entry(5, EventType::EV_IPL, b"x")]), &quoted)), "rtmr.log.register");
    let mut none = good.clone();
    none.extend([1, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee]);
    none.pop();
    none.extend([1, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x77]);
    assert_eq!(code(verify_registers(&none, &quoted)), "rtmr.log.digest");
    // SHA-256 in its place, and beside it.
    let mut sha256 = CCEL_HEADER.to_vec();
    sha256[60..64].copy_from_slice(&[0x0b, 0, 32, 0]);
    assert_eq!(code(verify_registers(&sha256, &quoted)), "rtmr.log.format");
    let mut both = CCEL_HEADER.to_vec();
    both[28] += 4;
    both[56] = 2;
    both.splice(64..64, [0x0b, 0, 32, 0]);
    assert_eq!(code(verify_registers(&both, &quoted)), "rtmr.log.format");
    assert_eq!(code(verify_registers(&[], &quoted)), "rtmr.log.format");
}

fn json(entries: &[Entry]) -> String {
    let event = |entry: &Entry| {
        let (name, payload) = match entry.kind {
            DSTACK_RUNTIME => {
                let at = entry.data[5..].iter().position(|byte| *byte == b':').unwrap() + 5;
                (String::from_utf8(entry.data[5..at].to_vec()).unwrap(), hex::encode(&entry.data[at + 1..]))
            }
            EventType(_) => (String::new(), hex::encode(&entry.data)),
        };
        let (imr, kind, digest) = (entry.index - 1, entry.kind.0, hex::encode(entry.digest));
        format!(
            r#"{{"imr":{imr},"event_type":{kind},"digest":"{digest}","event":"{name}","event_payload":"{payload}"}}"#
        )
    };
    format!("[\n{}]", entries.iter().map(event).collect::<Vec<_>>().join(","))
}

#[test]
fn dstacks_log_is_the_same_log() {
    let entries = [boot(), vec![app("system-ready", b""), app("key-provider", b"{}")]].concat();
    let quoted = registers(&entries);
    let text = json(&entries);
    let (binary, claims) =
        (verify_registers(&write(&entries), &quoted).unwrap(), verify_registers(text.as_bytes(), &quoted).unwrap());
    assert_eq!((binary.boot, binary.runtime), (claims.boot, claims.runtime));
    let refused = |from: &str, to: &str| {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        code(verify_registers(changed.as_bytes(), &quoted))
    };
    assert_eq!(refused(r#""imr":0"#, r#""imr":4"#), "rtmr.log.register");
    assert_eq!(refused(r#""imr":0"#, r#""imr":-1"#), "rtmr.log.json");
    assert_eq!(refused(r#""imr":0"#, r#""imr":0,"imr":0"#), "rtmr.log.json");
    assert_eq!(refused(r#""imr":0"#, r#""imr":0,"pcr":0"#), "rtmr.log.json");
    assert_eq!(refused(r#""digest":""#, r#""digest":"00"#), "rtmr.log.json");
    assert_eq!(refused(r#""digest":""#, r#""digest":"x"#), "rtmr.log.json");
    assert_eq!(
        refused(&format!(r#""event_type":{}"#, EventType::EV_SEPARATOR.0), r#""event_type":3"#),
        "rtmr.log.json"
    );
    assert_eq!(refused("system-ready", "system-steady"), "rtmr.data_edited");
    assert_eq!(refused("system-ready", "system:ready"), "rtmr.log.json");
    assert_eq!(refused("7b7d", "7b7e"), "rtmr.data_edited");
    assert_eq!(code(verify_registers(format!("{text} x").as_bytes(), &quoted)), "rtmr.log.json");
    // What firmware measured may be left out: then its digest is all there is.
    let mut stripped = entries.clone();
    stripped.iter_mut().filter(|entry| entry.kind != DSTACK_RUNTIME).for_each(|entry| entry.data.clear());
    let claims = verify_registers(json(&stripped).as_bytes(), &quoted).unwrap();
    assert_eq!(claims.boot.secure_boot, SecureBoot::Unknown);
    assert_eq!(code(verify_registers(&write(&stripped), &quoted)), "eventlog.data_edited");
}
