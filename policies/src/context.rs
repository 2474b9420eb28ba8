//! The Cedar request for one appraisal, built from typed values: no JSON on the way, and nothing the schema lacks.

mod confidential;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression};
use countersign_attestation::UnixMillis;
use countersign_attestation::anchor::{AmdProduct, Assurance};
use countersign_attestation::claims::{
    BootClaims, Claims, HexBytes, ImaClaims, KeyAuthorization, PcrHash, Presented, Revocation, SnpClaims, SnpFirmware,
    SnpSigningKey, SnpTcb, TpmKeyClaims, TpmKind,
};
use countersign_attestation::evidence::eventlog::claims::{Authority, Labelled, Measured, SecureBoot, Separator};
use countersign_attestation::evidence::paravisor::HardwareKind;

use crate::decision::HostFacts;
use crate::finding::{Finding, PolicyReason};
use crate::ima::ImaTally;
use crate::matching::ImaTallies;
use crate::reference::{Acpi, ReferenceManifest};
use crate::tdx::Field;
use crate::waiver::Accepted;

type Pairs = Vec<(String, RestrictedExpression)>;

/// The entities that are the same in every request.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    action: EntityUid,
    host: EntityTypeName,
    domain: EntityTypeName,
    hardware: EntityUid,
    simulated: EntityUid,
    milan: EntityUid,
    genoa: EntityUid,
    turin: EntityUid,
    vcek: EntityUid,
    vlek: EntityUid,
    not_presented: EntityUid,
    not_revoked: EntityUid,
    overdue: EntityUid,
    discrete: EntityUid,
    firmware: EntityUid,
    virtual_: EntityUid,
    simulated_tpm: EntityUid,
    unknown: EntityUid,
    secure_boot_on: EntityUid,
    secure_boot_off: EntityUid,
    secure_boot_unmeasured: EntityUid,
    secure_boot_unknown: EntityUid,
    root_tpm: EntityUid,
    root_milan: EntityUid,
    root_genoa: EntityUid,
    root_turin: EntityUid,
    compared_tpm: EntityUid,
    compared_boot: EntityUid,
    compared_ima: EntityUid,
    compared_snp: EntityUid,
    compared_host_data: EntityUid,
    compared_id_key_digest: EntityUid,
    compared_min_tcb: EntityUid,
    compared_min_mitigations: EntityUid,
    acpi_measured: EntityUid,
    acpi_igvm: EntityUid,
    acpi_sandboxed: EntityUid,
    by_password: EntityUid,
    by_policy: EntityUid,
    vendor_amd: EntityUid,
    vendor_intel: EntityUid,
    waived_min_tcb: EntityUid,
    waived_mitigations: EntityUid,
    waived_generation: EntityUid,
    waived_tcb_status: EntityUid,
    root_intel: EntityUid,
    compared_tdx: EntityUid,
    compared_rtmrs: EntityUid,
    compared_tdx_boot: EntityUid,
    compared_module_svn: EntityUid,
    compared_config_id: EntityUid,
    compared_paravisor: EntityUid,
    types: confidential::Types,
}

