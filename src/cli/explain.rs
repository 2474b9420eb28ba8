//! `countersign explain`: why a host is where it is, or what a decision was made of.

use countersign_attestation::UnixMillis;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::Output;
use crate::cli::client::{Client, Connection};

/// Tell why: the newest decision about a host, or any recorded one.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    connection: Connection,
    /// A host; or a decision, by its id (64 hex digits, as a denied host is told) or its index in the log.
    of: String,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

/// What this command line reads of an explanation; the broker may say more.
#[derive(Debug, Deserialize)]
struct Explanation {
    decision: String,
    log_index: u64,
    at: UnixMillis,
    event: String,
    host: Option<String>,
    actor: Option<String>,
    reasons: Vec<String>,
    judged: Option<Judged>,
}

#[derive(Debug, Deserialize)]
struct Judged {
    identical: bool,
    grant: Option<Granted>,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Granted {
    not_after: UnixMillis,
    lease_until: UnixMillis,
    manifest: String,
    policies: Vec<String>,
    waivers: Vec<Waiver>,
    notes: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Waiver {
    id: String,
    until: UnixMillis,
}

/// A reason, as the broker tells it to operators.
#[derive(Debug, Deserialize)]
pub(super) struct Finding {
    pub(super) code: String,
    pub(super) sentence: String,
    pub(super) expected: String,
    pub(super) found: String,
    pub(super) remedy: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, sentence, expected, found, remedy } = self;
        write!(f, "{code}: {sentence}\n  expected {expected}\n  found    {found}\n  remedy   {remedy}")
    }
}

/// Runs `countersign explain`.
///
/// # Errors
/// What the broker refuses, and failures on the way to it.
pub async fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.connection)?;
    let of = &args.of;
    // An index is digits alone, and so may a host's id be: a host is asked for first.
    let is_decision = of.len() == 64 && of.bytes().all(|byte| byte.is_ascii_hexdigit());
    let by_decision = format!("/v1/log/entries/{of}/explanation");
    let answer: Box<RawValue> = if is_decision {
        client.get(&by_decision).await?
    } else {
        let by_host = client.get(&format!("/v1/hosts/{of}/explanation")).await;
        match by_host {
            Err(_) if of.bytes().all(|byte| byte.is_ascii_digit()) => client.get(&by_decision).await?,
            answer => answer?,
        }
    };
    match args.output {
        Output::Json => println!("{answer}"),
        Output::Table => println!("{}", serde_json::from_str::<Explanation>(answer.get())?),
    }
    Ok(())
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { decision, log_index, at, event, host, actor, reasons, judged } = self;
        let of = host.as_ref().map(|host| format!(" of {host}")).unwrap_or_default();
        let by = actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
        write!(f, "{event}{of}{by} at {at}\ndecision {decision}, entry {log_index} of the log")?;
        let Some(judged) = judged else {
            return reasons.iter().try_for_each(|reason| write!(f, "\nbecause: {reason}"));
        };
        if !judged.identical {
            write!(f, "\nNOT what was recorded: judged again, the archived inputs come to another decision")?;
        }
        if let Some(grant) = &judged.grant {
            write!(f, "\nmatches manifest {}; permitted by {}", grant.manifest, grant.policies.join(", "))?;
            for Waiver { id, until } in &grant.waivers {
                write!(f, "\nstands on waiver {id} until {until}")?;
            }
            write!(f, "\nlease until {}, credentials until {}", grant.lease_until, grant.not_after)?;
            grant.notes.iter().try_for_each(|note| write!(f, "\nnote {note}"))?;
        }
        judged.findings.iter().try_for_each(|finding| write!(f, "\n{finding}"))
    }
}
