//! NATS: a JetStream work queue with one pull consumer, in NATS' text protocol.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::Durability;
use crate::peers::drive::{Link, Peer, Role};
use crate::peers::rows::Row;
use crate::peers::wire::{Cursor, Parsed, Seen, Wire, item_of, number, shown};

const STREAM: &str = "QUEUE";
const SUBJECT: &str = "work";
const CONSUMER: &str = "workers";
/// How long a pull waits for messages, ns.
const PULL_NS: u64 = 1_000_000_000;
/// How long a worker may keep a message, ns; longer than any run.
const ACK_WAIT_NS: u64 = 3_600_000_000_000;

/// The numbers of a connection's subscriptions.
const STORED: &[u8] = b"1";
const FETCHED: &[u8] = b"2";
const ACKED: &[u8] = b"3";

/// A server's command line; its configuration is written to `dir`.
pub(super) fn command(
    program: &Path,
    address: SocketAddr,
    durability: Durability,
    dir: &Path,
) -> anyhow::Result<Command> {
    let store = serde_json::to_string(&dir.join("store"))?;
    let sync = match durability {
        Durability::EachReply => "sync_interval: always",
        Durability::None => "",
    };
    let text = format!("listen: \"{address}\"\njetstream {{\n  store_dir: {store}\n  {sync}\n}}\n");
    let file = dir.join("nats.conf");
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let mut command = Command::new(program);
    command.arg("-c").arg(file);
    Ok(command)
}

/// A running server with an empty stream and its consumer.
#[derive(Debug)]
pub(super) struct Nats {
    address: SocketAddr,
}

impl Nats {
    pub(super) async fn prepare(address: SocketAddr) -> anyhow::Result<Self> {
        let nats = Self { address };
        let stream = json!({
            "name": STREAM,
            "subjects": [SUBJECT],
            "retention": "workqueue",
            "storage": "file",
            "num_replicas": 1,
            "duplicate_window": 0,
        });
        nats.ask(&format!("STREAM.CREATE.{STREAM}"), &stream)
            .await?;
        let consumer = json!({
            "stream_name": STREAM,
            "config": {
                "durable_name": CONSUMER,
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_NS,
                "max_ack_pending": -1,
                "deliver_policy": "all",
                "replay_policy": "instant",
            },
        });
        nats.ask(
            &format!("CONSUMER.DURABLE.CREATE.{STREAM}.{CONSUMER}"),
            &consumer,
        )
        .await?;
        Ok(nats)
    }

    /// Calls JetStream's API.
    async fn ask(&self, call: &str, request: &Value) -> anyhow::Result<Value> {
        let mut link = self.link("ask").await?;
        let request = match request {
            Value::Null => Vec::new(),
            request => request.to_string().into_bytes(),
        };
        let size = request.len();
        let inbox = &link.wire.inbox;
        write!(link.out, "PUB $JS.API.{call} {inbox}.api {size}\r\n")?;
        link.out.extend_from_slice(&request);
        link.out.extend_from_slice(b"\r\n");
        link.flush().await?;
        while link.wire.told.is_empty() {
            link.read().await?;
        }
        let told: Value = serde_json::from_slice(&link.wire.told).context("JetStream's reply")?;
        match told.get("error") {
            None => Ok(told),
            Some(error) => bail!("JetStream refused {call}: {error}"),
        }
    }

    async fn link(&self, name: &str) -> anyhow::Result<Link<Jet>> {
        let stream = TcpStream::connect(self.address).await?;
        let mut link = Link::new(stream, Jet::new(name))?;
        link.wire.greet(&mut link.out);
        link.flush().await?;
        while !link.wire.greeted {
            link.read().await?;
            link.flush().await?;
        }
        Ok(link)
    }
}

impl Peer for Nats {
    type Wire = Jet;

