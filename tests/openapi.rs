//! The API's description is written by hand and held to the code here: the same routes, the same audiences, and for
//! every request and answer exactly the members that serde reads and writes.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code")]

use std::collections::{BTreeMap, BTreeSet};

use countersign::api::public::OPENAPI;
use countersign::api::routes::{Audience, ROUTES};
use countersign::broker::collateral::{Change, CollateralView, ItemView, State};
use countersign::broker::forecast::Forecast;
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{HexBytes, PcrHash};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::endorsement::issue::Issue;
use countersign_attestation::evidence::bundle::{Bundle, ImaEntries, ParavisorEvidence, SnpEvidence, TdxEvidence};
use countersign_attestation::protocol::{
    ActivationRequest, ActivationResponse, AttestationRequest, AttestationResponse, Base64Bytes, Challenge,
    Endorsement, EnrollmentChallenge, EnrollmentRequest, EnrollmentTask, HostId, IssuedCredential, IssuedToken,
    KnownBoot, PcrSelection, Problem, WorkloadKey,
};
use serde::Serialize;
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn sample<T: Serialize>(value: &T) -> BTreeSet<String> {
    members(&serde_json::to_value(value).unwrap())
}

fn schema<'a>(document: &'a Value, name: &str) -> &'a Value {
    &document["components"]["schemas"][name]
}

#[test]
fn every_route_is_described_with_its_audience_and_nothing_else_is() {
    let document = document();
    let mut described = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let security = operation["security"].as_array().expect("each operation states its security");
            let schemes: Vec<String> = security.iter().flat_map(members).collect();
            described.insert((method.to_uppercase(), path.clone()), schemes);
        }
    }
    let mut routes = BTreeMap::new();
    for route in ROUTES {
        let schemes = match route.audience {
            Audience::Anyone => vec![],
            Audience::Host => vec!["host".to_owned()],
            Audience::Operator => vec!["operator".to_owned()],
        };
        routes.insert((route.method.to_string(), route.path.to_owned()), schemes);
    }
    assert_eq!(described, routes);
    for name in ["host", "operator"] {
        assert_eq!(document["components"]["securitySchemes"][name]["type"], "mutualTLS", "{name}");
    }
}

