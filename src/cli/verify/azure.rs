//! Azure cases: the report of a paravisor with what vouches for it (`azure-hcl`, `azure-snp`, `azure-tdx`), and the
//! quote of a virtual TPM (`azure-vtpm`).

use countersign_attestation::claims::Presented;
use countersign_attestation::endorsement::amd;
use countersign_attestation::evidence::bundle::{BundleReason, SNP_VEK, TPM_PCRS, TPM_QUOTE};
use countersign_attestation::evidence::paravisor::{
    Hardware, HardwareReport, HclReport, ParavisorReason, TdReportStruct, VerifiedParavisor, azure,
};
use countersign_attestation::evidence::tpm::TpmReason;
use countersign_attestation::evidence::tpm::algorithm::TpmHash;
use countersign_attestation::evidence::tpm::attest::{Attest, Attested, BankSelection};
use countersign_attestation::evidence::tpm::quote::{
    RecordedKey, RecordedSignature, RecordedValues, VerifiedQuote, verify_recorded,
};
use countersign_attestation::x509::Certificate;
use countersign_attestation::{Rejection, UnixMillis};
use serde_json::{Map, Value, json};

use super::snp::{self, case_anchors};
use super::tdx::{CaseQuote, TdEvidence};
use super::tpm::{read_spki, read_tools_values};
use super::{Case, CaseError, CaseFiles, Judgement};

