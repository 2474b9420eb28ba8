//! The workload authority as relying parties see it: issuing certificates under name constraints, and what the broker
//! says of its keys.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use countersign_attestation::result::authorities::Authorities;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{
    ExecutionCredential, TrustDomain, check_client_chain, check_issuing, name_constraints,
};
use countersign_attestation::result::x509_svid::X509Svid;
use countersign_attestation::{Rejection, UnixMillis};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

#[path = "../../tests/sim/issuer.rs"]
mod issuer;
use issuer::{Authority, AuthorityOrder, Issuer, Order, TokenKey, extension};

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);
const DOMAIN: &str = "fleet.test";

fn code<T>(result: Result<T, Rejection>) -> Result<(), &'static str> {
    result.map(drop).map_err(|rejection| rejection.code())
}

fn domain() -> TrustDomain {
    TrustDomain::parse(DOMAIN).unwrap()
}

/// An issuing certificate of the trust domain.
fn sound() -> AuthorityOrder {
    AuthorityOrder {
        is_ca: IsCa::Ca(BasicConstraints::Constrained(0)),
        key_usages: vec![KeyUsagePurpose::KeyCertSign],
        name_constraints: Some((name_constraints(&domain()), true)),
        ..AuthorityOrder::new("Issuing")
    }
}

fn root() -> Authority {
    Authority::root(AuthorityOrder { is_ca: IsCa::Ca(BasicConstraints::Constrained(1)), ..AuthorityOrder::new("Root") })
}

#[test]
fn the_constraint_is_the_documented_der() {
    let expected = [&[0x30, 0x10, 0xa0, 0x0e, 0x30, 0x0c, 0x86, 0x0a][..], b"fleet.test"].concat();
    assert_eq!(name_constraints(&domain()), expected);
    // Through the system's own reader: OpenSSL's path builder honours it, see the tests with real processes.
}

#[test]
fn a_name_outside_of_the_constraints_of_its_issuer_is_refused() {
    let root = root();
    let issuing = root.intermediate(sound());
    let roots = [root.der()];
    let leaf = |domain: &str| issuing.issue(&Order::new(domain, "a", &extension(1), NOW)).der;
    let own = leaf(DOMAIN);
    assert_eq!(code(ExecutionCredential::verify(&[&own, &issuing.der()], &roots, &domain(), NOW)), Ok(()));
    for other in ["fleet.test.example", "other.test", "a.fleet.test"] {
        let (leaf, outside) = (leaf(other), Err("x509.path.name_constraints"));
        let other = TrustDomain::parse(other).unwrap();
        // Whoever serves that trust domain by the same root is not fooled either.
        assert_eq!(code(ExecutionCredential::verify(&[&leaf, &issuing.der()], &roots, &other, NOW)), outside);
        assert_eq!(code(X509Svid::verify(&[&leaf, &issuing.der()], &roots, &other, NOW)), outside);
        assert_eq!(code(check_client_chain(&[&leaf, &issuing.der()], &roots, NOW)), outside);
    }
    // What is not processed rejects, also where it is not marked critical (RFC 5280, 4.2).
    let dns = vec![0x30, 0x09, 0xa0, 0x07, 0x30, 0x05, 0x82, 0x03, b'a', b'.', b'b'];
    let issuing = root.intermediate(AuthorityOrder { name_constraints: Some((dns, false)), ..sound() });
    let leaf = issuing.issue(&Order::new(DOMAIN, "a", &extension(1), NOW)).der;
    let verified = ExecutionCredential::verify(&[&leaf, &issuing.der()], &roots, &domain(), NOW);
    assert_eq!(code(verified), Err("x509.path.name_constraints"));
}

#[test]
fn an_issuing_certificate_is_all_that_and_nothing_more() {
    let root = root();
    let roots = [Issuer::new(DOMAIN).authority.der(), root.der()];
    let check = |order: AuthorityOrder| code(check_issuing(&root.intermediate(order).der(), &roots, &domain(), NOW));
    assert_eq!(check(sound()), Ok(()));
    assert_eq!(check(AuthorityOrder { name_constraints: None, ..sound() }), Ok(()));
    assert_eq!(check(AuthorityOrder { is_ca: IsCa::ExplicitNoCa, ..sound() }), Err("x509.issuer.not_ca"));
    for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::Ca(BasicConstraints::Constrained(1))] {
        assert_eq!(check(AuthorityOrder { is_ca, ..sound() }), Err("x509.issuer.path_length"));
    }
    let key_usages = vec![KeyUsagePurpose::CrlSign];
    assert_eq!(check(AuthorityOrder { key_usages, ..sound() }), Err("x509.issuer.key_usage"));
    let other = name_constraints(&TrustDomain::parse("other.test").unwrap());
    for name_constraints in [(other, true), (name_constraints(&domain()), false)] {
        let order = AuthorityOrder { name_constraints: Some(name_constraints), ..sound() };
        assert_eq!(check(order), Err("x509.path.name_constraints"));
    }
    assert_eq!(check(AuthorityOrder { not_after: NOW, ..sound() }), Err("x509.expired"));
    let stranger = Authority::root(AuthorityOrder::new("Stranger")).intermediate(sound());
    assert_eq!(code(check_issuing(&stranger.der(), &roots, &domain(), NOW)), Err("x509.path.none"));
    assert_eq!(code(check_issuing(&stranger.der(), &[], &domain(), NOW)), Err("result.svid.chain"));
}

