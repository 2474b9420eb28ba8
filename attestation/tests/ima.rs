//! Measurement lists against quoted values: what is reached, what is withheld, what is changed (A21).

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use countersign_attestation::claims::{HexBytes, PcrBank, PcrHash};
use countersign_attestation::evidence::ima::{
    BootAggregate, DigestKind, Extension, HashAlgorithm, ImaList, ImaState, Replay, VerifiedIma, ascii, verify,
};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use proptest::prelude::*;

#[path = "../../tests/sim/ima.rs"]
mod sim;

use sim::{KernelExtends, Measured, d_ng, d_ngv2, list, n_ng, replay};

const BANKS: [(PcrHash, &digest::Algorithm); 3] =
    [(PcrHash::Sha256, &digest::SHA256), (PcrHash::Sha384, &digest::SHA384), (PcrHash::Sha512, &digest::SHA512)];

/// Quoted values of the first `banks` banks after `entries`.
fn quoted(entries: &[Measured], extends: KernelExtends, banks: usize) -> BTreeMap<PcrHash, PcrBank> {
    let mut quoted = BTreeMap::new();
    for (bank, hash) in BANKS.into_iter().take(banks) {
        let values = replay(entries, hash, extends).into_iter();
        quoted.insert(bank, values.map(|(pcr, value)| (u8::try_from(pcr).unwrap(), HexBytes(value))).collect());
    }
    quoted
}

fn files(count: u8) -> Vec<Measured> {
    let file = |n: u8| match n % 5 {
        0 => Measured::ng(&format!("/usr/bin/tool-{n}"), &[n; 32]),
        1 => Measured::sig(&format!("/usr/lib/lib{n}.so"), &[n; 32], &[3, 2, 4, 1, 2, 3, 4, 0, 1, n]),
        2 => Measured::legacy(&format!("/sbin/old-{n}"), &[n; 20]),
        3 => Measured::buf(".ima", &[n; 100]),
        _ => Measured::of(10, "d-ngv2|n-ng", &[d_ngv2("verity", "sha512", &[n; 64]), n_ng(&format!("/opt/{n}"))]),
    };
    (1..=count).map(file).collect()
}

fn code<T>(result: Result<T, countersign_attestation::Rejection>) -> Result<(), &'static str> {
    result.map(|_| ()).map_err(|rejection| rejection.code())
}

fn check(entries: &[Measured], quoted_after: &[Measured]) -> Result<(), &'static str> {
    code(verify(&list(entries), &ImaState::start(), &quoted(quoted_after, KernelExtends::Own, 2)))
}

#[test]
fn a_list_leads_to_its_quoted_values_in_every_bank() {
    let entries = files(40);
    let bytes = list(&entries);
    let verified = verify(&bytes, &ImaState::start(), &quoted(&entries, KernelExtends::Own, 3)).unwrap();
    assert_eq!(verified.entries().count(), 40);
    assert_eq!((verified.state().entries, verified.unattested(), verified.violations()), (40, 0, 0));
    assert!(!verified.extends_sha1() && verified.attests_pcr(10) && !verified.attests_pcr(11));
    let (index, sixth) = verified.entries().nth(5).unwrap();
    assert_eq!((index, sixth.name()), (5, &b"/usr/lib/lib6.so"[..]));
    assert_eq!(sixth.data().digest.unwrap().algorithm, HashAlgorithm::Sha256);
    let (_, fourth) = verified.entries().nth(3).unwrap();
    let digest = fourth.data().digest.unwrap();
    assert_eq!((digest.kind, digest.algorithm), (DigestKind::Verity, HashAlgorithm::Sha512));
    let kept: ImaState = serde_json::from_str(&serde_json::to_string(verified.state()).unwrap()).unwrap();
    assert_eq!(&kept, verified.state());
}

