//! The VCEK's certificate from AMD's Key Distribution Service or a mirror of it, for machines whose host hands over
//! none. A machine whose firmware is updated has another one, so it is kept by what was asked for.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_attestation::Rejection;
use countersign_attestation::anchor::AmdProduct;
use countersign_attestation::digest::Sha256Digest;
use countersign_attestation::evidence::snp::kds::vcek_path;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::files::{FileError, replace_private};

/// The service answers within a second or limits how often it is asked.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A VCEK certificate has under two kilobytes.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Where certificates come from, and where they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kds {
    /// Address: http too, since a certificate is signed.
    pub url: String,
    /// PEM file of the authorities that https is believed from.
    pub tls_roots: Option<PathBuf>,
    /// The product line, for reports that do not say it.
    pub product: Option<AmdProduct>,
    /// Folder.
    pub kept: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum KdsError {
    /// The report does not say whose it is.
    #[error("the service cannot be asked about this report: {0}")]
    Report(#[from] Rejection),
    /// No usable answer.
    #[error("{url}: {found}")]
    Answer {
        /// What was asked.
        url: String,
        /// What came.
        found: String,
    },
    /// It cannot be kept.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Kds {
    /// The certificate of the VCEK that signed `report`: kept, or fetched. Called outside the runtime's own threads.
    ///
    /// # Errors
    /// [`KdsError`].
    pub fn vcek(&self, report: &[u8]) -> Result<Vec<u8>, KdsError> {
        let path = vcek_path(report, self.product)?;
        let name = format!("vcek-{}.der", Sha256Digest::of(&[path.as_bytes()]));
        let kept = self.kept.join(name);
        if let Ok(certificate) = fs::read(&kept) {
            return Ok(certificate);
        }
        let url = format!("{}/{path}", self.url.trim_end_matches('/'));
        let answer = |found: String| KdsError::Answer { url: url.clone(), found };
        let certificate = tokio::runtime::Handle::current().block_on(self.fetch(&url)).map_err(answer)?;
        let whole = crate::der::first_value(&certificate).is_some_and(|value| value.len() == certificate.len());
        if !whole {
            return Err(answer("something else than a certificate".to_owned()));
        }
        replace_private(&kept, &certificate)?;
        Ok(certificate)
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        let shown = |error: &dyn std::fmt::Display| error.to_string();
        let mut roots = rustls::RootCertStore::empty();
        if let Some(path) = &self.tls_roots {
            let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            // A system's bundle has roots that are not understood here.
            roots.add_parsable_certificates(certificates.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| shown(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|error| shown(&error))?;
        let mut response = client.get(url).send().await.map_err(|error| shown(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let mut certificate = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| shown(&error))? {
            if CERTIFICATE_BYTES_MAX < certificate.len().saturating_add(chunk.len()) {
                return Err(format!("answered more than {CERTIFICATE_BYTES_MAX} bytes"));
            }
            certificate.extend_from_slice(&chunk);
        }
        Ok(certificate)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::{Kds, KdsError};

    /// A report of a Genoa: version 3, a chip id, a TCB; REPORTED_TCB and CHIP_ID are what is asked by.
    fn report(snp: u8) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x180..0x188].copy_from_slice(&[4, 2, 0, 0, 0, 0, snp, 219]);
        report[0x188..0x18b].copy_from_slice(&[0x19, 0x11, 1]);
        report[0x1a0..0x1e0].fill(0xab);
        report
    }

    /// Answers each request with the next of `answers`, and tells what was asked.
    fn service(answers: Vec<(u16, Vec<u8>)>) -> (String, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (url, (asked, heard)) = (format!("http://{}", listener.local_addr().unwrap()), mpsc::channel());
        std::thread::spawn(move || {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                asked.send(first).unwrap();
                let head =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            }
        });
        (url, heard)
    }

    async fn vcek(kds: &Kds, report: Vec<u8>) -> Result<Vec<u8>, KdsError> {
        let kds = kds.clone();
        tokio::task::spawn_blocking(move || kds.vcek(&report)).await.unwrap()
    }

    #[tokio::test]
    async fn a_certificate_is_fetched_once_for_each_tcb_and_nothing_else_is_kept() {
        let certificate = vec![0x30, 3, 2, 1, 5];
        let html = b"<html>busy</html>".to_vec();
        let answers = vec![
            (429, Vec::new()),
            (200, html),
            (200, vec![0x30; 20_000]),
            (200, certificate.clone()),
            (200, certificate.clone()),
        ];
        let (url, heard) = service(answers);
        let folder = tempfile::tempdir().unwrap();
        let kds = Kds { url: format!("{url}/"), tls_roots: None, product: None, kept: folder.path().to_owned() };
        for refused in ["429", "something else", "more than"] {
            let error = vcek(&kds, report(24)).await.unwrap_err().to_string();
            assert!(error.contains(refused), "{refused} in {error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for _ in 0..2 {
            assert_eq!(vcek(&kds, report(24)).await.unwrap(), certificate);
        }
        assert_eq!(vcek(&kds, report(25)).await.unwrap(), certificate, "updated firmware has another key");
        let asked: Vec<_> = heard.iter().collect();
        let hwid = "ab".repeat(64);
        let line = |snp| format!("GET /vcek/v1/Genoa/{hwid}?blSPL=04&teeSPL=02&snpSPL={snp}&ucodeSPL=219 HTTP/1.1");
        assert_eq!(asked, [line(24), line(24), line(24), line(24), line(25)]);
        assert!(vcek(&kds, vec![0; 7]).await.unwrap_err().to_string().contains("snp.report.length"));
        assert!(vcek(&kds, report(26)).await.unwrap_err().to_string().contains(&url), "nobody answers any more");
    }
}
