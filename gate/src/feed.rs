//! Follows one broker or relay, and hands everything it says to the state. A feed decides nothing: what it delivers is
//! judged by its signature, and what it fails to deliver expires.

use core::time::Duration;
use std::sync::Arc;

use countersign_attestation::Rejection;
use countersign_attestation::nonce_pulse::{NONCE_BYTES, Outstanding};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::clock::{Clock, Moment, NonceClock, pause};
use crate::metrics::Metrics;
use crate::sse::{Event, Parser, SseError};
use crate::state::{GateState, ListOffer, Offer};

/// Without a stream, how often is asked what the broker says of its keys: it says of new ones for ten seconds at least
/// before they sign.
const LEARN_EVERY_MS: u64 = 4_000;
/// Longest wait for a connection, and for a whole answer that is not a stream.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// First and longest pause between attempts. The longest is far below Y, so that one lost answer denies nobody.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Longest answer that is not a stream: the longest token.
const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// A pause of between a quarter and all of `longest`, where a random number says: a broker that ends breaks the streams
/// of all gates at one moment, and they do not come back in step.
fn spread(longest: Duration, random: u64) -> Duration {
    let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let shortest = longest / 4;
    let range = longest.saturating_sub(shortest).saturating_add(1);
    Duration::from_millis(shortest.saturating_add(random.checked_rem(range).unwrap_or(0)))
}

/// A random number; it needs no more than to differ between gates.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes) {
        Ok(()) => u64::from_be_bytes(bytes),
        Err(_) => 0,
    }
}

