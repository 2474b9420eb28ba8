//! The daemon: three tasks and their story. The attester attests, the watch looks at PCRs and IMA list, and this file,
//! which never waits for TPM or network, draws the consequences.

use core::time::Duration;
use std::env::current_exe;
use std::sync::Arc;

use countersign_attestation::protocol::{IssuedCredential, Problem};
use countersign_attestation::result::jws::JwkSet;
use countersign_attestation::result::jwt_svid::AUDIENCES_MAX;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::attester::{Attester, Command, Granted, Outcome};
use crate::broker_client::BrokerClient;
use crate::cgroup;
use crate::channel::Channel;
use crate::clock;
use crate::collect::hardware::{HardwareSource, Paravisor};
use crate::collect::kds::Kds;
use crate::collect::logs::Logs;
use crate::config::{ParavisorKind, RunArgs};
use crate::credential_directory::{CredentialDirectory, Status};
use crate::device::Tpm;
use crate::enforce::enforcer::{Enforcer, Left};
use crate::enforce::{Ended, EnforceError, Launch, Workload};
use crate::error::{AgentError, EXIT_DENIED, EXIT_LOCAL, EXIT_OK};
use crate::events::{Details, EventKind, Events};
use crate::pulse_watch::Subject;
use crate::state::StateDirectory;
use crate::svid::{Offer, Svid, SvidKey};
use crate::trust::{Cause, Change, Event, Grant, Lease, Trust};
use crate::watch as measurements;
use crate::workload_api::Socket;
use crate::workload_api::feed::JwtBundle;
use crate::workload_api::feed::Source;
use crate::workload_api::jwt::jwt_bundle;
use crate::workload_api::selector::Admission;
use crate::workload_key::MemoryKey;

/// How often clocks are looked at. It bounds how late the end of a lease is noticed.
const TICK: Duration = Duration::from_millis(25);
/// Outcomes and commands in flight; one is usual.
const QUEUE: usize = 8;

/// Where a VCEK's certificate is fetched from; kept beside the enrolment.
fn kds(args: &RunArgs) -> Option<Kds> {
    let kept = args.state_dir.clone();
    let https = args.kds.as_ref().is_some_and(|url| url.starts_with("https://"));
    let (tls_roots, product) = (args.kds_roots.clone().filter(|_| https), args.kds_product.map(Into::into));
    args.kds.clone().map(|url| Kds { url, tls_roots, product, kept })
}

/// Where the hardware's proofs come from. A paravisor's report is read once: it does not change while the VM runs.
async fn hardware(args: &RunArgs, tpm: &Tpm) -> Result<HardwareSource, AgentError> {
    match args.paravisor {
        None => Ok(HardwareSource::system(args.snp_vek.clone(), kds(args), args.ccel.clone())),
        Some(ParavisorKind::Azure) => {
            let report = tpm.run(Paravisor::read_hcl_report).await?;
            let paravisor = Paravisor::new(report, args.snp_vek.as_deref(), args.td_quote.as_deref())?;
            Ok(HardwareSource::Paravisor(paravisor))
        }
    }
}

