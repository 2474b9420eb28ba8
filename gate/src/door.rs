//! What every door has in common: whom it asks, and how it says no.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use countersign_policies::authorize::Asked;

use crate::authorize::Authorize;
use crate::clock::Clock;
use crate::decide::Decision;
use crate::metrics::Metrics;
use crate::reason::Denial;
use crate::state::GateState;

/// The host that was let in.
pub const SPIFFE_ID: HeaderName = HeaderName::from_static("x-countersign-spiffe-id");
/// The broker's decision behind the credential.
pub const DECISION: HeaderName = HeaderName::from_static("x-countersign-decision");
/// What the weakest trust anchor is worth.
pub const ASSURANCE: HeaderName = HeaderName::from_static("x-countersign-assurance");
/// The code of a denial, for proxies that show nothing else of it.
pub const REASON: HeaderName = HeaderName::from_static("x-countersign-reason");

/// The newest pulse and the list of the caller's credential, for a gate without a feed.
pub const STAPLE: HeaderName = HeaderName::from_static("countersign-staple");

/// No answer of a gate is worth keeping.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What a door needs.
#[derive(Clone, Debug)]
pub struct Door {
    /// What decisions are made from.
    pub state: Arc<GateState>,
    /// What is asked about a request whose caller is trusted.
    pub authorize: Authorize,
    /// The clock, read once for each request.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Door {
    /// Takes the staple that came with a request. What is refused changes nothing, and the decision says what is
    /// missing.
    pub(crate) fn take_staple(&self, staple: Option<&str>) {
        let Some(staple) = staple else { return };
        if let Err(rejection) = self.state.offer_staple(staple, self.clock.now()) {
            self.metrics.pulse(rejection.code());
            tracing::info!(%rejection, "a staple was refused");
        }
    }

    /// Decides about a request: the caller first, by the chain it proved possession of, then what it asks for. The
    /// answer is counted, and a denial is logged in full.
    pub fn judge<C: AsRef<[Vec<u8>]>>(
        &self,
        chain: Result<C, Denial>,
        asked: impl FnOnce() -> Result<Asked, Denial>,
    ) -> Decision {
        let decision = match chain {
            Ok(chain) => self.judge_again(chain.as_ref(), asked),
            Err(denial) => Decision::Deny(denial),
        };
        self.metrics.decided(&decision);
        match &decision {
            Decision::Allow(_) => {}
            Decision::Deny(denial) => {
                tracing::info!(code = denial.code(), expected = denial.expected(), found = denial.found(), "denied");
            }
        }
        decision
    }

    /// Decides about the caller alone.
    pub(crate) fn judge_caller(&self, chain: &[Vec<u8>]) -> Decision {
        self.state.decide(chain, self.clock.now())
    }

    /// The same, for what is open already: neither counted nor logged.
    pub(crate) fn judge_again(&self, chain: &[Vec<u8>], asked: impl FnOnce() -> Result<Asked, Denial>) -> Decision {
        let now = self.clock.now();
        match self.state.decide(chain, now) {
            Decision::Allow(allowed) => match self.authorize.check(&allowed, asked, now.wall) {
                Ok(()) => Decision::Allow(allowed),
                Err(denial) => Decision::Deny(denial),
            },
            Decision::Deny(denial) => Decision::Deny(denial),
        }
    }
}

/// A problem document (RFC 9457) for a caller, who learns the rule and what to do, and not what would be accepted.
pub(crate) fn refusal(denial: &Denial, status: StatusCode) -> Response {
    let mut problem = denial.for_caller();
    problem.status = status.as_u16();
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
        (REASON, HeaderValue::from_static(denial.code())),
        (header::CACHE_CONTROL, NO_STORE),
    ];
    (status, headers, axum::Json(problem).into_response().into_body()).into_response()
}

/// The staple among these headers. Two of them are none.
pub(crate) fn staple_of(headers: &HeaderMap) -> Option<&str> {
    let mut staples = headers.get_all(STAPLE).iter();
    let only = staples.next()?;
    if staples.next().is_some() { None } else { only.to_str().ok() }
}

/// All we write are ids and hex; should one ever not be a header value, it is left empty rather than wrong.
pub(crate) fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
