//! The Provisioning Certification Key of a platform: its certificate and Intel's extensions in it (Intel SGX PCK
//! Certificate and CRL Profile Specification, 1.3.5).

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::{IntelReason, Validity, pem};
use crate::anchor::Assurance;
use crate::digest::Sha256Digest;
use crate::rejection::Rejection;
use crate::signature::{PreparedKey, Scheme};
use crate::time::UnixMillis;
use crate::x509::der::{Der, NotDer, tag};
use crate::x509::{Certificate, Oid};

/// 1.2.840.113741.1.13.1.
const SGX_EXTENSIONS: Oid = Oid::new(&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1], "SGX Extensions");
/// ENUMERATED.
const TAG_ENUMERATED: u8 = 0x0a;

// Below the identifier of the extension.
const PPID: &[u8] = &[1];
const TCB: &[u8] = &[2];
const PCE_ID: &[u8] = &[3];
const FMSPC: &[u8] = &[4];
const SGX_TYPE: &[u8] = &[5];
const PLATFORM_INSTANCE_ID: &[u8] = &[6];
const CONFIGURATION: &[u8] = &[7];

/// Components 1 to 16, PCESVN 17, CPUSVN 18, each below 2.
const TCB_MEMBERS: usize = 18;

/// Common name of every PCK certificate.
pub(super) const PCK_NAME: &str = "Intel SGX PCK Certificate";

/// A PCK whose chain led to a pinned root of Intel and that no list names.
/// [`super::VerifiedCollateral::endorse_pck`] is the only constructor.
///
/// It may be kept for as long as [`VerifiedPck::check_current`] holds, for quotes that carry the very chain it was made
/// from, [`VerifiedPck::digest`], beside the very collateral, [`VerifiedPck::collateral`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPck {
    pub(super) chain: Vec<u8>,
    pub(super) digest: Sha256Digest,
    pub(super) collateral: Sha256Digest,
    pub(super) assurance: Assurance,
    pub(super) key: PreparedKey,
    pub(super) issuer: String,
    pub(super) not_before: UnixMillis,
    pub(super) extensions: PckExtensions,
    pub(super) validity: Validity,
}

impl VerifiedPck {
    /// SHA-256 of the chain as it was sent.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// The chain as it was sent. Whether a quote carries the very same costs less by comparing than by hashing.
    #[must_use]
    pub fn chain(&self) -> &[u8] {
        &self.chain
    }

    /// Digest of the collateral whose lists it was checked against.
    #[must_use]
    pub const fn collateral(&self) -> Sha256Digest {
        self.collateral
    }

    /// What the root is worth.
    #[must_use]
    pub const fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The key: P-256, for the QE report's r || s.
    pub(crate) const fn key(&self) -> &PreparedKey {
        &self.key
    }

    /// Common name of the certificate's issuer: the platform or the processor CA.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// notBefore of the certificate itself.
    #[must_use]
    pub const fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// Which platform it stands for, and which TCB.
    #[must_use]
    pub const fn extensions(&self) -> &PckExtensions {
        &self.extensions
    }

    /// The earliest notAfter of the chain and nextUpdate of the lists it was checked against.
    #[must_use]
    pub const fn valid_until(&self) -> UnixMillis {
        self.validity.until
    }

    /// Checks at every use that nothing it rests on is out of date.
    ///
    /// # Errors
    /// [`IntelReason::NotYetValid`] or [`IntelReason::Expired`].
    pub fn check_current(&self, now: UnixMillis) -> Result<(), Rejection> {
        self.validity.check(now)
    }
}

/// Which platform a PCK chain says it is of, and who issued it: where to look for collateral. Nothing is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedPlatform {
    /// FMSPC.
    pub fmspc: [u8; 6],
    /// Name of the CA that issued the PCK, DER.
    pub issuer: Vec<u8>,
}

impl UnverifiedPlatform {
    /// What the PCK certificate in `chain` says, PEM in any order.
    ///
    /// # Errors
    /// [`IntelReason::Chain`] when there is not one PCK certificate in it, and as for its extensions.
    pub fn of(chain: &[u8]) -> Result<Self, Rejection> {
        let chain = pem::certificates(chain)?;
        let certificates = chain.iter().map(|der| Certificate::parse(der)).collect::<Result<Vec<_>, _>>()?;
        let mut pcks = certificates.iter().filter(|pck| pck.subject_common_name() == Some(PCK_NAME));
        let (Some(pck), None) = (pcks.next(), pcks.next()) else {
            return Err(IntelReason::Chain.because("one PCK certificate", "none, or more"));
        };
        Ok(Self { fmspc: PckExtensions::read(pck)?.fmspc, issuer: pck.issuer().to_vec() })
    }
}

/// Intel's extensions of a PCK certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PckExtensions {
    /// PPID: this very platform.
    pub ppid: [u8; 16],
    /// SVNs of the 16 components of the TCB.
    pub components: [u8; 16],
    /// PCESVN.
    pub pce_svn: u16,
    /// CPUSVN, as the processor encodes it.
    pub cpu_svn: [u8; 16],
    /// PCEID.
    pub pce_id: [u8; 2],
    /// FMSPC.
    pub fmspc: [u8; 6],
    /// SGX Type.
    pub sgx_type: SgxType,
    /// Platform instance, for platforms of more than one package.
    pub platform_instance_id: Option<[u8; 16]>,
}

