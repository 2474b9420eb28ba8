//! The bundle: all evidence of one host for one challenge and one credential key, as a CMW collection (RFC 9999)
//! in JSON. Records carry the hardware's own bytes; nothing is re-encoded on the way.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::rejection::{Rejection, reasons};

reasons! {
    /// Why a bundle cannot be read.
    BundleReason {
        /// A record this bundle cannot do without is absent.
        Missing = "bundle.record.missing",
            "a record that every bundle carries is not there",
            "collect the record on the host and send it; see the expected name";
        /// Unknown records are refused: what is not judged must not be carried.
        Unknown = "bundle.record.unknown",
            "the bundle carries a record this broker does not know",
            "send only the records this version of the protocol names";
        /// A known name with another media type.
        MediaType = "bundle.record.media_type",
            "a record carries another media type than its name demands",
            "use the media type named as expected";
        /// Base64url without padding, canonical.
        Encoding = "bundle.record.encoding",
            "a record is not canonical base64url without padding",
            "encode with the URL-safe alphabet and no padding (RFC 4648, section 5)";
        /// [`ImaEntries`] start with an index.
        ImaIndex = "bundle.ima.index",
            "the IMA entries do not start with the index of the first of them",
            "send the index as eight bytes, big-endian, then the entries";
        /// Sizes are bounded before anything is parsed.
        TooLarge = "bundle.record.too_large",
            "a record is larger than its kind can be",
            "send the hardware's own structure without padding or wrapping";
        /// Each report once, and nothing beside it that belongs to another.
        Conflict = "bundle.record.conflict",
            "two records of the bundle do not go together",
            "send the records of one technology, as its documentation says";
        /// The collection's type names the protocol version.
        Collection = "bundle.collection.type",
            "the collection is of another type than this broker reads",
            "use an agent of the broker's protocol version";
    }
}

/// `__cmwc_t` of our collections.
pub const COLLECTION_TYPE: &str = "tag:countersign.dev,2026:evidence/v1";

/// Largest event log. Firmware reserves 64 KiB to 256 KiB for it, and systems with large `db` and `dbx` lists use that.
pub const EVENT_LOG_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of IMA entries in one bundle: about 80,000 entries. A host with more of them sends them by and by.
pub const IMA_ENTRIES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The index before the entries.
const IMA_INDEX_BYTES: usize = 8;

/// Names, media types and size limits of the records. A limit is the largest structure the specification allows there,
/// rounded up.
const RECORDS: [(&str, &str, usize); 10] = [
    (TPM_QUOTE, "application/vnd.countersign.tpm2-quote", 4096),
    (TPM_PCRS, "application/vnd.countersign.tpm2-pcr-values", 4096),
    (TPM_CERTIFY, "application/vnd.countersign.tpm2-certify", 4096),
    (TPM_EVENT_LOG, "application/vnd.countersign.tcg2-event-log", EVENT_LOG_BYTES_MAX),
    (IMA_ENTRIES, "application/vnd.countersign.ima-entries", IMA_ENTRIES_BYTES_MAX + IMA_INDEX_BYTES),
    (SNP_REPORT, "application/vnd.countersign.sev-snp-report", 1184),
    (SNP_VEK, "application/pkix-cert", 4096),
    (TDX_QUOTE, "application/vnd.countersign.tdx-quote", 16 * 1024),
    (TDX_CCEL, "application/vnd.countersign.ccel", EVENT_LOG_BYTES_MAX),
    (AZURE_HCL_REPORT, "application/vnd.countersign.azure-hcl-report", 8 * 1024),
];