/// Runs until the workload ends, trust is lost for good, or a signal says so. Returns the exit code.
///
/// # Errors
/// [`AgentError`]: nothing could be started, or nothing can be enforced any more.
pub async fn run(args: RunArgs) -> Result<u8, AgentError> {
    let state = StateDirectory::open(&args.state_dir)?;
    let (enrollment, channel_key) = state.enrolled()?;
    let certificate = enrollment.channel_certificate.as_deref().unwrap_or_default();
    let broker = BrokerClient::with_channel(&enrollment.broker, &enrollment.broker_ca, certificate, &channel_key)?;
    let channel = Channel::new(&enrollment.broker, &enrollment.broker_ca, certificate, &channel_key)?;
    let tpm = Tpm::new(args.tcti.as_deref().unwrap_or(&enrollment.tcti))?;
    let events = Events::to(args.events.as_deref())?;
    let path = args.credential_dir.clone().unwrap_or_else(|| state.credential_directory());
    let directory = CredentialDirectory::open(&path, clock::wall())?;
    let (baseline, quoted) = watch::channel(None);
    let hardware = hardware(&args, &tpm).await?;
    let token_keys = enrollment.token_keys.clone();
    let bundle = JwtBundle::default();
    bundle.set(token_keys.as_deref().and_then(jwt_bundle));
    let logs = Logs::at(&args.event_log, &args.ima_list).with_ccel(hardware.ccel());
    let ima = logs.ima.clone();
    let mut attester = Attester::new(tpm.clone(), enrollment.ak_key, logs, hardware, channel, baseline);
    if AUDIENCES_MAX < args.audience.len() {
        return Err(AgentError::Options("--audience can be given eight times at most"));
    }
    attester.audiences.clone_from(&args.audience);
    attester.wants_workload_key = args.workload_key;
    attester.keeper = args.clock.keeper();
    tracing::info!(error_max_ms = args.clock.clock_error_max_ms, "{}", attester.keeper.posture());
    let (subject, watched) = watch::channel(None);
    let (offers, offered) = watch::channel(None);
    let socket = args.workload_socket.as_deref().map(Socket::bind).transpose()?;
    let (commands, inbox) = mpsc::channel(QUEUE);
    let host = Host {
        trust: Trust::Never,
        directory,
        events: events.clone(),
        commands: commands.clone(),
        launch: launch(&args, &path)?,
        enforcer: Enforcer::new(&args, events.clone(), tpm.clone())?,
        killed: false,
        starting: false,
        tpm: tpm.clone(),
        subject,
        offers,
        grace_ms: u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX),
    };
    if args.once {
        let outcome = attester.attest().await;
        return host.once(outcome);
    }
    let (sender, outcomes) = mpsc::channel(QUEUE);
    let attesting = tokio::spawn(attester.run(inbox, sender));
    let watching = tokio::spawn(measurements::run(tpm, ima, args.watch_interval, quoted, commands, events));
    let (revoked, revocations) = mpsc::channel(QUEUE);
    let (staples, stapled) = watch::channel(None);
    let following = tokio::spawn(follow(broker, token_keys, bundle.clone(), watched, revoked, staples));
    let source = Source::new(offered, Admission::new(args.admit)).with_jwt_bundle(bundle);
    let serving = socket.map(|socket| tokio::spawn(serve(socket, source)));
    let result = host.supervise(outcomes, revocations, stapled).await;
    if let Some(serving) = serving {
        serving.abort();
    }
    following.abort();
    attesting.abort();
    watching.abort();
    result
}

/// Serves the workload API. Without it, the credential directory and enforcement are what they are.
async fn serve(socket: Socket, source: Source) {
    if let Err(error) = socket.serve(source).await {
        tracing::error!(%error, "the workload API is not served any more");
    }
}

/// Follows the pulse, where the broker's keys are known or can be had. Without, the lease still bounds trust.
async fn follow(
    broker: BrokerClient,
    token_keys: Option<String>,
    bundle: JwtBundle,
    subject: watch::Receiver<Option<Subject>>,
    revoked: mpsc::Sender<Subject>,
    staples: watch::Sender<Option<String>>,
) {
    let token_keys = match token_keys {
        Some(known) => Ok(known),
        None => broker.token_keys().await,
    };
    let keys = token_keys.map_err(|error| error.to_string());
    match keys.and_then(|keys| JwkSet::parse(keys.as_bytes()).map_err(|error| error.to_string())) {
        Ok(keys) => crate::follow::run(broker, keys, bundle, subject, revoked, staples).await,
        Err(error) => tracing::error!(error, "the pulse is not followed; revocations arrive with the next attestation"),
    }
}

fn launch(args: &RunArgs, credential_directory: &std::path::Path) -> Result<Option<Launch>, AgentError> {
    if args.workload.is_empty() {
        return Ok(None);
    }
    let start = |error| EnforceError::Start { program: "this agent".to_owned(), error };
    Ok(Some(Launch {
        agent: current_exe().map_err(start)?,
        command: args.workload.clone(),
        credential_directory: std::path::absolute(credential_directory).map_err(start)?,
        cgroup_parent: args.workload_cgroup.clone().or_else(cgroup::delegated),
    }))
}

