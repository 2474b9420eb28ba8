//! The workload authority: a root that relying parties trust, and below it issuing keys that live for days and sign
//! every execution credential.
//!
//! ```text
//! keys/issuing/1795400000000.key.pem     made first
//! keys/issuing/1795400000000.pem         its certificate, under the root: renamed into place when it is whole
//! ```
//!
//! A generation is its two files. The number is when it was made, in milliseconds, and rises. What a crash leaves
//! between the two is a key without a certificate, which never signed anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use countersign_attestation::UnixMillis;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::result::svid::{TrustDomain, check_issuing, name_constraints};
use countersign_attestation::x509::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    SerialNumber, SubjectPublicKeyInfo,
};

use super::pkcs11::Uri;
use super::roots::{self, Root};
use super::signing::SigningKey;
use super::{
    BACKDATE_MS, KeyError, Leaf, LeafProfile, certificate_der, leaf_params, moment, not_signed, random, unusable,
};
use crate::config::{
    AuthoritySettings, DataDir, NameConstraints, create_private_dir, list_dir, read_bounded, replace, sync_dir,
};

const CERTIFICATE_BYTES_MAX: u64 = 16_384;
const KEY_SUFFIX: &str = ".key.pem";
const CERTIFICATE_SUFFIX: &str = ".pem";
/// `id-ce-nameConstraints` (RFC 5280, 4.2.1.10).
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];

/// The workload authority of a trust domain.
pub struct Workload {
    trust_domain: TrustDomain,
    settings: AuthoritySettings,
    dir: PathBuf,
    data: DataDir,
    roots: ArcSwap<Roots>,
    generations: ArcSwap<Vec<Arc<Generation>>>,
    /// Whoever changes the directory holds it.
    changing: Mutex<()>,
}

/// The bundle and what is in it.
struct Roots {
    pem: String,
    all: Vec<Arc<Root>>,
}

