//! A broker's process: the rooms of the real one over a simulated disk and clock. What a story does between them, from
//! the decision to the credential, is done here in the same order; what a decision is made from is given.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use countersign::broker::start::{log_origin, restore};
use countersign::clock::{Clock, Hands};
use countersign::config::{AuthoritySettings, DataDir};
use countersign::credentials::execution::{Issuer, Proven, Wanted};
use countersign::keys::{Keys, Places, certificates_der};
use countersign::lineage::{Lineage, LineageError, LogKey, Recorded};
use countersign::problem::Refusal;
use countersign::store::Store;
use countersign::trust::Trust;
use countersign::trust::published::Published;
use countersign::trust::pulse::{Pulser, Signer};
use countersign::trust::state::{HostTrust, Standing};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::Assurance;
use countersign_attestation::claims::{
    Claims, ClockInfo, HexBytes, KeyAuthorization, Presented, Revocation, TpmClaims, TpmIdentity, TpmKeyClaims, TpmKind,
};
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::lineage::entry::{CredentialRecord, DecisionRecord, Entry};
use countersign_attestation::protocol::HostId;
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::svid::{ExecutionCredential, TrustDomain};
use countersign_attestation::time::ClockError;

use crate::disk::Platter;

/// True time begins here.
pub(crate) const BASE: UnixMillis = UnixMillis(1_800_000_000_000);
pub(crate) const DOMAIN: &str = "fleet.example";
const CREDENTIAL_TTL_MS: u64 = 300_000;

/// True time, in milliseconds since [`BASE`], and how far off a machine's wall clock is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Time {
    now: Arc<AtomicU64>,
    error: Arc<AtomicI64>,
    /// What the broker's kernel says of its clock.
    said: Arc<Said>,
}

/// A kernel's word about its clock.
#[derive(Debug)]
pub(crate) struct Said(Mutex<ClockError>);

impl Default for Said {
    fn default() -> Self {
        Self(Mutex::new(ClockError::NONE))
    }
}

impl Time {
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::SeqCst)
    }

    pub(crate) fn pass(&self, milliseconds: u64) {
        self.now.fetch_add(milliseconds, Ordering::SeqCst);
    }

    pub(crate) fn error(&self) -> i64 {
        self.error.load(Ordering::SeqCst)
    }

    pub(crate) fn said(&self) -> ClockError {
        *self.said.0.lock().unwrap()
    }

    pub(crate) fn say(&self, error: ClockError) {
        *self.said.0.lock().unwrap() = error;
    }

    pub(crate) fn set_error(&self, milliseconds: i64) {
        self.error.store(milliseconds, Ordering::SeqCst);
    }
}

pub(crate) fn wall(now: u64, error: i64) -> u64 {
    BASE.0.checked_add(now).unwrap().checked_add_signed(error).unwrap()
}

impl Hands for Time {
    fn wall_ms(&self) -> u64 {
        wall(self.now(), self.error())
    }

    fn steady_ms(&self) -> u64 {
        self.now() + 77_000
    }

    fn error(&self) -> ClockError {
        self.said()
    }
}

/// What outlives every schedule: the broker's keys, the hosts' keys, and the claims that all attest to.
pub(crate) struct Estate {
    pub(crate) keys: Arc<Keys>,
    pub(crate) jwks: JwkSet,
    pub(crate) domain: TrustDomain,
    pub(crate) spkis: Vec<Vec<u8>>,
    folder: PathBuf,
    claims: Claims,
}

impl Estate {
    pub(crate) fn get() -> &'static Self {
        static ESTATE: OnceLock<Estate> = OnceLock::new();
        ESTATE.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap().keep();
            let data = DataDir::at(&folder);
            // A year before, so that clocks which are wrong by hours find it valid.
            Keys::create(&data, DOMAIN, &Places::default(), UnixMillis(BASE.0 - 31_536_000_000)).unwrap();
            LogKey::generate(&data.keys().join("log.key"), &log_origin(DOMAIN)).unwrap();
            // Ninety days around everything that happens here.
            let settings = AuthoritySettings { issuing_life_ms: 90 * 86_400_000, ..AuthoritySettings::default() };
            let keys = Arc::new(
                Keys::load(
                    &data,
                    &TrustDomain::parse(DOMAIN).unwrap(),
                    &settings,
                    UnixMillis(BASE.0 - 45 * 86_400_000),
                )
                .unwrap(),
            );
            let key = |_| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let header = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
            let spki = |pair: EcdsaKeyPair| [&header[..], pair.public_key().as_ref()].concat();
            Self {
                jwks: keys.token.jwks(),
                domain: TrustDomain::parse(DOMAIN).unwrap(),
                spkis: (0..256).map(key).map(spki).collect(),
                keys,
                folder,
                claims: claims(),
            }
        })
    }
}

