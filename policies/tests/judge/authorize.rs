//! What operators' policies at a gate let trusted hosts ask, and which of them do not load.

use std::net::IpAddr;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::protocol::HostId;
use countersign_policies::authorize::{Action, Asked, AuthorizationSet, Caller, Resource};
use countersign_policies::finding::Finding;
use proptest::prelude::*;

const NOW: UnixMillis = UnixMillis(1_795_408_496_007);
const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

/// A request, everything in order; tests change one thing.
struct Case {
    host: &'static str,
    assurance: Assurance,
    generation: u64,
    waivers: Vec<String>,
    method: &'static str,
    path: &'static str,
    name: Option<&'static str>,
    peer: Option<&'static str>,
}

const GET: Case = Case {
    host: "gpu-1",
    assurance: Assurance::Hardware,
    generation: 0,
    waivers: Vec::new(),
    method: "GET",
    path: "/v1/models",
    name: Some("api.test"),
    peer: Some("192.0.2.7"),
};

fn ask(policy: &str, case: &Case) -> Result<Vec<String>, Finding> {
    let set = AuthorizationSet::parse(&[("p", policy)]).unwrap();
    let host = HostId::parse(case.host).unwrap();
    let caller = Caller { host: &host, assurance: case.assurance, generation: case.generation, waivers: &case.waivers };
    let asked = Asked {
        action: Action::parse(case.method)?,
        resource: Resource::parse(case.path)?,
        host: case.name.map(str::to_owned),
        peer: case.peer.map(|peer| peer.parse::<IpAddr>().unwrap()),
    };
    set.authorize(&caller, &asked, NOW).map(|permit| permit.policies().to_vec())
}

fn code(policy: &str, case: &Case) -> Result<(), &'static str> {
    ask(policy, case).map(drop).map_err(|finding| {
        assert!(!finding.remedy.is_empty() && !finding.expected.is_empty(), "{finding}");
        finding.code
    })
}

fn refused(texts: &[(&str, &str)]) -> &'static str {
    AuthorizationSet::parse(texts).map(|set| set.digest()).unwrap_err().code
}

#[test]
fn a_permit_names_itself_and_everything_else_is_denied() {
    let policy = r#"@id("models") permit (principal, action == Action::"http:GET", resource in Path::"/v1/models");"#;
    assert_eq!(ask(policy, &GET).unwrap(), ["p/models"]);
    for path in ["/v1/models/", "/v1/models/llama", "/v1/models?limit=3", "/v1/models/a%20b/c"] {
        assert_eq!(code(policy, &Case { path, ..GET }), Ok(()), "{path}");
    }
    for path in ["/", "/v1", "/v1/modelsx", "/v1/model", "/V1/models", "/x/v1/models"] {
        assert_eq!(code(policy, &Case { path, ..GET }), Err("authorize.no_permit"), "{path}");
    }
    assert_eq!(code(policy, &Case { method: "POST", ..GET }), Err("authorize.no_permit"));
}

#[test]
fn e21_an_action_that_nobody_knows_is_denied() {
    for method in ["TRACE", "CONNECT", "get", "PROPFIND", "", "GET ", "http:GET"] {
        assert_eq!(code(ALL, &Case { method, ..GET }), Err("authorize.action"), "{method}");
    }
    for action in Action::ALL {
        let method = action.name().strip_prefix("http:").unwrap();
        assert_eq!(Action::parse(method).unwrap(), action);
    }
}

#[test]
fn e14_a_path_with_two_readings_is_denied() {
    let readings = [
        "",
        "*",
        "v1",
        "//",
        "//v1",
        "/v1//models",
        "/v1/models//",
        "/./v1",
        "/v1/..",
        "/v1/../admin",
        "/v1/.",
        "/%2e%2e/admin",
        "/v1%2fadmin",
        "/v1%2Fadmin",
        "/v1%5cadmin",
        "/v1\\admin",
        "/v1%00",
        "/v1/\0",
        "/%61dmin",
        "/v1%",
        "/v1%2",
        "/v1%zz",
        "/v1%252fadmin",
        "/admin;x=1",
        "/..;/admin",
        "/v1%3badmin",
        "/v1#x",
        "/v1%23x",
        "/v1%0a",
        "/v1\n",
        "/v1/%ff",
        "/v1/%7f",
        "http://other/v1",
    ];
    for path in readings {
        assert_eq!(code(ALL, &Case { path, ..GET }), Err("authorize.resource"), "{path:?}");
    }
    let long: &'static str = format!("/{}", "a".repeat(8 * 1024)).leak();
    let deep: &'static str = "/a".repeat(65).leak();
    for path in [long, deep] {
        assert_eq!(code(ALL, &Case { path, ..GET }), Err("authorize.resource"));
    }
    let whole: &'static str = "/a".repeat(64).leak();
    for path in ["/", "/.well-known/x", "/...", "/caf%C3%A9", "/a%20b", "/a?b/../c%00", whole] {
        assert_eq!(code(ALL, &Case { path, ..GET }), Ok(()), "{path}");
    }
}

