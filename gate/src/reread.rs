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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::Duration;

    use countersign_attestation::digest::Sha256Digest;

    use super::Files;
    use crate::authorize::OperatorPolicies;
    use crate::metrics::Metrics;

    /// The runtime's clock is its own: it goes on whenever there is nothing else to do.
    #[tokio::test(start_paused = true)]
    async fn files_that_change_are_taken_up_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.cedar");
        fs::write(&file, "permit (principal, action, resource);").unwrap();
        let policies = Arc::new(OperatorPolicies::load(&file).unwrap());
        let metrics = Arc::new(Metrics::default());
        let following = tokio::spawn(Files::Policies(Arc::clone(&policies)).follow(Arc::clone(&metrics)));
        let mut pace = tokio::time::interval(Duration::from_millis(500));
        let mut looks = async |passes: u32| {
            for _ in 0..passes {
                pace.tick().await;
            }
            policies.current().digest()
        };
        let first: Sha256Digest = looks(1).await;
        fs::write(&file, "permit (principal, action, resource) when { oops };").unwrap();
        assert_eq!(looks(60).await, first);
        fs::write(&file, r#"permit (principal, action, resource in Path::"/v1");"#).unwrap();
        assert_ne!(looks(60).await, first);
        following.abort();
        let counted = metrics.rereads();
        assert!(0 < counted.1 && counted.0 == 1, "{counted:?}");
    }
}
