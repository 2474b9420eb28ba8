//! Collateral through the broker: from vendors that answer, lie or are silent, over restarts and between sites.

use std::sync::Arc;

use countersign::broker::collateral::{Change, Report};
use countersign::collateral::document::Document;
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::claims::{HexBytes, Revocation};
use countersign_attestation::lineage::entry::Entry;
use countersign_attestation::x509::Certificate;
use serde_json::json;

use crate::amd::AmdSimulator;
use crate::house::{Host, House, manifest, operator};
use crate::intel::IntelSimulator;
use crate::tpm::SimManufacturer;
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
        hours => format!("[grace]\npolicy = \"vendor-outage\"\nmilliseconds = {}\n", hours * HOUR),
    };
    format!(
        "{grace}[[amd_kds]]\nname = \"kds\"\nproducts = [\"genoa\"]\n\
         reach = {{ url = \"{}\", refresh_ms = {HOUR}, retry_ms = {} }}\n",
        vendor.url(),
        HOUR / 6,
    )
}

/// Genoa's list of these serial numbers: from an hour before `at` for ten hours from it.
fn list(amd: &AmdSimulator, number: u8, at: UnixMillis, serials: &[&[u8]]) -> Vec<u8> {
    let (this_update, next_update) = (utc_time(UnixMillis(at.0 - HOUR)), utc_time(at.plus(10 * HOUR)));
    amd.ark.revoke_numbered(number, serials, &this_update, &next_update)
}

fn outcomes(change: &Change) -> Vec<&str> {
    let code = |report: &Report| match report {
        Report::Accepted { .. } => "accepted",
        Report::Known { .. } => "known",
        Report::Refused { finding, .. } => finding.code,
        Report::Failed { .. } => "failed",
    };
    change.documents.iter().map(code).collect()
}

/// With the source down, nothing is denied before nextUpdate and the policy's grace, everything after, and whoever
/// looks was warned in between.
#[tokio::test(flavor = "multi_thread")]
async fn c13_an_outage_denies_nothing_before_the_stated_grace_ends_and_everything_after() {
    let mut site = Site::new(5).await;
    let next_update = site.start.plus(10 * HOUR);
    let end = next_update.plus(5 * HOUR);
    assert_eq!(site.revocation(), Revocation::NotRevoked { next_update });
    assert_eq!(site.warnings(), [""; 0]);
    site.vendor.set_down(true);
    site.vendor.asked();
    let mut warned_early = false;
    loop {
        site.house.clock.advance(HOUR / 2);
        let now = site.house.clock.now();
        site.fetch().await;
        if end <= now {
            break;
        }
        site.attest().await.unwrap_or_else(|code| panic!("{code} at {now}, {} ms before the end", end.since(now)));
        let expected = if now < next_update {
            Revocation::NotRevoked { next_update }
        } else {
            Revocation::Overdue { next_update, until: end }
        };
        assert_eq!(site.revocation(), expected, "{now}");
        let warnings = site.warnings();
        warned_early |= now < next_update && warnings.contains(&"collateral.source".to_owned());
        assert_eq!(warnings.contains(&"collateral.overdue".to_owned()), next_update <= now, "{now}: {warnings:?}");
    }
    assert!(warned_early, "hours before anything is denied");
    assert!(10 < site.vendor.asked().len(), "it was asked again and again");
    assert_eq!(site.attest().await.unwrap_err(), "x509.crl.expired");
    assert_eq!(site.warnings(), ["collateral.ended", "collateral.source"]);
    // The vendor is back: the broker finds out by itself.
    site.vendor.set_down(false);
    site.vendor.serve(LIST, &list(&site.amd, 6, site.house.clock.now(), &[]));
    site.house.clock.advance(HOUR);
    site.fetch().await;
    assert_eq!(site.number(), 6);
    site.attest().await.unwrap();
    assert_eq!(site.warnings(), [""; 0]);
    // What was decided by grace is decided again from the log and the archive to the same bytes.
    drop(site.house.replay_all());
}

