//! Server-sent events (WHATWG HTML, 9.2.6) as brokers write them, bounded: bytes in, events out.

/// Longest line or event: the longest token, and its field name.
const BYTES_MAX: usize = 160 * 1024;

/// The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is not UTF-8, or a line or an event of it is too long")]
pub struct Unreadable;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Reads events from chunks of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: Event,
}

impl Parser {
    /// Reads a chunk; the events that it completes.
    ///
    /// # Errors
    /// [`Unreadable`]; the stream is of no use from then on.
    pub fn read(&mut self, chunk: &[u8]) -> Result<Vec<Event>, Unreadable> {
        let mut events = Vec::new();
        for byte in chunk {
            if *byte != b'\n' {
                if BYTES_MAX <= self.line.len() {
                    return Err(Unreadable);
                }
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8(core::mem::take(&mut self.line)).map_err(|_| Unreadable)?;
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                events.push(core::mem::take(&mut self.event));
            } else if let Some((field, value)) = line.split_once(':') {
                self.field(field, value.strip_prefix(' ').unwrap_or(value))?;
            }
        }
        Ok(events)
    }

    fn field(&mut self, field: &str, value: &str) -> Result<(), Unreadable> {
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" if BYTES_MAX < self.event.data.len().saturating_add(value.len()) => return Err(Unreadable),
            "data" => self.event.data.push_str(value),
            // Comments, and fields that brokers do not send.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, Event, Parser, Unreadable};

    #[test]
    fn events_are_read_however_the_stream_is_cut_and_bounded() {
        let stream = b": hi\nevent: status-list\r\ndata: a\r\n\r\nevent:pulse\ndata:b\n\n";
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let events: Vec<_> = stream.chunks(size).flat_map(|chunk| parser.read(chunk).unwrap()).collect();
            let expected = [("status-list", "a"), ("pulse", "b")]
                .map(|(name, data)| Event { name: name.to_owned(), data: data.to_owned() });
            assert_eq!(events, expected, "in chunks of {size}");
        }
        assert_eq!(Parser::default().read(&vec![b'a'; BYTES_MAX + 1]), Err(Unreadable));
        assert_eq!(Parser::default().read(b"\xff\n"), Err(Unreadable));
        let line = [b"data:".as_slice(), &vec![b'a'; BYTES_MAX / 2 + 1], b"\n"].concat();
        assert_eq!(Parser::default().read(&[line.clone(), line].concat()), Err(Unreadable));
    }
}