fn claims() -> Claims {
    let digest = Sha256Digest([3; 32]);
    Claims {
        assurance: Assurance::Simulated,
        tpm: TpmClaims {
            assurance: Assurance::Simulated,
            ak_name: HexBytes(vec![0; 34]),
            ek: digest,
            identity: TpmIdentity::unnamed(TpmKind::Unknown),
            pcrs: [].into(),
            firmware_version: 1,
            clock: ClockInfo { clock: 1, reset_count: 1, restart_count: 0, safe: true },
            credential_key: TpmKeyClaims {
                authorization: KeyAuthorization::Password,
                creation: Presented::NotPresented,
            },
            revocation: Revocation::NotPresented,
            lists_until: None,
        },
        credential_key: digest,
        boot: Presented::NotPresented,
        ima: Presented::NotPresented,
        snp: Presented::NotPresented,
        tdx: Presented::NotPresented,
        rtmr: Presented::NotPresented,
        paravisor: Presented::NotPresented,
    }
}

/// What an operator set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) validity_ms: u64,
    pub(crate) lease_ms: u64,
}

/// A host's evidence, verified and appraised: the moment, what the host was then, and which key it is for.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) host: HostId,
    pub(crate) trust: HostTrust,
    pub(crate) key: usize,
    pub(crate) at: UnixMillis,
    /// Whether the measurements pass.
    pub(crate) passes: bool,
}

/// A credential that left the broker.
pub(crate) struct Left {
    pub(crate) credential: ExecutionCredential,
    pub(crate) chain: Vec<Vec<u8>>,
}

pub(crate) struct Process {
    pub(crate) clock: Clock,
    pub(crate) trust: Trust,
    pub(crate) lineage: Lineage,
    /// None once it has ended: no pulse comes any more.
    pub(crate) signer: Option<Signer>,
    issuer: Issuer,
    settings: Settings,
}

impl Process {
    /// Starts on what the disk holds, and signs a first pulse.
    pub(crate) fn start(
        platter: &Platter,
        time: &Time,
        folder: &std::path::Path,
        settings: Settings,
    ) -> anyhow::Result<(Self, Option<Published>)> {
        let estate = Estate::get();
        let mount = platter.mount();
        let clock = Clock::over(Arc::new(time.clone()));
        let store = Store::open_on(mount.store(), clock.clone())?;
        let origin = log_origin(DOMAIN);
        let key = LogKey::load(&DataDir::at(&estate.folder).keys().join("log.key"), &origin)?;
        let disk = Arc::new(mount);
        let (trust, lineage, _) = restore(&store, |floor| Lineage::open_on(folder, &origin, key, floor, disk))?;
        let list_uri = "https://localhost:8443/v1/status-lists/".to_owned();
        let pulser = Pulser {
            trust: trust.clone(),
            lineage: lineage.clone(),
            store,
            keys: Arc::clone(&estate.keys),
            clock: clock.clone(),
            trust_domain: estate.domain.clone(),
            origin,
            list_uri: list_uri.clone(),
            validity_ms: settings.validity_ms,
            lease_ms: settings.lease_ms,
        };
        let issuer = Issuer {
            keys: Arc::clone(&estate.keys),
            trust_domain: estate.domain.clone(),
            list_uri,
            issuer: "https://localhost:8443".to_owned(),
            build: "schedules".to_owned(),
            wit_svid: false,
        };
        let begin = || -> anyhow::Result<(Signer, Option<Published>)> {
            lineage.append_blocking(Entry::broker_started(clock.now(), "schedules"))?;
            let mut signer = pulser.ready().map_err(|problem| anyhow::anyhow!("{problem}"))?;
            match signer.sign() {
                Ok(first) => Ok((signer, Some(first))),
                Err(problem) if problem.code() == Refusal::Clock.code() => Ok((signer, None)),
                Err(problem) => Err(anyhow::anyhow!("{problem}")),
            }
        };
        match begin() {
            Ok((signer, first)) => Ok((Self { clock, trust, lineage, signer: Some(signer), issuer, settings }, first)),
            Err(error) => {
                platter.kill();
                lineage.stop();
                Err(error)
            }
        }
    }