impl Vocabulary {
    /// Fails only if the names below are not Cedar identifiers, which every test would notice.
    pub(crate) fn new() -> Result<Self, Finding> {
        let member = |kind: &str, id: &str| -> Result<EntityUid, Finding> {
            Ok(EntityUid::from_type_name_and_id(type_name(kind)?, EntityId::new(id)))
        };
        Ok(Self {
            action: member("Action", "issueCredential")?,
            host: type_name("Host")?,
            domain: type_name("TrustDomain")?,
            hardware: member("Assurance", "hardware")?,
            simulated: member("Assurance", "simulated")?,
            milan: member("AmdProduct", "milan")?,
            genoa: member("AmdProduct", "genoa")?,
            turin: member("AmdProduct", "turin")?,
            vcek: member("SigningKey", "vcek")?,
            vlek: member("SigningKey", "vlek")?,
            not_presented: member("Revocation", "not_presented")?,
            not_revoked: member("Revocation", "not_revoked")?,
            overdue: member("Revocation", "overdue")?,
            discrete: member("TpmKind", "discrete")?,
            firmware: member("TpmKind", "firmware")?,
            virtual_: member("TpmKind", "virtual")?,
            simulated_tpm: member("TpmKind", "simulated")?,
            unknown: member("TpmKind", "unknown")?,
            secure_boot_on: member("SecureBoot", "on")?,
            secure_boot_off: member("SecureBoot", "off")?,
            secure_boot_unmeasured: member("SecureBoot", "unmeasured")?,
            secure_boot_unknown: member("SecureBoot", "unknown")?,
            root_tpm: member("Root", "tpm")?,
            root_milan: member("Root", "amd_milan")?,
            root_genoa: member("Root", "amd_genoa")?,
            root_turin: member("Root", "amd_turin")?,
            compared_tpm: member("Compared", "tpm")?,
            compared_boot: member("Compared", "boot")?,
            compared_ima: member("Compared", "ima")?,
            compared_snp: member("Compared", "snp")?,
            compared_host_data: member("Compared", "snp_host_data")?,
            compared_id_key_digest: member("Compared", "snp_id_key_digest")?,
            compared_min_tcb: member("Compared", "snp_min_tcb")?,
            compared_min_mitigations: member("Compared", "snp_min_mitigations")?,
            acpi_measured: member("Acpi", "measured")?,
            acpi_igvm: member("Acpi", "igvm")?,
            acpi_sandboxed: member("Acpi", "sandboxed")?,
            by_password: member("KeyAuthorization", "password")?,
            by_policy: member("KeyAuthorization", "policy")?,
            vendor_amd: member("CpuVendor", "amd")?,
            vendor_intel: member("CpuVendor", "intel")?,
            waived_min_tcb: member("Waived", "snp_min_tcb")?,
            waived_mitigations: member("Waived", "snp_mitigations")?,
            waived_generation: member("Waived", "generation")?,
            waived_tcb_status: member("Waived", "tcb_status")?,
            root_intel: member("Root", "intel")?,
            compared_tdx: member("Compared", "tdx")?,
            compared_rtmrs: member("Compared", "tdx_rtmrs")?,
            compared_tdx_boot: member("Compared", "tdx_boot")?,
            compared_module_svn: member("Compared", "tdx_module_svn")?,
            compared_config_id: member("Compared", "tdx_config_id")?,
            compared_paravisor: member("Compared", "paravisor")?,
            types: confidential::Types::new()?,
        })
    }

    /// The member that stands for the simulated class: a policy that names it admits the class knowingly.
    pub(crate) const fn simulated(&self) -> &EntityUid {
        &self.simulated
    }

    /// The request and its entities.
    pub(crate) fn request(
        &self,
        claims: &Claims,
        tallies: &ImaTallies,
        host: &HostFacts<'_>,
        matched: Option<&ReferenceManifest>,
        accepted: &Accepted<'_>,
        now: UnixMillis,
    ) -> Result<(Request, Entities), Finding> {
        let principal = EntityUid::from_type_name_and_id(self.host.clone(), EntityId::new(host.id.as_str()));
        let resource = EntityUid::from_type_name_and_id(self.domain.clone(), EntityId::new(host.trust_domain));
        let labels = host.labels.iter().map(|(name, value)| (name.clone(), text(value)));
        let entity = Entity::new_with_tags(principal.clone(), [], [], labels).map_err(unbuildable)?;
        let entities = Entities::from_entities([entity], None).map_err(unbuildable)?;
        let context = self.context(claims, tallies, host, matched, accepted, now).map_err(unbuildable)?;
        let context = Context::from_pairs(context).map_err(unbuildable)?;
        let request = Request::new(principal, self.action.clone(), resource, context, None).map_err(unbuildable)?;
        Ok((request, entities))
    }

