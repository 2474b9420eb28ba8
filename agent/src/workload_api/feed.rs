//! What one stream hands out: the SVID that is live now, then each that follows, and the end when trust ends.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use tonic::Status;

use super::caller::Caller;
use super::selector::Admission;
use crate::clock;
use crate::svid::{Offers, Svid};

/// What callers learn, whatever the reason, in the words that clients look for: which rule failed, and whether this
/// host is trusted, is not theirs to know.
pub(crate) fn refused() -> Status {
    Status::permission_denied("no identity issued")
}

/// SVIDs, and who may have them.
#[derive(Clone, Debug)]
pub struct Source {
    offers: Offers,
    admission: Arc<Admission>,
    jwt_bundle: JwtBundle,
}

/// The keys that sign JWT-SVIDs, a JWKS document, as it was last heard.
#[derive(Clone, Debug, Default)]
pub struct JwtBundle(Arc<Mutex<Option<Arc<[u8]>>>>);

impl JwtBundle {
    /// A document that replaces the one before.
    pub fn set(&self, document: Option<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = document.map(Arc::from);
    }

    /// The document, where one is known.
    #[must_use]
    pub fn get(&self) -> Option<Arc<[u8]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source {
    /// Hands `offers` to whom `admission` admits.
    #[must_use]
    pub fn new(offers: Offers, admission: Admission) -> Self {
        Self { offers, admission: Arc::new(admission), jwt_bundle: JwtBundle::default() }
    }

    /// With the keys that sign JWT-SVIDs, where they are known, as they change.
    #[must_use]
    pub fn with_jwt_bundle(mut self, bundle: JwtBundle) -> Self {
        self.jwt_bundle = bundle;
        self
    }

    /// The keys that sign JWT-SVIDs.
    #[must_use]
    pub fn jwt_bundle(&self) -> JwtBundle {
        self.jwt_bundle.clone()
    }

    /// What `caller` gets.
    #[must_use]
    pub fn feed(&self, caller: Caller) -> Feed {
        Feed { offers: self.offers.clone(), admission: Arc::clone(&self.admission), caller, served: None }
    }
}

/// A stream's place in the sequence of SVIDs.
#[derive(Debug)]
pub struct Feed {
    offers: Offers,
    admission: Arc<Admission>,
    caller: Caller,
    /// Serial number of the last SVID.
    served: Option<String>,
}

impl Feed {
    /// The SVID that is live now, if this stream did not hand it out before; or else the next one. Does not lose its
    /// place when dropped while waiting.
    ///
    /// # Errors
    /// PERMISSION_DENIED: this host is not trusted, or no more, or the caller is not admitted, or no more.
    pub async fn next(&mut self) -> Result<Arc<Svid>, Status> {
        loop {
            let (svid, left_ms) = self.live().ok_or_else(refused)?;
            if self.served.as_deref() == Some(svid.serial()) {
                // By itself at the end of the lease: whoever renews offers may be stuck.
                tokio::select! {
                    changed = self.offers.changed() => changed.map_err(|_| refused())?,
                    () = clock::sleep(left_ms) => {}
                }
                continue;
            }
            self.admit().await?;
            // Trust may have ended while the caller was looked at.
            if self.offers_still(&svid) {
                self.served = Some(svid.serial().to_owned());
                return Ok(svid);
            }
        }
    }

    /// Whether this very SVID may be handed out now.
    #[must_use]
    pub fn offers_still(&mut self, svid: &Arc<Svid>) -> bool {
        self.live().is_some_and(|(live, _)| Arc::ptr_eq(&live, svid))
    }

    fn live(&mut self) -> Option<(Arc<Svid>, u64)> {
        let offer = self.offers.borrow_and_update().clone()?;
        let left_ms = offer.left_ms(clock::now())?;
        Some((offer.svid, left_ms))
    }

    /// Looks at the caller again each time: it may have become another program.
    async fn admit(&self) -> Result<(), Status> {
        let (caller, admission) = (self.caller.clone(), Arc::clone(&self.admission));
        let looked = tokio::task::spawn_blocking(move || {
            let facts = caller.facts(admission.needs_sha256()).map_err(|error| error.to_string())?;
            let failed = admission.admit(&facts);
            failed.map_err(|failed| format!("{failed}; found {facts:?}"))
        });
        let looked = looked.await.unwrap_or_else(|_| Err("the look at the caller stopped".to_owned()));
        looked.map_err(|reason| {
            tracing::warn!(caller = ?self.caller, reason, "a process is not admitted to the workload API");
            refused()
        })
    }

    /// Every SVID through `answer`, until one fails.
    pub(crate) fn answers<T: Send + 'static>(
        self,
        answer: impl Fn(&Svid) -> Result<T, Status> + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        unfold((Some(self), answer), |(feed, answer)| async move {
            let mut feed = feed?;
            let result = feed.next().await.and_then(|svid| answer(&svid));
            let feed = result.is_ok().then_some(feed);
            Some((result, (feed, answer)))
        })
        .boxed()
    }
}
