//! What a warm verification of a report or quote allocates: the claims it returns, and nothing else.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdAnchor, AmdProduct, Assurance};
use countersign_attestation::endorsement::amd;
use countersign_attestation::endorsement::intel::VerifiedCollateral;
use countersign_attestation::evidence::snp::{ReportDataExpectation, verify_report};
use countersign_attestation::evidence::tdx::{self, Quote, VerifiedQe};

#[path = "../../tests/sim/intel.rs"]
mod sim_intel;

use sim_intel::{IntelSimulator, QuoteKind};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn during<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATIONS.get();
    let made = work();
    (made, ALLOCATIONS.get() - before)
}

macro_rules! shipped {
    ($path:literal) => {
        include_bytes!(concat!("../../firmware-refs/", $path))
    };
}

#[test]
fn a_warm_report_allocates_its_claims_alone() {
    let anchor = AmdAnchor {
        product: AmdProduct::Milan,
        assurance: Assurance::Hardware,
        ark: shipped!("anchors/amd/milan/ark.der").to_vec(),
        intermediates: vec![shipped!("anchors/amd/milan/ask.der").to_vec()],
    };
    // 2026-06-01T00:00:00Z.
    let now = UnixMillis(1_780_272_000_000);
    let vek = amd::endorse(shipped!("evidence/amd/milan/vcek.der"), &[anchor], &[], now).expect("a genuine VCEK");
    let report = shipped!("evidence/amd/milan/report.bin");
    let warm = || verify_report(report, &vek, ReportDataExpectation::Recorded, now).expect("a genuine report");
    let claims = warm();
    let (again, verified) = during(warm);
    let (copy, copied) = during(|| claims.clone());
    assert_eq!((&again, &copy), (&claims, &claims));
    assert!(10 < copied, "the counter counts");
    assert_eq!(verified, copied, "as much as a copy of the claims");
}

#[test]
fn a_warm_and_a_hot_quote_allocate_their_claims_alone() {
    let intel = IntelSimulator::new();
    // 2026-11-23.
    let now = UnixMillis(1_795_392_000_000);
    let collateral = VerifiedCollateral::endorse(&intel.collateral().parts(), &[intel.anchor()], now);
    let collateral = collateral.expect("simulated collateral");
    for kind in [QuoteKind::Td4, QuoteKind::Td15In5] {
        let quote = intel.quote(kind, &[7; 64]);
        let parsed = Quote::parse(&quote).expect("a quote");
        let pck = collateral.endorse_pck(parsed.pck_chain().expect("a chain"), now).expect("a PCK");
        let qe = VerifiedQe::endorse(&parsed, &pck, &collateral, now).expect("a QE");
        let data = ReportDataExpectation::Recorded;
        let warm = || tdx::verify_warm(&quote, &pck, &collateral, data, now).expect("a quote");
        let hot = || tdx::verify_hot(&quote, &qe, &collateral, data, now).expect("a quote");
        let claims = warm();
        let (_, copied) = during(|| claims.clone());
        assert!(10 < copied, "the counter counts");
        for (again, verified) in [during(warm), during(hot)] {
            assert!(again == claims, "{kind:?}");
            assert_eq!(verified, copied, "{kind:?}: as much as a copy of the claims");
        }
    }
}