/// TPM2B_ATTEST of TPM2_Quote, then TPMT_SIGNATURE.
pub const TPM_QUOTE: &str = "tpm2.quote";
/// The quoted PCR values as TPM2B_DIGESTs, in the order of the requested selection: banks as listed, PCRs ascending.
pub const TPM_PCRS: &str = "tpm2.pcrs";
/// TPM2B_ATTEST of TPM2_Certify over the credential key, then TPMT_SIGNATURE, then the key's TPM2B_PUBLIC.
pub const TPM_CERTIFY: &str = "tpm2.certify";
/// The firmware's measurement log as the host's kernel exports it (TCG PC Client Platform Firmware Profile, 10). Sent
/// when the host is in another boot than [`Challenge::known_boot`](crate::protocol::Challenge::known_boot).
pub const TPM_EVENT_LOG: &str = "tpm2.event_log";
/// [`ImaEntries`]: the index of the first entry, u64 big-endian, then the entries as the host's kernel exports them.
/// Sent when the selection of the challenge names a PCR that the kernel extends with them, PCR 10 as a rule.
pub const IMA_ENTRIES: &str = "ima.entries";
/// ATTESTATION_REPORT, 1184 bytes.
pub const SNP_REPORT: &str = "snp.report";
/// The VCEK or VLEK certificate that belongs to the report, or to the one in [`AZURE_HCL_REPORT`], DER.
pub const SNP_VEK: &str = "snp.vek";
/// A quote of the trust domain, as the quoting service returned it, with its PCK chain.
pub const TDX_QUOTE: &str = "tdx.quote";
/// The log behind the quote's RTMRs, as the firmware left it (UEFI 2.10, 38.4.1). Sent as [`TPM_EVENT_LOG`] is.
pub const TDX_CCEL: &str = "tdx.ccel";
/// What Azure's paravisor keeps in NV index 0x01400001 of its virtual TPM: hardware report and runtime data. With
/// [`SNP_VEK`] where that is a report of SEV-SNP, with [`TDX_QUOTE`] where it is one of TDX.
pub const AZURE_HCL_REPORT: &str = "azure.hcl_report";

/// A CMW collection on the wire: `__cmwc_t` and records `name: [media type, base64url value]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    /// The collection's type.
    #[serde(rename = "__cmwc_t")]
    pub collection_type: String,
    /// The records by name.
    #[serde(flatten)]
    pub records: BTreeMap<String, (String, String)>,
}

/// An SNP report with the certificate of the key that signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// ATTESTATION_REPORT as the firmware wrote it.
    pub report: Vec<u8>,
    /// VCEK or VLEK certificate, DER.
    pub vek: Vec<u8>,
}

/// A quote of a trust domain, and the log behind its RTMRs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxEvidence {
    /// The quote.
    pub quote: Vec<u8>,
    /// See [`TDX_CCEL`].
    pub ccel: Option<Vec<u8>>,
}

/// A paravisor's report, and the certificate of the key that signed the hardware report in it where that is SEV-SNP's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParavisorEvidence {
    /// See [`AZURE_HCL_REPORT`].
    pub hcl_report: Vec<u8>,
    /// VCEK or VLEK certificate, DER.
    pub vek: Option<Vec<u8>>,
}

/// Entries of the kernel's measurement list (IMA), in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImaEntries {
    /// Index in the list of the first entry here: 0, or what the challenge said is known.
    pub from: u64,
    /// The entries from there on: bytes of `binary_runtime_measurements`.
    pub list: Vec<u8>,
}

impl ImaEntries {
    fn decode(mut record: Vec<u8>) -> Result<Self, Rejection> {
        let Some((index, _)) = record.split_first_chunk::<IMA_INDEX_BYTES>() else {
            let found = format_args!("{} bytes", record.len());
            return Err(BundleReason::ImaIndex.because("8 bytes of index, then the entries", found));
        };
        let from = u64::from_be_bytes(*index);
        record.drain(..IMA_INDEX_BYTES);
        Ok(Self { from, list: record })
    }

    fn encode(&self) -> Vec<u8> {
        let mut record = self.from.to_be_bytes().to_vec();
        record.extend_from_slice(&self.list);
        record
    }
}

/// The logs of a bundle. They are large, most of what they say was said before, and they are kept by their digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// See [`TPM_EVENT_LOG`].
    pub event_log: Option<Vec<u8>>,
    /// See [`IMA_ENTRIES`].
    pub ima: Option<ImaEntries>,
    /// See [`TDX_CCEL`].
    pub ccel: Option<Vec<u8>>,
}