/// One issuing key with its certificate.
pub struct Generation {
    root: Sha256Digest,
    made: u64,
    issuer: Issuer<'static, SigningKey>,
    der: Vec<u8>,
    pem: String,
    not_before: UnixMillis,
    not_after: UnixMillis,
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workload")
            .field("roots", &self.roots.load().all.len())
            .field("generations", &self.generations.load().len())
            .finish()
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("made", &self.made)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Generation {
    fn is_valid_at(&self, now: UnixMillis) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Relying parties that see leaves alone have had the certificate for long enough.
    fn is_known_at(&self, now: UnixMillis, overlap_ms: u64) -> bool {
        self.not_before.plus(BACKDATE_MS).plus(overlap_ms) <= now
    }

    /// Two thirds of its life are over.
    fn is_due_at(&self, now: UnixMillis) -> bool {
        let life = self.not_after.since(self.not_before);
        self.not_before.plus(life.saturating_sub(life / 3)) <= now
    }

    /// When its certificate ends.
    #[must_use]
    pub const fn not_after(&self) -> UnixMillis {
        self.not_after
    }

    /// SHA-256 of the root that it is under.
    #[must_use]
    pub const fn root(&self) -> Sha256Digest {
        self.root
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl Workload {
    /// Opens the authority: its root, and the generations that are whole.
    ///
    /// # Errors
    /// [`KeyError`] for what cannot be read, and for a certificate that is not under the root.
    pub fn load(data: &DataDir, trust_domain: &TrustDomain, settings: &AuthoritySettings) -> Result<Self, KeyError> {
        let dir = data.keys().join("issuing");
        if !dir.is_dir() {
            let found = format!(
                "{} is not there: the folder was made by an earlier version. Run `countersign init` for a new folder, \
                 give relying parties its public/, and enrol the hosts again",
                dir.display()
            );
            return Err(unusable("open the workload authority")(found));
        }
        let pem = roots::bundle(data)?;
        let all = roots::read(data, &pem)?;
        let workload = Self {
            trust_domain: trust_domain.clone(),
            settings: settings.clone(),
            dir,
            data: data.clone(),
            roots: ArcSwap::from_pointee(Roots { pem, all }),
            generations: ArcSwap::default(),
            changing: Mutex::new(()),
        };
        workload.read_generations()?;
        Ok(workload)
    }

    /// The roots that relying parties trust, PEM.
    #[must_use]
    pub fn roots_pem(&self) -> String {
        self.roots.load().pem.clone()
    }

    /// The same, DER each.
    #[must_use]
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.roots.load().all.iter().map(|root| root.der.clone()).collect()
    }

    /// The root that signs issuing certificates at `now`.
    fn root(&self, now: UnixMillis) -> Result<Arc<Root>, KeyError> {
        roots::active(&self.roots.load().all, self.settings.root_overlap_ms, now)
    }

    /// Takes up a bundle that was changed; whether that changed anything. A key that was away is looked for again.
    fn read_roots(&self) -> Result<bool, KeyError> {
        let (pem, held) = (roots::bundle(&self.data)?, self.roots.load());
        let lacks_key = held.all.iter().any(|root| root.issuer.is_none());
        if held.pem == pem && !lacks_key {
            return Ok(false);
        }
        let changed = held.pem != pem;
        let all = roots::read(&self.data, &pem)?;
        self.roots.store(Arc::new(Roots { pem, all }));
        Ok(changed)
    }

    /// The generation that signs at `now`: the newest that relying parties know of, or else the newest.
    ///
    /// # Errors
    /// [`KeyError::NoIssuing`] when none is valid.
    pub fn active(&self, now: UnixMillis) -> Result<Arc<Generation>, KeyError> {
        let generations = self.generations.load();
        let valid = || generations.iter().rev().filter(|generation| generation.is_valid_at(now));
        let known = valid().find(|generation| generation.is_known_at(now, self.settings.overlap_ms));
        known.or_else(|| valid().next()).cloned().ok_or(KeyError::NoIssuing { now })
    }

    /// When the last of the issuing certificates ends, if one is valid at `now`.
    #[must_use]
    pub fn ends(&self, now: UnixMillis) -> Option<UnixMillis> {
        let generations = self.generations.load();
        generations.iter().filter(|generation| generation.is_valid_at(now)).map(|valid| valid.not_after).max()
    }

    /// Whether the next generation should be there by `now` and is not.
    #[must_use]
    pub fn is_due(&self, now: UnixMillis) -> bool {
        let generations = self.generations.load();
        let newest =
            generations.iter().filter(|generation| generation.is_valid_at(now)).max_by_key(|one| one.not_after);
        let moved = |newest: &Generation| self.root(now).is_ok_and(|root| root.digest() != newest.root);
        newest.is_none_or(|newest| newest.is_due_at(now) || moved(newest))
    }

    /// Every issuing certificate that has not ended, DER.
    #[must_use]
    pub fn issuing(&self, now: UnixMillis) -> Vec<Vec<u8>> {
        let generations = self.generations.load();
        generations.iter().filter(|generation| now < generation.not_after).map(|one| one.der.clone()).collect()
    }

    /// Signs a certificate for the key in `spki`, and gives it with the issuing certificate after it.
    ///
    /// # Errors
    /// [`KeyError::NoIssuing`] when nothing is valid that could sign, [`KeyError::Outside`] for a name outside of the
    /// trust domain, [`KeyError::Outlives`] for an end after the issuer's, and [`KeyError::Unusable`] for a key that
    /// certificates cannot carry.
    pub fn sign(&self, spki: &[u8], profile: LeafProfile, now: UnixMillis) -> Result<Leaf, KeyError> {
        let generation = self.active(now)?;
        // The same that the name constraints say to others, before anything is signed.
        let within = |uri: &String| {
            uri.strip_prefix("spiffe://")
                .and_then(|rest| rest.strip_prefix(self.trust_domain.as_str()))
                .is_some_and(|path| path.starts_with('/'))
        };
        match &profile.uri {
            Some(uri) if within(uri) && profile.names.is_empty() => {}
            other => return Err(KeyError::Outside { found: other.clone().unwrap_or_else(|| "no URI".to_owned()) }),
        }
        if generation.not_after < profile.not_after {
            return Err(KeyError::Outlives { end: profile.not_after, issuer: generation.not_after });
        }
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(unusable("read a public key"))?;
        let params = leaf_params(profile, now)?;
        let certificate = params.signed_by(&key, &generation.issuer).map_err(not_signed)?;
        Ok(Leaf { pem: certificate.pem() + &generation.pem, der: certificate.der().to_vec() })
    }

    /// Makes the next generation when it is due, and takes up what lies in the directory. Whoever calls it again after
    /// a failure or a crash goes on where that left off.
    ///
    /// # Errors
    /// [`KeyError`]; what signed before goes on until its end.
    pub fn tick(&self, now: UnixMillis) -> Result<bool, KeyError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.read_roots()? | self.read_generations()?;
        self.forget_ended(now)?;
        if 1 < self.roots.load().all.len() {
            self.end_old_root(now)?;
            self.read_roots()?;
        }
        let root = self.root(now)?;
        if root.issuer.is_none() {
            return Ok(taken);
        }
        if !self.is_due(now) || self.is_last(&root, now)? {
            return Ok(taken);
        }
        // A key that waits is what a crash left, or a root that could not sign: it is as good as new.
        let (made, key) = match self.waiting()?.pop() {
            Some(waiting) => waiting,
            None => self.make_key(now)?,
        };
        let pem = self.certify(&rcgen::PublicKeyData::subject_public_key_info(&key), &root, now)?;
        self.place_certificate(made, &pem)?;
        self.remove_orphans(made)?;
        tracing::info!(made, "a new issuing key signs execution credentials after the overlap");
        Ok(true)
    }

    /// Whether what is valid ends with the root: another would end no later. A root that has ended is an error.
    fn is_last(&self, root: &Root, now: UnixMillis) -> Result<bool, KeyError> {
        let root_ends = root.not_after;
        if root_ends <= now {
            return Err(unusable("make an issuing key")(format!("the root ended {root_ends}")));
        }
        Ok(self.ends(now).is_some_and(|end| root_ends <= end))
    }

    /// Makes the next key, durable, without a certificate yet.
    pub(super) fn make_key(&self, now: UnixMillis) -> Result<(u64, SigningKey), KeyError> {
        let made = self.next_number(now)?;
        let key = SigningKey::create(&self.path(made, KEY_SUFFIX), self.place(made)?.as_ref())?;
        sync_dir(&self.dir)?;
        Ok((made, key))
    }

    /// Gives a key its certificate: durable when this returns, and in use only then.
    pub(super) fn place_certificate(&self, made: u64, pem: &str) -> Result<(), KeyError> {
        replace(&self.path(made, CERTIFICATE_SUFFIX), pem.as_bytes())?;
        self.read_generations().map(drop)
    }

    /// Keys without a certificate, the newest last. What a crash left of one is none.
    pub(super) fn waiting(&self) -> Result<Vec<(u64, SigningKey)>, KeyError> {
        let mut numbers = self.numbers(KEY_SUFFIX)?;
        numbers.retain(|made| !self.path(*made, CERTIFICATE_SUFFIX).exists());
        numbers.sort_unstable();
        let load = |made| SigningKey::load(&self.path(made, KEY_SUFFIX)).ok().map(|key| (made, key));
        Ok(numbers.into_iter().filter_map(load).collect())
    }

    pub(super) fn has_root(&self, now: UnixMillis) -> bool {
        self.root(now).is_ok_and(|root| root.issuer.is_some())
    }

    pub(super) const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(super) const fn data(&self) -> &DataDir {
        &self.data
    }

    pub(super) const fn settings(&self) -> &AuthoritySettings {
        &self.settings
    }

    /// Every generation that is held, oldest first.
    #[must_use]
    pub fn held(&self) -> Arc<Vec<Arc<Generation>>> {
        self.generations.load_full()
    }

    fn certify(&self, spki: &[u8], root: &Root, now: UnixMillis) -> Result<String, KeyError> {
        let issuer = root.issuer.as_ref().ok_or_else(|| unusable("sign an issuing certificate")("no root is here"))?;
        certify(&self.trust_domain, &self.settings, spki, (issuer, root.not_after), now)
    }

    /// Where the next key is made, if not in a file.
    fn place(&self, made: u64) -> Result<Option<Uri>, KeyError> {
        let uri = self.settings.issuing_key.as_deref().map(Uri::parse).transpose()?;
        Ok(uri.map(|uri| uri.with_suffix(&made.to_string())))
    }

    /// Numbers rise also when the clock was set back.
    fn next_number(&self, now: UnixMillis) -> Result<u64, KeyError> {
        let last = self.numbers(KEY_SUFFIX)?.into_iter().max();
        Ok(last.map_or(now.0, |last| now.0.max(last.saturating_add(1))))
    }

    fn path(&self, made: u64, suffix: &str) -> PathBuf {
        self.dir.join(format!("{made}{suffix}"))
    }

    fn numbers(&self, suffix: &str) -> Result<Vec<u64>, KeyError> {
        let number = |path: PathBuf| path.file_name()?.to_str()?.strip_suffix(suffix)?.parse().ok();
        Ok(list_dir(&self.dir)?.into_iter().filter_map(number).collect())
    }

    /// Takes up the generations that are whole; whether that changed anything.
    fn read_generations(&self) -> Result<bool, KeyError> {
        let held = self.generations.load();
        let mut whole = self.numbers(CERTIFICATE_SUFFIX)?;
        whole.retain(|made| self.path(*made, KEY_SUFFIX).exists());
        whole.sort_unstable();
        if held.iter().map(|generation| generation.made).eq(whole.iter().copied()) {
            return Ok(false);
        }
        let known = |made: &u64| held.iter().find(|generation| generation.made == *made).cloned();
        let read = |made| known(&made).map_or_else(|| self.read(made).map(Arc::new), Ok);
        let generations = whole.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        self.generations.store(Arc::new(generations));
        Ok(true)
    }

    fn read(&self, made: u64) -> Result<Generation, KeyError> {
        let path = self.path(made, CERTIFICATE_SUFFIX);
        let refused = |error: &dyn std::fmt::Display| {
            unusable("read an issuing certificate")(format!("{}: {error}", path.display()))
        };
        let key = SigningKey::load(&self.path(made, KEY_SUFFIX))?;
        let pem = read_pem(&path)?;
        let der = certificate_der(&pem).map_err(|error| refused(&error))?;
        let certificate = Certificate::parse(&der).map_err(|error| refused(&error))?;
        if certificate.spki() != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(refused(&"it is for another key"));
        }
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        // Under the root and for this trust domain, whatever the time is.
        let mut root = Err(refused(&"there is no root"));
        for candidate in self.roots() {
            match check_issuing(&der, std::slice::from_ref(&candidate), &self.trust_domain, not_before) {
                Ok(_) => {
                    root = Ok(Sha256Digest::of(&[&candidate]));
                    break;
                }
                Err(error) => root = Err(refused(&error)),
            }
        }
        let root = root?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(unusable("read an issuing certificate"))?;
        Ok(Generation { root, made, issuer, der, pem, not_before, not_after })
    }