/// What the supervisor holds.
struct Host {
    trust: Trust,
    directory: CredentialDirectory,
    events: Events,
    commands: mpsc::Sender<Command>,
    launch: Option<Launch>,
    enforcer: Enforcer,
    /// Whether the workload was killed because trust was lost: the end of the story.
    killed: bool,
    /// Whether the workload starts as soon as the TPM is closed.
    starting: bool,
    tpm: Tpm,
    /// The live credential, for whoever follows the pulse.
    subject: watch::Sender<Option<Subject>>,
    /// The live credential, for workloads that ask.
    offers: watch::Sender<Option<Offer>>,
    grace_ms: u64,
}

/// Why the supervision goes on or ends.
enum Next {
    Continue,
    Exit(u8),
}

impl Host {
    /// Whatever way the story ends, no workload and no credential are left behind.
    async fn supervise(
        mut self,
        outcomes: mpsc::Receiver<Outcome>,
        revocations: mpsc::Receiver<Subject>,
        staples: watch::Receiver<Option<String>>,
    ) -> Result<u8, AgentError> {
        let result = self.story(outcomes, revocations, staples).await;
        self.offers.send_replace(None);
        self.enforcer.kill_workload()?;
        self.enforcer.hold_targets();
        self.leave()?;
        result
    }