#[test]
fn a21_a_tampered_template_is_refused() {
    let entries = files(10);
    let quoted = quoted(&entries, KernelExtends::Own, 1);
    for at in 0..10 {
        let mut bytes = list(&entries[..at]);
        let mut entry = entries[at].bytes();
        let last = entry.len() - 1;
        // The last byte of a field, but not the zero that ends a name.
        let place = if entry[last] == 0 { last - 1 } else { last };
        entry[place] ^= 1;
        bytes.extend_from_slice(&entry);
        bytes.extend_from_slice(&list(&entries[at + 1..]));
        let refused = code(verify(&bytes, &ImaState::start(), &quoted));
        assert_eq!(refused, Err("ima.template.hash"), "entry {at}");
    }
    // With its template hash made anew, the list no longer leads to the quote.
    let mut changed = entries.clone();
    changed[4] = Measured::ng("/usr/bin/other", &[9; 32]);
    assert_eq!(check(&changed, &entries), Err("ima.pcr.mismatch"));
    // Zeroed, it would be a violation, and that was not extended.
    changed[4] = Measured { violation: true, ..entries[4].clone() };
    assert_eq!(check(&changed, &entries), Err("ima.pcr.mismatch"));
}

#[test]
fn a21_the_padded_sha1_of_an_old_kernel_does_not_cover_for_a_tampered_template() {
    let entries = files(6);
    let quoted = quoted(&entries, KernelExtends::PaddedSha1, 1);
    let mut bytes = list(&entries[..5]);
    let mut entry = Measured::ng("/usr/bin/evil", &[6; 32]).bytes();
    entry[4..24].copy_from_slice(&entries[5].bytes()[4..24]);
    bytes.extend_from_slice(&entry);
    assert_eq!(code(verify(&bytes, &ImaState::start(), &quoted)), Err("ima.template.hash"));
}

#[test]
fn a21_violations_are_counted_in_every_way_a_kernel_extends_them() {
    let mut entries = files(3);
    entries.push(Measured::violation("/var/log/syslog"));
    entries.extend(files(2));
    for (extends, extension) in [
        (KernelExtends::Own, Extension::TemplateHash),
        (KernelExtends::PaddedSha1, Extension::PaddedSha1),
        (KernelExtends::PaddedSha1FullViolation, Extension::PaddedSha1FullViolation),
    ] {
        let bytes = list(&entries);
        let verified = verify(&bytes, &ImaState::start(), &quoted(&entries, extends, 2)).unwrap();
        assert_eq!(verified.violations(), 1);
        assert_eq!(verified.entries().filter(|(_, entry)| entry.is_violation()).count(), 1);
        assert_eq!(verified.state().extensions[&PcrHash::Sha256], extension);
        assert_eq!(verified.extends_sha1(), extends != KernelExtends::Own);
    }
    // One left out, or one that was not there.
    let without: Vec<_> = entries.iter().filter(|entry| !entry.violation).cloned().collect();
    assert_eq!(check(&without, &entries), Err("ima.pcr.mismatch"));
    assert_eq!(check(&entries, &without), Err("ima.pcr.mismatch"));
}

#[test]
fn banks_of_one_kernel_may_be_extended_differently() {
    let entries = files(7);
    let mut mixed = quoted(&entries, KernelExtends::Own, 2);
    mixed.extend(quoted(&entries, KernelExtends::PaddedSha1FullViolation, 3).into_iter().skip(2));
    let bytes = list(&entries);
    let verified = verify(&bytes, &ImaState::start(), &mixed).unwrap();
    assert_eq!(verified.state().extensions[&PcrHash::Sha384], Extension::TemplateHash);
    assert_eq!(verified.state().extensions[&PcrHash::Sha512], Extension::PaddedSha1);
    assert!(verified.extends_sha1());
    // Both banks must be at one entry.
    let mut apart = quoted(&entries, KernelExtends::Own, 1);
    apart.extend(quoted(&entries[..6], KernelExtends::Own, 2).into_iter().skip(1));
    assert_eq!(code(verify(&bytes, &ImaState::start(), &apart)), Err("ima.pcr.mismatch"));
}

#[test]
fn a_list_may_run_ahead_of_the_quote_and_never_behind() {
    let entries = files(20);
    let bytes = list(&entries);
    let verified = verify(&bytes, &ImaState::start(), &quoted(&entries[..15], KernelExtends::Own, 1)).unwrap();
    assert_eq!((verified.state().entries, verified.unattested(), verified.entries().count()), (15, 5, 15));
    for shown in 0..20 {
        assert_eq!(check(&entries[..shown], &entries), Err("ima.pcr.mismatch"), "{shown} of 20 entries");
    }
    // The part beyond the quote is no evidence, but must be entries.
    let mut cut = bytes.clone();
    cut.truncate(bytes.len() - 1);
    let refused = code(verify(&cut, &ImaState::start(), &quoted(&entries[..15], KernelExtends::Own, 1)));
    assert_eq!(refused, Err("ima.list.malformed"));
}