    async fn connect(&self, role: Role, at: usize, _: Row) -> anyhow::Result<Link<Jet>> {
        match role {
            Role::Producer => self.link(&format!("p{at}")).await,
            Role::Worker => self.link(&format!("w{at}")).await,
        }
    }

    async fn left(&self) -> anyhow::Result<u64> {
        let call = format!("STREAM.INFO.{STREAM}");
        let told = self.ask(&call, &Value::Null).await?;
        let messages = told["state"]["messages"].as_u64();
        messages.ok_or_else(|| anyhow!("a stream that does not count its messages: {told}"))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Jet {
    /// Where replies to it go: three subjects below this, and `api`.
    inbox: String,
    greeted: bool,
    put: u64,
    /// Messages of the last pull that have not come.
    due: usize,
    /// Where the messages that came are acknowledged, one subject behind the other.
    acks: Vec<u8>,
    ack_ends: Vec<usize>,
    /// What the API said.
    told: Vec<u8>,
}

impl Jet {
    fn new(name: &str) -> Self {
        Self {
            inbox: format!("_I.{name}"),
            greeted: false,
            put: 0,
            due: 0,
            acks: Vec::new(),
            ack_ends: Vec::new(),
            told: Vec::new(),
        }
    }

    /// The first that a client says; the answer to its PING is the end of the greeting.
    fn greet(&self, out: &mut Vec<u8>) {
        let inbox = &self.inbox;
        write!(
            out,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"1\",\
             \"protocol\":1,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {inbox}.put.* 1\r\nSUB {inbox}.pull 2\r\nSUB {inbox}.ack 3\r\n\
             SUB {inbox}.api 4\r\nPING\r\n"
        )
        .expect("memory takes all");
    }

    fn take_message(
        &mut self,
        subject: &[u8],
        subscription: &[u8],
        reply: Option<&[u8]>,
        body: &[u8],
        seen: &mut Seen,
    ) -> anyhow::Result<()> {
        match subscription {
            STORED => {
                if body.windows(7).any(|word| word == b"\"error\"") {
                    bail!("JetStream refused a message: {}", shown(body));
                }
                let put = subject.rsplit(|byte| *byte == b'.').next();
                seen.stored.push(number(put.unwrap_or_default())?);
            }
            FETCHED => {
                let reply = reply.context("a message that cannot be acknowledged")?;
                seen.items.push(item_of(body)?);
                self.acks.extend_from_slice(reply);
                self.ack_ends.push(self.acks.len());
                self.due = self.due.saturating_sub(1);
                seen.fetched |= self.due == 0;
            }
            ACKED => seen.settled += 1,
            _ => self.told = body.to_vec(),
        }
        Ok(())
    }

    /// A message with headers: JetStream's only say why there is no message.
    fn take_status(
        &mut self,
        subscription: &[u8],
        head: &[u8],
        seen: &mut Seen,
    ) -> anyhow::Result<()> {
        let status = head.strip_prefix(b"NATS/1.0 ").unwrap_or_default();
        match (subscription, status.get(..3)) {
            // Nothing came in time, or nothing is there.
            (FETCHED, Some(b"408" | b"404")) => {
                self.due = 0;
                seen.fetched = true;
                Ok(())
            }
            _ => bail!("NATS said: {}", shown(head)),
        }
    }
}

impl Wire for Jet {
    fn put(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let (inbox, put, size) = (&self.inbox, self.put, body.len());
        write!(out, "PUB {SUBJECT} {inbox}.put.{put} {size}\r\n").expect("memory takes all");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
        self.put += 1;
    }

    fn fetch(&mut self, items: usize, out: &mut Vec<u8>) {
        let (inbox, request) = (
            &self.inbox,
            format!("{{\"batch\":{items},\"expires\":{PULL_NS}}}"),
        );
        let size = request.len();
        write!(
            out,
            "PUB $JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER} {inbox}.pull {size}\r\n{request}\r\n"
        )
        .expect("memory takes all");
        self.due = items;
    }

    /// Each is acknowledged so that the server confirms it.
    fn settle(&mut self, out: &mut Vec<u8>) -> usize {
        let mut start = 0;
        for &end in &self.ack_ends {
            out.extend_from_slice(b"PUB ");
            out.extend_from_slice(&self.acks[start..end]);
            write!(out, " {}.ack 4\r\n+ACK\r\n", self.inbox).expect("memory takes all");
            start = end;
        }
        self.acks.clear();
        self.ack_ends.clear();
        0
    }

    fn take(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let line = from.line()?;
        let mut words = line.split(|byte| *byte == b' ');
        let verb = words.next().unwrap_or_default();
        let mut word = || words.next().unwrap_or_default();
        match verb {
            b"MSG" => {
                let (subject, subscription, third) = (word(), word(), word());
                let (reply, size) = match word() {
                    b"" => (None, third),
                    size => (Some(third), size),
                };
                let body = from.block(number(size)? as usize)?;
                self.take_message(subject, subscription, reply, body, seen)?;
            }
            b"HMSG" => {
                let (_, subscription, third, fourth) = (word(), word(), word(), word());
                let size = match word() {
                    b"" => fourth,
                    size => size,
                };
                let _ = third;
                let message = from.block(number(size)? as usize)?;
                self.take_status(subscription, message, seen)?;
            }
            b"PING" => seen.answer.extend_from_slice(b"PONG\r\n"),
            b"PONG" => self.greeted = true,
            b"INFO" | b"+OK" => {}
            _ => return Err(anyhow!("NATS said: {}", shown(line)).into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::wire::{Body, Cut};

    fn take(wire: &mut Jet, bytes: &[u8], seen: &mut Seen) -> Parsed<()> {
        wire.take(&mut Cursor::new(bytes), seen)
    }

    #[test]
    fn a_pull_ends_with_its_last_message_or_when_the_server_says_so() {
        let mut wire = Jet::new("w0");
        let mut seen = Seen::default();
        wire.fetch(2, &mut Vec::new());
        let mut body = Body::new(16);
        let mut message = b"MSG work 2 $JS.ACK.a.1 16\r\n".to_vec();
        message.extend_from_slice(body.of(8));
        message.extend_from_slice(b"\r\n");
        let cut = take(&mut wire, &message[..message.len() - 1], &mut seen);
        assert!(matches!(cut, Err(Cut::More)) && seen.items.is_empty());
        take(&mut wire, &message, &mut seen).unwrap();
        assert_eq!(
            (seen.items.as_slice(), seen.fetched),
            ([8].as_slice(), false)
        );
        let mut out = Vec::new();
        wire.settle(&mut out);
        assert_eq!(out, b"PUB $JS.ACK.a.1 _I.w0.ack 4\r\n+ACK\r\n");
        let head = "NATS/1.0 408 Request Timeout\r\n\r\n";
        let size = head.len();
        let late = format!("HMSG _I.w0.pull 2 {size} {size}\r\n{head}\r\n");
        take(&mut wire, late.as_bytes(), &mut seen).unwrap();
        assert!(seen.fetched);
    }

    #[test]
    fn a_message_is_stored_under_its_own_number_unless_refused() {
        let mut wire = Jet::new("p0");
        let mut seen = Seen::default();
        let stored = b"MSG _I.p0.put.17 1 2\r\n{}\r\n";
        take(&mut wire, stored, &mut seen).unwrap();
        assert_eq!(seen.stored, [17]);
        let refused = b"MSG _I.p0.put.18 1 12\r\n{\"error\":{} }\r\n";
        let taken = take(&mut wire, refused, &mut seen);
        assert!(matches!(taken, Err(Cut::Wrong(_))), "{taken:?}");
    }

    #[test]
    fn a_ping_is_answered() {
        let mut seen = Seen::default();
        take(&mut Jet::new("p0"), b"PING\r\n", &mut seen).unwrap();
        assert_eq!(seen.answer, b"PONG\r\n");
    }
}