impl Collection {
    /// Takes the logs out and decodes them.
    ///
    /// # Errors
    /// A [`BundleReason`]; the collection is then without its logs.
    pub fn take_logs(&mut self) -> Result<Logs, Rejection> {
        let mut take = |name: &str| {
            let record = self.records.remove(name)?;
            let known = RECORDS.iter().find(|(known, _, _)| *known == name)?;
            Some(decode_record(known, &record))
        };
        let event_log = take(TPM_EVENT_LOG).transpose()?;
        let ima = take(IMA_ENTRIES).transpose()?.map(ImaEntries::decode).transpose()?;
        let ccel = take(TDX_CCEL).transpose()?;
        if ccel.is_some() && !self.records.contains_key(TDX_QUOTE) {
            return Err(BundleReason::Missing.because(TDX_QUOTE, "tdx.ccel alone"));
        }
        Ok(Logs { event_log, ima, ccel })
    }
}

/// A decoded bundle: the hardware's bytes, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// See [`TPM_QUOTE`].
    pub tpm_quote: Vec<u8>,
    /// See [`TPM_PCRS`].
    pub tpm_pcrs: Vec<u8>,
    /// See [`TPM_CERTIFY`].
    pub tpm_certify: Vec<u8>,
    /// The event log, from a host in a boot that the broker does not know.
    pub event_log: Option<Vec<u8>>,
    /// New entries of the IMA list.
    pub ima: Option<ImaEntries>,
    /// The SNP report, on hosts that are confidential VMs.
    pub snp: Option<SnpEvidence>,
    /// The TD quote, on hosts that are trust domains.
    pub tdx: Option<TdxEvidence>,
    /// The paravisor's report, on hosts whose TPM is a paravisor's.
    pub paravisor: Option<ParavisorEvidence>,
}

impl Bundle {
    /// Decodes a collection.
    ///
    /// # Errors
    /// A [`BundleReason`] for unknown, missing, oversized or badly encoded records.
    pub fn decode(collection: &Collection) -> Result<Self, Rejection> {
        if collection.collection_type != COLLECTION_TYPE {
            return Err(BundleReason::Collection.because(COLLECTION_TYPE, &collection.collection_type));
        }
        let mut decoded = BTreeMap::new();
        for (name, record) in &collection.records {
            let Some(known) = RECORDS.iter().find(|(known, _, _)| known == name) else {
                return Err(BundleReason::Unknown.because("tpm2.*, ima.*, snp.*, tdx.* or azure.hcl_report", name));
            };
            decoded.insert(known.0, decode_record(known, record)?);
        }
        let mut take = |name: &str| decoded.remove(name);
        let (snp, paravisor) = match (take(SNP_REPORT), take(SNP_VEK), take(AZURE_HCL_REPORT)) {
            (None, None, None) => (None, None),
            (Some(report), Some(vek), None) => (Some(SnpEvidence { report, vek }), None),
            (None, vek, Some(hcl_report)) => (None, Some(ParavisorEvidence { hcl_report, vek })),
            (None, Some(_), None) => return Err(BundleReason::Missing.because(SNP_REPORT, "snp.vek alone")),
            (Some(_), None, None) => return Err(BundleReason::Missing.because(SNP_VEK, "snp.report alone")),
            // The report under a paravisor is in its own: another one beside it would be of another layer.
            (Some(_), _, Some(_)) => {
                return Err(BundleReason::Conflict.because("snp.report or azure.hcl_report", "both"));
            }
        };
        let tdx = match (take(TDX_QUOTE), take(TDX_CCEL)) {
            (None, None) => None,
            (Some(quote), ccel) => Some(TdxEvidence { quote, ccel }),
            (None, Some(_)) => return Err(BundleReason::Missing.because(TDX_QUOTE, "tdx.ccel alone")),
        };
        let event_log = take(TPM_EVENT_LOG);
        let ima = take(IMA_ENTRIES).map(ImaEntries::decode).transpose()?;
        let mut required = |name: &str| take(name).ok_or_else(|| BundleReason::Missing.because(name, "no such record"));
        Ok(Self {
            tpm_quote: required(TPM_QUOTE)?,
            tpm_pcrs: required(TPM_PCRS)?,
            tpm_certify: required(TPM_CERTIFY)?,
            event_log,
            ima,
            snp,
            tdx,
            paravisor,
        })
    }