    /// Keys whose certificate never came, made before `made`.
    fn remove_orphans(&self, made: u64) -> Result<(), KeyError> {
        let whole = self.numbers(CERTIFICATE_SUFFIX)?;
        for orphan in self.numbers(KEY_SUFFIX)?.into_iter().filter(|key| *key < made && !whole.contains(key)) {
            SigningKey::destroy(&self.path(orphan, KEY_SUFFIX))?;
        }
        Ok(())
    }

    /// What has ended, and all that it signed with it. Not the newest: time that went back would want it again.
    fn forget_ended(&self, now: UnixMillis) -> Result<(), KeyError> {
        let generations = self.generations.load();
        let Some((_, older)) = generations.split_last() else { return Ok(()) };
        for ended in older.iter().filter(|generation| generation.not_after.plus(self.settings.overlap_ms) <= now) {
            SigningKey::destroy(&self.path(ended.made, KEY_SUFFIX))?;
            // A crash here leaves a certificate without a key, which is no generation.
            remove(&self.path(ended.made, CERTIFICATE_SUFFIX))?;
            self.read_generations()?;
        }
        Ok(())
    }
}

/// The issuing certificate for a key, PEM, under a root that ends then.
pub(super) fn certify(
    trust_domain: &TrustDomain,
    settings: &AuthoritySettings,
    spki: &[u8],
    (root, root_ends): (&Issuer<'_, SigningKey>, UnixMillis),
    now: UnixMillis,
) -> Result<String, KeyError> {
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(unusable("read a public key"))?;
    let params = issuing_params(trust_domain, settings, root_ends, now)?;
    Ok(params.signed_by(&key, root).map_err(not_signed)?.pem())
}

/// What an issuing certificate says.
fn issuing_params(
    trust_domain: &TrustDomain,
    settings: &AuthoritySettings,
    root_ends: UnixMillis,
    now: UnixMillis,
) -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Countersign");
    // A name of its own for each: paths are found by names.
    let serial = random::<16>()?;
    let name = format!("{trust_domain} issuing {}", hex::encode(serial.first_chunk::<4>().unwrap_or(&[0; 4])));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = moment(UnixMillis(now.0.saturating_sub(BACKDATE_MS)))?;
    params.not_after = moment(now.plus(settings.issuing_life_ms).min(root_ends))?;
    match settings.name_constraints {
        NameConstraints::Uri => {
            let mut extension = CustomExtension::from_oid_content(&NAME_CONSTRAINTS, name_constraints(trust_domain));
            extension.set_criticality(true);
            params.custom_extensions.push(extension);
        }
        NameConstraints::None => {}
    }
    Ok(params)
}