    async fn story(
        &mut self,
        mut outcomes: mpsc::Receiver<Outcome>,
        mut revocations: mpsc::Receiver<Subject>,
        mut staples: watch::Receiver<Option<String>>,
    ) -> Result<u8, AgentError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let next = tokio::select! {
                biased;
                _ = tick.tick() => self.tick()?,
                Some(revoked) = revocations.recv() => self.revoked(&revoked)?,
                Ok(()) = staples.changed() => self.staple(staples.borrow_and_update().as_deref())?,
                outcome = outcomes.recv() => match outcome {
                    Some(outcome) => self.outcome(outcome)?,
                    // The attester panicked: no proof will come, so trust ends now rather than with the lease.
                    None => return Err(AgentError::Grant("the attester stopped")),
                },
                ended = ended(self.enforcer.workload.as_mut()) => self.workload_ended(ended?)?,
                () = either(&mut terminate, &mut interrupt) => return self.stop(&mut tick).await,
            };
            if let Next::Exit(code) = next {
                return Ok(code);
            }
        }
    }

    /// `--once`: the credential stays for whoever asked for it.
    fn once(mut self, outcome: Outcome) -> Result<u8, AgentError> {
        match outcome {
            Outcome::Failed(error) => {
                self.events.record(EventKind::AttestFailed, &Details::code(error.code()));
                Err(error)
            }
            outcome @ (Outcome::Granted(_) | Outcome::Denied(_)) => {
                self.outcome(outcome)?;
                Ok(if self.trust.is_live() { EXIT_OK } else { EXIT_DENIED })
            }
        }
    }

    /// Time passed.
    fn tick(&mut self) -> Result<Next, AgentError> {
        let now = clock::now();
        if let Change::Lost(cause) = self.trust.on(Event::Tick, now) {
            self.lose_and_ask(&cause)?;
        }
        self.killed |= self.enforcer.tick()? == Left::Killed;
        if self.killed {
            return Ok(Next::Exit(EXIT_DENIED));
        }
        if self.starting {
            self.start()?;
        }
        Ok(Next::Continue)
    }

    /// A pulse ended trust, unless another credential is live by now.
    fn revoked(&mut self, revoked: &Subject) -> Result<Next, AgentError> {
        let live = self.subject.borrow().as_ref() == Some(revoked);
        if live && let Change::Lost(cause) = self.trust.on(Event::Revoked, clock::now()) {
            self.lose_and_ask(&cause)?;
        }
        Ok(Next::Continue)
    }

    /// A pulse came: who has a live credential shows it to relying parties without a feed.
    fn staple(&self, staple: Option<&str>) -> Result<Next, AgentError> {
        self.directory.staple(staple.filter(|_| self.trust.is_live()))?;
        Ok(Next::Continue)
    }

    fn outcome(&mut self, outcome: Outcome) -> Result<Next, AgentError> {
        match outcome {
            Outcome::Granted(granted) => self.granted(*granted)?,
            Outcome::Denied(problem) => {
                let decision = problem.decision.map(|decision| decision.to_hex());
                let details = Details { decision, ..Details::code(&problem.code) };
                self.events.record(EventKind::Denied, &details);
                tracing::error!(
                    code = problem.code,
                    expected = problem.expected,
                    found = problem.found,
                    remedy = problem.remedy,
                    "denied: {}",
                    problem.title
                );
                if let Change::Lost(cause) = self.trust.on(Event::Denied(cause_of(&problem)), clock::now()) {
                    self.lose(&cause)?;
                }
            }
            Outcome::Failed(error) => {
                self.events.record(EventKind::AttestFailed, &Details::code(error.code()));
                tracing::warn!(%error, "no attestation; trust lasts until the lease ends");
            }
        }
        Ok(Next::Continue)
    }

    fn granted(&mut self, granted: Granted) -> Result<(), AgentError> {
        let Granted { response, lease, credential, workload_key } = granted;
        let grant = if credential.is_some() { Grant::Credential } else { Grant::Prolonged };
        let change = self.trust.on(Event::Granted(grant, lease), clock::now());
        match change {
            Change::Gained | Change::Prolonged => {}
            Change::Lost(cause) => return self.lose_and_ask(&cause),
            Change::Unusable | Change::None => {
                tracing::warn!("a grant came too late; attesting again with a new credential key");
                return self.command(Command::RenewKey);
            }
        }
        let serial = credential.as_ref().map(|(credential, _)| credential.serial.clone());
        let details = Details { decision: Some(response.decision.to_hex()), serial, ..Details::default() };
        self.events.record(EventKind::Granted, &details);
        if let Some((credential, key_pem)) = credential {
            let status = Status::Trusted {
                serial: credential.serial.clone(),
                decision: response.decision.to_hex(),
                lease_until: response.lease_until,
                not_after: credential.not_after,
            };
            self.directory.publish(&credential, &key_pem, &status)?;
            let subject = Subject::of(&credential.certificate_chain, clock::wall());
            if subject.is_none() {
                tracing::warn!("the credential names no status; only the lease bounds trust");
            }
            self.subject.send_replace(subject);
            self.offer(&credential, &key_pem, workload_key.as_ref(), lease);
        } else {
            self.directory.prolong(&response)?;
            self.offers.send_modify(|offer| {
                if let Some(offer) = offer {
                    offer.lease = lease;
                }
            });
        }
        // The credential is there before the workload looks for it.
        if change == Change::Gained { self.resume() } else { Ok(()) }
    }

    /// Hands a new credential to the workload API.
    fn offer(&self, credential: &IssuedCredential, key_pem: &str, workload_key: Option<&MemoryKey>, lease: Lease) {
        let svid = match (&credential.workload_chain, workload_key) {
            (Some(chain), Some(key)) => Ok((chain, SvidKey::Pkcs8(key.pkcs8().clone()))),
            (None, Some(_)) => {
                tracing::warn!("the broker certifies no keys of workloads; see workload_keys in its config.toml");
                SvidKey::from_pem(key_pem).map(|key| (&credential.certificate_chain, key))
            }
            (_, None) => SvidKey::from_pem(key_pem).map(|key| (&credential.certificate_chain, key)),
        };
        let svid = svid.and_then(|(chain, key)| Svid::new(chain, &credential.trust_bundle, key, credential.not_after));
        let svid = svid.map(|svid| svid.with_tokens(&credential.jwt_svids));
        let offer = svid.map(|svid| Offer { svid: Arc::new(svid), lease });
        self.offers.send_replace(offer.map_err(|error| tracing::warn!(%error, "no SVID for workloads")).ok());
    }

    /// Trust began or came back: start the workload, or let it go on.
    fn resume(&mut self) -> Result<(), AgentError> {
        self.enforcer.regained()?;
        self.starting = self.enforcer.workload.is_none() && self.launch.is_some();
        if self.starting { self.start() } else { Ok(()) }
    }

    /// Starts the workload, or leaves it to the next tick: no process is started while the TPM is open.
    fn start(&mut self) -> Result<(), AgentError> {
        let (Some(launch), Some(_closed)) = (&self.launch, self.tpm.closed()) else { return Ok(()) };
        let workload = Workload::start(launch)?;
        self.starting = false;
        let details = Details { pid: Some(workload.pid()), ..Details::default() };
        self.enforcer.workload = Some(workload);
        self.events.record(EventKind::WorkloadStarted, &details);
        Ok(())
    }

    /// Trust ended. The workload first, since it acts; then the credential; then the explanations.
    fn lose(&mut self, cause: &Cause) -> Result<(), AgentError> {
        self.subject.send_replace(None);
        self.offers.send_replace(None);
        self.starting = false;
        self.killed |= self.enforcer.lost()? == Left::Killed;
        let status = Status::Lost {
            since: clock::wall(),
            code: cause.code.clone(),
            reason: cause.reason.clone(),
            remedy: cause.remedy.clone(),
        };
        self.directory.remove(&status)?;
        self.events.record(EventKind::TrustLost, &Details::code(&cause.code));
        Ok(())
    }

    /// Trust ended without the broker's saying so: it is asked at once, with a new key. After a denial the attester
    /// keeps its own pace.
    fn lose_and_ask(&mut self, cause: &Cause) -> Result<(), AgentError> {
        self.lose(cause)?;
        self.command(Command::RenewKey)
    }

    fn workload_ended(&mut self, ended: Ended) -> Result<Next, AgentError> {
        match ended {
            Ended::Unguarded => {
                self.enforcer.kill_workload()?;
                tracing::error!("the workload's sentinel ended; a workload that could outlive the agent is not kept");
                Ok(Next::Exit(EXIT_LOCAL))
            }
            // Killed because trust was lost; its own code says nothing.
            Ended::Exited(_) if self.enforcer.is_climbing() => {
                self.enforcer.kill_workload()?;
                Ok(Next::Exit(EXIT_DENIED))
            }
            Ended::Exited(code) => {
                // Dropping it kills what its first process left behind.
                self.enforcer.workload = None;
                self.events.record(EventKind::WorkloadEnded, &Details::code(&code.to_string()));
                Ok(Next::Exit(code))
            }
        }
    }

    /// A signal: ask the workload to end, and end it when it has not after the grace.
    async fn stop(&mut self, tick: &mut Interval) -> Result<u8, AgentError> {
        let until = clock::boot_ms().saturating_add(self.grace_ms);
        let mut gone = false;
        let is_trusted = !self.enforcer.is_climbing();
        if let Some(workload) = &mut self.enforcer.workload {
            // A frozen workload hears nothing: it has lost trust and is not let go on to end nicely.
            if is_trusted {
                workload.terminate()?;
                while !gone && clock::boot_ms() < until {
                    tokio::select! {
                        _ = tick.tick() => {}
                        ended = workload.ended() => gone = ended? != Ended::Unguarded,
                    }
                }
            }
        }
        if gone {
            self.enforcer.workload = None;
            self.events.record(EventKind::WorkloadEnded, &Details::default());
        }
        Ok(EXIT_OK)
    }

    /// Nothing is enforced any more, so no credential stays.
    fn leave(&mut self) -> Result<(), AgentError> {
        let status = if self.trust == Trust::Lost { None } else { Some(Status::Stopped { since: clock::wall() }) };
        status.map_or(Ok(()), |status| self.directory.remove(&status)).map_err(AgentError::from)
    }

    /// Never waits: a full queue already holds what makes the attester act.
    fn command(&self, command: Command) -> Result<(), AgentError> {
        match self.commands.try_send(command) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(AgentError::Grant("the attester stopped")),
        }
    }
}

fn cause_of(problem: &Problem) -> Cause {
    Cause { code: problem.code.clone(), reason: problem.title.clone(), remedy: problem.remedy.clone() }
}

/// Waits for the workload's end; for ever when there is none.
async fn ended(workload: Option<&mut Workload>) -> Result<Ended, EnforceError> {
    match workload {
        Some(workload) => workload.ended().await,
        None => core::future::pending().await,
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