/// A pattern over paths would be one more reading; `in` knows segments.
#[test]
fn a_policy_decides_about_the_decoded_path() {
    let policy = r#"permit (principal, action, resource == Path::"/files/a b?c");"#;
    assert_eq!(code(policy, &Case { path: "/files/a%20b%3Fc", ..GET }), Ok(()));
    assert_eq!(code(policy, &Case { path: "/files/a%20b?c", ..GET }), Err("authorize.no_permit"));
}

#[test]
fn a_forbid_outweighs_every_permit_and_explains_itself() {
    let admin = r#"@id("admin") @reason("no fleet host administers") @remedy("use the bastion")
        forbid (principal, action, resource in Path::"/admin");"#;
    let policy = format!("{ALL}{admin}");
    assert_eq!(code(&policy, &GET), Ok(()));
    let finding = ask(&policy, &Case { path: "/admin/users", ..GET }).unwrap_err();
    assert_eq!((finding.code, &*finding.remedy), ("authorize.forbidden", "use the bastion"));
    assert_eq!(
        (finding.expected.as_str(), finding.found.as_str()),
        ("no fleet host administers", "http:GET on /admin/users by gpu-1, forbidden by p/admin")
    );
    // In whatever order the texts come.
    let set = AuthorizationSet::parse(&[("a", ALL), ("b", admin)]).unwrap();
    let other = AuthorizationSet::parse(&[("b", admin), ("a", ALL)]).unwrap();
    assert_eq!((set.digest(), set.size()), (other.digest(), 2));
    assert_ne!(set.digest(), AuthorizationSet::parse(&[("a", ALL)]).unwrap().digest());
}