fn read_pem(path: &Path) -> Result<String, KeyError> {
    String::from_utf8(read_bounded(path, CERTIFICATE_BYTES_MAX)?).map_err(unusable("read a certificate"))
}

fn remove(path: &Path) -> Result<(), KeyError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(crate::config::ConfigError::file(path)(error).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the place for issuing keys.
pub(super) fn create(data: &DataDir) -> Result<(), KeyError> {
    Ok(create_private_dir(&data.keys().join("issuing"))?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use countersign_attestation::UnixMillis;
    use countersign_attestation::result::svid::{TrustDomain, check_client_chain};
    use countersign_attestation::x509::Certificate;
    use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _};

    use super::{KeyError, Leaf, LeafProfile, Workload};
    use crate::config::{AuthoritySettings, DataDir, NameConstraints};
    use crate::keys::{BACKDATE_MS, Keys, Places, certificates_der};

    const START: UnixMillis = UnixMillis(1_800_000_000_000);
    const DAY_MS: u64 = 86_400_000;
    const OVERLAP_MS: u64 = 60_000;
    /// Two thirds of the seven days and the ten seconds before them.
    const LIFE_MS: u64 = 7 * DAY_MS + BACKDATE_MS;
    const DUE_MS: u64 = LIFE_MS - LIFE_MS / 3 - BACKDATE_MS;

    fn domain() -> TrustDomain {
        TrustDomain::parse("fleet.example").unwrap()
    }

    fn open(dir: &Path) -> Result<Workload, KeyError> {
        Workload::load(&DataDir::at(dir), &domain(), &AuthoritySettings::default())
    }

    fn new() -> (tempfile::TempDir, Workload) {
        let dir = tempfile::tempdir().unwrap();
        Keys::create(&DataDir::at(dir.path()), "fleet.example", &Places::default(), START).unwrap();
        let workload = open(dir.path()).unwrap();
        (dir, workload)
    }

    fn ask(workload: &Workload, uri: &str, not_after: UnixMillis, now: UnixMillis) -> Result<Leaf, KeyError> {
        let profile = LeafProfile {
            uri: Some(uri.to_owned()),
            names: vec![],
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            extensions: vec![],
            serial: vec![7; 16],
            not_after,
        };
        workload.sign(&KeyPair::generate().unwrap().subject_public_key_info(), profile, now)
    }

    /// A leaf of five minutes, checked as relying parties check it; who issued it.
    fn issue(workload: &Workload, now: UnixMillis) -> u64 {
        let leaf = ask(workload, "spiffe://fleet.example/host/a", now.plus(300_000), now).unwrap();
        let chain = certificates_der(&leaf.pem).unwrap();
        let [first, issuing] = chain.as_slice() else { panic!("a leaf and its issuing certificate") };
        assert_eq!(*first, leaf.der);
        check_client_chain(&[first, issuing], &workload.roots(), now).unwrap();
        assert!(check_client_chain(&[first], &workload.roots(), now).is_err(), "the root signs no leaf");
        assert!(workload.issuing(now).contains(issuing), "it is published");
        let (leaf, issuer) = (Certificate::parse(first).unwrap(), Certificate::parse(issuing).unwrap());
        assert!(leaf.not_after() <= issuer.not_after());
        workload.active(now).unwrap().made
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        crate::config::list_dir(&dir.join("keys/issuing")).unwrap()
    }

    #[test]
    fn the_next_key_is_made_at_two_thirds_published_and_used_after_the_overlap() {
        let (_dir, workload) = new();
        assert!(matches!(
            ask(&workload, "spiffe://fleet.example/host/a", START, START),
            Err(KeyError::NoIssuing { .. })
        ));
        assert!(workload.tick(START).unwrap());
        let first = issue(&workload, START);
        let due = START.plus(DUE_MS);
        assert!(!workload.tick(UnixMillis(due.0 - 1)).unwrap());
        assert!(workload.tick(due).unwrap());
        assert!(!workload.tick(due.plus(1000)).unwrap(), "one, not one each second");
        assert_eq!(workload.issuing(due).len(), 2, "published at once");
        assert_eq!(issue(&workload, due.plus(OVERLAP_MS - 1000)), first);
        let second = issue(&workload, due.plus(OVERLAP_MS));
        assert!(first < second);
        // What the first signed stays valid to its end, and the first goes once that has come for all of it.
        let end = START.plus(7 * DAY_MS);
        workload.tick(UnixMillis(end.0 - 1)).unwrap();
        assert_eq!(workload.issuing(UnixMillis(end.0 - 1)).len(), 2);
        workload.tick(end.plus(OVERLAP_MS)).unwrap();
        assert_eq!(workload.issuing(end.plus(OVERLAP_MS)).len(), 1);
        assert!(!workload.path(first, ".key.pem").exists() && !workload.path(first, ".pem").exists());
    }

    #[test]
    fn a_year_of_rotations_never_leaves_a_moment_without_an_issuer() {
        let (dir, workload) = new();
        let mut made = std::collections::BTreeSet::new();
        for hour in 0..24 * 366 {
            let now = START.plus(hour * 3_600_000);
            workload.tick(now).unwrap();
            let active = workload.active(now).unwrap();
            assert!(now.plus(300_000) <= active.not_after(), "a whole credential fits at {now}");
            made.insert(active.made);
            assert!(files(dir.path()).len() <= 6, "the old ones go");
        }
        assert!((75..=82).contains(&made.len()), "{} keys", made.len());
    }

    #[test]
    fn every_state_that_a_crash_leaves_restarts() {
        let (dir, workload) = new();
        workload.tick(START).unwrap();
        let due = START.plus(DUE_MS);
        workload.tick(due).unwrap();
        let whole: Vec<(PathBuf, Vec<u8>)> =
            files(dir.path()).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        let [_, _, key, certificate] = whole.as_slice() else { panic!("two generations: {whole:?}") };
        let half = |file: &(PathBuf, Vec<u8>)| (file.0.clone(), file.1[..file.1.len() / 2].to_vec());
        let next = (certificate.0.with_added_extension("new"), certificate.1.clone());
        let states: [&[(PathBuf, Vec<u8>)]; 6] = [
            &[],
            &[half(key)],
            std::slice::from_ref(key),
            &[key.clone(), half(&next)],
            &[key.clone(), next],
            &[key.clone(), certificate.clone()],
        ];
        for (step, state) in states.iter().enumerate() {
            for path in [&key.0, &certificate.0, &certificate.0.with_added_extension("new")] {
                drop(fs::remove_file(path));
            }
            for (path, bytes) in *state {
                fs::write(path, bytes).unwrap();
            }
            let again = open(dir.path()).unwrap();
            let before = issue(&again, due);
            again.tick(due).unwrap();
            assert_eq!(issue(&again, due), before, "step {step}: the first goes on");
            let after = issue(&again, due.plus(OVERLAP_MS));
            assert!(before < after, "step {step}");
            assert_eq!(again.issuing(due).len(), 2, "step {step}");
            for made in again.numbers(".key.pem").unwrap() {
                assert!(again.path(made, ".pem").exists(), "step {step}: no key is left without its certificate");
                if made != before {
                    fs::remove_file(again.path(made, ".key.pem")).unwrap();
                    fs::remove_file(again.path(made, ".pem")).unwrap();
                }
            }
        }
    }

    /// Relying parties hold what they were given: the first bundle, and then both.
    #[test]
    fn a_root_follows_another_and_no_moment_is_without_a_path() {
        let (dir, workload) = new();
        workload.tick(START).unwrap();
        let first_bundle = workload.roots();
        let begun = START.plus(DAY_MS);
        open(dir.path()).unwrap().rotate_root(None, None, begun).unwrap();
        assert!(open(dir.path()).unwrap().rotate_root(None, None, begun.plus(1)).is_err(), "one at a time");
        assert!(workload.tick(begun).unwrap(), "the running broker publishes both");
        let both = workload.roots();
        assert_eq!((both.len(), &both[..1]), (2, &first_bundle[..]));
        let chain_under = |now: UnixMillis, roots: &[Vec<u8>]| {
            let leaf = ask(&workload, "spiffe://fleet.example/host/a", now.plus(300_000), now).unwrap();
            let chain = certificates_der(&leaf.pem).unwrap();
            check_client_chain(&[&chain[0], &chain[1]], roots, now).is_ok()
        };
        let overlap = AuthoritySettings::default().root_overlap_ms;
        let (mut moved, mut left) = (None, None);
        for hour in 0..24 * 40 {
            let now = begun.plus(hour * 3_600_000);
            workload.tick(now).unwrap();
            // As a restart would find it.
            if hour % 24 == 0 {
                assert_eq!(open(dir.path()).unwrap().roots(), workload.roots());
            }
            assert!(chain_under(now, &both), "{now}");
            if !chain_under(now, &first_bundle) {
                moved.get_or_insert(now);
            }
            if workload.roots().len() == 1 {
                left.get_or_insert(now);
            } else {
                assert_eq!(workload.roots(), both);
            }
        }
        let (moved, left) = (moved.unwrap(), left.unwrap());
        assert!(begun.plus(overlap) <= moved && moved <= begun.plus(overlap + 2 * 3_600_000), "{moved}");
        assert!(moved.plus(DAY_MS) < left, "what the old root signed lives on: {left}");
        assert_eq!(workload.roots(), both[1..]);
        assert!(!dir.path().join("keys/workload-ca.key.pem").exists(), "the old root's key is gone");
        open(dir.path()).unwrap().rotate_root(None, None, left.plus(1)).unwrap();
    }

    #[test]
    fn the_bundle_counts_up_when_it_changes_and_only_then() {
        let (dir, _) = new();
        let data = DataDir::at(dir.path());
        let keys = Keys::load(&data, &domain(), &AuthoritySettings::default(), START).unwrap();
        let read = |now| -> (usize, u64) {
            let bundle: serde_json::Value = serde_json::from_str(&keys.spiffe_bundle(now).unwrap()).unwrap();
            (bundle["keys"].as_array().unwrap().len(), bundle["spiffe_sequence"].as_u64().unwrap())
        };
        let (first, sequence) = read(START);
        assert_eq!((first, read(START.plus(9000))), (2, (2, sequence)));
        keys.workload.rotate_root(None, None, START.plus(9000)).unwrap();
        keys.workload.tick(START.plus(9000)).unwrap();
        let (second, next) = read(START);
        assert!(second == 3 && sequence < next, "also when the clock stands still");
    }

    #[test]
    fn a_key_that_waits_is_used_and_none_pile_up() {
        let (dir, workload) = new();
        let (waiting, _) = workload.make_key(START).unwrap();
        workload.tick(START.plus(5)).unwrap();
        assert_eq!(workload.active(START.plus(5)).unwrap().made, waiting);
        assert_eq!(files(dir.path()).len(), 2);
    }

    #[test]
    fn a_clock_that_steps_finds_or_makes_an_issuer() {
        let (dir, workload) = new();
        workload.tick(START).unwrap();
        let first = issue(&workload, START);
        // Far ahead: nothing is issued until there is a new one, which then signs at once.
        let ahead = START.plus(400 * DAY_MS);
        assert!(matches!(workload.active(ahead), Err(KeyError::NoIssuing { .. })));
        assert_eq!(workload.ends(ahead), None);
        workload.tick(ahead).unwrap();
        let second = issue(&workload, ahead);
        // And back: the second is of the future, and the first goes on.
        let back = open(dir.path()).unwrap();
        back.tick(START.plus(1000)).unwrap();
        assert_eq!(issue(&back, START.plus(1000)), first);
        // The next one in its turn has a higher number all the same.
        let due = START.plus(DUE_MS);
        back.tick(due).unwrap();
        let third = issue(&back, due.plus(OVERLAP_MS));
        assert!(first < second && second < third, "{first} {second} {third}");
    }

    #[test]
    fn nothing_outlives_its_issuer_or_leaves_the_trust_domain() {
        let (dir, workload) = new();
        workload.tick(START).unwrap();
        let end = workload.active(START).unwrap().not_after();
        assert_eq!(end, START.plus(7 * DAY_MS));
        ask(&workload, "spiffe://fleet.example/host/a", end, START).unwrap();
        let outlives = ask(&workload, "spiffe://fleet.example/host/a", end.plus(1), START);
        assert!(matches!(outlives, Err(KeyError::Outlives { .. })));
        for uri in [
            "spiffe://fleet.example.org/host/a",
            "spiffe://other.example/host/a",
            "https://fleet.example/a",
            "spiffe://fleet.example",
        ] {
            assert!(matches!(ask(&workload, uri, end, START), Err(KeyError::Outside { .. })), "{uri}");
        }
        // Ten years on, what is issued ends with the root.
        let late = START.plus(3650 * DAY_MS - DAY_MS);
        workload.tick(late).unwrap();
        let root_ends = START.plus(3650 * DAY_MS);
        assert_eq!(workload.active(late).unwrap().not_after(), root_ends);
        assert!(!workload.tick(UnixMillis(root_ends.0 - 1000)).unwrap(), "another would end no later");
        assert!(workload.tick(root_ends).is_err() && workload.active(root_ends).is_err());
        open(dir.path()).unwrap();
    }

    #[test]
    fn a_certificate_that_does_not_fit_is_not_used() {
        let (dir, workload) = new();
        workload.tick(START).unwrap();
        let (other_dir, other) = new();
        other.tick(START).unwrap();
        let issuing = dir.path().join("keys/issuing");
        for name in ["1800000000000.pem", "1800000000000.key.pem"] {
            let saved = fs::read(issuing.join(name)).unwrap();
            fs::copy(other_dir.path().join("keys/issuing").join(name), issuing.join(name)).unwrap();
            assert!(open(dir.path()).is_err(), "{name} of another");
            fs::write(issuing.join(name), saved).unwrap();
        }
        assert!(open(dir.path()).is_ok());
        for name in ["1800000000000.pem", "1800000000000.key.pem"] {
            fs::copy(other_dir.path().join("keys/issuing").join(name), issuing.join(name)).unwrap();
        }
        assert!(open(dir.path()).is_err(), "under another root");
        fs::remove_dir_all(&issuing).unwrap();
        let told = open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("countersign init"), "{told}");
    }

    #[test]
    fn constraints_can_be_left_out_for_those_who_refuse_them() {
        let (dir, _) = new();
        let settings = AuthoritySettings { name_constraints: NameConstraints::None, ..AuthoritySettings::default() };
        let workload = Workload::load(&DataDir::at(dir.path()), &domain(), &settings).unwrap();
        workload.tick(START).unwrap();
        issue(&workload, START);
        let constrained = |workload: &Workload| {
            let der = workload.active(START).unwrap().der().to_vec();
            der.windows(5).any(|window| window == [6, 3, 0x55, 0x1d, 30])
        };
        assert!(!constrained(&workload));
        let (_dir, workload) = new();
        workload.tick(START).unwrap();
        assert!(constrained(&workload));
    }
}