    pub(crate) fn host(&self, id: &HostId) -> HostTrust {
        self.trust.host(id).unwrap().unwrap_or_else(HostTrust::new)
    }

    /// A new host's identity is recorded.
    pub(crate) fn enroll(&self, id: &HostId) -> Result<Recorded, LineageError> {
        let on = self.host(id).revision_of(id.clone());
        self.lineage.append_blocking(Entry::enrolled(self.clock.now(), on, Sha256Digest([1; 32])))
    }

    /// Hops 2 to 4 of an attestation; nothing where the host may not attest.
    pub(crate) fn judge(&self, id: &HostId, key: usize, passes: bool) -> Option<Case> {
        Refusal::check_clock(self.clock.error()).ok()?;
        let trust = self.host(id);
        let now = self.clock.now();
        let digest = Sha256Digest::of(&[&Estate::get().spkis[key]]);
        let outlived = trust.credential.as_ref().is_some_and(|live| live.key == digest && live.not_after <= now);
        let may = trust.can_be_granted() && !outlived && !trust.retired_keys.contains(&digest);
        may.then(|| Case { host: id.clone(), trust, key, at: self.clock.now(), passes })
    }

    /// The entry of hop 5.
    pub(crate) fn entry_of(&self, case: &Case) -> Entry {
        let on = case.trust.revision_of(case.host.clone());
        let digest = Sha256Digest([u8::from(case.passes); 32]);
        let reasons = if case.passes { vec![] } else { vec!["tpm.pcr.unlisted".to_owned()] };
        let decision = DecisionRecord { inputs: Some(digest), claims: Some(digest), decision: digest, reasons };
        if !case.passes {
            let takes = matches!(case.trust.standing, Standing::Trusted | Standing::Lapsed);
            let entry = if takes { Entry::revoked_by_decision } else { Entry::denied };
            return entry(case.at, on, decision);
        }
        let key = Sha256Digest::of(&[&Estate::get().spkis[case.key]]);
        let has_key = case.trust.credential.as_ref().is_some_and(|live| live.serves(key, case.at, CREDENTIAL_TTL_MS));
        let credential = (!has_key).then(|| CredentialRecord {
            serial: [&[0x40], &key.0[..15]].concat(),
            key,
            status_index: case.trust.status_index.unwrap_or_else(|| self.trust.reserve_index().unwrap()),
            not_after: case.at.plus(CREDENTIAL_TTL_MS),
            workload: None,
        });
        let lease_until = case.at.plus(self.settings.lease_ms);
        if case.trust.claims.is_some() {
            Entry::renewed(case.at, on, lease_until, credential)
        } else {
            Entry::granted(case.at, on, decision, lease_until, credential)
        }
    }

    /// Hops 6 and 7 of a grant: the end of the lease, and the credential where the entry decided on one.
    pub(crate) fn issue(&self, case: &Case, recorded: &Recorded) -> Option<(UnixMillis, Option<Left>)> {
        let estate = Estate::get();
        let lease = self.trust.grant(recorded).ok()?;
        let wanted = Wanted { spki: &estate.spkis[case.key], workload_key: None, audiences: &[] };
        let proven = Proven { claims: &estate.claims, waivers: &[] };
        let issued = self.issuer.issue(recorded, &lease, wanted, proven, case.at).unwrap();
        let left = issued.map(|issued| {
            let chain = certificates_der(&issued.certificate_chain).unwrap();
            let (presented, roots) = ([chain[0].as_slice(), &chain[1]], estate.keys.workload.roots());
            let credential = ExecutionCredential::verify(&presented, &roots, &estate.domain, case.at.plus(1)).unwrap();
            Left { credential, chain }
        });
        Some((lease.until(), left))
    }

    pub(crate) fn revocation(&self, id: &HostId) -> Entry {
        let on = self.host(id).revision_of(id.clone());
        Entry::revoked_by_operator(self.clock.now(), on, "admin", "operator.revoked")
    }

    pub(crate) fn readmission(&self, id: &HostId) -> Entry {
        Entry::readmitted(self.clock.now(), self.host(id).revision_of(id.clone()), "admin")
    }
}
