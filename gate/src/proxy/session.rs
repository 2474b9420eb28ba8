//! One caller's connection: what is open on it, and its end. Whoever was let in is judged again at every pulse and a
//! few times a second in between, and is cut off, with all that is under way, when the answer turns to no.

use core::net::IpAddr;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use axum::body::Bytes;
use countersign_policies::authorize::Asked;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::upstream::Driver;
use crate::clock::within;
use crate::decide::Decision;
use crate::door::Door;
use crate::reason::{Denial, GateReason};

/// Longest time between two judgements. Timers stand still while a machine sleeps: this, and not a deadline set before,
/// bounds what an open stream carries after it wakes.
const LOOK: Duration = Duration::from_millis(250);

/// Longest life of a connection on which nobody was let in.
const UNADMITTED_MAX_MS: u64 = 60_000;

/// A caller's connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) door: Door,
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) peer: IpAddr,
    since_ms: u64,
    /// Whether a request was let in: only then is there something to lose.
    admitted: AtomicBool,
    /// What is under way, and, where policies are asked, what was asked.
    open: Mutex<BTreeMap<u64, Option<Asked>>>,
    next: AtomicU64,
    cut: watch::Sender<bool>,
    /// A place among the connections that may be open.
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// A connection of whoever proved possession of the key in `chain`; its guard runs until it ends.
    pub(super) fn start(door: Door, chain: Vec<Vec<u8>>, peer: IpAddr, place: OwnedSemaphorePermit) -> Arc<Self> {
        door.metrics.connected();
        let session = Arc::new(Self {
            since_ms: door.clock.now().steady_ms,
            door,
            chain,
            peer,
            admitted: AtomicBool::new(false),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            cut: watch::Sender::new(false),
            _place: place,
        });
        tokio::spawn(guard(Arc::downgrade(&session)));
        session
    }

    /// Notes a request that was let in, as open until the value is dropped.
    pub(super) fn open(self: &Arc<Self>, asked: Option<Asked>) -> Open {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, asked);
        self.admitted.store(true, Ordering::Release);
        Open { session: Arc::clone(self), id }
    }

    /// Returns when the connection is cut.
    pub(super) async fn cut(&self) {
        let mut cut = self.cut.subscribe();
        // The sender lives as long as `self`.
        drop(cut.wait_for(|cut| *cut).await);
    }

    /// Whether what is open may go on.
    fn judge_again(&self) -> Result<(), Denial> {
        if !self.admitted.load(Ordering::Acquire) {
            let passed = self.door.clock.now().steady_ms.saturating_sub(self.since_ms);
            let expected = "a request that is let in within a minute";
            return if passed < UNADMITTED_MAX_MS {
                Ok(())
            } else {
                Err(GateReason::ProxyIdle.because(expected, format!("none in {passed} ms")))
            };
        }
        let open: Vec<Asked> = self.lock().values().flatten().cloned().collect();
        let judge = |asked: Option<Asked>| match asked {
            Some(asked) => self.door.judge_again(&self.chain, || Ok(asked)),
            None => self.door.judge_caller(&self.chain),
        };
        for asked in core::iter::once(None).chain(open.into_iter().map(Some)) {
            match judge(asked) {
                Decision::Allow(_) => {}
                Decision::Deny(denial) => return Err(denial),
            }
        }
        Ok(())
    }

    fn sever(&self, denial: &Denial) {
        let (expected, found) = (denial.expected(), denial.found());
        tracing::info!(code = denial.code(), expected, found, peer = %self.peer, "cut off");
        self.door.metrics.cut_off(denial.code());
        self.cut.send_replace(true);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Option<Asked>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.door.metrics.disconnected();
    }
}

/// Looks at each pulse, and every [`LOOK`]; ends with the session.
async fn guard(session: Weak<Session>) {
    let Some(mut pulses) = session.upgrade().map(|session| session.door.state.subscribe()) else { return };
    loop {
        {
            let Some(session) = session.upgrade() else { return };
            if let Err(denial) = session.judge_again() {
                session.sever(&denial);
                return;
            }
        }
        // A pulse, the end of the wait, or the end of the state: all are a reason to look.
        let _woken = within(LOOK, pulses.changed()).await;
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) session: Arc<Session>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.session.lock().remove(&self.id);
    }
}

/// The service's answer on its way to the caller. The request is open, and its connection to the service is there, for
/// as long as this is.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    _driver: Driver,
    _open: Open,
}

impl Answer {
    pub(super) const fn new(body: Incoming, driver: Driver, open: Open) -> Self {
        Self { body, _driver: driver, _open: open }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
