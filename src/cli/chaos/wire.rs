//! A wire between two processes that can be cut: bytes stay where they are until it is mended, as in a partition. No
//! connection is closed, so neither side is told.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How soon a cut is felt.
const STEP: Duration = Duration::from_millis(5);

/// Where the wire ends, and whether it is cut.
#[derive(Debug)]
struct Ends {
    target: Mutex<SocketAddr>,
    cut: AtomicBool,
}

/// A wire from a loopback port to a target.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    ends: Arc<Ends>,
    port: u16,
}

impl Wire {
    /// A wire to `target`, whole.
    pub(super) fn to(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let ends = Arc::new(Ends { target: Mutex::new(target), cut: AtomicBool::new(false) });
        let accepting = Arc::clone(&ends);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let ends = Arc::clone(&accepting);
                std::thread::spawn(move || carry(stream, &ends));
            }
        });
        Ok(Self { ends, port })
    }

    /// The port to connect to.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// From now on the wire leads there.
    pub(super) fn lead_to(&self, target: SocketAddr) {
        if let Ok(mut end) = self.ends.target.lock() {
            *end = target;
        }
    }

    /// Cuts or mends the wire.
    pub(super) fn cut(&self, cut: bool) {
        self.ends.cut.store(cut, Ordering::SeqCst);
    }
}

impl Ends {
    fn wait_until_whole(&self) {
        while self.cut.load(Ordering::SeqCst) {
            std::thread::sleep(STEP);
        }
    }
}

/// Carries one connection both ways until either side ends it.
fn carry(near: TcpStream, ends: &Arc<Ends>) {
    ends.wait_until_whole();
    let Ok(target) = ends.target.lock().map(|target| *target) else { return };
    let Ok(far) = TcpStream::connect(target) else { return };
    let Some((near_in, far_in)) = near.try_clone().ok().zip(far.try_clone().ok()) else { return };
    let back = Arc::clone(ends);
    let other = std::thread::spawn(move || one_way(far_in, near_in, &back));
    one_way(near, far, ends);
    // It ends with the connection.
    let _ended = other.join();
}

fn one_way(mut from: TcpStream, mut to: TcpStream, ends: &Ends) {
    let mut space = vec![0; 64 * 1024];
    let _set = from.set_read_timeout(Some(STEP));
    loop {
        ends.wait_until_whole();
        match from.read(&mut space) {
            Ok(0) => break,
            Ok(length) => {
                ends.wait_until_whole();
                if to.write_all(space.get(..length).unwrap_or_default()).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _from = from.shutdown(Shutdown::Both);
    let _to = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::Wire;

    #[test]
    fn a_cut_wire_holds_what_is_sent_and_a_mended_one_delivers_it() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire::to(server.local_addr().unwrap()).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", wire.port())).unwrap();
        let (mut served, _) = server.accept().unwrap();
        client.write_all(b"a").unwrap();
        let mut byte = [0];
        served.read_exact(&mut byte).unwrap();
        wire.cut(true);
        client.write_all(b"b").unwrap();
        served.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(served.read_exact(&mut byte).is_err(), "nothing comes through");
        wire.cut(false);
        served.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        served.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"b");
    }
}