    fn context(
        &self,
        claims: &Claims,
        tallies: &ImaTallies,
        host: &HostFacts<'_>,
        matched: Option<&ReferenceManifest>,
        accepted: &Accepted<'_>,
        now: UnixMillis,
    ) -> Result<Pairs, cedar_policy::ExpressionConstructionError> {
        let mut context = pairs([
            ("now", number(now.seconds())),
            ("assurance", self.assurance(claims.assurance)),
            ("roots", RestrictedExpression::new_set(self.roots(claims))),
            ("generation", number(host.generation)),
            ("reference", self.reference(matched)?),
            ("tpm", self.tpm(claims)?),
            ("waived", RestrictedExpression::new_set(self.waived(claims, accepted))),
        ]);
        match &claims.boot {
            Presented::NotPresented => {}
            Presented::Verified(boot) => context.push(("boot".to_owned(), self.boot(boot)?)),
        }
        match &claims.ima {
            Presented::NotPresented => {}
            Presented::Verified(ima) => {
                let tally = matched.and_then(|manifest| manifest.ima_tally(tallies));
                context.push(("ima".to_owned(), ima_record(ima, tally)?));
            }
        }
        match &claims.snp {
            Presented::NotPresented => {}
            Presented::Verified(snp) => context.push(("snp".to_owned(), self.snp(snp)?)),
        }
        match &claims.tdx {
            Presented::NotPresented => {}
            Presented::Verified(tdx) => context.push(("tdx".to_owned(), self.tdx(tdx, accepted)?)),
        }
        match &claims.rtmr {
            Presented::NotPresented => {}
            Presented::Verified(rtmr) => context.push(("rtmr".to_owned(), self.rtmr(rtmr)?)),
        }
        match &claims.paravisor {
            Presented::NotPresented => {}
            Presented::Verified(paravisor) => context.push(("paravisor".to_owned(), self.paravisor(paravisor)?)),
        }
        Ok(context)
    }

    fn assurance(&self, assurance: Assurance) -> RestrictedExpression {
        entity(match assurance {
            Assurance::Hardware => &self.hardware,
            Assurance::Simulated => &self.simulated,
        })
    }

    /// Hardware vendors' roots among the anchors, each judged by its own class.
    fn roots(&self, claims: &Claims) -> Vec<RestrictedExpression> {
        let mut roots = Vec::new();
        match &claims.paravisor {
            Presented::NotPresented if claims.tpm.assurance == Assurance::Hardware => {
                roots.push(entity(&self.root_tpm));
            }
            // A paravisor's vTPM stands on the root of the report that vouches for it, and on none of its own.
            Presented::NotPresented | Presented::Verified(_) => {}
        }
        match &claims.tdx {
            Presented::Verified(tdx) if tdx.assurance == Assurance::Hardware => roots.push(entity(&self.root_intel)),
            Presented::Verified(_) | Presented::NotPresented => {}
        }
        match &claims.snp {
            Presented::Verified(snp) if snp.assurance == Assurance::Hardware => roots.push(entity(match snp.product {
                AmdProduct::Milan => &self.root_milan,
                AmdProduct::Genoa => &self.root_genoa,
                AmdProduct::Turin => &self.root_turin,
            })),
            Presented::Verified(_) | Presented::NotPresented => {}
        }
        roots
    }

