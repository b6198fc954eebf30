//! Redis: a stream with a consumer group, in RESP2.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{anyhow, bail};
use tokio::net::TcpStream;

use super::Durability;
use crate::peers::drive::{Link, Peer, Role};
use crate::peers::rows::Row;
use crate::peers::wire::{Cursor, Cut, Parsed, Seen, Wire, item_of, number, shown};

/// How long a read waits for an item, ms.
const BLOCK_MS: u64 = 1_000;

/// A server's command line, in its own directory.
pub(super) fn command(program: &Path, address: SocketAddr, durability: Durability) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--bind", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--save", ""]);
    match durability {
        Durability::EachReply => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
        Durability::None => command.args(["--appendonly", "no"]),
    };
    command
}

/// A running server with an empty stream and its group.
#[derive(Debug)]
pub(super) struct Redis {
    address: SocketAddr,
}

impl Redis {
    pub(super) async fn prepare(address: SocketAddr) -> anyhow::Result<Self> {
        let redis = Self { address };
        let said = redis.ask(&["XGROUP", "CREATE", "q", "g", "$", "MKSTREAM"]);
        match said.await?.as_slice() {
            b"+OK" => Ok(redis),
            said => bail!("XGROUP: {}", shown(said)),
        }
    }

    /// Makes a call whose reply is one line.
    async fn ask(&self, words: &[&str]) -> anyhow::Result<Vec<u8>> {
        let stream = TcpStream::connect(self.address).await?;
        let mut link = Link::new(stream, Line::default())?;
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        command_of(&words, &mut link.out);
        link.flush().await?;
        while link.wire.0.is_empty() {
            link.read().await?;
        }
        Ok(link.wire.0)
    }
}

impl Peer for Redis {
    type Wire = Resp;

    async fn connect(&self, role: Role, at: usize, _: Row) -> anyhow::Result<Link<Resp>> {
        let stream = TcpStream::connect(self.address).await?;
        let worker = match role {
            Role::Producer => String::new(),
            Role::Worker => format!("w{at}"),
        };
        Link::new(stream, Resp::new(worker))
    }

    async fn left(&self) -> anyhow::Result<u64> {
        let said = self.ask(&["XLEN", "q"]).await?;
        match said.strip_prefix(b":") {
            Some(count) => number(count),
            None => bail!("XLEN: {}", shown(&said)),
        }
    }
}

/// What the next reply is to.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Add,
    Read,
    Ack(usize),
    Del(usize),
}

/// A connection of a producer or worker.
#[derive(Debug)]
pub(super) struct Resp {
    worker: String,
    asked: VecDeque<Asked>,
    stored: u64,
    /// Ids of entries that came and are not to be removed yet, one behind the other.
    ids: Vec<u8>,
    id_ends: Vec<usize>,
}

impl Resp {
    fn new(worker: String) -> Self {
        Self {
            worker,
            asked: VecDeque::new(),
            stored: 0,
            ids: Vec::new(),
            id_ends: Vec::new(),
        }
    }

    fn command_on_ids(&self, words: &[&[u8]], out: &mut Vec<u8>) {
        array(words.len() + self.id_ends.len(), out);
        words.iter().for_each(|word| bulk(word, out));
        let mut start = 0;
        for &end in &self.id_ends {
            bulk(&self.ids[start..end], out);
            start = end;
        }
    }

    /// The reply to XREADGROUP: nothing, or of one stream a list of entries with one field each.
    fn take_entries(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let (ids, ends, items) = (self.ids.len(), self.id_ends.len(), seen.items.len());
        let taken = self.take_all_entries(from, seen);
        if taken.is_err() {
            self.ids.truncate(ids);
            self.id_ends.truncate(ends);
            seen.items.truncate(items);
        }
        taken
    }

    fn take_all_entries(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let head = from.line()?;
        if head == b"*-1" {
            return Ok(());
        }
        expect(head, b"*1")?;
        expect(from.line()?, b"*2")?;
        let _stream = bulk_from(from)?;
        let entries = counted(from.line()?, b'*')?;
        for _ in 0..entries {
            expect(from.line()?, b"*2")?;
            let id = bulk_from(from)?;
            expect(from.line()?, b"*2")?;
            let _field = bulk_from(from)?;
            seen.items.push(item_of(bulk_from(from)?)?);
            self.ids.extend_from_slice(id);
            self.id_ends.push(self.ids.len());
        }
        Ok(())
    }
}

impl Wire for Resp {
    fn put(&mut self, body: &[u8], out: &mut Vec<u8>) {
        command_of(&[b"XADD", b"q", b"*", b"b", body], out);
        self.asked.push_back(Asked::Add);
    }

    fn fetch(&mut self, items: usize, out: &mut Vec<u8>) {
        let (count, block) = (items.to_string(), BLOCK_MS.to_string());
        let words: [&[u8]; 11] = [
            b"XREADGROUP",
            b"GROUP",
            b"g",
            self.worker.as_bytes(),
            b"COUNT",
            count.as_bytes(),
            b"BLOCK",
            block.as_bytes(),
            b"STREAMS",
            b"q",
            b">",
        ];
        command_of(&words, out);
        self.asked.push_back(Asked::Read);
    }

    fn settle(&mut self, out: &mut Vec<u8>) -> usize {
        let count = self.id_ends.len();
        self.command_on_ids(&[b"XACK", b"q", b"g"], out);
        self.command_on_ids(&[b"XDEL", b"q"], out);
        self.asked.extend([Asked::Ack(count), Asked::Del(count)]);
        self.ids.clear();
        self.id_ends.clear();
        0
    }