#[test]
fn every_operation_names_its_parameters_its_answer_and_the_problem_document() {
    let document = document();
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let placeholders: Vec<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        for (method, operation) in methods.as_object().unwrap() {
            let shown = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{shown}: id used twice");
            let empty = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&empty);
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
            let named: Vec<&str> = in_path.map(|parameter| parameter["name"].as_str().unwrap()).collect();
            assert_eq!(named, placeholders, "{shown}");
            let required = |parameter: &Value| parameter["required"] == true;
            assert!(parameters.iter().all(required), "{shown}: no parameter has a default");
            let responses = members(&operation["responses"]);
            assert_eq!(responses.len(), 2, "{shown}");
            assert_eq!(operation["responses"]["default"]["$ref"], "#/components/responses/Problem", "{shown}");
            assert_eq!(operation.get("requestBody").is_some(), method == "post", "{shown}: bodies are for POST");
        }
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document = document();
    let mut referenced = BTreeSet::new();
    collect_references(&document, &mut referenced);
    let schemas: BTreeSet<String> = members(&document["components"]["schemas"])
        .into_iter()
        .map(|name| format!("#/components/schemas/{name}"))
        .chain(["#/components/responses/Problem".to_owned()])
        .collect();
    assert_eq!(referenced, schemas);
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                if key == "$ref" {
                    found.insert(value.as_str().unwrap().to_owned());
                }
                collect_references(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn endorsements() -> Vec<Endorsement> {
    let (certificate, public, intermediates) = (Base64Bytes(vec![1]), Base64Bytes(vec![1]), Vec::new());
    vec![
        Endorsement::EndorsementKey {
            certificate: certificate.clone(),
            public: public.clone(),
            intermediates: intermediates.clone(),
        },
        Endorsement::AkCertificate { certificate: certificate.clone(), intermediates: intermediates.clone() },
        Endorsement::InitialAttestationKey { certificate, public, intermediates },
    ]
}

fn tasks() -> Vec<EnrollmentTask> {
    let bytes = || Base64Bytes(vec![1]);
    vec![
        EnrollmentTask::ActivateCredential { credential_blob: bytes(), encrypted_secret: bytes() },
        EnrollmentTask::Quote { nonce: bytes() },
        EnrollmentTask::CertifyAk { nonce: bytes() },
    ]
}

#[test]
fn each_way_to_enrol_has_exactly_the_described_members() {
    let document = document();
    let described = |name: &str, values: Vec<Value>| {
        let forms = schema(&document, name)["oneOf"].as_array().unwrap();
        assert_eq!(forms.len(), values.len(), "{name}");
        for (form, value) in forms.iter().zip(values) {
            assert_eq!(form["properties"]["type"]["const"], value["type"], "{name}");
            assert_eq!(members(&form["properties"]), members(&value), "{name}");
            assert_eq!(form["additionalProperties"], Value::Bool(false), "{name}");
            assert_eq!(form["required"].as_array().unwrap().len(), members(&value).len(), "{name}");
        }
    };
    described("Endorsement", endorsements().iter().map(|value| serde_json::to_value(value).unwrap()).collect());
    described("EnrollmentTask", tasks().iter().map(|value| serde_json::to_value(value).unwrap()).collect());
    let unknown = serde_json::json!({"type": "quote", "nonce": "AQ", "more": 1});
    assert!(serde_json::from_value::<EnrollmentTask>(unknown).is_err(), "unknown members are refused");
}

#[expect(clippy::too_many_lines, reason = "one sample of each message")]
fn samples() -> BTreeMap<&'static str, BTreeSet<String>> {
    let bytes = || Base64Bytes(vec![1]);
    let host = || HostId::parse("gpu-17").unwrap();
    let at = UnixMillis(1);
    let digest = Sha256Digest::of(&[b"sample"]);
    let selection = PcrSelection { bank: PcrHash::Sha256, pcrs: vec![0] };
    let known_boot = KnownBoot { reset_count: 1, restart_count: 1, ima_entries: 1 };
    let bundle = Bundle {
        tpm_quote: vec![1],
        tpm_pcrs: vec![1],
        tpm_certify: vec![1],
        event_log: Some(vec![1]),
        ima: Some(ImaEntries { from: 1, list: vec![1] }),
        snp: Some(SnpEvidence { report: vec![1], vek: vec![1] }),
        tdx: Some(TdxEvidence { quote: vec![1], ccel: Some(vec![1]) }),
        paravisor: None,
    };
    let mut evidence = bundle.encode();
    let azure = ParavisorEvidence { hcl_report: vec![1], vek: None };
    evidence.records.extend(Bundle { snp: None, paravisor: Some(azure), ..bundle }.encode().records);
    let token = IssuedToken { audience: String::new(), token: String::new() };
    let credential = IssuedCredential {
        jwt_svids: vec![token.clone()],
        workload_chain: Some(String::new()),
        wit_svid: Some(String::new()),
        certificate_chain: String::new(),
        ear: String::new(),
        trust_bundle: String::new(),
        serial: String::new(),
        not_after: at,
        renew_at: at,
    };
    let workload_key = WorkloadKey { key: bytes(), endorsement: bytes(), possession: bytes() };
    let problem = Problem {
        problem_type: String::new(),
        title: String::new(),
        status: 403,
        code: String::new(),
        expected: Some(String::new()),
        found: Some(String::new()),
        remedy: String::new(),
        decision: Some(digest),
    };
    let enrollment = EnrollmentRequest {
        host: host(),
        endorsement: endorsements().remove(0),
        ak_public: bytes(),
        channel_key: bytes(),
    };
    let number = HexBytes(vec![1]);
    let assurance = Assurance::Hardware;
    let issue = Issue { subject: String::new(), assurance, number, issued: at, next_update: at };
    let item = ItemView {
        issue: issue.clone(),
        ends: at,
        state: State::Current,
        source: String::new(),
        accepted_at: at,
        sha256: digest,
    };
    let challenge = EnrollmentChallenge { enrollment: String::new(), task: tasks().remove(0), expires_at: at };
    BTreeMap::from([
        ("EnrollmentRequest", sample(&enrollment)),
        ("EnrollmentChallenge", sample(&challenge)),
        ("ActivationRequest", sample(&ActivationRequest { proof: bytes() })),
        ("ActivationResponse", sample(&ActivationResponse { host: host(), channel_certificate: String::new() })),
        ("PcrSelection", sample(&selection)),
        ("KnownBoot", sample(&known_boot)),
        (
            "Challenge",
            sample(&Challenge {
                challenge: String::new(),
                nonce: bytes(),
                expires_at: at,
                pcr_selection: vec![selection],
                known_boot: Some(known_boot),
            }),
        ),
        ("Collection", sample(&evidence)),
        (
            "AttestationRequest",
            sample(&AttestationRequest {
                challenge: String::new(),
                credential_key: bytes(),
                evidence,
                audiences: vec![String::new()],
                workload_key: Some(workload_key.clone()),
            }),
        ),
        ("WorkloadKey", sample(&workload_key)),
        ("IssuedCredential", sample(&credential)),
        ("IssuedToken", sample(&token)),
        (
            "AttestationResponse",
            sample(&AttestationResponse {
                decision: digest,
                log_index: 1,
                lease_until: at,
                attest_again_in_ms: 1,
                credential: Some(credential),
            }),
        ),
        ("Problem", sample(&problem)),
        ("CollateralIssue", sample(&issue)),
        ("CollateralItem", sample(&item)),
        ("CollateralChange", sample(&Change::default())),
        ("CollateralForecast", sample(&Forecast { items: vec![], losses: vec![], lasting_hosts: 0 })),
        ("Collateral", sample(&CollateralView { items: vec![], sources: vec![], warnings: vec![] })),
    ])
}

#[test]
fn messages_have_exactly_the_described_members() {
    let document = document();
    for (name, expected) in samples() {
        let schema = schema(&document, name);
        assert_eq!(members(&schema["properties"]), expected, "{name}");
        // Problem documents may grow members (RFC 9457, 3.2); everything else is closed, as serde refuses the rest.
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        assert_eq!(closed, name != "Problem", "{name}");
    }
}

#[test]
fn the_reader_demands_what_the_description_requires() {
    let document = document();
    let required = |name: &str| -> BTreeSet<String> {
        let list = schema(&document, name)["required"].as_array().unwrap();
        list.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
    };
    let text = serde_json::json!({
        "host": "gpu-17", "endorsement": endorsements().remove(0), "ak_public": "AQ", "channel_key": "AQ"
    });
    assert!(serde_json::from_value::<EnrollmentRequest>(text.clone()).is_ok());
    assert_eq!(required("EnrollmentRequest"), members(&text));
    for member in required("EnrollmentRequest") {
        let mut without = text.clone();
        without.as_object_mut().unwrap().remove(&member);
        assert!(serde_json::from_value::<EnrollmentRequest>(without).is_err(), "{member} is required");
    }
    let mut unknown = text;
    unknown["more"] = Value::Bool(true);
    assert!(serde_json::from_value::<EnrollmentRequest>(unknown).is_err(), "unknown members are refused");
}