/// How a platform protects the memory of enclaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgxType {
    /// Encryption, integrity and replay protection.
    Standard,
    /// Encryption alone.
    Scalable,
    /// Encryption and integrity.
    ScalableWithIntegrity,
}

impl PckExtensions {
    pub(super) fn read(certificate: &Certificate<'_>) -> Result<Self, Rejection> {
        let malformed = |NotDer| IntelReason::PckExtensions.because("SGX Extensions as specified", "other ones");
        let missing = || IntelReason::PckExtensions.because("SGX Extensions", "a certificate without them");
        let extension = certificate.extension(SGX_EXTENSIONS).ok_or_else(missing)?;
        read_extensions(extension.value).map_err(malformed)
    }
}

fn read_extensions(value: &[u8]) -> Result<PckExtensions, NotDer> {
    let mut outer = Der::new(value);
    let members = members(outer.inner(tag::SEQUENCE)?, SGX_EXTENSIONS.octets())?;
    outer.finish()?;
    let find = |id: &[u8]| members.iter().find(|(found, _)| *found == id).map(|(_, value)| *value);
    if members.iter().any(|(id, _)| !known(id)) {
        return Err(NotDer);
    }
    let tcb = read_tcb(find(TCB).ok_or(NotDer)?)?;
    let mut sgx_type = find(SGX_TYPE).ok_or(NotDer)?;
    let kind = sgx_type.content(TAG_ENUMERATED)?;
    let sgx_type = match crate::x509::der::integer_u64(kind)? {
        0 => SgxType::Standard,
        1 => SgxType::Scalable,
        2 => SgxType::ScalableWithIntegrity,
        _ => return Err(NotDer),
    };
    Ok(PckExtensions {
        ppid: octets(find(PPID))?,
        components: tcb.components,
        pce_svn: tcb.pce_svn,
        cpu_svn: tcb.cpu_svn,
        pce_id: octets(find(PCE_ID))?,
        fmspc: octets(find(FMSPC))?,
        sgx_type,
        platform_instance_id: match find(PLATFORM_INSTANCE_ID) {
            Some(value) => Some(octets(Some(value))?),
            None => None,
        },
    })
}

fn known(id: &[u8]) -> bool {
    [PPID, TCB, PCE_ID, FMSPC, SGX_TYPE, PLATFORM_INSTANCE_ID, CONFIGURATION].contains(&id)
}

/// A SEQUENCE of SEQUENCE { id, value }: each id once, all below `above`.
fn members<'a>(mut list: Der<'a>, above: &[u8]) -> Result<Vec<(&'a [u8], Der<'a>)>, NotDer> {
    let mut members: Vec<(&[u8], Der<'_>)> = Vec::new();
    while !list.is_empty() {
        let mut member = list.inner(tag::SEQUENCE)?;
        let id = member.content(tag::OID)?.strip_prefix(above).ok_or(NotDer)?;
        if members.iter().any(|(found, _)| *found == id) {
            return Err(NotDer);
        }
        let value = member.any()?.whole;
        member.finish()?;
        members.push((id, Der::new(value)));
    }
    Ok(members)
}

fn octets<const N: usize>(value: Option<Der<'_>>) -> Result<[u8; N], NotDer> {
    value.ok_or(NotDer)?.content(tag::OCTET_STRING)?.try_into().map_err(|_| NotDer)
}

struct Tcb {
    components: [u8; 16],
    pce_svn: u16,
    cpu_svn: [u8; 16],
}

fn read_tcb(mut value: Der<'_>) -> Result<Tcb, NotDer> {
    let above = [SGX_EXTENSIONS.octets(), TCB].concat();
    let members = members(value.inner(tag::SEQUENCE)?, &above)?;
    if members.len() != TCB_MEMBERS {
        return Err(NotDer);
    }
    let find = |id: u8| members.iter().find(|(found, _)| *found == [id]).map(|(_, value)| *value).ok_or(NotDer);
    let mut components = [0; 16];
    for (component, id) in components.iter_mut().zip(1..) {
        *component = u8::try_from(find(id)?.u64()?).map_err(|_| NotDer)?;
    }
    let pce_svn = u16::try_from(find(17)?.u64()?).map_err(|_| NotDer)?;
    Ok(Tcb { components, pce_svn, cpu_svn: octets(find(18).ok())? })
}

/// The key of a PCK certificate.
pub(super) fn key(certificate: &Certificate<'_>) -> Result<PreparedKey, Rejection> {
    let key = certificate.public_key(Scheme::EcdsaP256Sha256)?.prepare();
    key.map_err(|_| IntelReason::Chain.because("a public key on P-256", "a point that is not"))
}

/// The common name of a certificate's issuer, for explanations.
pub(super) fn issuer_name(certificate: &Certificate<'_>) -> String {
    certificate.issuer_common_name().unwrap_or("no common name").to_string()
}