/// Judges the report of a paravisor: the hardware report vouches for the runtime data, and that for the key of the
/// quote. One that lacks any of these links proves nothing.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read, or its nonce is not hex.
pub fn judge_report(case: &Case, files: CaseFiles<'_>, now: UnixMillis) -> Result<Judgement, CaseError> {
    let nonce = nonce(case)?;
    let Some(nv) = files.read("hcl_report")? else {
        if files.read("tdreport")?.is_some() {
            return Ok(Judgement::Rejected(unsigned()));
        }
        return Ok(Judgement::Rejected(BundleReason::Missing.because("a paravisor's report", "none")));
    };
    let recorded = RecordedQuote::read(files)?;
    let hcl = match HclReport::parse(&nv) {
        Ok(hcl) => hcl,
        Err(rejection) => return Ok(Judgement::Rejected(rejection)),
    };
    let paravisor = match hcl.hardware() {
        HardwareReport::Snp(report) => verify_snp(&hcl, report, files, now)?,
        HardwareReport::Tdx(report) => verify_tdx(&hcl, &report, files, now)?,
    };
    let judged = paravisor.and_then(|(paravisor, (name, hardware))| {
        recorded.check_key(|spki| paravisor.check_ak_spki(spki))?;
        let values = recorded.values()?;
        let quote = recorded.verify(paravisor.ak_spki(), &values, &nonce)?;
        let mut details = details(&hcl, &quote)?;
        details.insert(name.to_owned(), hardware);
        Ok(claims(&hcl, &paravisor, &quote, details))
    });
    Ok(judged.map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// Judges a quote of a virtual TPM under the key of its case: a public key, or that of a certificate. Where there are
/// both, they are one key.
///
/// # Errors
/// [`CaseError`] when a file of the case cannot be read, or its nonce is not hex.
pub fn judge_vtpm(case: &Case, files: CaseFiles<'_>) -> Result<Judgement, CaseError> {
    let nonce = nonce(case)?;
    let recorded = RecordedQuote::read(files)?;
    let judge = || -> Result<Value, Rejection> {
        let mut keys = recorded.keys()?;
        let key = keys.pop().ok_or_else(|| missing("an attestation key"))?;
        for other in &keys {
            if *other != key {
                return Err(ParavisorReason::AkKey.because("the key of the certificate", "another public key"));
            }
        }
        let values = recorded.values()?;
        let quote = recorded.verify(&key, &values, &nonce)?;
        Ok(json!({ "pcrs": quote.pcrs(), "details": quote_details(&quote) }))
    };
    Ok(judge().map_or_else(Judgement::Rejected, Judgement::Accepted))
}

/// What the verifier sent: `expected_nonce` where the quote says something else.
fn nonce(case: &Case) -> Result<Vec<u8>, CaseError> {
    let text = |name: &str| case.expect_detail.get(name).and_then(Value::as_str);
    hex::decode(text("expected_nonce").or_else(|| text("nonce")).unwrap_or_default()).map_err(|_| CaseError::Nonce)
}

fn missing(what: &str) -> Rejection {
    BundleReason::Missing.because(TPM_QUOTE, format_args!("no file for {what}"))
}

fn unsigned() -> Rejection {
    ParavisorReason::TdReportUnsigned.because("a TD quote", "the TDREPORT alone")
}

/// A judgement of the hardware that is not one of the whole case yet, with what details say of it under which name.
type Vouched = Result<(VerifiedParavisor, (&'static str, Value)), Rejection>;

fn verify_snp(hcl: &HclReport<'_>, report: &[u8], files: CaseFiles<'_>, now: UnixMillis) -> Result<Vouched, CaseError> {
    let Some(vek) = files.read("vek")? else {
        return Ok(Err(BundleReason::Missing.because(SNP_VEK, "the paravisor's report alone")));
    };
    let anchors = case_anchors(files)?;
    let crl = files.read("crl")?;
    let crls: Vec<_> = crl.iter().map(Vec::as_slice).collect();
    let endorsed = amd::endorse(&vek, &anchors, &crls, now);
    Ok(endorsed.and_then(|vek| {
        let paravisor = azure::verify(hcl, Hardware::Snp(&vek), now)?;
        let details = match paravisor.snp() {
            Presented::Verified(claims) => snp::details(report, claims, &vek),
            Presented::NotPresented => Value::Null,
        };
        Ok((paravisor, ("snp", details)))
    }))
}

/// A TDREPORT counts as far as a quote says the same.
fn verify_tdx(
    hcl: &HclReport<'_>,
    report: &TdReportStruct<'_>,
    files: CaseFiles<'_>,
    now: UnixMillis,
) -> Result<Vouched, CaseError> {
    let Some(quote) = CaseQuote::read("td_quote", files)? else {
        return Ok(Err(unsigned()));
    };
    Ok(quote.verify(now).and_then(|evidence| {
        let paravisor = match &evidence {
            TdEvidence::Endorsed(claims) => azure::verify(hcl, Hardware::Tdx(claims), now),
            TdEvidence::Recorded(quote) => azure::verify(hcl, Hardware::RecordedTdx(quote), now),
        }?;
        // As quoted: all of it was compared.
        let details = json!({
            "td_attributes": hex::encode(report.attributes),
            "mr_td": hex::encode(report.mr_td),
            "rtmrs": report.rtmrs.map(hex::encode),
            "report_data": hex::encode(report.report_data),
        });
        Ok((paravisor, ("tdreport", details)))
    }))
}

/// The virtual TPM's quote, as its files are.
struct RecordedQuote {
    message: Option<Vec<u8>>,
    signature_raw: Option<Vec<u8>>,
    signature_tpmt: Option<Vec<u8>>,
    pcrs_sha256: Option<Vec<u8>>,
    pcrs_tools: Option<Vec<u8>>,
    ak_pub: Option<Vec<u8>>,
    ak_certificate: Option<Vec<u8>>,
}

impl RecordedQuote {
    fn read(files: CaseFiles<'_>) -> Result<Self, CaseError> {
        Ok(Self {
            message: files.read("tpm_quote_msg")?,
            signature_raw: files.read("tpm_quote_sig")?,
            signature_tpmt: files.read("tpm_quote_sig_tpmt")?,
            pcrs_sha256: files.read("pcrs_sha256")?,
            pcrs_tools: files.read("pcrs")?,
            ak_pub: files.read("ak_pub")?,
            ak_certificate: files.read("ak_cert")?,
        })
    }

    /// `SubjectPublicKeyInfo` of each key that the case has beside the runtime data's.
    fn keys(&self) -> Result<Vec<Vec<u8>>, Rejection> {
        let mut keys = Vec::new();
        if let Some(certificate) = &self.ak_certificate {
            // NV indexes end in padding.
            let certificate = countersign_attestation::endorsement::tpm::certificate_of_nv(certificate)?;
            keys.push(Certificate::parse(certificate)?.spki().to_vec());
        }
        if let Some(pem) = &self.ak_pub {
            keys.push(read_spki(pem)?);
        }
        Ok(keys)
    }

    fn check_key(&self, check: impl Fn(&[u8]) -> Result<(), Rejection>) -> Result<(), Rejection> {
        self.keys()?.iter().try_for_each(|key| check(key))
    }

    /// The values of the PCRs that the quote selects. What else was recorded is quoted by nothing, and left out.
    fn values(&self) -> Result<RecordedValues, Rejection> {
        match (&self.pcrs_sha256, &self.pcrs_tools) {
            (Some(list), None) => self.listed_values(list),
            (None, Some(tools)) => read_tools_values(tools)
                .map_err(|error| TpmReason::PcrValues.because("values as tpm2_quote writes them", error))?
                .ok_or_else(|| TpmReason::PcrValues.because("a value for each selected PCR", "another number")),
            (None, None) => Err(BundleReason::Missing.because(TPM_PCRS, "no PCR values")),
            (Some(_), Some(_)) => Err(TpmReason::PcrValues.because("one set of values", "two")),
        }
    }

    fn listed_values(&self, list: &[u8]) -> Result<RecordedValues, Rejection> {
        let refused = |found: String| TpmReason::PcrValues.because("24 values in hex", found);
        let texts: Vec<String> = serde_json::from_slice(list).map_err(|error| refused(error.to_string()))?;
        let message = self.message.as_deref().ok_or_else(|| missing("a quote"))?;
        // Only to know which values are meant: the signature over it is checked with them.
        let attest = Attest::read(message)?;
        let Attested::Quote { selection, .. } = &attest.attested else {
            return Err(TpmReason::Type.because("a quote", attest.attested.kind()));
        };
        let selected: u32 =
            selection.iter().filter(|entry| entry.bank == TpmHash::Sha256).map(|entry| entry.pcrs).sum();
        let mut values = RecordedValues::new();
        for (index, text) in (0_u8..).zip(texts) {
            let value = hex::decode(&text).map_err(|_| refused(text))?;
            if selected.checked_shr(u32::from(index)).is_some_and(|rest| rest & 1 == 1) {
                values.entry(TpmHash::Sha256).or_default().insert(index, value);
            }
        }
        Ok(values)
    }

    /// Checks the quote under `key`. Where the signature was recorded in two forms, both must hold.
    fn verify<'a>(
        &'a self,
        key: &[u8],
        values: &'a RecordedValues,
        nonce: &[u8],
    ) -> Result<VerifiedQuote<'a>, Rejection> {
        let message = self.message.as_deref().ok_or_else(|| missing("a quote"))?;
        let raw = self.signature_raw.iter().map(|bytes| RecordedSignature::Raw(bytes));
        let tpmt = self.signature_tpmt.iter().map(|bytes| RecordedSignature::Tpmt(bytes));
        let mut verified = None;
        for signature in raw.chain(tpmt) {
            verified = Some(verify_recorded(message, signature, RecordedKey::Spki(key), values, nonce)?);
        }
        verified.ok_or_else(|| missing("a signature"))
    }
}

fn claims(
    hcl: &HclReport<'_>,
    paravisor: &VerifiedParavisor,
    quote: &VerifiedQuote<'_>,
    details: Map<String, Value>,
) -> Value {
    json!({
        "paravisor": paravisor.claims(),
        "snp": paravisor.snp(),
        "pcrs": quote.pcrs(),
        "hardware_report": hcl.hardware().name(),
        "details": details,
    })
}

/// The paravisor's report and the quote, under the names of a manifest's details.
fn details(hcl: &HclReport<'_>, quote: &VerifiedQuote<'_>) -> Result<Map<String, Value>, Rejection> {
    let runtime = hcl.runtime_data()?;
    let mut details = quote_details(quote);
    details.insert("hcl_version".to_owned(), hcl.version().into());
    details.insert("hcl_report_type".to_owned(), hcl.hardware().name().into());
    // The only one there is a verifier for.
    details.insert("hash_type".to_owned(), 1.into());
    details.insert("var_data_len".to_owned(), hcl.runtime_bytes().len().into());
    details.insert("runtime_data_keys".to_owned(), runtime.kids().into());
    details.insert("vm_configuration".to_owned(), json!(runtime.vm_configuration()));
    details.insert("user_data".to_owned(), hex::encode_upper(&runtime.user_data().0).into());
    Ok(details)
}

/// The quote, likewise.
fn quote_details(quote: &VerifiedQuote<'_>) -> Map<String, Value> {
    let clock = quote.clock();
    let mut details = Map::new();
    let mut say = |name: &str, value: Value| details.insert(name.to_owned(), value);
    say("nonce", hex::encode(quote.attest().extra_data).into());
    say("firmware_version", format!("{:#x}", quote.firmware_version()).into());
    say("clock", clock.clock.into());
    say("reset_count", clock.reset_count.into());
    say("restart_count", clock.restart_count.into());
    if let Attested::Quote { selection, pcr_digest } = &quote.attest().attested {
        let entry = |entry: &BankSelection| json!({ "alg": format!("{:#x}", entry.bank.id()), "pcrs": entry.indexes().collect::<Vec<_>>() });
        say("pcr_selection", selection.iter().map(entry).collect());
        say("pcr_digest", hex::encode(pcr_digest).into());
    }
    details
}