    /// The collection that decodes to this bundle.
    #[must_use]
    pub fn encode(&self) -> Collection {
        let ima = self.ima.as_ref().map(ImaEntries::encode);
        let snp = self.snp.iter().flat_map(|snp| [(SNP_REPORT, &snp.report), (SNP_VEK, &snp.vek)]);
        let quote = self.tdx.iter().map(|tdx| (TDX_QUOTE, &tdx.quote));
        let ccel = self.tdx.iter().filter_map(|tdx| Some((TDX_CCEL, tdx.ccel.as_ref()?)));
        let hcl = self.paravisor.iter().map(|paravisor| (AZURE_HCL_REPORT, &paravisor.hcl_report));
        let vek = self.paravisor.iter().filter_map(|paravisor| Some((SNP_VEK, paravisor.vek.as_ref()?)));
        let hardware = snp.chain(quote).chain(ccel).chain(hcl).chain(vek);
        let tpm = [(TPM_QUOTE, &self.tpm_quote), (TPM_PCRS, &self.tpm_pcrs), (TPM_CERTIFY, &self.tpm_certify)];
        let logs = self.event_log.iter().map(|log| (TPM_EVENT_LOG, log));
        let logs = logs.chain(ima.iter().map(|entries| (IMA_ENTRIES, entries)));
        let records = tpm.into_iter().chain(logs).chain(hardware).filter_map(|(name, value)| {
            let (_, media_type, _) = RECORDS.iter().find(|(known, _, _)| *known == name)?;
            Some((name.to_string(), ((*media_type).to_string(), URL_SAFE_NO_PAD.encode(value))))
        });
        Collection { collection_type: COLLECTION_TYPE.to_string(), records: records.collect() }
    }
}