#[test]
fn renewals_judge_new_entries_only() {
    let entries = files(30);
    let whole = list(&entries);
    let verify_whole = verify(&whole, &ImaState::start(), &quoted(&entries, KernelExtends::Own, 2)).unwrap();
    for extends in [KernelExtends::Own, KernelExtends::PaddedSha1] {
        let mut state = ImaState::start();
        for (from, to) in [(0, 12), (12, 12), (12, 13), (13, 30)] {
            let bytes = list(&entries[from..to]);
            let verified = verify(&bytes, &state, &quoted(&entries[..to], extends, 2)).unwrap();
            assert_eq!(verified.first(), u64::try_from(from).unwrap());
            let indexes: Vec<u64> = verified.entries().map(|(index, _)| index).collect();
            assert_eq!(indexes, (u64::try_from(from).unwrap()..u64::try_from(to).unwrap()).collect::<Vec<_>>());
            state = verified.state().clone();
        }
        assert_eq!(state.entries, 30);
        if extends == KernelExtends::Own {
            assert_eq!(&state, verify_whole.state());
        }
    }
}

fn state_after(entries: &[Measured]) -> ImaState {
    let bytes = list(entries);
    verify(&bytes, &ImaState::start(), &quoted(entries, KernelExtends::Own, 1)).unwrap().state().clone()
}

#[test]
fn a21_an_offset_that_goes_back_or_skips_is_refused() {
    let entries = files(20);
    let state = state_after(&entries[..10]);
    let quoted = quoted(&entries, KernelExtends::Own, 1);
    for from in (0..20).filter(|from| *from != 10) {
        let refused = code(verify(&list(&entries[from..]), &state, &quoted));
        assert_eq!(refused, Err("ima.pcr.mismatch"), "entries from {from} on, known up to 10");
    }
    assert_eq!(code(verify(&list(&entries[10..]), &state, &quoted)), Ok(()));
    let refused = code(verify(&list(&entries[10..]), &ImaState::start(), &quoted));
    assert_eq!(refused, Err("ima.pcr.mismatch"), "the rest alone");
}

#[test]
fn a21_the_list_of_a_previous_boot_is_refused() {
    let (before, now) = (files(20), files(12).split_off(2));
    let quoted = quoted(&now, KernelExtends::Own, 1);
    assert_eq!(check(&before, &now), Err("ima.pcr.mismatch"));
    let state = state_after(&before);
    assert_eq!(code(verify(&list(&now), &state, &quoted)), Err("ima.pcr.mismatch"), "the last boot's state");
    assert_eq!(code(verify(&[], &state, &quoted)), Err("ima.pcr.mismatch"), "nothing new since the last boot");
    assert_eq!(code(verify(&list(&now), &ImaState::start(), &quoted)), Ok(()));
}

#[test]
fn within_a_boot_the_kernel_does_not_change_its_way() {
    let entries = files(8);
    let state = state_after(&entries[..4]);
    let mut value = state.pcrs[&10][&PcrHash::Sha256].0.clone();
    for entry in &entries[4..] {
        value.extend_from_slice(&entry.extended(&digest::SHA256, KernelExtends::PaddedSha1));
        value = digest::digest(&digest::SHA256, &value).as_ref().to_vec();
    }
    let quoted = BTreeMap::from([(PcrHash::Sha256, BTreeMap::from([(10, HexBytes(value))]))]);
    assert_eq!(code(verify(&list(&entries[4..]), &state, &quoted)), Err("ima.pcr.mismatch"));
}

