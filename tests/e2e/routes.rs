//! Who may do what: every route of the table, asked by everyone.

use countersign::api::routes::{Audience, ROUTES};
use serde_json::json;
use tempfile::TempDir;

use crate::fleet::Fleet;
use crate::sim_host::{SimHost, anchor};
use crate::tpm::SimManufacturer;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    Nobody,
    Host,
    /// A certificate that was good until its operator was taken off the list.
    RemovedOperator,
    /// A certificate that was good until its host was removed.
    RemovedHost,
    Operator,
}

#[test]
fn a11_every_route_answers_its_audience_and_nobody_else() {
    let folder = TempDir::new().unwrap();
    let maker = SimManufacturer::new();
    let fleet = Fleet::start(&[anchor(&maker, folder.path())]);
    let host = SimHost::enrolled(&fleet, &maker, "host-a");
    let removed_host = SimHost::enrolled(&fleet, &maker, "host-b");
    fleet.operator_ok(&["hosts", "remove", "host-b"]);
    let removed_operator = fleet.path().join("mallory");
    fleet.operator_ok(&["operator", "add", "mallory", "--out", removed_operator.to_str().unwrap()]);
    fleet.operator_ok(&["operator", "remove", "mallory"]);
    let askers = [
        (Asker::Nobody, fleet.as_anyone()),
        (Asker::Host, host.client(&fleet)),
        (Asker::RemovedOperator, fleet.as_holder(&removed_operator)),
        (Asker::RemovedHost, removed_host.client(&fleet)),
        (Asker::Operator, fleet.as_operator()),
    ];

    let mut refused = 0;
    for route in ROUTES {
        // Parameters that name nothing: whoever gets through is told so, and nothing changes.
        let path = route.path.replace("{id}", "no-such-thing").replace("{n}", "4711").replace("{index}", "4711000");
        let path = path.replace("{*path}", "0/x004/711").replace("{name}", "none");
        let body = (route.method == "POST").then(|| json!({"unknown_member": true}));
        for (asker, client) in &askers {
            let answer = client.send(route.method.as_str(), &path, body.as_ref());
            let name = format!("{} {} by {asker:?}", route.method, route.path);
            let expected = match (route.audience, asker) {
                (Audience::Anyone, _) | (Audience::Host, Asker::Host) | (Audience::Operator, Asker::Operator) => None,
                (Audience::Host | Audience::Operator, Asker::Nobody) => Some((401, "channel.unauthenticated")),
                (Audience::Host | Audience::Operator, _) => Some((403, "channel.forbidden")),
            };
            match expected {
                Some((status, code)) => {
                    let problem = answer.problem();
                    assert_eq!((problem.status, problem.code.as_str()), (status, code), "{name}");
                    refused += 1;
                }
                None if answer.status < 400 => {}
                None => {
                    let problem = answer.problem();
                    assert!(!problem.code.starts_with("channel."), "{name}: {problem:?}");
                    assert!(matches!(problem.status, 400 | 404), "{name}: {problem:?}");
                }
            }
        }
    }
    let guarded = ROUTES.iter().filter(|route| route.audience != Audience::Anyone).count();
    assert_eq!(refused, guarded * 4);
    assert!(12 < guarded, "the table lost its guarded routes");

    // A certificate of the broker's own workload CA is none of the control CA: the handshake fails.
    let trusted_by_gates = folder.path().join("workload");
    std::fs::create_dir(&trusted_by_gates).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let stranger = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(trusted_by_gates.join("certificate.pem"), stranger.pem()).unwrap();
    std::fs::write(trusted_by_gates.join("key.pem"), key.serialize_pem()).unwrap();
    assert!(fleet.as_holder(&trusted_by_gates).try_send("GET", "/healthz", None).is_err());
}
