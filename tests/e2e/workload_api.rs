//! A workload that asks at the agent's socket, with a client that nobody here wrote: what the broker issued, while this
//! host is trusted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign::config::WorkloadKeys;
use tempfile::TempDir;

use crate::fleet::{Fleet, Process, succeed, wait_until};
use crate::machine::{Machine, runs};

const AUDIENCE: &str = "https://models.example";

/// Verifies the token by the bundle from the same socket, and says whose it is; and says what became of the X.509-SVID.
const CLIENT: &str = r#"
import sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    bundles = client.fetch_jwt_bundles()
    svid = client.fetch_jwt_svid(audience={sys.argv[2]})
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    from spiffe import JwtSvid
    verified = JwtSvid.parse_and_validate(svid.token, bundle, {sys.argv[2]})
    roots = client.fetch_x509_bundles().get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    print(verified.spiffe_id, len(roots.x509_authorities))
    try:
        leaf = client.fetch_x509_svid()
        print("got", leaf.spiffe_id, len(leaf.cert_chain))
    except Exception as error:
        print(error)
"#;

/// The Python of `make clients`; none where no package index was reached.
pub(crate) fn python() -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv");
    if tools.join("installed").exists() {
        return Some(tools.join("bin/python"));
    }
    println!("no clients in {}, run `make clients`: skipped", tools.display());
    None
}

fn client(python: &Path, socket: &Path) -> Command {
    let mut client = Command::new(python);
    client.args(["-c", CLIENT]).arg(format!("unix:{}", socket.display())).arg(AUDIENCE);
    client
}

/// `--workload-key` at the agent and `workload_keys = "issue"` at the broker: an X.509-SVID with its key.
#[test]
fn a_workload_gets_an_svid_with_a_key_of_its_own_where_both_sides_allow_it() {
    let Some(python) = python() else { return };
    let folder = TempDir::new().unwrap();
    let machine = Machine::boot(folder.path());
    let fleet = Fleet::start_with(&[machine.anchor()], |config| {
        config.pulse_period_ms = 200;
        config.pulse_validity_ms = 2000;
        config.workload_keys = WorkloadKeys::Issue;
    });
    machine.enroll(&fleet, "host-a");
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");

    let socket = folder.path().join("agent.sock");
    let log = fs::File::create(folder.path().join("daemon.log")).unwrap();
    let mut agent = machine.agent(&["run", "--audience", AUDIENCE, "--admit", &format!("uid:{}", own_uid())]);
    agent.arg("--workload-key").arg("--workload-socket").arg(&socket).stdout(Stdio::null()).stderr(log);
    let _agent = Process(agent.spawn().unwrap());
    wait_until("the host is trusted", || machine.credential("credential.pem").exists());

    let said = succeed(&mut client(&python, &socket));
    let svid = said.lines().nth(1).unwrap();
    assert!(svid.starts_with("got spiffe://") && svid.contains("/host/host-a 2"), "{said}");
    // The credential directory has the key in the TPM, as ever.
    let key = fs::read_to_string(machine.credential("key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN TSS2 PRIVATE KEY-----"), "{key}");
}

#[test]
fn a_workload_gets_its_hosts_tokens_while_the_host_is_trusted() {
    let Some(python) = python() else { return };
    let folder = TempDir::new().unwrap();
    let machine = Machine::boot(folder.path());
    let fleet = Fleet::start_with(&[machine.anchor()], |config| {
        config.pulse_period_ms = 200;
        config.pulse_validity_ms = 2000;
        config.attest_interval_ms = 1000;
    });
    machine.enroll(&fleet, "host-a");
    assert_eq!(machine.attest_once().0, Some(3));
    machine.capture(&fleet, "host-a", "golden");

    let (socket, events) = (folder.path().join("agent.sock"), folder.path().join("workload.jsonl"));
    let mut inference = Process(Command::new("sleep").arg("infinity").spawn().unwrap());
    let pid = inference.0.id();
    let log = fs::File::create(folder.path().join("daemon.log")).unwrap();
    let mut agent = machine.agent(&["run", "--audience", AUDIENCE, "--admit", &format!("uid:{}", own_uid())]);
    agent.arg("--enforce").arg(format!("pid:{pid}")).arg("--workload-socket").arg(&socket);
    agent.args(["--on-loss", "freeze:1s,kill:1s", "--events"]).arg(&events).stdout(Stdio::null()).stderr(log);
    let _agent = Process(agent.spawn().unwrap());
    wait_until("the host is trusted", || machine.credential("credential.pem").exists());

    let said = succeed(&mut client(&python, &socket));
    let mut lines = said.lines();
    let id = lines.next().unwrap().to_owned();
    assert!(id.starts_with("spiffe://") && id.ends_with("/host/host-a 1"), "{said}");
    // The credential key never leaves the TPM.
    assert!(lines.next().unwrap().contains("lives in its TPM"), "{said}");

    fleet.operator_ok(&["hosts", "revoke", "host-a"]);
    wait_until("a workload that another started ends with its host's trust", || {
        let _reaped = inference.0.try_wait().unwrap();
        !runs(pid)
    });
    let refused = client(&python, &socket).output().unwrap();
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && errors.contains("no identity issued"), "{errors}");
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
