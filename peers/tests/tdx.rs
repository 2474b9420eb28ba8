//! Intel's quotes beside dcap-qvl.

use countersign_attestation::evidence::tdx::Quote;
use countersign_peers::cases;

/// What one parser reads, the other does. dcap-qvl reads some that we do not: see the verdicts.
#[test]
fn each_recorded_quote_that_we_read_is_read_by_dcap_qvl() {
    for case in cases::of_kinds(&["tdx-quote", "sgx-quote", "tdx-quote-unendorsed", "sgx-quote-unendorsed"]) {
        let quote = case.read("quote").expect("a quote");
        if Quote::parse(&quote).is_ok() {
            assert!(dcap_qvl::quote::Quote::parse(&quote).is_ok(), "{}", case.id);
        }
    }
}
