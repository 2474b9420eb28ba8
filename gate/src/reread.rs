//! Looks at the files that may change under a running gate: the operator's policies, and the proxy's certificate.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::authorize::{OperatorPolicies, Reread};
use crate::clock::pause;
use crate::metrics::Metrics;
use crate::proxy::Proxy;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(5);

/// What is read again.
#[derive(Debug)]
pub enum Files {
    /// Cedar policies.
    Policies(Arc<OperatorPolicies>),
    /// Certificate and key of the proxy.
    Identity(Arc<Proxy>),
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policies(_) => "policies",
            Self::Identity(_) => "certificate",
        })
    }
}

impl Files {
    /// Reads them once.
    ///
    /// # Errors
    /// What is wrong with them, as a sentence; what was in force stays so.
    pub fn reread(&self) -> Result<Reread, String> {
        match self {
            Self::Policies(policies) => policies.reread().map_err(|error| error.to_string()),
            Self::Identity(proxy) => proxy.reread().map_err(|error| error.to_string()),
        }
    }

    /// Reads them every few seconds, until the task is dropped. Each fault is told once.
    pub async fn follow(self, metrics: Arc<Metrics>) {
        let files = Arc::new(self);
        let mut told = None;
        loop {
            pause(PAUSE).await;
            let reading = Arc::clone(&files);
            let outcome = tokio::task::spawn_blocking(move || reading.reread()).await;
            let outcome = outcome.unwrap_or_else(|error| Err(error.to_string()));
            match outcome {
                Ok(Reread::Same) => told = None,
                Ok(Reread::Changed) => {
                    told = None;
                    metrics.reread("changed");
                    tracing::info!(%files, "read anew");
                }
                Err(fault) => {
                    metrics.reread("failed");
                    if told.as_ref() != Some(&fault) {
                        tracing::error!(%files, fault, "cannot be read anew; what was in force stays so");
                        told = Some(fault);
                    }
                }
            }
        }
    }
}