    fn reference(&self, matched: Option<&ReferenceManifest>) -> Built {
        let mut compared = Vec::new();
        let mut reference = pairs([("matched", RestrictedExpression::new_bool(matched.is_some()))]);
        if let Some(manifest) = matched {
            let (snp, tdx) = (manifest.snp.as_ref(), manifest.tdx.as_ref());
            let rtmrs = [Field::Rtmr0, Field::Rtmr1, Field::Rtmr2];
            let named = [
                (&self.compared_tpm, manifest.tpm.is_some()),
                (&self.compared_boot, manifest.boot.is_some()),
                (&self.compared_ima, manifest.ima.is_some()),
                (&self.compared_snp, snp.is_some()),
                (&self.compared_host_data, snp.is_some_and(|snp| snp.host_data.is_some())),
                (&self.compared_id_key_digest, snp.is_some_and(|snp| snp.id_key_digest.is_some())),
                (&self.compared_min_tcb, snp.is_some_and(|snp| snp.min_tcb.is_some())),
                (&self.compared_min_mitigations, snp.is_some_and(|snp| snp.min_mitigations.is_some())),
                (&self.compared_tdx, tdx.is_some()),
                (&self.compared_rtmrs, tdx.is_some_and(|tdx| rtmrs.into_iter().all(|field| tdx.names(field)))),
                (&self.compared_tdx_boot, tdx.is_some_and(|tdx| tdx.boot.is_some())),
                (&self.compared_module_svn, tdx.is_some_and(|tdx| tdx.min_module_svn.is_some())),
                (&self.compared_config_id, tdx.is_some_and(|tdx| tdx.names(Field::MrConfigId))),
                (&self.compared_paravisor, manifest.paravisor.is_some()),
            ];
            compared.extend(named.into_iter().filter(|(_, named)| *named).map(|(uid, _)| entity(uid)));
            reference.push(("manifest".to_owned(), text(manifest.id())));
            if let Some(acpi) = manifest.acpi {
                let uid = match acpi {
                    Acpi::Measured => &self.acpi_measured,
                    Acpi::Igvm => &self.acpi_igvm,
                    Acpi::Sandboxed => &self.acpi_sandboxed,
                };
                reference.push(("acpi".to_owned(), entity(uid)));
            }
        }
        reference.push(("compared".to_owned(), RestrictedExpression::new_set(compared)));
        RestrictedExpression::new_record(reference)
    }

    const fn kind(&self, kind: TpmKind) -> &EntityUid {
        match kind {
            TpmKind::Discrete => &self.discrete,
            TpmKind::Firmware => &self.firmware,
            TpmKind::Virtual => &self.virtual_,
            TpmKind::Simulated => &self.simulated_tpm,
            TpmKind::Unknown => &self.unknown,
        }
    }

    /// Processor vendors that could not forge this TPM's word with a processor's leaked keys. Positive: what is not
    /// known to be independent is not. A TPM in firmware shares its processor's secrets (A17), and what is known of no
    /// kind shares anything.
    fn independent_of(&self, claims: &Claims) -> Vec<RestrictedExpression> {
        let identity = &claims.tpm.identity;
        let (amd, intel) = match (&claims.paravisor, identity.kind) {
            // The paravisor's vTPM is as good as the report that names its key, whatever its own certificate says.
            (Presented::Verified(paravisor), _) => match paravisor.hardware {
                HardwareKind::Snp => (false, true),
                HardwareKind::Tdx => (true, false),
            },
            (Presented::NotPresented, TpmKind::Discrete) => (true, true),
            (Presented::NotPresented, TpmKind::Firmware) => {
                (identity.manufacturer == "INTC", identity.manufacturer == "AMD")
            }
            // Outside of the guest, with keys that their cloud certifies. Of Azure's it is not said here whether a
            // paravisor carries them out, inside of the guest.
            (Presented::NotPresented, TpmKind::Virtual) => {
                let own = ["GOOG", "AMZN"].contains(&identity.manufacturer.as_str());
                (own, own)
            }
            (Presented::NotPresented, TpmKind::Simulated | TpmKind::Unknown) => (false, false),
        };
        let vendors = [(&self.vendor_amd, amd), (&self.vendor_intel, intel)];
        vendors.into_iter().filter(|(_, independent)| *independent).map(|(uid, _)| entity(uid)).collect()
    }

    /// What of this host waivers accept.
    fn waived(&self, claims: &Claims, accepted: &Accepted<'_>) -> Vec<RestrictedExpression> {
        let (product, floors, mitigations) = match &claims.snp {
            Presented::Verified(snp) => (
                accepted.amd_product(snp.product),
                accepted.snp_floors(snp.product).next().is_some(),
                accepted.any_mitigation(snp.product),
            ),
            Presented::NotPresented => (false, false, false),
        };
        let (status, fmspc) = match &claims.tdx {
            Presented::Verified(tdx) => (accepted.tcb_status(tdx.tcb.status), accepted.fmspc(&tdx.platform.fmspc)),
            Presented::NotPresented => (false, false),
        };
        let waived = [
            (&self.waived_generation, product || fmspc),
            (&self.waived_min_tcb, floors),
            (&self.waived_mitigations, mitigations),
            (&self.waived_tcb_status, status),
        ];
        waived.into_iter().filter(|(_, waived)| *waived).map(|(uid, _)| entity(uid)).collect()
    }

