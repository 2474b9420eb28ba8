//! Does what the ladder says, to the agent's own workload and to those that somebody else started.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::ladder::{Climb, Ladder, Verb};
use super::target::{Target, cgroup_mount};
use super::{EnforceError, Workload};
use crate::clock;
use crate::config::RunArgs;
use crate::device::Tpm;
use crate::error::AgentError;
use crate::events::{Details, EventKind, Events};

/// How often those that somebody else started are stopped again: a unit may be started again.
const AGAIN_MS: u64 = 250;

/// Whether the agent's own workload is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It is, or there was none.
    GoesOn,
    /// It was killed.
    Killed,
}

/// The hook of the verb `drain`.
#[derive(Debug)]
enum Hook {
    Idle,
    /// It starts as soon as the TPM is closed.
    Wanted,
    /// Killed when dropped.
    Running(Child),
}

/// Who is stopped, and how far that has come.
#[derive(Debug)]
pub struct Enforcer {
    /// The agent's own workload.
    pub workload: Option<Workload>,
    climb: Climb,
    targets: Vec<Target>,
    drain_hook: Option<PathBuf>,
    hook: Hook,
    /// Whether trust has not begun yet.
    before_trust: bool,
    /// Boot clock milliseconds at which targets are stopped again.
    again_at: u64,
    events: Events,
    tpm: Tpm,
}

impl Enforcer {
    /// Takes hold of everyone, and stops those that run already until this host is trusted.
    ///
    /// # Errors
    /// Options that do not fit together, or a target that is not there.
    pub fn new(args: &RunArgs, events: Events, tpm: Tpm) -> Result<Self, AgentError> {
        let grace_ms = u64::try_from(args.grace.as_millis()).unwrap_or(u64::MAX);
        let ladder = args.on_loss.clone().unwrap_or_else(|| Ladder::freeze_then_kill(grace_ms));
        if ladder.drains() != args.drain_hook.is_some() {
            return Err(AgentError::Options("--drain-hook belongs to the verb drain of --on-loss, and drain to it"));
        }
        let mount = cgroup_mount();
        let targets = args.enforce.iter().map(|named| Target::hold(named, mount.as_deref()));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let (climb, drain_hook) = (Climb::new(ladder), args.drain_hook.clone());
        let enforcer = Self {
            workload: None,
            climb,
            targets,
            drain_hook,
            hook: Hook::Idle,
            before_trust: true,
            again_at: 0,
            events,
            tpm,
        };
        enforcer.hold_targets();
        Ok(enforcer)
    }

    /// Whether the workload is without trust.
    #[must_use]
    pub fn is_climbing(&self) -> bool {
        self.climb.verb().is_some()
    }

    /// Trust ended.
    ///
    /// # Errors
    /// [`EnforceError`]: the workload could not be killed.
    pub fn lost(&mut self) -> Result<Left, EnforceError> {
        let now = clock::boot_ms();
        self.again_at = now.saturating_add(AGAIN_MS);
        match self.climb.lost(now) {
            Some(verb) => self.act(verb),
            None => Ok(Left::GoesOn),
        }
    }

    /// Time passed.
    ///
    /// # Errors
    /// [`EnforceError`]: the workload could not be killed.
    pub fn tick(&mut self) -> Result<Left, EnforceError> {
        let now = clock::boot_ms();
        let next = self.climb.tick(now).or_else(|| {
            let ended = self.hook_ended();
            if ended { self.climb.done(Verb::Drain, now) } else { None }
        });
        if let Some(verb) = next {
            self.hook = Hook::Idle;
            return self.act(verb);
        }
        if self.again_at <= now {
            self.again_at = now.saturating_add(AGAIN_MS);
            match self.climb.verb() {
                Some(Verb::Freeze) => self.hold_targets(),
                Some(Verb::Kill) => self.each_target("killed", Target::kill),
                None if self.before_trust => self.hold_targets(),
                Some(Verb::Warn | Verb::Drain) | None => {}
            }
        }
        Ok(Left::GoesOn)
    }

    /// Trust came back, or began: everyone goes on.
    ///
    /// # Errors
    /// [`EnforceError`]: the workload could not be let go on.
    pub fn regained(&mut self) -> Result<(), EnforceError> {
        let was_frozen = self.climb.verb() == Some(Verb::Freeze);
        self.climb.regained();
        self.before_trust = false;
        self.hook = Hook::Idle;
        self.each_target("thawed", Target::thaw);
        if was_frozen {
            if let Some(workload) = &self.workload {
                workload.thaw()?;
            }
            self.record(EventKind::WorkloadThawed, &Details::default());
        }
        Ok(())
    }

