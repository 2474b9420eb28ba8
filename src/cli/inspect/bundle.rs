//! Evidence bundles: a CMW collection in JSON (RFC 9999), record by record.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_attestation::evidence::bundle::{
    Bundle, Collection, SNP_REPORT, SNP_VEK, TPM_CERTIFY, TPM_PCRS, TPM_QUOTE,
};
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::reader::Reader;

use super::document::{Fields, Part, Standing, Table, Text, Value};
use super::{Unreadable, algorithm, ccel, certificate, dcap, eventlog, hcl, ima, quote, snp};

/// The event log of measured boot.
const TPM_EVENT_LOG: &str = "tpm2.event_log";
/// Index of the first entry (64 bits, big-endian), then entries of the kernel's binary measurement list.
const IMA_ENTRIES: &str = "ima.entries";

/// A quote of the trust domain.
const TDX_QUOTE: &str = "tdx.quote";
/// The event log of its firmware.
const TDX_CCEL: &str = "tdx.ccel";
/// The report of Azure's paravisor.
const AZURE_HCL_REPORT: &str = "azure.hcl_report";

/// A JSON object that says what type of collection it is.
pub(super) fn recognise(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<Collection>(bytes).is_ok()
}

/// Each record in turn: quote, values and certification first.
pub(super) fn bundle(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let collection: Collection = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let form = match Bundle::decode(&collection) {
        Ok(_) => "as a verifier takes it".to_owned(),
        Err(rejection) => format!("a verifier refuses it: {rejection}"),
    };
    let because = "nothing signs the envelope; each record stands for itself";
    let head = Part::new("collection", Standing::Claimed, because)
        .with("__cmwc_t", collection.collection_type.as_str())
        .with("records", Value::list(collection.records.keys().map(String::as_str)))
        .with("form", form);
    let mut parts = vec![head];
    let quoted = collection.records.get(TPM_QUOTE).and_then(|(_, value)| URL_SAFE_NO_PAD.decode(value).ok());
    for (name, (media_type, value)) in &collection.records {
        let read = URL_SAFE_NO_PAD.decode(value).map_err(|error| format!("base64url: {error}"));
        let read = read.and_then(|bytes| record(name, &bytes, quoted.as_deref()));
        // One broken record hides no other.
        let read = read.unwrap_or_else(|why| {
            vec![Part::new("unreadable", Standing::Claimed, "it could not be read").with("error", why)]
        });
        for part in read {
            let fields = Fields::default().with("media type", media_type.as_str()).with("structure", part.fields);
            let name = Text::new(&format!("{name}: {}", part.name.as_str()));
            parts.push(Part { name, fields, ..part });
        }
    }
    Ok(parts)
}

fn record(name: &str, bytes: &[u8], quote_record: Option<&[u8]>) -> Result<Vec<Part>, Unreadable> {
    match name {
        TPM_QUOTE | TPM_CERTIFY => quote::attest(bytes),
        TPM_PCRS => pcr_values(bytes, quote_record).map(|part| vec![part]),
        TPM_EVENT_LOG => eventlog::event_log(bytes),
        IMA_ENTRIES => ima_entries(bytes),
        SNP_REPORT => snp::report(bytes),
        SNP_VEK => certificate::certificates(bytes),
        TDX_QUOTE => dcap::quote(bytes),
        TDX_CCEL => ccel::register_log(bytes),
        AZURE_HCL_REPORT => hcl::report(bytes),
        _ => Ok(vec![
            Part::new("unknown record", Standing::Claimed, "this version does not know it, and a verifier refuses it")
                .with("bytes", bytes.len()),
        ]),
    }
}

fn ima_entries(bytes: &[u8]) -> Result<Vec<Part>, Unreadable> {
    let mut reader = Reader::new(bytes);
    let from = reader.u64_be().map_err(|error| format!("index of the first entry: {error}"))?;
    let list = bytes.get(reader.offset()..).unwrap_or_default();
    ima::binary_list(list, TpmHash::Sha1, "binary", from)
}

/// TPM2B_DIGESTs in the order of the quote's own selection.
fn pcr_values(bytes: &[u8], quote_record: Option<&[u8]>) -> Result<Part, Unreadable> {
    let (banks, pcr_digest) =
        quote_record.and_then(quote::quoted).ok_or("the quote that says whose values these are")?;
    let mut reader = Reader::new(bytes);
    let (mut rows, mut hashed) = (Vec::new(), Vec::new());
    for bank in banks {
        for index in bank.pcrs {
            let value = reader.tpm2b().map_err(|error| format!("PCR {index}: {error}"))?;
            hashed.extend_from_slice(value);
            rows.push(vec![algorithm::name(bank.hash).into(), index.into(), Value::hex(value)]);
        }
    }
    reader.finish().map_err(|error| format!("more values than PCRs: {error}"))?;
    let hash = [TpmHash::Sha256, TpmHash::Sha384, TpmHash::Sha512, TpmHash::Sha1]
        .into_iter()
        .find(|hash| quote::digest(*hash, &hashed) == pcr_digest);
    let because = "no signature covers the values themselves, only their pcrDigest in the quote";
    let part = Part::new("PCR values", Standing::Claimed, because)
        .with("hash to the pcrDigest in the quote (computed)", hash.map_or("NO", TpmHash::name));
    let tables = vec![Table { name: "values", columns: &["bank", "pcr", "value"], rows }];
    Ok(Part { tables, ..part })
}