    fn take(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let asked = self.asked.front().copied();
        match asked.ok_or_else(|| anyhow!("a reply to nothing"))? {
            Asked::Add => {
                bulk_from(from)?;
                seen.stored.push(self.stored);
                self.stored += 1;
            }
            Asked::Read => {
                self.take_entries(from, seen)?;
                seen.fetched = true;
            }
            Asked::Ack(count) => {
                expect_count(from.line()?, count, "XACK")?;
            }
            Asked::Del(count) => {
                expect_count(from.line()?, count, "XDEL")?;
                seen.settled += count;
            }
        }
        self.asked.pop_front();
        Ok(())
    }
}

/// A connection on which a reply is one line.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

impl Wire for Line {
    fn put(&mut self, _: &[u8], _: &mut Vec<u8>) {}

    fn fetch(&mut self, _: usize, _: &mut Vec<u8>) {}

    fn settle(&mut self, _: &mut Vec<u8>) -> usize {
        0
    }

    fn take(&mut self, from: &mut Cursor<'_>, _: &mut Seen) -> Parsed<()> {
        self.0 = from.line()?.to_vec();
        Ok(())
    }
}

fn command_of(words: &[&[u8]], out: &mut Vec<u8>) {
    array(words.len(), out);
    words.iter().for_each(|word| bulk(word, out));
}

fn array(length: usize, out: &mut Vec<u8>) {
    write!(out, "*{length}\r\n").expect("memory takes all");
}

fn bulk(bytes: &[u8], out: &mut Vec<u8>) {
    write!(out, "${}\r\n", bytes.len()).expect("memory takes all");
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn bulk_from<'a>(from: &mut Cursor<'a>) -> Parsed<&'a [u8]> {
    let length = counted(from.line()?, b'$')?;
    from.block(length)
}

/// The number of a line that begins with `kind`.
fn counted(line: &[u8], kind: u8) -> Parsed<usize> {
    match line.split_first() {
        Some((first, digits)) if *first == kind => Ok(number(digits)? as usize),
        _ => Err(anyhow!("Redis said: {}", shown(line)).into()),
    }
}

fn expect(line: &[u8], wanted: &[u8]) -> Parsed<()> {
    match line == wanted {
        true => Ok(()),
        false => Err(anyhow!("Redis said: {}", shown(line)).into()),
    }
}

fn expect_count(line: &[u8], wanted: usize, what: &str) -> Parsed<()> {
    match counted(line, b':')? {
        count if count == wanted => Ok(()),
        count => Err(Cut::Wrong(anyhow!(
            "{what} of {wanted} entries took {count}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::wire::Body;

    fn reply(items: &[u64]) -> Vec<u8> {
        let mut body = Body::new(32);
        let mut out = Vec::new();
        array(1, &mut out);
        array(2, &mut out);
        bulk(b"q", &mut out);
        array(items.len(), &mut out);
        for item in items {
            array(2, &mut out);
            bulk(format!("{item}-0").as_bytes(), &mut out);
            array(2, &mut out);
            bulk(b"b", &mut out);
            bulk(body.of(*item), &mut out);
        }
        out
    }

    #[test]
    fn entries_count_once_all_of_them_are_there() {
        let reply = reply(&[4, 5]);
        let mut wire = Resp::new("w".to_owned());
        let mut seen = Seen::default();
        wire.fetch(2, &mut Vec::new());
        for end in 0..reply.len() {
            let taken = wire.take(&mut Cursor::new(&reply[..end]), &mut seen);
            assert!(matches!(taken, Err(Cut::More)), "at {end}");
            assert!(seen.items.is_empty() && !seen.fetched);
        }
        wire.take(&mut Cursor::new(&reply), &mut seen).unwrap();
        assert_eq!(
            (seen.items.as_slice(), seen.fetched),
            ([4, 5].as_slice(), true)
        );
        let mut out = Vec::new();
        assert_eq!(wire.settle(&mut out), 0);
        let expected = "*5\r\n$4\r\nXACK\r\n$1\r\nq\r\n$1\r\ng\r\n$3\r\n4-0\r\n$3\r\n5-0\r\n\
                        *4\r\n$4\r\nXDEL\r\n$1\r\nq\r\n$3\r\n4-0\r\n$3\r\n5-0\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_entry_that_was_gone_already_is_told() {
        let mut wire = Resp::new("w".to_owned());
        let mut seen = Seen::default();
        wire.fetch(1, &mut Vec::new());
        wire.take(&mut Cursor::new(&reply(&[1])), &mut seen)
            .unwrap();
        wire.settle(&mut Vec::new());
        let error = wire.take(&mut Cursor::new(b":0\r\n"), &mut seen);
        assert!(matches!(error, Err(Cut::Wrong(_))), "{error:?}");
        assert_eq!(seen.settled, 0);
    }

    #[test]
    fn an_error_of_the_server_is_passed_on() {
        let mut wire = Resp::new(String::new());
        wire.put(b"body", &mut Vec::new());
        let refused = b"-MISCONF cannot write\r\n";
        match wire.take(&mut Cursor::new(refused), &mut Seen::default()) {
            Err(Cut::Wrong(error)) => assert!(error.to_string().contains("MISCONF")),
            other => panic!("{other:?}"),
        }
    }
}