    /// Ends the agent's own workload.
    ///
    /// # Errors
    /// [`EnforceError`].
    pub fn kill_workload(&mut self) -> Result<(), EnforceError> {
        if let Some(workload) = self.workload.take() {
            workload.kill()?;
            self.events.record(EventKind::WorkloadKilled, &Details::default());
        }
        Ok(())
    }

    /// Stops those that somebody else started, before trust begins and when the agent ends: nobody watches them then.
    pub fn hold_targets(&self) {
        if self.climb.ladder().stops() {
            for target in &self.targets {
                let stopped = target.freeze().or_else(|error| {
                    tracing::error!(%error, ?target, "cannot be frozen, and is killed");
                    target.kill()
                });
                if let Err(error) = stopped {
                    tracing::error!(%error, ?target, "cannot be stopped");
                }
            }
        }
    }

    fn act(&mut self, verb: Verb) -> Result<Left, EnforceError> {
        match verb {
            Verb::Warn => {
                tracing::warn!("the workload goes on without trust for now");
                self.record(EventKind::WorkloadWarned, &Details::default());
                Ok(Left::GoesOn)
            }
            Verb::Drain => {
                self.hook = Hook::Wanted;
                self.start_hook();
                Ok(Left::GoesOn)
            }
            Verb::Freeze => self.freeze(),
            Verb::Kill => self.kill(),
        }
    }

    fn freeze(&mut self) -> Result<Left, EnforceError> {
        self.hold_targets();
        match self.workload.as_ref().map(Workload::freeze) {
            Some(Ok(took_us)) => {
                let details = Details { took_us: Some(took_us), ..Details::default() };
                self.events.record(EventKind::WorkloadFrozen, &details);
                Ok(Left::GoesOn)
            }
            // What cannot be frozen is killed, without a grace.
            Some(Err(error)) => {
                tracing::error!(%error, "the workload could not be frozen");
                self.kill_workload()?;
                Ok(Left::Killed)
            }
            None => {
                self.record(EventKind::WorkloadFrozen, &Details::default());
                Ok(Left::GoesOn)
            }
        }
    }

    fn kill(&mut self) -> Result<Left, EnforceError> {
        self.each_target("killed", Target::kill);
        if self.workload.is_some() {
            self.kill_workload()?;
            return Ok(Left::Killed);
        }
        self.record(EventKind::WorkloadKilled, &Details::default());
        Ok(Left::GoesOn)
    }

    /// One that fails keeps none of the others from their turn.
    fn each_target(&self, doing: &'static str, act: impl Fn(&Target) -> Result<(), EnforceError>) {
        for target in &self.targets {
            if let Err(error) = act(target) {
                tracing::error!(%error, ?target, "cannot be {doing}");
            }
        }
    }

    /// Events are about somebody.
    fn record(&self, kind: EventKind, details: &Details) {
        if self.workload.is_some() || !self.targets.is_empty() {
            self.events.record(kind, details);
        }
    }

    /// Starts the hook, or leaves it to the next tick: no process is started while the TPM is open.
    fn start_hook(&mut self) {
        let (Hook::Wanted, Some(program), Some(_closed)) = (&self.hook, &self.drain_hook, self.tpm.closed()) else {
            return;
        };
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        if let Some(workload) = &self.workload {
            command.env("COUNTERSIGN_WORKLOAD_PID", workload.pid().to_string());
        }
        match command.spawn() {
            Ok(child) => {
                let details = Details { pid: child.id(), ..Details::default() };
                self.record(EventKind::WorkloadDraining, &details);
                self.hook = Hook::Running(child);
            }
            Err(error) => {
                tracing::error!(%error, program = %program.display(), "the drain hook could not be started");
                // Nothing to wait for.
                self.hook = Hook::Idle;
            }
        }
    }

    /// Whether there is nothing to wait for in a drain.
    fn hook_ended(&mut self) -> bool {
        if self.climb.verb() != Some(Verb::Drain) {
            return false;
        }
        self.start_hook();
        match &mut self.hook {
            Hook::Idle => true,
            Hook::Wanted => false,
            Hook::Running(child) => match child.try_wait() {
                Ok(None) => false,
                Ok(Some(status)) => {
                    if !status.success() {
                        tracing::warn!(%status, "the drain hook failed");
                    }
                    true
                }
                Err(_) => true,
            },
        }
    }
}