    fn credential_key(&self, key: &TpmKeyClaims) -> Built {
        let mut record = match &key.authorization {
            KeyAuthorization::Password => pairs([("authorization", entity(&self.by_password))]),
            KeyAuthorization::Policy(digest) => {
                pairs([("authorization", entity(&self.by_policy)), ("auth_policy", hexadecimal(digest))])
            }
        };
        match &key.creation {
            Presented::NotPresented => {}
            Presented::Verified(creation) => {
                // PCRs of any bank: a policy that demands some is about what they measure, not about a hash.
                let pcrs = creation.pcr_select.values().flatten();
                let pcrs: alloc::collections::BTreeSet<u8> = pcrs.copied().collect();
                let creation = pairs([
                    ("pcrs", indexes(&pcrs)),
                    ("pcr_digest", hexadecimal(&creation.pcr_digest)),
                    ("locality", number(u64::from(creation.locality))),
                    ("parent_name", hexadecimal(&creation.parent_name)),
                ]);
                record.push(("creation".to_owned(), RestrictedExpression::new_record(creation)?));
            }
        }
        RestrictedExpression::new_record(record)
    }

    fn tpm(&self, claims: &Claims) -> Built {
        let tpm = &claims.tpm;
        RestrictedExpression::new_record(pairs([
            ("independent_of", RestrictedExpression::new_set(self.independent_of(claims))),
            ("credential_key", self.credential_key(&tpm.credential_key)?),
            ("assurance", self.assurance(tpm.assurance)),
            ("ek", RestrictedExpression::new_string(tpm.ek.to_hex())),
            ("revocation", entity(self.revocation(tpm.revocation))),
            ("manufacturer", text(&tpm.identity.manufacturer)),
            ("model", text(&tpm.identity.model)),
            ("kind", entity(self.kind(tpm.identity.kind))),
            ("firmware_version_1", number(tpm.firmware_version >> 32)),
            ("firmware_version_2", number(tpm.firmware_version & 0xffff_ffff)),
            ("reset_count", number(u64::from(tpm.clock.reset_count))),
            ("restart_count", number(u64::from(tpm.clock.restart_count))),
            ("safe", RestrictedExpression::new_bool(tpm.clock.safe)),
            ("pcr_banks", RestrictedExpression::new_set(tpm.pcrs.keys().map(|bank| text(bank.name())))),
        ]))
    }

    fn boot(&self, boot: &BootClaims) -> Built {
        let secure_boot = match boot.secure_boot {
            SecureBoot::On => &self.secure_boot_on,
            SecureBoot::Off => &self.secure_boot_off,
            SecureBoot::Unmeasured => &self.secure_boot_unmeasured,
            SecureBoot::Unknown => &self.secure_boot_unknown,
        };
        let unseparated = boot.separators.iter().filter(|(_, separator)| **separator != Separator::Present);
        let mut record = pairs([
            ("secure_boot", entity(secure_boot)),
            ("replayed", indexes(&boot.replayed)),
            ("unexplained", indexes(&boot.unexplained)),
            ("unseparated", indexes(unseparated.map(|(index, _)| index))),
            ("extended_after_separator", indexes(&boot.extended_after_separator)),
        ]);
        for (name, database) in [("pk", &boot.pk), ("kek", &boot.kek), ("db", &boot.db), ("dbx", &boot.dbx)] {
            if let Some(database) = database.measured() {
                record.push((name.to_owned(), RestrictedExpression::new_string(database.digest.to_hex())));
            }
        }
        let mut set = |name: &str, values: Option<Vec<RestrictedExpression>>| {
            record.extend(values.map(|values| (name.to_owned(), RestrictedExpression::new_set(values))));
        };
        let digests = |by_bank: &BTreeMap<PcrHash, HexBytes>| by_bank.values().map(hexadecimal).collect::<Vec<_>>();
        let labelled = |list: &Measured<Vec<Labelled>>| {
            list.measured().map(|list| list.iter().flat_map(|item| digests(&item.digest)).collect())
        };
        let authority = |authority: &Authority| RestrictedExpression::new_string(authority.digest.to_hex());
        set("authorities", boot.authorities.measured().map(|list| list.iter().map(authority).collect()));
        set("mok", labelled(&boot.mok));
        let images = boot.images.measured();
        set("images", images.map(|list| list.iter().flat_map(|image| digests(&image.digest)).collect()));
        set("files", labelled(&boot.files));
        set("initrds", labelled(&boot.initrds));
        let uki = boot.uki.measured();
        set("uki", uki.map(|list| list.iter().flat_map(|section| digests(&section.digest)).collect()));
        set("command_lines", boot.command_lines.measured().map(|lines| lines.iter().map(|line| text(line)).collect()));
        if let Some(level) = boot.sbat_level.measured() {
            record.push(("sbat_level".to_owned(), text(level)));
        }
        RestrictedExpression::new_record(record)
    }