fn decode_record(known: &(&str, &str, usize), record: &(String, String)) -> Result<Vec<u8>, Rejection> {
    let ((name, expected_type, size_max), (media_type, value)) = (*known, record);
    if media_type != expected_type {
        return Err(BundleReason::MediaType.because(expected_type, media_type));
    }
    // Four characters carry three bytes: refuse before decoding.
    if size_max.div_ceil(3).saturating_mul(4) < value.len() {
        return Err(BundleReason::TooLarge.because(size_max, value.len()));
    }
    let bytes =
        URL_SAFE_NO_PAD.decode(value).map_err(|error| BundleReason::Encoding.because(name, error.to_string()))?;
    if size_max < bytes.len() {
        return Err(BundleReason::TooLarge.because(size_max, bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::{
        Bundle, IMA_ENTRIES, ImaEntries, Logs, ParavisorEvidence, SnpEvidence, TDX_CCEL, TPM_EVENT_LOG, TPM_QUOTE,
        TdxEvidence,
    };

    fn bundle() -> Bundle {
        let snp = Some(SnpEvidence { report: vec![4; 1184], vek: vec![5; 3] });
        let ima = Some(ImaEntries { from: 0x0102_0304_0506_0708, list: vec![7; 9] });
        let tdx = Some(TdxEvidence { quote: vec![8; 7], ccel: Some(vec![9; 11]) });
        let event_log = Some(vec![6; 5]);
        let (tpm_quote, tpm_pcrs, tpm_certify) = (vec![1], vec![2], vec![3]);
        Bundle { tpm_quote, tpm_pcrs, tpm_certify, event_log, ima, snp, tdx, paravisor: None }
    }

    #[test]
    fn decode_inverts_encode() {
        assert_eq!(Bundle::decode(&bundle().encode()), Ok(bundle()));
        for vek in [None, Some(vec![5; 3])] {
            let paravisor = Some(ParavisorEvidence { hcl_report: vec![10; 40], vek });
            let azure = Bundle { snp: None, paravisor, ..bundle() };
            assert_eq!(Bundle::decode(&azure.encode()), Ok(azure));
        }
        let small = Bundle { snp: None, tdx: None, event_log: None, ima: None, ..bundle() };
        assert_eq!(Bundle::decode(&small.encode()), Ok(small));
        let nothing_new = Bundle { ima: Some(ImaEntries { from: 3, list: vec![] }), ..bundle() };
        assert_eq!(Bundle::decode(&nothing_new.encode()), Ok(nothing_new));
    }

    #[test]
    fn logs_are_taken_out_and_nothing_else() {
        let mut collection = bundle().encode();
        let logs = collection.take_logs().unwrap();
        assert_eq!((logs.event_log, logs.ima), (bundle().event_log, bundle().ima));
        assert_eq!(logs.ccel, Some(vec![9; 11]));
        let tdx = Some(TdxEvidence { quote: vec![8; 7], ccel: None });
        assert_eq!(Bundle::decode(&collection), Ok(Bundle { event_log: None, ima: None, tdx, ..bundle() }));
        let mut alone = bundle().encode();
        alone.records.remove("tdx.quote");
        assert_eq!(alone.take_logs().map_err(|rejection| rejection.code()), Err("bundle.record.missing"));
        assert_eq!(collection.take_logs(), Ok(Logs::default()));
        for (name, value, code) in [
            (IMA_ENTRIES, "AAAA", "bundle.ima.index"),
            (IMA_ENTRIES, "AB==", "bundle.record.encoding"),
            (TPM_EVENT_LOG, "AB", "bundle.record.encoding"),
        ] {
            let mut collection = bundle().encode();
            collection.records.get_mut(name).unwrap().1 = value.to_string();
            assert_eq!(collection.take_logs().map_err(|rejection| rejection.code()), Err(code));
        }
    }

    #[test]
    fn every_departure_has_its_code() {
        let code = |change: &dyn Fn(&mut super::Collection)| {
            let mut collection = bundle().encode();
            change(&mut collection);
            Bundle::decode(&collection).map_err(|rejection| rejection.code())
        };
        let set = |name: &'static str, media_type: &'static str, value: &'static str| {
            move |collection: &mut super::Collection| {
                collection.records.insert(name.to_string(), (media_type.to_string(), value.to_string()));
            }
        };
        let quote = "application/vnd.countersign.tpm2-quote";
        assert_eq!(code(&|c| c.collection_type.push('2')), Err("bundle.collection.type"));
        assert_eq!(code(&set("gpu.report", quote, "AA")), Err("bundle.record.unknown"));
        assert_eq!(code(&set(TPM_QUOTE, "text/plain", "AA")), Err("bundle.record.media_type"));
        assert_eq!(code(&set(TPM_QUOTE, quote, "AA==")), Err("bundle.record.encoding"));
        assert_eq!(code(&set(TPM_QUOTE, quote, "AB")), Err("bundle.record.encoding")); // trailing bits set
        assert_eq!(code(&|c| drop(c.records.remove(TPM_QUOTE))), Err("bundle.record.missing"));
        assert_eq!(code(&|c| drop(c.records.remove("snp.vek"))), Err("bundle.record.missing"));
        assert_eq!(code(&|c| drop(c.records.remove("snp.report"))), Err("bundle.record.missing"));
        assert_eq!(code(&|c| drop(c.records.remove("tdx.quote"))), Err("bundle.record.missing"));
        let hcl = "application/vnd.countersign.azure-hcl-report";
        assert_eq!(code(&set("azure.hcl_report", hcl, "AA")), Err("bundle.record.conflict"));
        assert_eq!(code(&set(TDX_CCEL, hcl, "AA")), Err("bundle.record.media_type"));
        let ima = "application/vnd.countersign.ima-entries";
        assert_eq!(code(&set(IMA_ENTRIES, ima, "AAAAAAAAAA")), Err("bundle.ima.index"));
        assert_eq!(code(&set(IMA_ENTRIES, quote, "AAAAAAAAAAA")), Err("bundle.record.media_type"));
        let log = |bytes: usize| Bundle { event_log: Some(vec![0; bytes]), ..bundle() }.encode();
        assert_eq!(Bundle::decode(&log(1024 * 1024)).map(drop), Ok(()));
        assert_eq!(Bundle::decode(&log(1024 * 1024 + 1)).map_err(|r| r.code()), Err("bundle.record.too_large"));
        let list =
            |bytes: usize| Bundle { ima: Some(ImaEntries { from: 1, list: vec![0; bytes] }), ..bundle() }.encode();
        assert_eq!(Bundle::decode(&list(8 * 1024 * 1024)).map(drop), Ok(()));
        assert_eq!(Bundle::decode(&list(8 * 1024 * 1024 + 1)).map_err(|r| r.code()), Err("bundle.record.too_large"));
        let large = Bundle { tpm_quote: vec![0; 4097], ..bundle() };
        assert_eq!(Bundle::decode(&large.encode()).map_err(|r| r.code()), Err("bundle.record.too_large"));
    }
}
