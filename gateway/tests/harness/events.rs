//! A blocking reader of server-sent events.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::Value;

use super::BOUND;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub id: Option<u64>,
    pub name: String,
    pub data: Value,
}

/// An open stream.
pub struct EventStream {
    stream: BufReader<TcpStream>,
    /// Bytes of the chunk that is being read.
    left: usize,
    is_over: bool,
}

impl EventStream {
    /// Asks for a stream; the answer's status if it is none.
    pub fn open(address: SocketAddr, path: &str, last_id: Option<u64>) -> Result<Self, u16> {
        let mut stream = TcpStream::connect(address).expect("the node accepts connections");
        stream.set_read_timeout(Some(BOUND)).expect("a time limit");
        let last_id = last_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n{last_id}\r\n").expect("it is taken");
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).expect("an answer") > 0);
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        match status.expect("a status") {
            200 => {
                let head = head.to_ascii_lowercase();
                assert!(head.contains("content-type: text/event-stream"), "{head}");
                Ok(EventStream {
                    stream,
                    left: 0,
                    is_over: false,
                })
            }
            status => Err(status),
        }
    }

    /// The next event; `None` when the stream, or the node, has ended.
    ///
    /// # Panics
    /// If none comes within [`BOUND`], though the stream is kept alive.
    pub fn next(&mut self) -> Option<Sent> {
        let asked = Instant::now();
        loop {
            assert!(asked.elapsed() < BOUND, "no event within {BOUND:?}");
            let (mut id, mut name, mut data) = (None, None, String::new());
            loop {
                let line = self.line().ok()??;
                if line.is_empty() {
                    break;
                }
                match line.split_once(": ") {
                    Some(("id", text)) => id = Some(text.parse().expect("a number")),
                    Some(("event", text)) => name = Some(text.to_owned()),
                    Some(("data", text)) => data.push_str(text),
                    _ => {}
                }
            }
            // One without a name is a message.
            let is_event = name.is_some() || !data.is_empty();
            let name = name.unwrap_or_else(|| "message".to_owned());
            if is_event {
                let data = serde_json::from_str(&data).expect("JSON");
                return Some(Sent { id, name, data });
            }
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            if self.read_exact_or_end(&mut byte)?.is_none() {
                return Ok(None);
            }
            if byte[0] == b'\n' {
                return Ok(Some(String::from_utf8(line).expect("UTF-8")));
            }
            line.push(byte[0]);
        }
    }

    /// One byte of the chunked body.
    fn read_exact_or_end(&mut self, byte: &mut [u8; 1]) -> io::Result<Option<()>> {
        if self.is_over {
            return Ok(None);
        }
        if self.left == 0 {
            let mut size = String::new();
            if self.stream.read_line(&mut size)? == 0 {
                return Ok(None);
            }
            self.left = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
            if self.left == 0 {
                self.is_over = true;
                return Ok(None);
            }
        }
        self.stream.read_exact(byte)?;
        self.left -= 1;
        if self.left == 0 {
            self.stream.read_exact(&mut [0; 2])?;
        }
        Ok(Some(()))
    }
}
