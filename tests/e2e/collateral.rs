//! Collateral by the command line and the public routes: fetched, late, carried to another site, foretold.

use std::fs;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::amd::AmdSimulator;
use crate::fleet::{Fleet, wait_until};
use crate::sim_host::anchor;
use crate::tpm::SimManufacturer;
use crate::vendor::{Vendor, utc_time};

const LIST: &str = "/vcek/v1/Genoa/crl";
const HOUR: u64 = 3_600_000;

fn list(amd: &AmdSimulator, number: u8, hours: u64) -> Vec<u8> {
    let now = UnixMillis(u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap());
    amd.ark.revoke_numbered(number, &[], &utc_time(UnixMillis(now.0 - HOUR)), &utc_time(now.plus(hours * HOUR)))
}

/// Pins a simulated Genoa and says where its list comes from.
fn fleet(amd: &AmdSimulator, settings: &str) -> (TempDir, Fleet) {
    let folder = TempDir::new().unwrap();
    let mut fleet = Fleet::start(&[anchor(&SimManufacturer::new(), folder.path())]);
    let genoa = fleet.data().join("anchors/amd-simulated/genoa");
    fs::create_dir_all(&genoa).unwrap();
    fs::write(genoa.join("ark.der"), &amd.ark_der).unwrap();
    fs::write(genoa.join("ask.der"), &amd.ask_der).unwrap();
    fs::write(fleet.data().join("collateral.toml"), settings).unwrap();
    fleet.kill_broker();
    fleet.restart_broker();
    (folder, fleet)
}

#[test]
fn lists_are_fetched_warned_of_exported_imported_and_foretold() {
    let runtime = Runtime::new().unwrap();
    let (amd, vendor) = (AmdSimulator::new(AmdProduct::Genoa), runtime.block_on(Vendor::start()));
    vendor.serve(LIST, &list(&amd, 5, 2));
    let settings = format!(
        "[[amd_kds]]\nname = \"kds\"\nproducts = [\"genoa\"]\n\
         reach = {{ url = \"{}\", refresh_ms = {HOUR}, retry_ms = 1000 }}\n",
        vendor.url()
    );
    let (_folder, fleet) = fleet(&amd, &settings);
    // It is fetched at the start, without anybody asking.
    let listed =
        || -> Value { serde_json::from_str(&fleet.operator_ok(&["collateral", "list", "-o", "json"])).unwrap() };
    wait_until("the list is in force", || listed()["items"].as_array().is_some_and(|items| items.len() == 1));
    let ready = || -> Value { fleet.as_anyone().get("/readyz") };
    assert_eq!(ready()["warnings"], Value::Array(vec![]));
    let shown = fleet.operator_ok(&["collateral", "list"]);
    for column in ["amd.crl/genoa#", "current", "kds: CRL of Genoa"] {
        assert!(shown.contains(column), "{column} in {shown}");
    }
    // The vendor serves an older one, then nothing: both are said wherever somebody looks.
    vendor.serve(LIST, &list(&amd, 4, 3));
    let said = fleet.operator_ok(&["collateral", "refresh"]);
    assert!(said.contains("collateral.older") && said.contains("0 hosts revoked"), "{said}");
    vendor.set_down(true);
    let said = fleet.operator_ok(&["collateral", "refresh"]);
    assert!(said.contains("answered 503"), "{said}");
    assert!(ready()["warnings"][0].as_str().unwrap().starts_with("collateral.source: kds: CRL of Genoa"));
    let metrics = fleet.as_operator().send("GET", "/metrics", None).text();
    for line in [
        r#"countersign_collateral_fetches_total{source="kds",outcome="ok"} 1"#,
        r#"countersign_collateral_fetches_total{source="kds",outcome="collateral.older"} 1"#,
        r#"countersign_collateral_fetches_total{source="kds",outcome="status"}"#,
        "countersign_collateral_warnings 1",
        r#"countersign_collateral_next_update_seconds{subject="amd.crl/genoa#"#,
        r#"countersign_collateral_ends_seconds{subject="amd.crl/genoa#"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let forecast = fleet.operator_ok(&["collateral", "forecast", "--days", "1"]);
    assert!(forecast.contains("amd.crl/genoa#") && forecast.contains("0 hosts rest on nothing"), "{forecast}");
    // Out of this site, signed by who carries it, and into another that has no source.
    let export = fleet.path().join("export.json");
    let export = export.to_str().unwrap();
    assert!(fleet.operator_ok(&["collateral", "export", export]).contains(r#""exported":1"#));
    let vkey = fleet.data().join("operator/signing.vkey");
    let vkey = vkey.to_str().unwrap();
    let (_folder, other) = self::fleet(&amd, "[grace]\npolicy = \"air-gap\"\nmilliseconds = 86400000\n");
    let import =
        |file: &str, signed_by: &str| other.operator(&["collateral", "import", file, "--signed-by", signed_by]);
    let imported = import(export, vkey);
    let said = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(imported.status.success() && said.contains("accepted"), "{said}");
    assert!(String::from_utf8_lossy(&import(export, vkey).stdout).contains("known"), "once is enough");
    let shown = other.operator_ok(&["collateral", "list"]);
    assert!(shown.contains("import:admin"), "{shown}");
    // What its operator did not sign does not get to the broker; what no vendor signed does not get in.
    let other_key = other.data().join("operator/signing.vkey");
    let changed = fleet.path().join("changed.json");
    let text = fs::read_to_string(export).unwrap();
    fs::write(&changed, text.replacen("\"list\": \"30", "\"list\": \"31", 1)).unwrap();
    for (file, key, why) in [
        (export, other_key.to_str().unwrap(), "lineage.note.signature"),
        (changed.to_str().unwrap(), vkey, "other documents"),
        (vkey, vkey, "not an export"),
        (export, "nobody", "neither a verifier key nor a file"),
    ] {
        let refused = import(file, key);
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && errors.contains(why), "{why} in {errors}");
    }
}
