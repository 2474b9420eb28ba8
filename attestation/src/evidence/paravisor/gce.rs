//! Google Compute Engine: the virtual TPM's attestation key has a certificate of Google's, with an extension that names
//! the instance. The hardware's reports are the guest's own: they carry the binder, as on bare metal, and so are tied
//! to the quote by it.

use alloc::string::String;

use serde::Serialize;

use super::ParavisorReason;
use crate::anchor::TpmAnchor;
use crate::endorsement::tpm::{CertifiedAk, verify_ak_certificate};
use crate::rejection::Rejection;
use crate::time::UnixMillis;
use crate::x509::der::{Der, NotDer, tag};
use crate::x509::{Certificate, Oid};

/// 1.3.6.1.4.1.11129.2.1.21.
const INSTANCE: Oid =
    Oid::new(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x01, 0x15], "Google Compute Engine instance");

const UTF8_STRING: u8 = 0x0c;

/// Which instance a virtual TPM is of, by Google's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GceInstance {
    /// Zone.
    pub zone: String,
    /// Project number.
    pub project_number: u64,
    /// Project id.
    pub project_id: String,
    /// Instance id.
    pub instance_id: u64,
    /// Instance name.
    pub instance_name: String,
}

/// An attestation key that Google certified, and the instance it is of.
#[derive(Clone, Debug)]
pub struct VerifiedGceAk {
    ak: CertifiedAk,
    instance: GceInstance,
}

impl VerifiedGceAk {
    /// The key.
    #[must_use]
    pub const fn ak(&self) -> &CertifiedAk {
        &self.ak
    }

    /// The instance.
    #[must_use]
    pub const fn instance(&self) -> &GceInstance {
        &self.instance
    }
}

/// Checks an AK certificate as [`verify_ak_certificate`] does, and that it names an instance.
///
/// # Errors
/// A reason of that, or [`ParavisorReason::GceInstance`].
pub fn verify_ak(
    certificate: &[u8],
    ak_public: &[u8],
    intermediates: &[&[u8]],
    anchors: &[TpmAnchor],
    now: UnixMillis,
) -> Result<VerifiedGceAk, Rejection> {
    let ak = verify_ak_certificate(certificate, ak_public, intermediates, anchors, now)?;
    Ok(VerifiedGceAk { ak, instance: instance_of(&Certificate::parse(certificate)?)? })
}

/// The instance that a certificate names. Nothing of the certificate is verified here.
///
/// # Errors
/// [`ParavisorReason::GceInstance`] when it has no such extension, or one that cannot be read.
pub fn instance_of(certificate: &Certificate<'_>) -> Result<GceInstance, Rejection> {
    let reason = ParavisorReason::GceInstance;
    let extension = certificate.extension(INSTANCE).ok_or_else(|| reason.because(INSTANCE, "no such extension"))?;
    read_instance(extension.value).map_err(|NotDer| reason.because("zone, project and instance", "others"))
}

/// SEQUENCE of zone, project number, project id, instance id and instance name. What follows them, tagged, are security
/// properties that no decision rests on.
fn read_instance(value: &[u8]) -> Result<GceInstance, NotDer> {
    let mut outer = Der::new(value);
    let mut fields = outer.inner(tag::SEQUENCE)?;
    outer.finish()?;
    let zone = text(&mut fields)?;
    let project_number = fields.u64()?;
    let project_id = text(&mut fields)?;
    let instance_id = fields.u64()?;
    let instance_name = text(&mut fields)?;
    Ok(GceInstance { zone, project_number, project_id, instance_id, instance_name })
}

fn text(fields: &mut Der<'_>) -> Result<String, NotDer> {
    let bytes = fields.content(UTF8_STRING)?;
    core::str::from_utf8(bytes).map(Into::into).map_err(|_| NotDer)
}