#[test]
fn a_root_for_issuing_authorities_allows_none_below_them() {
    let root = root();
    let issuing = root.intermediate(AuthorityOrder { is_ca: IsCa::Ca(BasicConstraints::Unconstrained), ..sound() });
    let below = issuing.intermediate(AuthorityOrder { name: "Below", ..sound() });
    let leaf = below.issue(&Order::new(DOMAIN, "a", &extension(1), NOW)).der;
    let chain = [leaf.as_slice(), &below.der(), &issuing.der()];
    let verified = ExecutionCredential::verify(&chain, &[root.der()], &domain(), NOW);
    assert_eq!(code(verified), Err("x509.issuer.path_length"));
}

#[test]
fn a_client_is_certified_as_one() {
    let root = root();
    let issuing = root.intermediate(sound());
    let usages = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let order = Order { extended_key_usages: usages, ..Order::new(DOMAIN, "a", &extension(1), NOW) };
        code(check_client_chain(&[&issuing.issue(&order).der, &issuing.der()], &[root.der()], NOW))
    };
    assert_eq!(usages(vec![]), Ok(()));
    assert_eq!(usages(vec![ExtendedKeyUsagePurpose::ClientAuth]), Ok(()));
    assert_eq!(usages(vec![ExtendedKeyUsagePurpose::ServerAuth]), Err("result.svid.profile"));
    assert_eq!(code(check_client_chain(&[], &[root.der()], NOW)), Err("result.svid.chain"));
}

fn read(issuer: &Issuer, said: &Authorities, now: UnixMillis) -> Result<(), &'static str> {
    code(Authorities::verify(&issuer.authorities_token(said), &issuer.keys(), &domain(), now))
}

#[test]
fn a_statement_of_keys_is_of_the_trust_domain_of_now_and_by_a_key_that_is_held() {
    let issuer = Issuer::new(DOMAIN);
    let next = TokenKey::new();
    let said = issuer.authorities(JwkSet::new([issuer.key.jwk(), next.jwk()]), &[vec![1]], NOW);
    assert_eq!(read(&issuer, &said, NOW), Ok(()));
    let token = issuer.authorities_token(&said);
    let verified = Authorities::verify(&token, &issuer.keys(), &domain(), NOW).unwrap();
    assert_eq!(*verified, said);
    assert_eq!(verified.issuing().collect::<Vec<_>>(), [[1]]);
    // The key that comes next says nothing before it is known.
    let by_next = Issuer { key: next, ..Issuer::new(DOMAIN) }.authorities_token(&said);
    let early = Authorities::verify(&by_next, &issuer.keys(), &domain(), NOW);
    assert_eq!(code(early), Err("result.token.unknown_key"));
    assert_eq!(code(Authorities::verify(&by_next, &verified.keys, &domain(), NOW)), Ok(()));
    let other = Authorities { iss: TrustDomain::parse("other.test").unwrap(), ..said.clone() };
    assert_eq!(read(&issuer, &other, NOW), Err("result.authorities.issuer"));
    let dates = Err("result.authorities.dates");
    assert_eq!(read(&issuer, &said, said.exp), dates);
    assert_eq!(read(&issuer, &said, UnixMillis(said.exp.0 - 1)), Ok(()));
    assert_eq!(read(&issuer, &said, UnixMillis(NOW.0 - 1000)), Ok(()), "a clock that is a little behind");
    assert_eq!(read(&issuer, &said, UnixMillis(NOW.0 - 1001)), dates);
    assert_eq!(read(&issuer, &Authorities { exp: said.exp.plus(1), ..said.clone() }, NOW), dates, "too long");
    let many = issuer.authorities(issuer.keys(), &vec![vec![1]; 17], NOW);
    assert_eq!(read(&issuer, &many, NOW), Err("result.token.payload"));
    let none = Authorities { keys: JwkSet::new([]), ..said };
    assert_eq!(read(&issuer, &none, NOW), Err("result.token.payload"));
}