/// Why a feed stopped, or why what it brought was refused.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the broker cannot be reached or does not answer: {0}")]
    Http(#[from] reqwest::Error),
    #[error("the broker answers with status {0}")]
    Status(StatusCode),
    #[error("an answer is longer than any token")]
    TooLarge,
    #[error("an answer is not text")]
    NotText,
    #[error("the stream cannot be read: {0}")]
    Stream(#[from] SseError),
    #[error("the stream ended")]
    Ended,
    #[error("this machine gives no randomness for a nonce")]
    NoRandomness,
    #[error("a token was refused: {0}")]
    Refused(#[from] Rejection),
}

impl Fault {
    const fn code(&self) -> &'static str {
        match self {
            Self::Http(_) => "feed.http",
            Self::Status(_) => "feed.status",
            Self::TooLarge => "feed.too_large",
            Self::NotText => "feed.not_text",
            Self::Stream(_) => "feed.stream",
            Self::Ended => "feed.ended",
            Self::NoRandomness => "feed.no_randomness",
            Self::Refused(rejection) => rejection.code(),
        }
    }
}

/// Why a feed cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// Not an https URL with a host, or one with a query, fragment or credentials.
    #[error("a broker's address is an https URL such as https://broker.example:8443, not {0}")]
    Address(String),
    /// The pinned CA cannot be used.
    #[error("the broker's CA cannot be used: {0}")]
    Ca(#[from] rustls::Error),
    /// The client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// One broker or relay, and where its messages go.
#[derive(Clone, Debug)]
pub struct Feed {
    broker: Url,
    client: Client,
    state: Arc<GateState>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Feed {
    /// A feed from `broker`, whose TLS certificate leads to one of the pinned `ca` certificates (DER).
    ///
    /// # Errors
    /// [`SetUpError`] for an address or a CA that cannot be used.
    pub fn new(
        broker: &str,
        ca: &[Vec<u8>],
        state: Arc<GateState>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SetUpError> {
        let refused = || SetUpError::Address(broker.to_owned());
        let mut url = Url::parse(broker).map_err(|_| refused())?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if url.scheme() != "https" || !url.has_host() || url.password().is_some() || !plain {
            return Err(refused());
        }
        // `join` replaces what follows the last slash.
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let mut roots = RootCertStore::empty();
        for certificate in ca {
            roots.add(CertificateDer::from_slice(certificate))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            // A broker does not redirect, and the environment does not choose who sits in between.
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(ANSWER_MAX)
            .read_timeout(Duration::from_millis(state.class().silence_ms()))
            .build()?;
        Ok(Self { broker: url, client, state, clock, metrics })
    }

    /// Follows the broker until the task is dropped: the stream while there is one, an answer in between otherwise.
    pub async fn follow(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let mut heard = false;
            let Err(fault) = self.stream(&mut heard).await;
            self.report(&fault);
            match self.poll().await {
                Ok(()) => heard = true,
                Err(fault) => self.report(&fault),
            }
            backoff = if heard { BACKOFF_MIN } else { BACKOFF_MAX.min(backoff.saturating_mul(2)) };
            pause(spread(backoff, random())).await;
        }
    }

    /// Asks the broker itself, again and again, with a nonce each time: the way of a gate without a clock. A relay has
    /// no key to answer with.
    pub async fn ask(self, clock: Arc<NonceClock>) {
        let period = Duration::from_millis(self.state.class().period_ms());
        let mut learn_at = 0;
        loop {
            if let Err(fault) = self.ask_once(&clock).await {
                self.report(&fault);
            } else if learn_at <= clock.steady_ms() {
                // By the time of the answer: before the first there is none.
                match self.learn().await {
                    Ok(()) => learn_at = clock.steady_ms().saturating_add(LEARN_EVERY_MS),
                    Err(fault) => self.report(&fault),
                }
            }
            pause(period).await;
        }
    }

    /// Fetches what the broker says of its keys.
    async fn learn(&self) -> Result<(), Fault> {
        Ok(self.offer_authorities(&self.text("v1/authorities").await?)?)
    }

    async fn ask_once(&self, clock: &NonceClock) -> Result<(), Fault> {
        let mut nonce = [0; NONCE_BYTES];
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        random.fill(&mut nonce).map_err(|_| Fault::NoRandomness)?;
        // The clock is read before anything is sent.
        let asked = Outstanding::new(nonce, clock.steady_ms());
        let request = self.client.post(self.address("v1/pulses/nonce")).json(&asked.request()).timeout(ANSWER_MAX);
        let token = body_of(request.send().await?).await?;
        let offer =
            self.state.offer_answer(&token, asked, clock).inspect_err(|error| self.metrics.pulse(error.code()))?;
        self.offered(offer, self.clock.now()).await
    }

    fn report(&self, fault: &Fault) {
        self.metrics.feed_fault(fault.code());
        tracing::warn!(broker = %self.broker, code = fault.code(), %fault, "feed");
    }

    /// Reads the stream of this gate's class until it breaks.
    async fn stream(&self, heard: &mut bool) -> Result<core::convert::Infallible, Fault> {
        let stream = self.address(self.state.class().stream());
        let request = self.client.get(stream).header("accept", "text/event-stream");
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(Fault::Status(response.status()));
        }
        let mut parser = Parser::default();
        while let Some(chunk) = response.chunk().await? {
            let mut events = Vec::new();
            parser.read(&chunk, |event| events.push(event))?;
            for event in events {
                // What is refused does not end the stream: the next pulse may be sound.
                match self.take(&event).await {
                    Ok(()) => *heard = true,
                    Err(fault) => self.report(&fault),
                }
            }
        }
        Err(Fault::Ended)
    }

    async fn take(&self, event: &Event) -> Result<(), Fault> {
        match event.name.as_str() {
            "authorities" => Ok(self.offer_authorities(&event.data)?),
            "status-list" => Ok(self.offer_list(&event.data)?),
            "status-delta" => Ok(self.offer_delta(&event.data)?),
            "pulse" => self.offer(&event.data).await,
            _ => Ok(()),
        }
    }

    /// Asks for the newest pulse once: the way when a stream does not come through.
    async fn poll(&self) -> Result<(), Fault> {
        // First, since the pulse may be signed with a key that it names. A pulse says itself whether that is so.
        if let Err(fault) = self.learn().await {
            self.report(&fault);
        }
        let token = self.text("v1/pulse").await?;
        self.offer(&token).await
    }

    /// Offers a pulse, and fetches the lists it still waits for.
    async fn offer(&self, token: &str) -> Result<(), Fault> {
        let received = self.clock.now();
        let offer = self.state.offer_pulse(token, received).inspect_err(|error| self.metrics.pulse(error.code()))?;
        self.offered(offer, received).await
    }

    async fn offered(&self, offer: Offer, received: Moment) -> Result<(), Fault> {
        let missing = match offer {
            Offer::Installed => {
                self.installed(received);
                return Ok(());
            }
            Offer::NotNewer => {
                self.metrics.pulse("not_newer");
                return Ok(());
            }
            Offer::WaitsForLists(missing) => {
                self.metrics.pulse("waits_for_lists");
                missing
            }
        };
        for number in missing {
            self.fetch_list(number).await?;
        }
        Ok(())
    }

    /// Fetches what a list has become: its changes where a state of it is held, and the whole list where these lead
    /// elsewhere.
    async fn fetch_list(&self, number: u64) -> Result<(), Fault> {
        let path = format!("v1/status-lists/{number}");
        if let Some(known) = self.state.known_list(number) {
            let answer = self.text(&format!("{path}/since/{}", known.to_hex())).await?;
            // A token is no JSON object: whoever knows no changes sends the list.
            let offered = if answer.starts_with('{') { self.offer_delta(&answer) } else { self.offer_list(&answer) };
            match offered {
                Ok(()) if !self.state.waits_for(number) => return Ok(()),
                Ok(()) => {}
                Err(rejection) => self.report(&rejection.into()),
            }
        }
        let list = self.text(&path).await?;
        Ok(self.offer_list(&list)?)
    }

    fn offer_authorities(&self, token: &str) -> Result<(), Rejection> {
        if self.state.offer_authorities(token, self.clock.now())? {
            tracing::info!(broker = %self.broker, "what the broker says of its keys is in force");
        }
        Ok(())
    }

    fn offer_list(&self, token: &str) -> Result<(), Rejection> {
        let now = self.clock.now();
        match self.state.offer_list(token, now)? {
            ListOffer::Held => {}
            ListOffer::CompletedPulse => self.installed(now),
        }
        Ok(())
    }

    fn offer_delta(&self, text: &str) -> Result<(), Rejection> {
        match self.state.offer_delta(text)? {
            ListOffer::Held => {}
            ListOffer::CompletedPulse => self.installed(self.clock.now()),
        }
        Ok(())
    }

    /// Counts a pulse that decides from now on, and how long that took from its basis.
    fn installed(&self, now: Moment) {
        self.metrics.pulse("installed");
        if let Some(held) = &self.state.snapshot().held {
            self.metrics.propagated(now.wall.since(held.pulse().basis));
        }
    }

    async fn text(&self, path: &str) -> Result<String, Fault> {
        body_of(self.client.get(self.address(path)).timeout(ANSWER_MAX).send().await?).await
    }

    fn address(&self, path: &str) -> Url {
        let mut address = self.broker.clone();
        address.set_path(&format!("{}{path}", self.broker.path()));
        address
    }
}

/// A whole answer, bounded.
async fn body_of(mut response: reqwest::Response) -> Result<String, Fault> {
    if response.status() != StatusCode::OK {
        return Err(Fault::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if ANSWER_BYTES_MAX < body.len().saturating_add(chunk.len()) {
            return Err(Fault::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(body).map_err(|_| Fault::NotText)?;
    Ok(text.trim_ascii().to_owned())
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::{BACKOFF_MAX, BACKOFF_MIN, spread};

    #[test]
    fn gates_come_back_spread() {
        for longest in [BACKOFF_MIN, BACKOFF_MAX] {
            let (quarter, span) = (longest / 4, u64::try_from(longest.as_millis() * 3 / 4).unwrap());
            assert_eq!(spread(longest, 0), quarter);
            assert_eq!(spread(longest, span), longest);
            assert_eq!(spread(longest, span + 1), quarter);
            assert_eq!(spread(longest, u64::MAX / 2), quarter + Duration::from_millis(u64::MAX / 2 % (span + 1)));
        }
    }
}
