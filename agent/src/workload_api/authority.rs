//! Lets gRPC clients built on grpc-core (Python, C++, Ruby, PHP) and on grpc-java talk to us over a Unix socket.
//!
//! They send the socket's path as `:authority`, percent-encoded or raw, which is no authority of a URI (RFC 3986,
//! 3.2); the HTTP/2 library resets such a stream before any of our code runs. Nothing here routes by authority, so `%`
//! and `/` in it are replaced where they pass by: one octet by one octet, so that lengths and the decoder's dynamic
//! table (RFC 7541, 2.3.2) stay what the client thinks they are. Whatever is not understood passes unchanged and meets
//! the library.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// RFC 9113, 3.4.
const PREFACE_BYTES: usize = 24;
/// RFC 9113, 4.1.
const FRAME_HEADER_BYTES: usize = 9;
/// RFC 9113, 4.2: the size that every endpoint may send and, unless we said otherwise, the most.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
/// RFC 9113, 6.2.
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const READ_BYTES: usize = 8_192;

/// A connection whose HEADERS frames are looked at on their way in.
#[derive(Debug)]
pub struct AuthorityFix<S> {
    inner: S,
    /// Read, and not a whole frame yet.
    arrived: Vec<u8>,
    /// Whole frames for the library.
    ready: Vec<u8>,
    /// How much of `ready` was taken.
    taken: usize,
    preface_seen: bool,
}

impl<S> AuthorityFix<S> {
    /// Wraps a connection of which nothing was read.
    pub const fn new(inner: S) -> Self {
        Self { inner, arrived: Vec::new(), ready: Vec::new(), taken: 0, preface_seen: false }
    }

    /// Moves every whole frame from `arrived` to `ready`.
    fn advance(&mut self) -> io::Result<()> {
        if !self.preface_seen {
            if self.arrived.len() < PREFACE_BYTES {
                return Ok(());
            }
            self.ready.extend(self.arrived.drain(..PREFACE_BYTES));
            self.preface_seen = true;
        }
        while let Some(&[high, mid, low, kind, flags, _, _, _, _]) = self.arrived.first_chunk::<FRAME_HEADER_BYTES>() {
            let length = u32::from_be_bytes([0, high, mid, low]);
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if FRAME_BYTES_MAX < length {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an HTTP/2 frame is too large"));
            }
            let end = FRAME_HEADER_BYTES.saturating_add(length);
            let Some(frame) = self.arrived.get_mut(..end) else { return Ok(()) };
            if kind == HEADERS
                && let Some(block) = field_block(frame, flags)
            {
                // Not understood: unchanged from there on.
                let _understood = rewrite(block);
            }
            self.ready.extend(self.arrived.drain(..end));
        }
        Ok(())
    }
}

/// The field block fragment of a HEADERS frame (RFC 9113, 6.2).
fn field_block(frame: &mut [u8], flags: u8) -> Option<&mut [u8]> {
    let mut start = FRAME_HEADER_BYTES;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start = start.checked_add(1)?;
    }
    if flags & PRIORITY != 0 {
        start = start.checked_add(PRIORITY_BYTES)?;
    }
    frame.get_mut(start..end)
}

/// Walks the field lines of a block (RFC 7541, 6) and replaces octets in each literal value of `:authority`.
fn rewrite(block: &mut [u8]) -> Option<()> {
    /// RFC 7541, appendix A.
    const AUTHORITY_INDEX: usize = 1;
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        if first & 0x80 != 0 {
            // 6.1: indexed field.
            integer(block, &mut at, 0x7f)?;
        } else if first & 0xe0 == 0x20 {
            // 6.3: size update.
            integer(block, &mut at, 0x1f)?;
        } else {
            // 6.2: literal, with incremental indexing (six bits of name index), without, or never indexed (four).
            let index = integer(block, &mut at, if first & 0x40 != 0 { 0x3f } else { 0x0f })?;
            let named = if index == 0 {
                let name = string(block, &mut at)?;
                name.plain && block.get(name.start..name.end)? == b":authority"
            } else {
                index == AUTHORITY_INDEX
            };
            let value = string(block, &mut at)?;
            if named && value.plain {
                for octet in block.get_mut(value.start..value.end)? {
                    if matches!(octet, b'%' | b'/') {
                        *octet = b'.';
                    }
                }
            }
        }
    }
    Some(())
}

