//! Conceptual message wrappers (RFC 9999): what is one, what is not, and the signed form.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign_attestation::cmw::{Cmw, ContentType, Label, verify_signed};
use countersign_attestation::signature::{PublicKey, Scheme};
use countersign_attestation::x509::Certificate;

fn code(bytes: &[u8]) -> Result<Cmw, &'static str> {
    Cmw::decode(bytes).map_err(|rejection| rejection.code())
}

fn cbor(hex: &str) -> Result<Cmw, &'static str> {
    code(&hex::decode(hex.replace(' ', "")).unwrap())
}

fn record(cmw: Cmw) -> countersign_attestation::cmw::Record {
    match cmw {
        Cmw::Record(record) => record,
        Cmw::Collection(_) => panic!("a collection"),
    }
}

#[test]
fn records_say_the_same_in_json_cbor_and_as_a_tag() {
    let json = record(code(br#"[30001,"3q2-7w"]"#).unwrap());
    assert_eq!(json.content, ContentType::ContentFormat(30001));
    assert_eq!((json.value.as_slice(), json.indicator), (&[0xde, 0xad, 0xbe, 0xef][..], None));
    assert_eq!(record(cbor("82 197531 44deadbeef").unwrap()), json);
    // TN(30001) = 0x63740101 + 117 * 256 + 166.
    assert_eq!(record(cbor("da 637476a7 44deadbeef").unwrap()), json);
    let named = record(code(br#"["application/eat+cwt; eat_profile=\"tag:x,2026:y\"","",31]"#).unwrap());
    assert_eq!((named.value.len(), named.indicator), (0, Some(31)));
}

#[test]
fn what_is_no_record_is_refused() {
    for (text, expected) in [
        ("", "cmw.form"),
        ("[]", "cmw.form"),
        ("[1]", "cmw.form"),
        (r#"[1,"YQ",1,1]"#, "cmw.form"),
        (r#"[1,"YQ"] "x""#, "cmw.form"),
        (r#"[1.5,"YQ"]"#, "cmw.form"),
        (r#"[-1,"YQ"]"#, "cmw.form"),
        (r#"[1,2]"#, "cmw.form"),
        (r#"[65536,"YQ"]"#, "cmw.type"),
        (r#"["application","YQ"]"#, "cmw.type"),
        (r#"["/x","YQ"]"#, "cmw.type"),
        (r#"["a/b;","YQ"]"#, "cmw.type"),
        (r#"["a/b c","YQ"]"#, "cmw.type"),
        (r#"[1,"YQ=="]"#, "cmw.value"),
        (r#"[1,"YR"]"#, "cmw.value"),
        (r#"[1,"YQ",32]"#, "cmw.indicator"),
        (r#"[1,"YQ",4294967296]"#, "cmw.indicator"),
    ] {
        assert_eq!(code(text.as_bytes()), Err(expected), "{text}");
    }
    for (hex, expected) in [
        ("80", "cmw.form"),
        ("82 01 41", "cmw.form"),
        ("82 01 4100 00", "cmw.form"),
        ("9f 01 4100 ff", "cmw.form"),
        ("a1 00", "cmw.form"),
        ("f6", "cmw.form"),
        ("82 20 4100", "cmw.type"),
        ("82 1a00010000 4100", "cmw.type"),
        ("82 01 6161", "cmw.value"),
        ("82 01 5f4100ff", "cmw.value"),
        ("83 01 4100 20", "cmw.indicator"),
        ("83 01 4100 1820", "cmw.indicator"),
        // A byte of zero in the tag, and the first tag beyond.
        ("da 63740200 4100", "cmw.type"),
        ("da 63750101 4100", "cmw.type"),
        ("c1 4100", "cmw.type"),
        ("da 63740101 01", "cmw.value"),
    ] {
        assert_eq!(cbor(hex), Err(expected), "{hex}");
    }
}

#[test]
fn collections_have_entries_each_under_its_own_label() {
    let text = br#"{"__cmwc_t":"tag:x,2026:y","a":[1,"YQ"],"b":{"__cmwc_t":"1.3.6","c":[2,""]}}"#;
    let Ok(Cmw::Collection(collection)) = code(text) else { panic!("no collection") };
    assert_eq!(collection.collection_type.as_deref(), Some("tag:x,2026:y"));
    assert_eq!(collection.entries.len(), 2);
    let Ok(Cmw::Collection(mixed)) = cbor("a2 20 82014100 6161 82014100") else { panic!("no collection") };
    assert_eq!(mixed.entries.keys().cloned().collect::<Vec<_>>(), [Label::Integer(-1), Label::Text("a".to_owned())]);
    for text in [
        "{}",
        r#"{"__cmwc_t":"1.2.3"}"#,
        r#"{"a":{}}"#,
        r#"{"a":[1,""],"a":[1,""]}"#,
        r#"{"":[1,""]}"#,
        r#"{"__cmwc_t":"nothing","a":[1,""]}"#,
        r#"{"__cmwc_t":"3.1","a":[1,""]}"#,
        r#"{"__cmwc_t":"1.02","a":[1,""]}"#,
        r#"{"__cmwc_t":"1","a":[1,""]}"#,
        r#"{"__cmwc_t":"1.2","__cmwc_t":"1.2","a":[1,""]}"#,
    ] {
        assert_eq!(code(text.as_bytes()), Err("cmw.collection"), "{text}");
    }
    for hex in ["a0", "a1 00 a0", "a2 00 820140 00 820140", "a1 40 820140", "b90101"] {
        assert_eq!(cbor(hex), Err("cmw.collection"), "{hex}");
    }
    assert_eq!(cbor("bf 00 820140 ff"), Err("cmw.form"), "of indefinite length");
}

/// A bomb costs a refusal, whatever it is made of.
#[test]
fn e13_depth_size_and_entries_are_bounded() {
    let nested = |depth: usize| format!("{}[1,\"\"]{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    assert!(code(nested(7).as_bytes()).is_ok());
    for depth in [8, 9, 100_000] {
        assert_eq!(code(nested(depth).as_bytes()), Err("cmw.depth"), "{depth}");
    }
    assert_eq!(code(&[0xa1, 0x00].repeat(100_000)), Err("cmw.depth"));
    assert_eq!(code(&vec![b'['; 16 * 1024 * 1024 + 1]), Err("cmw.too_large"));
    assert_eq!(cbor("bb ffffffffffffffff"), Err("cmw.collection"));
    assert_eq!(cbor("82 01 5b ffffffffffffffff"), Err("cmw.form"));
    let many: Vec<String> = (0..257).map(|entry| format!("\"{entry}\":[1,\"\"]")).collect();
    assert_eq!(code(format!("{{{}}}", many.join(",")).as_bytes()), Err("cmw.collection"));
}

/// A byte string in its shortest form, as Sig_structure wants it.
fn bytes(content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    let head = if length < 24 { vec![0x40 + length] } else { vec![0x58, length] };
    [&head[..], content].concat()
}

/// A COSE_Sign1 over `payload` with this protected header, and the key that signed it.
fn signed(protected: &[u8], payload: &[u8], edit: impl Fn(&mut Vec<u8>)) -> (Vec<u8>, PublicKey) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let structure = [b"\x84\x6aSignature1", &bytes(protected)[..], b"\x40", &bytes(payload)].concat();
    let signature = pair.sign(&SystemRandom::new(), &structure).unwrap();
    let mut message =
        [b"\xd2\x84", &bytes(protected)[..], b"\xa0", &bytes(payload), &bytes(signature.as_ref())].concat();
    edit(&mut message);
    (message, PublicKey::new(Scheme::EcdsaP256Sha256, pair.public_key().as_ref().to_vec()))
}

#[test]
fn a_signed_wrapper_is_read_from_what_the_key_signed() {
    let content = [b"\x03\x74", &b"application/cmw+cbor"[..]].concat();
    let header = |members: u8, parts: &[&[u8]]| [&[0xa0 + members], &parts.concat()[..]].concat();
    let good = header(2, &[b"\x01\x26", &content]);
    let payload = [0x82, 0x01, 0x41, 0x61];
    let judge = |protected: &[u8], edit: &dyn Fn(&mut Vec<u8>)| {
        let (message, key) = signed(protected, &payload, edit);
        verify_signed(&message, &key).map(|cmw| record(cmw.into_inner()).value).map_err(|rejection| rejection.code())
    };
    let keep = |_: &mut Vec<u8>| {};
    assert_eq!(judge(&good, &keep), Ok(b"a".to_vec()));
    for (protected, expected) in [
        (header(1, &[&content]), "cmw.signed.form"),
        (header(1, &[b"\x01\x26"]), "cmw.signed.form"),
        (header(2, &[b"\x01\x26", b"\x03\x61x"]), "cmw.signed.form"),
        (header(3, &[b"\x01\x26", &content, b"\x01\x26"]), "cmw.signed.form"),
        (header(3, &[b"\x01\x26", &content, b"\x02\x81\x01"]), "cmw.signed.form"),
        (header(2, &[b"\x01\x38\x22", &content]), "cmw.signed.algorithm"),
        (header(2, &[b"\x01\x05", &content]), "cmw.signed.algorithm"),
    ] {
        assert_eq!(judge(&protected, &keep), Err(expected), "{}", hex::encode(&protected));
    }
    let (untagged, tagged_otherwise) = (
        |message: &mut Vec<u8>| {
            message.remove(0);
        },
        |message: &mut Vec<u8>| {
            message[0] = 0xd1;
        },
    );
    assert_eq!(judge(&good, &untagged), Err("cmw.signed.form"));
    assert_eq!(judge(&good, &tagged_otherwise), Err("cmw.signed.form"));
    assert_eq!(judge(&good, &|message| message.push(0)), Err("cmw.signed.form"));
    let last = |message: &mut Vec<u8>| *message.last_mut().unwrap() ^= 1;
    assert_eq!(judge(&good, &last), Err("cmw.signed.signature"));
    let (message, _) = signed(&good, &payload, keep);
    let (_, other) = signed(&good, &payload, keep);
    assert_eq!(verify_signed(&message, &other).unwrap_err().code(), "cmw.signed.signature");
}

#[test]
fn a_certificate_without_the_extension_holds_no_wrapper() {
    let key = rcgen::KeyPair::generate().unwrap();
    let with = |content: Option<&[u8]>| {
        let mut params = rcgen::CertificateParams::default();
        if let Some(content) = content {
            let oid = [1, 3, 6, 1, 5, 5, 7, 1, 35];
            params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&oid, content.to_vec()));
        }
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Cmw::of_certificate(&Certificate::parse(&der).unwrap()).map_err(|rejection| rejection.code())
    };
    let cbor = with(Some(b"\x04\x04\x82\x01\x41\x61")).unwrap();
    assert_eq!(with(Some(b"\x0c\x08[1,\"YQ\"]")).unwrap(), cbor);
    assert_eq!(with(None), Err("cmw.x509_extension"));
    assert_eq!(with(Some(b"\x16\x08[1,\"YQ\"]")), Err("cmw.x509_extension"), "an IA5String");
    assert_eq!(with(Some(b"\x04\x04\x82\x01\x41\x61\x00")), Err("cmw.x509_extension"), "trailing bytes");
    assert_eq!(with(Some(b"\x04\x01\x80")), Err("cmw.form"));
}