#[test]
fn entries_of_several_pcrs_are_replayed_apart() {
    let of_pcr = |(n, entry): (usize, Measured)| if n % 3 == 0 { entry.in_pcr(11) } else { entry };
    let entries: Vec<_> = files(30).into_iter().enumerate().map(of_pcr).collect();
    let bytes = list(&entries);
    let both = quoted(&entries, KernelExtends::Own, 2);
    let verified = verify(&bytes, &ImaState::start(), &both).unwrap();
    assert_eq!((verified.entries().count(), verified.attests_pcr(11)), (30, true));
    // The other PCR not quoted: its entries are no evidence.
    let mut ten = both.clone();
    ten.values_mut().for_each(|bank| bank.retain(|pcr, _| *pcr == 10));
    let verified = verify(&bytes, &ImaState::start(), &ten).unwrap();
    assert_eq!((verified.entries().count(), verified.attests_pcr(11)), (20, false));
    assert!(verified.entries().all(|(_, entry)| entry.pcr() == 10));
    // Quoted, but changed by others.
    let mut other = both.clone();
    other.get_mut(&PcrHash::Sha256).unwrap().insert(11, HexBytes(vec![7; 32]));
    assert_eq!(code(verify(&bytes, &ImaState::start(), &other)), Err("ima.pcr.mismatch"));
    // A history of another PCR in place of IMA's.
    let moved: Vec<_> = entries.iter().cloned().map(|entry| entry.in_pcr(11)).collect();
    let eleven = quoted(&moved, KernelExtends::Own, 1);
    assert_eq!(code(verify(&list(&moved), &ImaState::start(), &eleven)), Err("ima.pcr.not_quoted"));
}

#[test]
fn a_pcr_that_nothing_extended_proves_nothing() {
    let zero = BTreeMap::from([(PcrHash::Sha256, BTreeMap::from([(10, HexBytes(vec![0; 32]))]))]);
    assert_eq!(code(verify(&[], &ImaState::start(), &zero)), Err("ima.pcr.unextended"));
    assert_eq!(code(verify(&list(&files(3)), &ImaState::start(), &zero)), Err("ima.pcr.unextended"));
    assert_eq!(code(verify(&[], &ImaState::start(), &BTreeMap::new())), Err("ima.pcr.not_quoted"));
    let other = BTreeMap::from([(PcrHash::Sha256, BTreeMap::from([(0, HexBytes(vec![1; 32]))]))]);
    assert_eq!(code(verify(&list(&files(3)), &ImaState::start(), &other)), Err("ima.pcr.not_quoted"));
}

#[test]
fn a_state_without_the_quoted_bank_needs_the_whole_list() {
    let entries = files(9);
    let state = state_after(&entries[..5]);
    let more = quoted(&entries, KernelExtends::Own, 2);
    assert_eq!(code(verify(&list(&entries[5..]), &state, &more)), Err("ima.state.incomplete"));
    let mut damaged = state.clone();
    damaged.pcrs.get_mut(&10).unwrap().insert(PcrHash::Sha256, HexBytes(vec![1; 20]));
    let one = quoted(&entries, KernelExtends::Own, 1);
    assert_eq!(code(verify(&list(&entries[5..]), &damaged, &one)), Err("ima.state.incomplete"));
}

#[test]
fn boot_aggregates_are_compared_with_the_quoted_pcrs() {
    let firmware: BTreeMap<u8, HexBytes> = (0..10).map(|pcr| (pcr, HexBytes(vec![pcr + 1; 32]))).collect();
    let aggregate = |count: usize| {
        let all: Vec<u8> = firmware.values().take(count).flat_map(|value| value.0.clone()).collect();
        <[u8; 32]>::try_from(digest::digest(&digest::SHA256, &all).as_ref()).unwrap()
    };
    let judge = |first: Measured, lacking: &[u8]| {
        let entries = [first];
        let mut quoted = quoted(&entries, KernelExtends::Own, 1);
        let bank = quoted.get_mut(&PcrHash::Sha256).unwrap();
        bank.extend(firmware.clone().into_iter().filter(|(pcr, _)| !lacking.contains(pcr)));
        let bytes = list(&entries);
        let verified = verify(&bytes, &ImaState::start(), &quoted).unwrap();
        let (_, entry) = verified.entries().next().unwrap();
        verified.boot_aggregate(&entry)
    };
    let named = |digest: &[u8; 32]| Measured::ng("boot_aggregate", digest);
    assert_eq!(judge(named(&aggregate(10)), &[]), BootAggregate::OfThisBoot);
    assert_eq!(judge(named(&aggregate(8)), &[]), BootAggregate::OfThisBoot);
    assert_eq!(judge(named(&aggregate(9)), &[]), BootAggregate::Differs);
    assert_eq!(judge(named(&aggregate(8)), &[8, 9]), BootAggregate::OfThisBoot);
    assert_eq!(judge(named(&aggregate(10)), &[9]), BootAggregate::NotQuoted, "PCR 9 is not there to tell");
    assert_eq!(judge(named(&aggregate(10)), &[0]), BootAggregate::NotQuoted);
    assert_eq!(judge(Measured::legacy("boot_aggregate", &[1; 20]), &[]), BootAggregate::NotQuoted);
    assert_eq!(judge(Measured::violation("boot_aggregate"), &[]), BootAggregate::Differs);
}

