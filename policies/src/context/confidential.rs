//! Trust domains and paravisors as policies see them.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, RestrictedExpression};
use countersign_attestation::claims::{HexBytes, ParavisorClaims, Presented, RtmrClaims, TdxClaims};
use countersign_attestation::endorsement::intel::TcbStatus;
use countersign_attestation::evidence::paravisor::HardwareKind;
use countersign_attestation::evidence::tdx::BodyKind;

use super::{Built, Vocabulary, bits, hexadecimal, indexes, number, pairs, text, type_name};
use crate::finding::Finding;
use crate::paravisor::Value;
use crate::waiver::Accepted;

/// Entity types whose members are named by the claims themselves.
#[derive(Clone, Debug)]
pub(super) struct Types {
    status: EntityTypeName,
    body: EntityTypeName,
    service_td: EntityTypeName,
    hardware: EntityTypeName,
}

impl Types {
    pub(super) fn new() -> Result<Self, Finding> {
        Ok(Self {
            status: type_name("TcbStatus")?,
            body: type_name("TdxBody")?,
            service_td: type_name("ServiceTd")?,
            hardware: type_name("ParavisorHardware")?,
        })
    }
}

fn member(of: &EntityTypeName, name: &str) -> RestrictedExpression {
    RestrictedExpression::new_entity_uid(EntityUid::from_type_name_and_id(of.clone(), EntityId::new(name)))
}

/// Whether a service TD may look into this one. Version 4 quotes do not say; then [`TdxClaims::attributes`] do, of
/// migration alone.
fn service_td(claims: &TdxClaims) -> &'static str {
    let extended = claims.extended.iter();
    let hashes: alloc::vec::Vec<&HexBytes> = claims
        .mr_service_td
        .iter()
        .chain(extended.flat_map(|ex| [&ex.init_service_td_hash, &ex.current_service_td_hash]))
        .collect();
    let extension = claims.attributes.get("servtd_ext").copied().unwrap_or(true);
    if extension || hashes.iter().any(|hash| hash.0.iter().any(|byte| *byte != 0)) {
        "bound"
    } else if hashes.is_empty() {
        "not_reported"
    } else {
        "none"
    }
}

impl Vocabulary {
    pub(super) fn tdx(&self, claims: &TdxClaims, accepted: &Accepted<'_>) -> Built {
        let status = |status: TcbStatus| member(&self.types.status, status.name());
        let body = match claims.body {
            BodyKind::Sgx => "sgx",
            BodyKind::Td10 => "td10",
            BodyKind::Td15 => "td15",
            BodyKind::Td15Ex => "td15ex",
        };
        let advisories = |open: bool| {
            let listed = claims.tcb.advisory_ids.iter().filter(|id| !open || !accepted.advisory(id));
            RestrictedExpression::new_set(listed.map(|id| text(id)))
        };
        let module = pairs([("id", text(&claims.module.id)), ("isv_svn", number(u64::from(claims.module.isv_svn)))]);
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmrs;
        let mut record = pairs([
            ("assurance", self.assurance(claims.assurance)),
            ("version", number(u64::from(claims.version))),
            ("body", member(&self.types.body, body)),
            ("tcb_status", status(claims.tcb.status)),
            ("platform_tcb_status", status(claims.tcb.platform)),
            ("qe_tcb_status", status(claims.tcb.qe)),
            ("tcb_date", number(claims.tcb.tcb_date.seconds())),
            ("evaluation_data_number", number(u64::from(claims.tcb.evaluation_data_number))),
            ("qe_evaluation_data_number", number(u64::from(claims.tcb.qe_evaluation_data_number))),
            ("collateral_overdue", RestrictedExpression::new_bool(claims.collateral_overdue.is_some())),
            ("advisories", advisories(false)),
            ("open_advisories", advisories(true)),
            ("fmspc", hexadecimal(&claims.platform.fmspc)),
            ("ppid", hexadecimal(&claims.platform.ppid)),
            ("pce_id", hexadecimal(&claims.platform.pce_id)),
            ("pce_svn", number(u64::from(claims.platform.pce_svn))),
            ("module", RestrictedExpression::new_record(module)?),
            ("mr_seam", hexadecimal(&claims.mr_seam)),
            ("mr_signer_seam", hexadecimal(&claims.mr_signer_seam)),
            ("mr_td", hexadecimal(&claims.mr_td)),
            ("mr_config_id", hexadecimal(&claims.mr_config_id)),
            ("mr_owner", hexadecimal(&claims.mr_owner)),
            ("mr_owner_config", hexadecimal(&claims.mr_owner_config)),
            ("rtmr0", hexadecimal(rtmr0)),
            ("rtmr1", hexadecimal(rtmr1)),
            ("rtmr2", hexadecimal(rtmr2)),
            ("rtmr3", hexadecimal(rtmr3)),
            ("service_td", member(&self.types.service_td, service_td(claims))),
            ("attributes", bits(&claims.attributes)?),
            ("xfam", hexadecimal(&claims.xfam)),
        ]);
        if let Some(id) = &claims.platform.platform_instance_id {
            record.push(("platform_instance_id".to_owned(), hexadecimal(id)));
        }
        if let Some(hash) = &claims.mr_service_td {
            record.push(("mr_service_td".to_owned(), hexadecimal(hash)));
        }
        RestrictedExpression::new_record(record)
    }

    pub(super) fn rtmr(&self, claims: &RtmrClaims) -> Built {
        RestrictedExpression::new_record(pairs([
            ("replayed", indexes(&claims.replayed)),
            ("unexplained", indexes(&claims.unexplained)),
            ("boot", self.boot(&claims.boot)?),
            ("command_lines", RestrictedExpression::new_set(claims.command_lines.iter().map(|line| text(line)))),
        ]))
    }

    pub(super) fn paravisor(&self, claims: &ParavisorClaims) -> Built {
        let hardware = match claims.hardware {
            HardwareKind::Snp => "snp",
            HardwareKind::Tdx => "tdx",
        };
        // A record cannot have members that only a paravisor knows the names of; a policy asks for `name=value`.
        let settings: BTreeSet<String> = claims
            .vm_configuration
            .iter()
            .filter_map(|(name, setting)| Value::of(setting).map(|value| format!("{name}={value}")))
            .collect();
        let mut record = pairs([
            ("assurance", self.assurance(claims.assurance)),
            ("hardware", member(&self.types.hardware, hardware)),
            ("hcl_version", number(u64::from(claims.hcl_version))),
            ("ak", RestrictedExpression::new_string(claims.ak.to_hex())),
            ("configuration", RestrictedExpression::new_set(settings.iter().map(|setting| text(setting)))),
            ("user_data", hexadecimal(&claims.user_data)),
        ]);
        if let Presented::Verified(ek) = &claims.ek {
            record.push(("ek".to_owned(), RestrictedExpression::new_string(ek.to_hex())));
        }
        if let Presented::Verified(id) = &claims.vm_id {
            record.push(("vm_id".to_owned(), text(id)));
        }
        RestrictedExpression::new_record(record)
    }
}
