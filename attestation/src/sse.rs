//! Server-sent events (WHATWG HTML, 9.2.6), bounded: bytes in, events out. How pulses and lists are followed.

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::vec::Vec;

/// Longest line: the longest token, and its field name.
pub const LINE_BYTES_MAX: usize = 160 * 1024;

/// Longest data of one event, over all its lines.
pub const EVENT_BYTES_MAX: usize = LINE_BYTES_MAX;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its type; `message` where the stream names none.
    pub name: String,
    /// Its data.
    pub data: String,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line or an event longer than any we know.
    #[error("a line or an event is too long")]
    TooLong,
    /// Event streams are UTF-8.
    #[error("a line is not UTF-8")]
    NotUtf8,
}

/// Reads events from chunks of a stream.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    /// The last chunk ended in CR: a LF at the start of the next one belongs to it.
    after_cr: bool,
    name: String,
    data: String,
    has_data: bool,
}

impl Parser {
    /// Reads a chunk, and calls `on_event` for every event that it completes.
    ///
    /// # Errors
    /// [`SseError`]; the stream is of no use from then on.
    pub fn read(&mut self, chunk: &[u8], mut on_event: impl FnMut(Event)) -> Result<(), SseError> {
        for byte in chunk {
            match byte {
                b'\n' if self.after_cr => self.after_cr = false,
                b'\n' | b'\r' => {
                    self.after_cr = *byte == b'\r';
                    let line = core::mem::take(&mut self.line);
                    let line = str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
                    if let Some(event) = self.end_line(line)? {
                        on_event(event);
                    }
                }
                byte => {
                    self.after_cr = false;
                    if LINE_BYTES_MAX <= self.line.len() {
                        return Err(SseError::TooLong);
                    }
                    self.line.push(*byte);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &str) -> Result<Option<Event>, SseError> {
        if line.is_empty() {
            let (name, data) = (core::mem::take(&mut self.name), core::mem::take(&mut self.data));
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Ok(core::mem::take(&mut self.has_data).then_some(Event { name, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if EVENT_BYTES_MAX < self.data.len().saturating_add(value.len()).saturating_add(1) {
                    return Err(SseError::TooLong);
                }
                if core::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments (an empty field name), `id`, `retry`, and what a later edition may add.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned as _;
    use alloc::vec;
    use alloc::vec::Vec;

    use super::{EVENT_BYTES_MAX, Event, LINE_BYTES_MAX, Parser, SseError};

    fn events(chunks: &[&[u8]]) -> Result<Vec<Event>, SseError> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        for chunk in chunks {
            parser.read(chunk, |event| events.push(event))?;
        }
        Ok(events)
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_read_however_the_stream_is_cut() {
        let stream =
            b": hi\r\nevent: status-list\r\ndata: a\r\ndata: b\r\n\r\nevent:pulse\ndata:c\n\n\ndata\r\rid: 4\n\n";
        let expected = vec![event("status-list", "a\nb"), event("pulse", "c"), event("message", "")];
        for size in 1..stream.len() {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(events(&chunks), Ok(expected.clone()), "in chunks of {size}");
        }
    }

    #[test]
    fn e13_lines_and_events_are_bounded() {
        assert_eq!(events(&[&vec![b'a'; LINE_BYTES_MAX + 1]]), Err(SseError::TooLong));
        let line = [b"data:".as_slice(), &vec![b'a'; EVENT_BYTES_MAX / 2], b"\n"].concat();
        assert_eq!(events(&[&line, b"\n"]).map(|events| events.len()), Ok(1));
        assert_eq!(events(&[&line, &line, b"\n"]), Err(SseError::TooLong));
        assert_eq!(events(&[b"data: \xff\n"]), Err(SseError::NotUtf8));
    }
}