#[test]
fn templates_are_read_strictly() {
    let digest = d_ng("sha256", &[1; 32]);
    let refuse = |template: &str, fields: &[Vec<u8>]| {
        let bytes = Measured::of(10, template, fields).bytes();
        ImaList::new(&bytes).entries().next().unwrap().map(|_| ()).map_err(|rejection| rejection.code())
    };
    let data = Err("ima.template.data");
    assert_eq!(refuse("ima-ng", &[digest.clone(), n_ng("/a")]), Ok(()));
    assert_eq!(refuse("ima-ng", &[digest.clone(), b"/a".to_vec()]), data, "a name without its zero");
    assert_eq!(refuse("ima-ng", &[digest.clone(), b"/a\0b\0".to_vec()]), data, "a zero in a name");
    assert_eq!(refuse("ima-ng", &[digest.clone(), Vec::new()]), data);
    assert_eq!(refuse("ima-ng", &[d_ng("sha256", &[1; 31]), n_ng("/a")]), data, "a digest of another length");
    assert_eq!(refuse("ima-ng", &[d_ng("sha257", &[1; 32]), n_ng("/a")]), data);
    assert_eq!(refuse("ima-ng", &[b"sha256:".to_vec(), n_ng("/a")]), data);
    assert_eq!(refuse("ima-ng", core::slice::from_ref(&digest)), data, "a field missing");
    assert_eq!(refuse("ima-ng", &[digest.clone(), n_ng("/a"), Vec::new()]), data, "a field too many");
    assert_eq!(refuse("ima-ngv2", &[d_ngv2("file", "sha256", &[1; 32]), n_ng("/a")]), data);
    assert_eq!(refuse("ima-ngv2", &[d_ngv2("ima", "sha256", &[1; 32]), n_ng("/a")]), Ok(()));
    assert_eq!(refuse("d|n", &[vec![1; 20], n_ng("/a")]), Ok(()));
    assert_eq!(refuse("d|n", &[vec![1; 16], n_ng("/a")]), Ok(()), "MD5");
    assert_eq!(refuse("d|n", &[vec![1; 32], n_ng("/a")]), data);
    assert_eq!(refuse("d|d-ng", &[vec![1; 20], digest.clone()]), data, "two digests");
    assert_eq!(refuse("imode", &[vec![1; 4]]), data);
    assert_eq!(refuse("iuid|igid|imode", &[vec![1; 4], Vec::new(), vec![1; 2]]), Ok(()));
    let modsig = [digest.clone(), n_ng("/m.ko"), Vec::new(), digest.clone(), vec![9; 70]];
    assert_eq!(refuse("ima-modsig", &modsig), Ok(()));
    let evm = [
        digest.clone(),
        n_ng("/a"),
        vec![5, 2],
        n_ng("security.ima"),
        vec![4],
        vec![4],
        vec![0; 4],
        vec![0; 4],
        vec![0; 2],
    ];
    assert_eq!(refuse("evm-sig", &evm), Ok(()));
    for unknown in ["", "ima-next", "d-ng|", "|d-ng", "d-ng|d-ng", "d-ng|x", "IMA"] {
        assert_eq!(refuse(unknown, core::slice::from_ref(&digest)), Err("ima.template.unknown"), "{unknown}");
    }
    let long = ["d-ng"; 16].join("|");
    assert_eq!(refuse(&long, &[]), Err("ima.template.unknown"));
    assert_eq!(refuse(&"x".repeat(256), &[]), Err("ima.template.unknown"));
    let bytes = Measured::ng("/a", &[1; 32]).in_pcr(24).bytes();
    let pcr = ImaList::new(&bytes).entries().next().unwrap().map(|_| ()).map_err(|rejection| rejection.code());
    assert_eq!(pcr, Err("ima.entry.pcr"));
}

