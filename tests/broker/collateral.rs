//! Collateral through the broker: from vendors that answer, lie or are silent, over restarts and between sites.

use std::sync::Arc;

use countersign::broker::collateral::{Change, Report};
use countersign::collateral::document::Document;
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{HexBytes, Revocation};
use serde_json::json;

use crate::amd::AmdSimulator;
use crate::house::{Host, House, manifest, operator};
use crate::intel::IntelSimulator;
use crate::vendor::{Vendor, utc_time};

const HOUR: u64 = 3_600_000;
/// Where AMD serves Genoa's list.
const LIST: &str = "/vcek/v1/Genoa/crl";
const FMSPC: &str = "50806f00aa00";

/// A confidential VM on a simulated Genoa, and AMD's service.
struct Site {
    house: House,
    host: Host,
    amd: Arc<AmdSimulator>,
    vendor: Vendor,
    /// A whole second: the lists' times are such.
    start: UnixMillis,
}

impl Site {
    /// With a grace of so many hours; what is served lasts ten.
    async fn new(grace_hours: u64) -> Self {
        let (amd, vendor) = (Arc::new(AmdSimulator::new(AmdProduct::Genoa)), Vendor::start().await);
        let mut house = House::with_processors(&[&amd]);
        let start = UnixMillis(house.clock.now().seconds() * 1000);
        let site = settings(&vendor, grace_hours);
        std::fs::write(house.data().collateral_settings(), site).unwrap();
        vendor.serve(LIST, &list(&amd, 5, start, &[]));
        house.restart();
        let mut host = Host::enrolled(&house, "gpu-1").await;
        host.processor = Some(Arc::clone(&amd));
        let snp = json!({
            "measurement": ["3e".repeat(48)],
            "min_tcb": { "genoa": { "bootloader": 4, "tee": 2, "snp": 24, "microcode": 219 } },
        });
        house.register_reference(&manifest(&host, &json!({ "snp": snp }))).await.unwrap();
        let mut site = Self { house, host, amd, vendor, start };
        site.fetch().await;
        site.attest().await.unwrap();
        site
    }

    async fn fetch(&self) -> Change {
        self.house.broker().fetch_due_collateral().await.unwrap()
    }

    async fn attest(&mut self) -> Result<(), String> {
        loop {
            self.host.renew();
            match self.host.attest(&self.house).await {
                // The clock went on by hours: the lease ended while the evidence was judged.
                Err(code) if code == "trust.superseded" => {}
                result => return result.map(drop),
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let warnings = self.house.broker().collateral().warnings;
        warnings.iter().map(|warning| warning.split(':').next().unwrap().to_owned()).collect()
    }

    /// The number of the list in force.
    fn number(&self) -> u8 {
        self.house
            .broker()
            .collateral()
            .items
            .iter()
            .find(|item| item.issue.subject.starts_with("amd.crl/genoa"))
            .unwrap()
            .issue
            .number
            .0[0]
    }

    fn revocation(&self) -> Revocation {
        let latest = self.house.broker().latest(&self.host.id).unwrap().unwrap();
        latest.claims.unwrap().snp.verified().unwrap().revocation
    }
}

fn settings(vendor: &Vendor, grace_hours: u64) -> String {
    let grace = match grace_hours {
        0 => String::new(),
        hours => format!("[late]\npolicy = \"p\"", "unknown"),
        (
            "[[amd_kds]]\nname = \"a\"\nproducts = []\nreach = { url = \"http://a\", refresh_ms = 2, retry_ms = 1 }",
            "product",
        ),
        (
            "[[amd_kds]]\nname = \"a\"\nproducts = [\"rome\"]\nreach = { url = \"http://a\", refresh_ms = 2, retry_ms = 1 }",
            "rome",
        ),
        ("[[tpm_crl]]\nname = \"a\"\nreach = { url = \"ftp://a\", refresh_ms = 2, retry_ms = 1 }", "ftp"),
        ("[[tpm_crl]]\nname = \"a\"\nreach = { url = \"https://a\", refresh_ms = 2, retry_ms = 1 }", "tls_roots"),
        ("[[tpm_crl]]\nname = \"a\"\nreach = { url = \"http://a\", refresh_ms = 1, retry_ms = 2 }", "retry_ms"),
        ("[[tpm_crl]]\nname = \"a\"\nreach = { url = \"http://a\", refresh_ms = 1, retry_ms = 0 }", "retry_ms"),
    ] {
        std::fs::write(data.collateral_settings(), text).unwrap();
        let error = start().unwrap_err();
        assert!(error.contains(named), "{text}: {error}");
    }
    std::fs::remove_file(data.collateral_settings()).unwrap();
    assert!(start().is_ok());
    let broker = Arc::clone(house.broker());
    let folder = data.collateral().join("amd");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("x.crl"), b"no list").unwrap();
    // The running broker reads files again on request: nothing changes, and the report says why.
    let refused = broker.refresh_collateral(&operator()).await.unwrap();
    assert_eq!(outcomes(&refused), ["x509.crl.malformed"]);
    std::fs::write(data.anchors().join("amd/milan/ark.der"), b"").unwrap();
    std::fs::write(data.collateral().join("tpm-is-no-folder"), b"").unwrap();
    std::fs::create_dir_all(data.collateral().join("tpm")).unwrap();
    std::fs::write(data.collateral().join("tpm/denied.json"), b"[]").unwrap();
    let problem = broker.refresh_collateral(&operator()).await.unwrap_err();
    assert_eq!(problem.code(), "collateral.unreadable");
}