#[test]
fn policies_know_the_caller_and_the_circumstances() {
    let asks = [
        (r#"principal == Host::"gpu-1""#, "", Case { host: "gpu-2", ..GET }),
        ("principal", "principal.generation < 1", Case { generation: 1, ..GET }),
        ("principal", "principal.waivers.isEmpty()", Case { waivers: vec!["w".to_owned()], ..GET }),
        ("principal", r#"context has host && context.host == "api.test""#, Case { name: Some("other.test"), ..GET }),
        ("principal", r#"context has peer && context.peer == "192.0.2.7""#, Case { peer: Some("192.0.2.8"), ..GET }),
    ];
    for (principal, condition, other) in asks {
        let when = if condition.is_empty() { String::new() } else { format!("when {{ {condition} }}") };
        let policy = format!("permit ({principal}, action, resource) {when};");
        assert_eq!(code(&policy, &GET), Ok(()), "{policy}");
        assert_eq!(code(&policy, &other), Err("authorize.no_permit"), "{policy}");
    }
    let seconds = NOW.seconds();
    let until = |end: u64| format!("permit (principal, action, resource) when {{ context.now < {end} }};");
    assert_eq!(code(&until(seconds + 1), &GET), Ok(()));
    assert_eq!(code(&until(seconds), &GET), Err("authorize.no_permit"));
}

#[test]
fn e21_what_was_not_told_is_no_value() {
    // Unguarded, a policy does not load: nothing is taken for false, and nothing fails while a caller waits.
    for condition in [r#"context.host == "api.test""#, r#"context.peer != "192.0.2.7""#, "context.method == \"x\""] {
        for text in [
            format!("permit (principal, action, resource) when {{ {condition} }};"),
            format!("{ALL} forbid (principal, action, resource) when {{ {condition} }};"),
            format!("{ALL} forbid (principal, action, resource) unless {{ {condition} }};"),
        ] {
            assert_eq!(refused(&[("p", &text)]), "policy.load.invalid", "{text}");
        }
    }
    let policy = r#"permit (principal, action, resource) when { context has host && context.host == "api.test" };"#;
    assert_eq!(code(policy, &Case { name: None, ..GET }), Err("authorize.no_permit"));
    let policy = format!(r#"{ALL} forbid (principal, action, resource) unless {{ context has peer }};"#);
    assert_eq!(code(&policy, &Case { peer: None, ..GET }), Err("authorize.forbidden"));
}

#[test]
fn an_evaluation_error_denies_whatever_else_permits() {
    // Validation cannot see an overflow; Cedar would skip the forbid.
    let policy = format!(
        "{ALL} forbid (principal, action, resource) when {{ principal.generation + 9223372036854775807 > 0 }};"
    );
    assert_eq!(code(&policy, &Case { generation: 0, ..GET }), Err("authorize.forbidden"));
    let finding = ask(&policy, &Case { generation: 1, ..GET }).unwrap_err();
    assert_eq!(finding.code, "authorize.evaluation_error");
}

#[test]
fn simulated_hardware_is_permitted_only_by_name() {
    let simulated = Case { assurance: Assurance::Simulated, ..GET };
    let unnamed = Err("authorize.simulated_not_named");
    assert_eq!(code(ALL, &simulated), unnamed);
    let excluded = r#"permit (principal, action, resource) when { principal.assurance != Assurance::"hardware" };"#;
    assert_eq!(code(excluded, &simulated), unnamed);
    let excluded = r#"permit (principal, action, resource) unless { principal.assurance == Assurance::"simulated" };"#;
    assert_eq!((code(excluded, &simulated), code(excluded, &GET)), (Err("authorize.no_permit"), Ok(())));
    let policy = r#"permit (principal, action, resource)
        when { [Assurance::"hardware", Assurance::"simulated"].contains(principal.assurance) };"#;
    assert_eq!(code(policy, &simulated), Ok(()));
    assert_eq!(code(policy, &GET), Ok(()));
}

#[test]
fn a_set_that_says_nothing_or_the_wrong_thing_does_not_load() {
    assert_eq!(refused(&[]), "policy.load.empty");
    assert_eq!(refused(&[("p", "")]), "policy.load.empty");
    assert_eq!(refused(&[("p", ALL), ("q", "// nothing")]), "policy.load.empty");
    assert_eq!(refused(&[("p", "forbid (principal, action, resource);")]), "policy.load.no_permit");
    assert_eq!(refused(&[("p", "allow all")]), "policy.load.syntax");
    assert_eq!(refused(&[("p/q", ALL)]), "policy.load.name");
    assert_eq!(refused(&[("p", ALL), ("p", ALL)]), "policy.load.name");
    assert_eq!(refused(&[("p", &format!("{ALL}{ALL}"))]), "policy.load.name");
    assert_eq!(refused(&[("p", "permit (principal == ?principal, action, resource);")]), "policy.load.template");
    for text in [
        r#"permit (principal, action == Action::"http:TRACE", resource);"#,
        r#"permit (principal, action == Action::"issueCredential", resource);"#,
        r#"permit (principal == Spaceship::"x", action, resource);"#,
        r"permit (principal, action, resource) when { principal.admin };",
        r"permit (principal, action, resource) when { context.reference.matched };",
        r#"permit (principal, action, resource) when { principal.assurance == "hardware" };"#,
        r#"permit (principal, action, resource) when { principal.assurance == Assurance::"hardwear" };"#,
        // A condition that never holds is a mistake, not a policy.
        r#"permit (principal, action, resource) when { principal == resource };"#,
    ] {
        assert_eq!(refused(&[("p", text)]), "policy.load.invalid", "{text}");
    }
    let like = r#"permit (principal, action, resource) when { context has host && context.host like "*.test" };"#;
    assert_eq!(refused(&[("p", like)]), "policy.load.wildcard");
    assert_eq!(refused(&[("p", r#"permit (principal == Host::"gpu-*", action, resource);"#)]), "policy.load.wildcard");
    for path in ["", "v1", "/v1/", "/v1//x", "/../x", "/v1/*\\0", "/a%20b", "/a;b"] {
        let text = format!(r#"permit (principal, action, resource in Path::"{path}");"#);
        assert_eq!(refused(&[("p", &text)]), "policy.load.path", "{path}");
    }
    let deep = format!("permit (principal, action, resource) when {{ {}true{} }};", "(".repeat(40), ")".repeat(40));
    assert_eq!(refused(&[("p", &deep)]), "policy.load.nesting");
    let many: String = (0..600).map(|at| format!("@id(\"p{at}\") permit (principal, action, resource);")).collect();
    assert_eq!(refused(&[("p", &many)]), "policy.load.size");
}

#[test]
fn the_example_that_we_show_loads() {
    let readme = include_str!("../../README.md");
    let (_, example) = readme.split_once("```cedar\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    assert_eq!(ask(example, &Case { path: "/v1", name: Some("models.example"), ..GET }).unwrap(), ["p/models"]);
    assert_eq!(
        code(example, &Case { path: "/v1/admin", name: Some("models.example"), ..GET }),
        Err("authorize.forbidden")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is read has no second reading: no empty or dot segment, no separator but the slash; and reading the same
    /// path again, encoded as it must be, gives the same.
    #[test]
    fn a_path_that_is_read_is_in_normal_form(target in "[/a.%2fF;\\\\e?0 é-]{0,24}") {
        if let Ok(resource) = Resource::parse(&target) {
            let path = resource.as_str().to_owned();
            prop_assert!(path.starts_with('/'));
            prop_assert!(path == "/" || path.split('/').skip(1).all(|part| !matches!(part, "" | "." | "..")));
            prop_assert!(!path.contains(['\\', ';', '%', '#']) && !path.chars().any(char::is_control));
            prop_assert_eq!(Resource::parse(&path.replace('?', "%3F")).unwrap(), resource);
        }
    }
}