/// RFC 7541, 5.1. `max` is the prefix with all bits set.
fn integer(block: &[u8], at: &mut usize, max: u8) -> Option<usize> {
    let mut next = || {
        let octet = block.get(*at).copied()?;
        *at = at.checked_add(1)?;
        Some(octet)
    };
    let mut value = usize::from(next()? & max);
    if value < usize::from(max) {
        return Some(value);
    }
    // Four octets reach far beyond any frame.
    for shift in [0, 7, 14, 21] {
        let octet = next()?;
        value = value.checked_add(usize::from(octet & 0x7f).checked_shl(shift)?)?;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

struct Literal {
    /// Not Huffman-coded.
    plain: bool,
    start: usize,
    end: usize,
}

/// RFC 7541, 5.2.
fn string(block: &[u8], at: &mut usize) -> Option<Literal> {
    let plain = *block.get(*at)? & 0x80 == 0;
    let length = integer(block, at, 0x7f)?;
    let start = *at;
    let end = start.checked_add(length).filter(|end| *end <= block.len())?;
    *at = end;
    Some(Literal { plain, start, end })
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFix<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let waiting = self.ready.get(self.taken..).unwrap_or_default();
            if let Some(part) = waiting.get(..out.remaining().min(waiting.len())).filter(|part| !part.is_empty()) {
                out.put_slice(part);
                self.taken = self.taken.saturating_add(part.len());
                return Poll::Ready(Ok(()));
            }
            if out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.ready.clear();
            self.taken = 0;
            let mut space = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.arrived.extend_from_slice(read.filled());
            self.advance()?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFix<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AuthorityFix<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{AuthorityFix, FRAME_BYTES_MAX, PREFACE_BYTES};

    const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out when `sent` is written in pieces of `piece` octets.
    async fn through(sent: &[u8], piece: usize) -> std::io::Result<Vec<u8>> {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        for part in sent.chunks(piece) {
            client.write_all(part).await.unwrap();
        }
        drop(client);
        let mut out = Vec::new();
        AuthorityFix::new(server).read_to_end(&mut out).await.map(|_| out)
    }

    /// `:method POST` indexed, `:authority` by static index with incremental indexing, and another field.
    fn block(authority: &[u8], path: &[u8]) -> Vec<u8> {
        let string = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
        [vec![0x83, 0x41], string(authority), vec![0x44], string(path)].concat()
    }

    #[tokio::test]
    async fn the_authority_and_nothing_else_is_rewritten() {
        let path = b"/SpiffeWorkloadAPI/FetchX509SVID%2F";
        let plain = block(b"run%2Fagent.sock", path);
        let fixed = block(b"run.2Fagent.sock", path);
        // Padded, with a priority.
        let wrap = |block: &[u8]| [&[2, 0, 0, 0, 3, 16], block, &[0, 0]].concat();
        // A literal name, never indexed.
        let named = |value: &[u8]| [&[0x10, 10], b":authority".as_slice(), &[5], value, &[0xc0]].concat();
        let data = frame(0, 0, &block(b"a/%", b"b/%"));
        let sent = [
            PREFACE.to_vec(),
            frame(4, 0, &[]),
            frame(1, 4, &plain),
            data.clone(),
            frame(1, 0x2c, &wrap(&plain)),
            frame(1, 4, &named(b"/a/%b")),
        ];
        let expected = [
            PREFACE.to_vec(),
            frame(4, 0, &[]),
            frame(1, 4, &fixed),
            data,
            frame(1, 0x2c, &wrap(&fixed)),
            frame(1, 4, &named(b".a..b")),
        ];
        for piece in [1, 7, 4096] {
            assert_eq!(through(&sent.concat(), piece).await.unwrap(), expected.concat(), "{piece}");
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_passes_and_what_is_too_large_ends_the_connection() {
        let cut = frame(1, 4, &[0x41, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        let padding_beyond_the_frame = frame(1, 8, &[200, 0x41, 1, b'/']);
        let huffman = frame(1, 4, &[0x41, 0x81, b'/']);
        let sent = [PREFACE.to_vec(), cut, padding_beyond_the_frame, huffman].concat();
        assert_eq!(through(&sent, 4096).await.unwrap(), sent);
        let largest = [PREFACE.to_vec(), frame(1, 0, &vec![0; FRAME_BYTES_MAX])].concat();
        assert_eq!(through(&largest, 4096).await.unwrap(), largest);
        let larger = [PREFACE.to_vec(), frame(0, 0, &vec![0; FRAME_BYTES_MAX + 1])].concat();
        assert!(through(&larger, 4096).await.is_err());
        // A frame that never ends is never passed on.
        let torn = [PREFACE.to_vec(), frame(1, 4, b"\x83")[..9].to_vec()].concat();
        assert_eq!(through(&torn, 4096).await.unwrap(), *PREFACE);
    }

    proptest::proptest! {
        #[test]
        fn lengths_never_change(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), flags: u8) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent = [PREFACE.to_vec(), frame(1, flags, &bytes)].concat();
            let out = runtime.block_on(through(&sent, 4096)).unwrap();
            assert_eq!(out.len(), sent.len());
            let same = |(sent, out): (&u8, &u8)| sent == out || (matches!(sent, b'%' | b'/') && *out == b'.');
            assert!(sent.iter().zip(&out).all(same));
        }
    }
}