    const fn revocation(&self, revocation: Revocation) -> &EntityUid {
        match revocation {
            Revocation::NotPresented => &self.not_presented,
            Revocation::NotRevoked { .. } => &self.not_revoked,
            Revocation::Overdue { .. } => &self.overdue,
        }
    }

    fn snp(&self, snp: &SnpClaims) -> Built {
        let product = match snp.product {
            AmdProduct::Milan => &self.milan,
            AmdProduct::Genoa => &self.genoa,
            AmdProduct::Turin => &self.turin,
        };
        let signing_key = match snp.signing_key {
            SnpSigningKey::Vcek => &self.vcek,
            SnpSigningKey::Vlek => &self.vlek,
        };
        let mut record = pairs([
            ("assurance", self.assurance(snp.assurance)),
            ("product", entity(product)),
            ("version", number(u64::from(snp.version))),
            ("signing_key", entity(signing_key)),
            ("guest_svn", number(u64::from(snp.guest_svn))),
            ("vmpl", number(u64::from(snp.vmpl))),
            ("revocation", entity(self.revocation(snp.revocation))),
            ("measurement", hexadecimal(&snp.measurement)),
            ("host_data", hexadecimal(&snp.host_data)),
            ("id_key_digest", hexadecimal(&snp.id_key_digest)),
            ("author_key_en", RestrictedExpression::new_bool(snp.author_key_en)),
            ("author_key_digest", hexadecimal(&snp.author_key_digest)),
            ("family_id", hexadecimal(&snp.family_id)),
            ("image_id", hexadecimal(&snp.image_id)),
            ("reported_tcb", tcb(snp.reported_tcb)?),
            ("committed_tcb", tcb(snp.committed_tcb)?),
            ("launch_tcb", tcb(snp.launch_tcb)?),
            ("committed_version", firmware(snp.committed_version)?),
            ("policy", bits(&snp.policy_bits)?),
            ("platform_info", bits(&snp.platform_info)?),
        ]);
        match &snp.chip_id {
            Presented::NotPresented => {}
            Presented::Verified(chip_id) => record.push(("chip_id".to_owned(), hexadecimal(chip_id))),
        }
        match &snp.csp_id {
            Presented::NotPresented => {}
            Presented::Verified(csp_id) => record.push(("csp_id".to_owned(), text(csp_id))),
        }
        for (name, vector) in &snp.mitigation_vectors {
            // One by one: a vector compared as a number would let a high bit stand for a low one.
            let set: Vec<u8> = (0..64_u8).filter(|bit| vector >> bit & 1 == 1).collect();
            record.push((format!("{name}_mitigations"), indexes(&set)));
        }
        RestrictedExpression::new_record(record)
    }
}

type Built = Result<RestrictedExpression, cedar_policy::ExpressionConstructionError>;

fn type_name(name: &str) -> Result<EntityTypeName, Finding> {
    name.parse().map_err(|error| PolicyReason::EvaluationError.because("a Cedar type name", error))
}

/// A request that cannot be built cannot be permitted.
fn unbuildable(error: impl core::fmt::Display) -> Finding {
    PolicyReason::EvaluationError.because("a request that Cedar can evaluate", error)
}

