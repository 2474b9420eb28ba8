//! The Unix socket at which processes of this host get its SVID: the SPIFFE Workload API, and Envoy's SDS.
//!
//! Anyone may connect; who gets anything is decided by what the kernel says about the process that did ([`caller`],
//! [`selector`]), again for each SVID. An SVID is handed out only while this host is trusted ([`feed`]).

use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;

use self::authority::AuthorityFix;
use self::caller::Caller;
use self::feed::Source;
use self::sds::Sds;
use self::x509::WorkloadApi;
use crate::clock;
use proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;

pub mod authority;
pub mod caller;
pub mod feed;
pub mod jwt;
pub mod sds;
pub mod selector;
pub mod x509;

/// Generated from `proto/workload.proto`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    missing_docs,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("_");
}

/// Connections of one user; a user's own processes share them, and leave those of others alone.
const CONNECTIONS_PER_USER_MAX: u32 = 64;
/// Streams on one connection: a client needs two or three.
const STREAMS_MAX: u32 = 16;
/// Largest request; those of SDS carry a proxy's description of itself.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Pause after an accept that failed, as when descriptors run out.
const ACCEPT_PAUSE_MS: u64 = 50;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the workload API's socket {}: {error}", path.display())]
pub struct SocketError {
    /// Its path.
    pub path: PathBuf,
    /// The system's words.
    pub error: io::Error,
}

/// The socket, bound; removed when dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: Bound,
}

/// A path that is ours to remove.
#[derive(Debug)]
struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        // Left behind, it refuses connections, and the next agent takes its place.
        let _ = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Binds the socket, for every user to connect to. A socket that nobody serves is replaced, and nothing else is.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |error| SocketError { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(failed(io::Error::from(io::ErrorKind::AddrInUse)));
                }
                fs::remove_file(path).map_err(failed)?;
            }
            Ok(_) => return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let path = Bound(path.to_owned());
        // Connecting needs write permission (unix(7)); the agent's umask leaves it to root.
        fs::set_permissions(&path.0, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { listener, path })
    }

    /// Serves until the task is dropped.
    ///
    /// # Errors
    /// [`SocketError`].
    pub async fn serve(self, source: Source) -> Result<(), SocketError> {
        let Self { listener, path } = self;
        let workload_api = SpiffeWorkloadApiServer::new(WorkloadApi::new(source.clone()));
        let sds = SecretDiscoveryServiceServer::new(Sds::new(source));
        let connections = unfold((listener, Users::default()), |(listener, users)| async {
            let connection = accept(&listener, &users).await;
            Some((Ok::<_, io::Error>(AuthorityFix::new(connection)), (listener, users)))
        });
        let served = Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(workload_api.max_decoding_message_size(REQUEST_BYTES_MAX))
            .add_service(sds.max_decoding_message_size(REQUEST_BYTES_MAX))
            .serve_with_incoming(connections)
            .await;
        served.map_err(|error| SocketError { path: path.0.clone(), error: io::Error::other(error) })
    }
}

/// The next connection of a process that is known, of a user that has not too many.
async fn accept(listener: &UnixListener, users: &Users) -> Connection {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the workload API could not be taken");
                clock::sleep(ACCEPT_PAUSE_MS).await;
                continue;
            }
        };
        match Caller::of(&stream) {
            Ok(caller) => match users.enter(caller.uid()) {
                Some(seat) => return Connection { stream, caller, _seat: seat },
                None => tracing::warn!(uid = caller.uid(), "a user has too many connections to the workload API"),
            },
            Err(error) => tracing::warn!(%error, "a connection to the workload API is of a process not known"),
        }
    }
}

/// How many connections each user has.
#[derive(Clone, Debug, Default)]
struct Users(Arc<Mutex<BTreeMap<u32, u32>>>);

impl Users {
    fn enter(&self, uid: u32) -> Option<Seat> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(uid).or_insert(0);
        if CONNECTIONS_PER_USER_MAX <= *count {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Seat { users: self.clone(), uid })
    }
}

/// One connection's place in the count.
#[derive(Debug)]
struct Seat {
    users: Users,
    uid: u32,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        match users.get(&self.uid).copied() {
            Some(count @ 2..) => drop(users.insert(self.uid, count.saturating_sub(1))),
            Some(0 | 1) | None => drop(users.remove(&self.uid)),
        }
    }
}

/// A connection and who is at its other end.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    caller: Caller,
    _seat: Seat,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::{CONNECTIONS_PER_USER_MAX, Socket, Users};

    #[test]
    fn each_user_has_so_many_connections_and_gives_them_back() {
        let users = Users::default();
        let mut seats: Vec<_> = (0..CONNECTIONS_PER_USER_MAX).map(|_| users.enter(7).unwrap()).collect();
        assert!(users.enter(7).is_none());
        assert!(users.enter(8).is_some(), "another user's are their own");
        seats.pop();
        seats.push(users.enter(7).unwrap());
        assert!(users.enter(7).is_none());
        drop(seats);
        assert!(users.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_serves_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        assert!(Socket::bind(&path).is_err(), "another agent serves it");
        drop(first);
        assert!(!path.exists());
        // As a killed agent leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Socket::bind(&path).unwrap());
        fs::write(&path, "a file").unwrap();
        assert!(Socket::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    }
}
