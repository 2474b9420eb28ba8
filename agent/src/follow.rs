//! Follows the broker's pulse, so that a revocation reaches the workload at once. It only ever ends trust: what it
//! fails to hear, the lease bounds.

use countersign_attestation::Rejection;
use countersign_attestation::result::jws::JwkSet;
use tokio::sync::{mpsc, watch};

use crate::backoff::{Backoff, random};
use crate::broker_client::{BrokerClient, BrokerError};
use crate::clock;
use crate::pulse_watch::{Finding, PulseWatch, Subject};
use crate::sse::{Event, Parser, Unreadable};
use crate::workload_api::feed::JwtBundle;
use crate::workload_api::jwt::jwt_bundle;

/// A broker signs every second; three silent seconds are a broken connection.
const SILENCE_MAX_MS: u64 = 3_000;
/// First and longest pause between connections. A broker that ends breaks every host's stream at one moment.
const BACKOFF_FIRST_MS: u64 = 200;
const BACKOFF_MAX_MS: u64 = 2_000;

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Stream(#[from] Unreadable),
    #[error("the stream ended or is silent")]
    Ended,
    #[error("{0}")]
    Refused(#[from] Rejection),
    #[error("nobody listens")]
    Closed,
}

/// Follows until nobody listens; says which credential was revoked.
pub async fn run(
    broker: BrokerClient,
    keys: JwkSet,
    bundle: JwtBundle,
    mut subject: watch::Receiver<Option<Subject>>,
    revoked: mpsc::Sender<Subject>,
    staples: watch::Sender<Option<String>>,
) {
    let mut watch = PulseWatch::new(keys);
    let mut learn = Learn { broker: broker.clone(), bundle };
    let mut backoff = Backoff::new(BACKOFF_FIRST_MS);
    while !revoked.is_closed() {
        let mut heard = false;
        if let Err(fault) = stream(&mut learn, &mut watch, &mut subject, (&revoked, &staples), &mut heard).await {
            tracing::warn!(%fault, "the pulse is not followed for now; the lease bounds trust");
        }
        if heard {
            backoff.succeeded();
        }
        clock::sleep(backoff.pause_ms(BACKOFF_MAX_MS, random())).await;
    }
}

/// Learns the broker's token keys over its pinned channel, as SPIRE's agents have bundles from their server: at each
/// connection, and whenever the broker says that they changed. The next key is there before it signs.
struct Learn {
    broker: BrokerClient,
    bundle: JwtBundle,
}

impl Learn {
    async fn keys(&mut self, watch: &mut PulseWatch) -> Result<(), Fault> {
        let document = self.broker.token_keys().await?;
        watch.trust(JwkSet::parse(document.as_bytes())?);
        self.bundle.set(jwt_bundle(&document));
        Ok(())
    }
}

async fn stream(
    learn: &mut Learn,
    watch: &mut PulseWatch,
    subject: &mut watch::Receiver<Option<Subject>>,
    (revoked, staples): (&mpsc::Sender<Subject>, &watch::Sender<Option<String>>),
    heard: &mut bool,
) -> Result<(), Fault> {
    learn.keys(watch).await?;
    let mut response = learn.broker.pulses().await?;
    let mut parser = Parser::default();
    loop {
        let chunk = tokio::select! {
            chunk = response.chunk() => chunk.map_err(BrokerError::from)?.ok_or(Fault::Ended)?,
            () = clock::sleep(SILENCE_MAX_MS) => return Err(Fault::Ended),
        };
        for event in parser.read(&chunk)? {
            let watched = subject.borrow_and_update().clone();
            watch.watch(watched.clone());
            match take(learn, watch, &event).await {
                Ok(false) => {
                    *heard = true;
                    if event.name == "pulse" {
                        staples.send_replace(watched.and_then(|_| watch.staple()));
                    }
                }
                Ok(true) => {
                    *heard = true;
                    if let Some(watched) = watched {
                        revoked.send(watched).await.map_err(|_| Fault::Closed)?;
                    }
                }
                // The next pulse may be sound.
                Err(fault) => tracing::warn!(%fault, "a pulse or list was refused"),
            }
        }
    }
}

/// Whether the event says that the credential is revoked.
async fn take(learn: &mut Learn, watch: &mut PulseWatch, event: &Event) -> Result<bool, Fault> {
    let found = match event.name.as_str() {
        "authorities" => {
            learn.keys(watch).await?;
            watch.hear(&event.data);
            Finding::Nothing
        }
        "status-list" => watch.offer_list(&event.data, clock::wall())?,
        "status-delta" => watch.offer_delta(&event.data, clock::wall())?,
        "pulse" => watch.offer_pulse(&event.data, clock::wall())?,
        _ => Finding::Nothing,
    };
    Ok(match found {
        Finding::Nothing => false,
        Finding::Revoked => true,
        Finding::NeedsList(number) => {
            let list = learn.broker.status_list(number).await?;
            watch.offer_list(&list, clock::wall())? == Finding::Revoked
        }
    })
}