/// Without a stated grace there is none.
#[tokio::test(flavor = "multi_thread")]
async fn c13_nothing_is_late_where_no_policy_says_so() {
    let mut site = Site::new(0).await;
    site.vendor.set_down(true);
    site.house.clock.advance(9 * HOUR);
    site.attest().await.unwrap();
    site.house.clock.advance(HOUR);
    assert_eq!(site.attest().await.unwrap_err(), "x509.crl.expired");
    assert!(site.warnings().contains(&"collateral.ended".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_no_source_file_import_or_restart_brings_an_older_list_back() {
    let mut site = Site::new(5).await;
    let broker = |site: &Site| Arc::clone(site.house.broker());
    assert_eq!(site.number(), 5);
    let old = list(&site.amd, 4, site.start.plus(2 * HOUR), &[]);
    let import = |list: &[u8]| vec![Document::AmdCrl { list: HexBytes(list.to_vec()) }];
    for again in 0..2 {
        // A source that serves an older one, newer by its date.
        site.vendor.serve(LIST, &old);
        site.house.clock.advance(2 * HOUR);
        site.fetch().await;
        let refused = broker(&site).refresh_collateral(&operator()).await.unwrap();
        assert_eq!(outcomes(&refused).last(), Some(&"collateral.older"), "{again}");
        assert!(site.warnings().contains(&"collateral.source".to_owned()));
        // An operator who brings it.
        let refused = broker(&site).import_collateral(&operator(), import(&old)).await.unwrap();
        assert_eq!(outcomes(&refused), ["collateral.older"]);
        assert_eq!(site.number(), 5);
        // A file, at a start.
        let folder = site.house.data().collateral().join("amd");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("genoa.crl"), &old).unwrap();
        site.house.restart();
        assert_eq!(site.number(), 5);
        site.attest().await.unwrap();
    }
    // Another root's, a damaged one, and one of the future are no lists.
    let stranger = AmdSimulator::new(AmdProduct::Genoa);
    let mut damaged = list(&site.amd, 9, site.start, &[]);
    *damaged.last_mut().unwrap() ^= 1;
    let future = list(&site.amd, 9, site.house.clock.now().plus(2 * HOUR), &[]);
    for (document, code) in [
        (list(&stranger, 9, site.start, &[]), "x509.signature"),
        (damaged, "x509.signature"),
        (future, "collateral.not_yet_valid"),
        (site.amd.ask.revoke(&[], &utc_time(site.start), &utc_time(site.start.plus(HOUR))), "collateral.issuer"),
        (site.amd.ark.revoke(&[], &utc_time(site.start), ""), "collateral.no_end"),
    ] {
        let refused = broker(&site).import_collateral(&operator(), import(&document)).await.unwrap();
        assert_eq!((outcomes(&refused), site.number()), (vec![code], 5));
    }
    // A root that is pinned no more: its list counts for nothing, and its mark stays.
    let ark = site.house.data().anchors().join("amd-simulated/genoa/ark.der");
    let pinned = std::fs::read(&ark).unwrap();
    std::fs::write(&ark, &stranger.ark_der).unwrap();
    std::fs::remove_file(site.house.data().collateral().join("amd/genoa.crl")).unwrap();
    site.house.restart();
    assert_eq!(broker(&site).collateral().items.len(), 0);
    std::fs::write(&ark, pinned).unwrap();
    site.house.restart();
    assert_eq!(site.number(), 5);
    // Nor does another class of the same root, or another name of its folder, lose it.
    let anchors = site.house.data().anchors();
    std::fs::remove_dir_all(anchors.join("amd/genoa")).unwrap();
    std::fs::rename(anchors.join("amd-simulated/genoa"), anchors.join("amd/genoa")).unwrap();
    site.house.restart();
    assert_eq!(site.number(), 5);
}

/// A newer list takes trust from a live host, which is not asked, and says so in the log.
#[tokio::test(flavor = "multi_thread")]
async fn b4_a_list_that_names_the_ask_revokes_live_hosts_without_their_help() {
    let site = Site::new(5).await;
    assert_eq!(site.house.standing(&site.host), "trusted");
    site.vendor.serve(LIST, &list(&site.amd, 6, site.start, &[&[1, 0, 1]]));
    site.house.clock.advance(30_000);
    let lineage = &site.house.broker().lineage;
    let before = lineage.head().size;
    let change = site.house.broker().refresh_collateral(&operator()).await.unwrap();
    assert_eq!((outcomes(&change), change.revoked_hosts), (vec!["accepted"], 1));
    assert_eq!(site.house.standing(&site.host), "revoked");
    let events: Vec<_> = (before..lineage.head().size)
        .map(|index| Entry::decode(&lineage.read(index).unwrap().unwrap()).unwrap().event().name())
        .collect();
    let at = |name: &str| events.iter().position(|event| *event == name);
    assert!(at("collateral_changed").unwrap() < at("revoked").unwrap(), "{events:?}");
    assert!(site.house.replay_all().contains(&"revoked"));
}

/// Two caches of Intel's service that disagree: the newer one counts, whichever answers first, and the other is
/// reported.
#[tokio::test(flavor = "multi_thread")]
async fn c13_of_two_caches_that_disagree_the_newer_counts() {
    for newer_first in [true, false] {
        let (intel, mut house) = (IntelSimulator::new(), House::new());
        let folder = house.data().anchors().join("intel-simulated");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("root.der"), &intel.root_der).unwrap();
        let (new, old) = (Vendor::start().await, Vendor::start().await);
        new.serve_intel(FMSPC, &intel.collateral());
        old.serve_intel(
            FMSPC,
            &intel.collateral_with(|profile| {
                let (number, older) = (r#""tcbEvaluationDataNumber":17"#, r#""tcbEvaluationDataNumber":16"#);
                assert!(profile.tcb_info.contains(number));
                profile.tcb_info = profile.tcb_info.replace(number, older);
            }),
        );
        let source = |name: &str, vendor: &Vendor| {
            format!(
                "[[intel_pcs]]\nname = \"{name}\"\ntechnologies = [\"tdx\"]\nauthorities = [\"platform\"]\n\
                 fmspc = [\"{}\"]\nreach = {{ url = \"{}\", refresh_ms = {HOUR}, retry_ms = 1000 }}\n",
                FMSPC.to_uppercase(),
                vendor.url()
            )
        };
        let (first, second) = if newer_first { (&new, &old) } else { (&old, &new) };
        let settings = [source("first", first), source("second", second)].concat();
        std::fs::write(house.data().collateral_settings(), settings).unwrap();
        house.restart();
        house.broker().fetch_due_collateral().await.unwrap();
        house.clock.advance(2 * HOUR);
        house.broker().fetch_due_collateral().await.unwrap();
        let view = house.broker().collateral();
        let info = view.items.iter().find(|item| item.issue.subject.starts_with("intel.tcb/tdx/50806f00aa00#"));
        assert_eq!((&*info.unwrap().issue.number.0, view.items.len()), (&[17][..], 4));
        let failing: Vec<_> = view.sources.iter().filter(|source| source.attempts.failing_since.is_some()).collect();
        let [failing] = failing.as_slice() else { panic!("{failing:?}") };
        let older = if newer_first { "second" } else { "first" };
        assert_eq!(failing.wanted, format!("{older}: TCB info of tdx {FMSPC}"));
        assert!(failing.attempts.error.as_ref().unwrap().starts_with("collateral.older"));
        // All of it together is what a quote is judged by.
        assert_eq!(house.broker().references.current().collateral.intel.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_says_what_ends_when_and_whom_it_takes_down() {
    let mut site = Site::new(5).await;
    let lasting = Host::enrolled(&site.house, "tpm-only").await;
    let end = site.start.plus(15 * HOUR);
    let broker = Arc::clone(site.house.broker());
    let near = broker.forecast(end).unwrap();
    let [item] = near.items.as_slice() else { panic!("{near:?}") };
    assert_eq!((item.ends, item.issue.next_update), (end, site.start.plus(10 * HOUR)));
    let [loss] = near.losses.as_slice() else { panic!("{near:?}") };
    assert_eq!((loss.at, loss.finding.code, loss.count), (end, "x509.crl.expired", 1));
    assert_eq!(loss.hosts, [site.host.id.clone()]);
    let nearer = broker.forecast(UnixMillis(end.0 - 1)).unwrap();
    assert_eq!((nearer.items.len(), nearer.losses.len()), (0, 0));
    assert_eq!(near.lasting_hosts, 0, "{} was never trusted", lasting.id);
    // It comes true.
    site.vendor.set_down(true);
    site.house.clock.advance(end.since(site.house.clock.now()));
    assert_eq!(site.attest().await.unwrap_err(), loss.finding.code);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_site_fetched_serves_another_without_a_way_out() {
    let site = Site::new(5).await;
    let documents = site.house.broker().collateral_documents();
    assert_eq!(documents.len(), 1);
    let other = House::with_processors(&[&site.amd]);
    let change = other.broker().import_collateral(&operator(), documents.clone()).await.unwrap();
    assert_eq!(outcomes(&change), ["accepted"]);
    assert_eq!(outcomes(&other.broker().import_collateral(&operator(), documents.clone()).await.unwrap()), ["known"]);
    assert_eq!(other.broker().collateral_documents(), documents);
    let item = other.broker().collateral().items.remove(0);
    assert_eq!((item.source.as_str(), item.ends), ("import:admin", item.issue.next_update), "no grace is stated here");
}

/// Lists of who certified a TPM: one that names it ends its trust and keeps it from enrolling; one that ends denies and
/// takes nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_tpm_makers_reach_enrolments_and_live_hosts() {
    let mut house = House::new();
    let mut host = Host::enrolled(&house, "gpu-1").await;
    house.register_reference(&manifest(&host, &json!({}))).await.unwrap();
    host.attest(&house).await.unwrap();
    let state = |house: &House, host: &Host| {
        let latest = house.broker().latest(&host.id).unwrap().unwrap();
        latest.claims.unwrap().tpm.revocation
    };
    assert_eq!(state(&house, &host), Revocation::NotPresented);
    let import = |house: &House, list: Vec<u8>| {
        let broker = Arc::clone(house.broker());
        let documents = vec![Document::TpmCrl { list: HexBytes(list) }];
        async move { broker.import_collateral(&operator(), documents).await.unwrap() }
    };
    let change = import(&house, house.maker.crl(1, &[&[9, 9]], 2027)).await;
    assert_eq!((outcomes(&change), change.revoked_hosts), (vec!["accepted"], 0));
    let stranger = SimManufacturer::new();
    assert_eq!(outcomes(&import(&house, stranger.crl(9, &[], 2027)).await), ["x509.signature"]);
    // Known from the archive, then from memory, then after a restart.
    let next_update = UnixMillis(1_798_761_600_000);
    for round in 0..3 {
        host.renew();
        host.attest(&house).await.unwrap();
        assert_eq!(state(&house, &host), Revocation::NotRevoked { next_update }, "{round}");
        if round == 1 {
            let tpm = house.data().anchors().join("tpm/simulated");
            let named = std::fs::read_dir(&tpm).unwrap().next().unwrap().unwrap().path();
            std::fs::rename(named, tpm.join("another-name")).unwrap();
            house.restart();
        }
    }
    // Neither lease nor credential outlives the list.
    let late = next_update.since(house.clock.now());
    house.clock.advance(late - 20_000);
    house.broker().renew_authority();
    let granted = loop {
        host.renew();
        match host.attest(&house).await {
            Err(code) if code == "trust.superseded" => {}
            result => break result.unwrap(),
        }
    };
    assert_eq!((granted.lease_until, granted.credential.unwrap().not_after), (next_update, next_update));
    // The list ends: what it said is not known any more. Nothing is revoked for it.
    house.clock.advance(20_000);
    host.renew();
    let refused = loop {
        match host.attest(&house).await {
            Err(code) if code == "trust.superseded" => host.renew(),
            result => break result.map(drop).unwrap_err(),
        }
    };
    assert_eq!(refused, "x509.crl.expired");
    assert_ne!(house.standing(&host), "revoked");
    assert_eq!(outcomes(&import(&house, house.maker.crl(2, &[], 2040)).await), ["accepted"]);
    host.renew();
    host.attest(&house).await.unwrap();
    // The maker takes the certificate back: the live host falls, and nobody enrols with it.
    let certificate = house.maker.ek_certificate(&host.tpm);
    let serial = Certificate::parse(&certificate).unwrap().serial().to_vec();
    let change = import(&house, house.maker.crl(3, &[&serial], 2040)).await;
    assert_eq!((outcomes(&change), change.revoked_hosts), (vec!["accepted"], 1));
    let trust = house.broker().trust.host(&host.id).unwrap().unwrap();
    assert_eq!(
        (house.standing(&host).as_str(), trust.reasons),
        ("revoked", vec!["tpm.endorsement.revoked".to_owned()])
    );
    house.broker().remove(&operator(), &host.id).await.unwrap();
    let refused = Host::enroll(&house, "gpu-1", &host.tpm).await.unwrap_err();
    assert_eq!(refused.code(), "tpm.endorsement.revoked");
}

/// A mistake in the settings, or a file that is for nobody, is an error at the start and not a surprise at an expiry.
#[tokio::test(flavor = "multi_thread")]
async fn settings_and_files_that_mean_nothing_refuse_the_start() {
    let house = House::new();
    let data = house.data();
    let start = || countersign::collateral::settings::Settings::load(&data).map_err(|error| error.to_string());
    for (text, named) in [
        ("[grace]\npolicy = \"\"\nmilliseconds = 1", "policy"),
        ("[grace]\npolicy = \"p\"\nmilliseconds = 0", "milliseconds"),
        ("[grace]\nmilliseconds = 1", "policy"),
        ("[late]\npolicy = \"p\"", "unknown"),
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