fn pairs<const N: usize>(pairs: [(&str, RestrictedExpression); N]) -> Pairs {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn entity(uid: &EntityUid) -> RestrictedExpression {
    RestrictedExpression::new_entity_uid(uid.clone())
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn hexadecimal(value: &HexBytes) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_string())
}

/// Cedar's Long is signed. Nothing here comes near its limit; if it did, the largest value is what it is nearest to.
fn number(value: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

fn indexes<'a>(pcrs: impl IntoIterator<Item = &'a u8>) -> RestrictedExpression {
    RestrictedExpression::new_set(pcrs.into_iter().map(|index| number(u64::from(*index))))
}

fn tcb(tcb: SnpTcb) -> Built {
    let mut record = pairs([
        ("bootloader", number(u64::from(tcb.bootloader))),
        ("tee", number(u64::from(tcb.tee))),
        ("snp", number(u64::from(tcb.snp))),
        ("microcode", number(u64::from(tcb.microcode))),
    ]);
    if let Some(fmc) = tcb.fmc {
        record.push(("fmc".to_owned(), number(u64::from(fmc))));
    }
    RestrictedExpression::new_record(record)
}

/// How much was measured, and what the matching manifest's rules say of it.
fn ima_record(ima: &ImaClaims, tally: Option<&ImaTally>) -> Built {
    let padded_sha1 = ima.state.extensions.values().any(|extension| extension.is_sha1());
    let mut record =
        pairs([("entries", number(ima.state.entries)), ("padded_sha1", RestrictedExpression::new_bool(padded_sha1))]);
    if let Some(tally) = tally {
        record.push(("judged".to_owned(), judged_record(tally)?));
    }
    RestrictedExpression::new_record(record)
}

fn judged_record(tally: &ImaTally) -> Built {
    RestrictedExpression::new_record(pairs([
        ("entries", number(tally.entries)),
        ("listed", number(tally.listed)),
        ("listed_sha1", number(tally.listed_sha1)),
        ("signed", number(tally.signed)),
        ("buffers", number(tally.buffers)),
        ("excluded", number(tally.excluded)),
        ("unlisted", number(tally.unlisted)),
        ("violations", number(tally.violations)),
    ]))
}

fn firmware(version: SnpFirmware) -> Built {
    RestrictedExpression::new_record(pairs([
        ("major", number(u64::from(version.major))),
        ("minor", number(u64::from(version.minor))),
        ("build", number(u64::from(version.build))),
    ]))
}