#[test]
fn lengths_beyond_the_list_are_refused_before_use() {
    let bytes = Measured::ng("/a", &[1; 32]).bytes();
    // The template's name, its data, and the first field.
    for at in [24, 34, 38] {
        let mut hostile = bytes.clone();
        hostile[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let quoted = quoted(&files(1), KernelExtends::Own, 1);
        assert!(verify(&hostile, &ImaState::start(), &quoted).is_err(), "length at {at}");
    }
    let mut legacy = Measured::legacy("/a", &[1; 20]).bytes();
    let at = legacy.len() - 6;
    legacy[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(ImaList::new(&legacy).entries().next().unwrap().is_err());
    let long = Measured::legacy(&"a".repeat(255), &[1; 20]);
    assert!(ImaList::new(&long.bytes()).entries().next().unwrap().is_ok());
    let mut longer = Measured::legacy("", &[1; 20]);
    longer.written = [vec![1; 20], 256_u32.to_le_bytes().to_vec(), vec![b'a'; 256]].concat();
    assert!(ImaList::new(&longer.bytes()).entries().next().unwrap().is_err());
}

/// The ASCII line that the kernel prints for `ima-ng`, `ima-sig` and the legacy template.
fn line(entry: &Measured, fields: &str) -> String {
    let hash = hex::encode(&entry.bytes()[4..24]);
    format!("{:2} {hash} {} {fields}\n", entry.pcr, String::from_utf8_lossy(&entry.template))
}

#[test]
fn ascii_lists_become_the_binary_ones() {
    let digest = format!("sha256:{}", "01".repeat(32));
    let name = "/srv/a name (deleted)";
    let evm = [
        d_ng("sha256", &[1; 32]),
        n_ng("/a"),
        vec![5, 2],
        n_ng("security.ima|security.evm"),
        vec![4],
        vec![7],
        1000_u32.to_le_bytes().to_vec(),
        Vec::new(),
        33188_u16.to_le_bytes().to_vec(),
    ];
    let cases = [
        (Measured::ng("/usr/bin/a", &[1; 32]), format!("{digest} /usr/bin/a")),
        (Measured::sig("/usr/bin/a", &[1; 32], &[3, 2]), format!("{digest} /usr/bin/a 0302")),
        (Measured::sig("/usr/bin/a", &[1; 32], &[]), format!("{digest} /usr/bin/a ")),
        (Measured::sig(name, &[1; 32], &[3]), format!("{digest} {name} 03")),
        (Measured::legacy(name, &[2; 20]), format!("{} {name}", "02".repeat(20))),
        (Measured::violation("/var/log/x"), format!("sha256:{} /var/log/x", "00".repeat(32))),
        (Measured::of(8, "n-ng|d-ng", &[n_ng(name), d_ng("sha256", &[1; 32])]), format!("{name} {digest}")),
        (
            Measured::of(10, "ima-ngv2", &[d_ngv2("verity", "sha256", &[1; 32]), n_ng("/a")]),
            format!("verity:{digest} /a"),
        ),
        (Measured::of(10, "evm-sig", &evm), format!("{digest} /a 0502 security.ima|security.evm 04 07 1000  33188")),
    ];
    let text: String = cases.iter().map(|(entry, fields)| line(entry, fields)).collect();
    let entries: Vec<Measured> = cases.iter().map(|(entry, _)| entry.clone()).collect();
    let (binary, hash) = ascii::to_binary(text.as_bytes()).unwrap();
    assert_eq!((binary, hash), (list(&entries), TpmHash::Sha1));
    let (binary, _) = ascii::to_binary(text.trim_end().as_bytes()).unwrap();
    assert_eq!(Replay::of(ImaList::new(&binary), &[TpmHash::Sha256], Extension::TemplateHash).unwrap().entries, 9);
    let hash = "ab".repeat(20);
    for refused in [
        "".to_owned(),
        "\n".to_owned(),
        "10".to_owned(),
        format!("10 {hash} ima-ng"),
        format!("10 {hash} ima-ng {digest}"),
        format!("10 {hash} ima-sig {digest} /a"),
        format!("+10 {hash} ima-ng {digest} /a"),
        format!("10 {hash}0 ima-ng {digest} /a"),
        format!("10 {}00 ima-ng {digest} /a", hash),
        format!("10 {hash} ima-ng sha256:xx /a"),
        format!("10 {hash} ima-sig {digest} /a 0g"),
        format!("10 {hash} d-ng|imode {digest} 65536"),
        format!("10 {hash} d-ng|sig {digest} 03 02"),
        format!("10 {hash} ima-ng {digest} /a\n\n10 {hash} ima-ng {digest} /a"),
        format!("10 {hash} ima-ng {digest} /a\n10 {hash}{} ima-ng {digest} /a", "ab".repeat(12)),
    ] {
        assert_eq!(code(ascii::to_binary(refused.as_bytes())), Err("ima.list.malformed"), "{refused}");
    }
    assert_eq!(code(ascii::to_binary(format!("10 {hash} no-ima x").as_bytes())), Err("ima.template.unknown"));
}

fn any_entry() -> impl Strategy<Value = Measured> {
    let name = "[a-zA-Z0-9/._-]{1,60}";
    prop_oneof![
        (name, any::<[u8; 32]>()).prop_map(|(name, digest)| Measured::ng(&name, &digest)),
        (name, any::<[u8; 32]>(), proptest::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(name, digest, signature)| Measured::sig(&name, &digest, &signature)),
        (name, any::<[u8; 20]>()).prop_map(|(name, digest)| Measured::legacy(&name, &digest)),
        (name, proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(name, data)| Measured::buf(&name, &data)),
        name.prop_map(|name| Measured::violation(&name)),
        (name, any::<[u8; 32]>(), 8_u32..15).prop_map(|(name, digest, pcr)| Measured::ng(&name, &digest).in_pcr(pcr)),
    ]
}

fn any_list() -> impl Strategy<Value = Vec<Measured>> {
    proptest::collection::vec(any_entry(), 1..30).prop_map(|mut entries| {
        entries.insert(0, Measured::ng("boot_aggregate", &[1; 32]));
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_prefix_in_any_parts_leads_to_the_same_state(
        entries in any_list(), cut in any::<prop::sample::Index>(), end in any::<prop::sample::Index>(),
    ) {
        let end = end.index(entries.len()) + 1;
        let cut = cut.index(end) + 1;
        let bytes = list(&entries);
        let at_once = verify(&bytes, &ImaState::start(), &quoted(&entries[..end], KernelExtends::Own, 2)).unwrap();
        let first = list(&entries[..cut]);
        let first = verify(&first, &ImaState::start(), &quoted(&entries[..cut], KernelExtends::Own, 2)).unwrap();
        let rest = list(&entries[cut..]);
        let rest = verify(&rest, first.state(), &quoted(&entries[..end], KernelExtends::Own, 2));
        // A PCR whose first entry comes later is no IMA PCR of the first part; its values are the same all the same.
        let rest = rest.expect("the rest goes on where the first part ended");
        prop_assert_eq!(rest.state(), at_once.state());
        prop_assert_eq!(rest.violations() + first.violations(), at_once.violations());
    }

    #[test]
    fn a21_no_changed_byte_below_the_quote_goes_unnoticed(
        entries in any_list(), at in any::<prop::sample::Index>(), flip in 1_u8..,
    ) {
        let mut bytes = list(&entries);
        let quoted = quoted(&entries, KernelExtends::Own, 1);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(verified) = verify(&bytes, &ImaState::start(), &quoted) {
            // Only what a violation says is not covered.
            let said = |verified: &VerifiedIma<'_>| {
                verified.entries().filter(|(_, entry)| !entry.is_violation())
                    .map(|(index, entry)| (index, entry.pcr(), entry.template_hash().to_vec(), entry.name().to_vec()))
                    .collect::<Vec<_>>()
            };
            let original = list(&entries);
            let original = verify(&original, &ImaState::start(), &quoted).unwrap();
            let (found, mut covered) = (said(&verified), said(&original));
            let all = covered.len();
            // An entry that is alone in its PCR, moved to one that was not quoted, leaves its PCR unattested: rules
            // that name either of the two deny. Of every PCR that is attested, all is as it was.
            covered.retain(|(_, pcr, _, _)| verified.attests_pcr(*pcr));
            let the_same_pcrs = covered.len() == all;
            prop_assert_eq!(found, covered);
            prop_assert!(!the_same_pcrs || entries.iter().any(|entry| entry.violation));
        }
    }

    #[test]
    fn hostile_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let quoted = quoted(&files(2), KernelExtends::Own, 1);
        prop_assert!(verify(&bytes, &ImaState::start(), &quoted).is_err());
        let _ = ascii::to_binary(&bytes);
    }
}