fn bits(bits: &BTreeMap<&'static str, bool>) -> Built {
    RestrictedExpression::new_record(
        bits.iter().map(|(name, set)| ((*name).to_owned(), RestrictedExpression::new_bool(*set))),
    )
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::string::ToString;

    use cedar_policy::Request;
    use countersign_attestation::claims::{
        Claims, KeyAuthorization, Presented, Revocation, SnpSigningKey, TpmKeyClaims,
    };
    use countersign_attestation::evidence::eventlog::claims::{Measured, SecureBoot, Separator};
    use countersign_attestation::protocol::HostId;

    use super::Vocabulary;
    use crate::claims;
    use crate::decision::HostFacts;
    use crate::ima::{ImaRules, ImaTally};
    use crate::matching::ImaTallies;
    use crate::policy::schema;
    use crate::reference::ReferenceManifest;
    use crate::waiver::Accepted;

    /// Hosts that differ in what they present, and in what is absent from it.
    fn hosts() -> [Claims; 8] {
        let sparse = claims::with_snp(|snp| {
            snp.chip_id = Presented::NotPresented;
            snp.csp_id = Presented::Verified("CN=cc-us-east-2.amazonaws.com".into());
            snp.mitigation_vectors = BTreeMap::from([("launch", u64::MAX), ("current", 0)]);
            snp.signing_key = SnpSigningKey::Vlek;
            snp.revocation = Revocation::NotPresented;
            snp.policy_bits.clear();
            snp.platform_info.clear();
            snp.reported_tcb.fmc = Some(1);
        });
        let mut unquoted: Claims = claims::tpm_claims();
        unquoted.tpm.pcrs.clear();
        let unmeasured = claims::with_boot(|boot| {
            boot.secure_boot = SecureBoot::Unknown;
            (boot.pk, boot.authorities, boot.files) = (Measured::Unknown, Measured::Unmeasured, Measured::Unknown);
            boot.separators.insert(3, Separator::Missing);
            (boot.uki, boot.command_lines) = (Measured::Unmeasured, Measured::Unknown);
        });
        let measured = claims::measured_claims();
        let domain = Claims {
            rtmr: Presented::Verified(claims::rtmr_claims()),
            paravisor: Presented::Verified(claims::paravisor_claims()),
            ..claims::domain_claims()
        };
        let mut made = claims::with_tdx(|tdx| {
            (tdx.mr_service_td, tdx.platform.platform_instance_id) = (None, None);
            tdx.tcb.advisory_ids.push("INTEL-SA-00960".into());
        });
        made.tpm.credential_key = TpmKeyClaims {
            authorization: KeyAuthorization::Policy(claims::digest(1)),
            creation: Presented::Verified(claims::creation_claims()),
        };
        [claims::both_claims(), claims::tpm_claims(), sparse, unquoted, measured, unmeasured, domain, made]
    }

    /// Requests are not validated while the broker runs, to save the time; so this holds what policies were validated
    /// against and what they are asked with together.
    #[test]
    fn every_request_conforms_to_the_schema() {
        let manifest = |snp: &str| {
            let text = format!(r#"{{"id":"m","tpm":{{"pcrs":{{"sha256":{{"0":["{}"]}}}}}}{snp}}}"#, "11".repeat(32));
            ReferenceManifest::parse(text.as_bytes()).unwrap()
        };
        let full = format!(
            r#","snp":{{"measurement":["{0}"],"host_data":["{1}"],"id_key_digest":["{0}"],
                "min_tcb":{{"milan":{{"bootloader":1,"tee":1,"snp":1,"microcode":1}}}},
                "min_mitigations":{{"milan":[],"genoa":[0,63]}}}}"#,
            "11".repeat(48),
            "11".repeat(32)
        );
        let rules = format!(r#"{{"files":{{"/usr/bin/tool":["sha256:{}"]}}}}"#, "11".repeat(32));
        let listed = manifest(&format!(r#","ima":{{"rules":{rules}}}"#));
        let rules = ImaRules::parse(rules.as_bytes()).unwrap().digest();
        let (tpm, both) = (manifest(""), manifest(&full));
        let hash = "22".repeat(48);
        let domains = manifest(&format!(
            r#","tdx":{{"mr_td":["{hash}"],"rtmr0":["{hash}"],"rtmr1":["{hash}"],"rtmr2":["{hash}"],
                "mr_config_id":["{hash}"],"min_module_svn":{{"TDX_01":1}},"boot":{{"secure_boot":"on"}}}},
                "paravisor":{{"hardware":"snp"}},"acpi":"igvm""#
        ));
        let schema = schema().unwrap();
        let vocabulary = Vocabulary::new().unwrap();
        let tallies = ImaTallies::from([(rules, ImaTally::start())]);
        let accepted = Accepted::nothing();
        let id = HostId::parse("gpu-17").unwrap();
        let labels = BTreeMap::from([("pool".to_string(), "a".to_string())]);
        let host = HostFacts { id: &id, trust_domain: "fleet.example", labels: &labels, generation: u64::MAX };
        for claims in hosts() {
            for matched in [None, Some(&tpm), Some(&both), Some(&listed), Some(&domains)] {
                let (request, entities) =
                    vocabulary.request(&claims, &tallies, &host, matched, &accepted, claims::NOW).unwrap();
                let part = |uid: Option<&cedar_policy::EntityUid>| uid.unwrap().clone();
                let validated = Request::new(
                    part(request.principal()),
                    part(request.action()),
                    part(request.resource()),
                    request.context().unwrap().clone(),
                    Some(&schema),
                );
                assert!(validated.is_ok(), "{}", validated.unwrap_err());
                cedar_policy::Entities::from_entities(entities, Some(&schema)).unwrap();
            }
        }
    }
}
