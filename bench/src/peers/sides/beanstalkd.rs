//! beanstalkd, in its text protocol.

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
use crate::peers::wire::{Cursor, Parsed, Seen, Wire, item_of, number, shown};

/// How long a reserve waits for a job, s.
const WAIT_S: u64 = 1;
/// How long a worker may keep a job, s; longer than any run.
const TIME_TO_RUN_S: u64 = 3_600;

/// A server's command line.
pub(super) fn command(
    program: &Path,
    address: SocketAddr,
    durability: Durability,
    dir: &Path,
) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-l", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()]);
    if durability == Durability::EachReply {
        command.arg("-b").arg(dir).args(["-f", "0"]);
    }
    command
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Beanstalkd {
    address: SocketAddr,
}

impl Beanstalkd {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }
}

impl Peer for Beanstalkd {
    type Wire = Text;

    async fn connect(&self, _: Role, _: usize, _: Row) -> anyhow::Result<Link<Text>> {
        Link::new(TcpStream::connect(self.address).await?, Text::default())
    }

    async fn left(&self) -> anyhow::Result<u64> {
        let stream = TcpStream::connect(self.address).await?;
        let mut link = Link::new(stream, Text::default())?;
        link.out.extend_from_slice(b"stats\r\n");
        link.wire.asked.push_back(Asked::Stats);
        link.flush().await?;
        while link.wire.stats.is_empty() {
            link.read().await?;
        }
        jobs(&link.wire.stats)
    }
}

/// Jobs in any state, from the YAML of `stats`.
fn jobs(stats: &str) -> anyhow::Result<u64> {
    let states = ["ready", "reserved", "delayed", "buried"];
    let mut sum = 0;
    for state in states {
        let key = format!("current-jobs-{state}: ");
        let count = stats.lines().find_map(|line| line.strip_prefix(&key));
        let Some(count) = count else {
            bail!("stats has no {key}");
        };
        sum += number(count.trim().as_bytes())?;
    }
    Ok(sum)
}

/// What the next reply is to.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Put,
    /// With how many more reserves behind it.
    Reserve(usize),
    Delete,
    Stats,
}

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Text {
    asked: VecDeque<Asked>,
    stored: u64,
    /// Jobs that came and are not to be deleted yet.
    ids: Vec<u64>,
    stats: String,
}

impl Wire for Text {
    fn put(&mut self, body: &[u8], out: &mut Vec<u8>) {
        let size = body.len();
        write!(out, "put 0 0 {TIME_TO_RUN_S} {size}\r\n").expect("memory takes all");
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
        self.asked.push_back(Asked::Put);
    }

    /// One reserve that waits, the others take what is there then.
    fn fetch(&mut self, items: usize, out: &mut Vec<u8>) {
        for left in (0..items).rev() {
            let wait_s = if left + 1 == items { WAIT_S } else { 0 };
            write!(out, "reserve-with-timeout {wait_s}\r\n").expect("memory takes all");
            self.asked.push_back(Asked::Reserve(left));
        }
    }

    fn settle(&mut self, out: &mut Vec<u8>) -> usize {
        for id in self.ids.drain(..) {
            write!(out, "delete {id}\r\n").expect("memory takes all");
            self.asked.push_back(Asked::Delete);
        }
        0
    }

    fn take(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let asked = self.asked.front().copied();
        let line = from.line()?;
        let mut words = line.split(|byte| *byte == b' ');
        let word = words.next().unwrap_or_default();
        match (asked.ok_or_else(|| anyhow!("a reply to nothing"))?, word) {
            (Asked::Put, b"INSERTED") => {
                seen.stored.push(self.stored);
                self.stored += 1;
            }
            (Asked::Reserve(left), b"RESERVED") => {
                let id = number(words.next().unwrap_or_default())?;
                let size = number(words.next().unwrap_or_default())?;
                let item = item_of(from.block(size as usize)?)?;
                seen.items.push(item);
                self.ids.push(id);
                seen.fetched |= left == 0;
            }
            (Asked::Reserve(left), b"TIMED_OUT") => seen.fetched |= left == 0,
            (Asked::Delete, b"DELETED") => seen.settled += 1,
            (Asked::Stats, b"OK") => {
                let size = number(words.next().unwrap_or_default())?;
                let stats = from.block(size as usize)?;
                self.stats = String::from_utf8_lossy(stats).into_owned();
            }
            (asked, _) => {
                return Err(anyhow!("beanstalkd said to {asked:?}: {}", shown(line)).into());
            }
        }
        self.asked.pop_front();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::wire::{Body, Cut};

    #[test]
    fn a_fetch_ends_with_the_last_of_its_reserves() {
        let mut wire = Text::default();
        let mut out = Vec::new();
        wire.fetch(2, &mut out);
        assert_eq!(out, b"reserve-with-timeout 1\r\nreserve-with-timeout 0\r\n");
        let mut body = Body::new(16);
        let mut reply = b"RESERVED 9 16\r\n".to_vec();
        reply.extend_from_slice(body.of(5));
        reply.extend_from_slice(b"\r\n");
        let mut seen = Seen::default();
        let cut = wire.take(&mut Cursor::new(&reply[..30]), &mut seen);
        assert!(matches!(cut, Err(Cut::More)) && seen.items.is_empty());
        wire.take(&mut Cursor::new(&reply), &mut seen).unwrap();
        assert_eq!(
            (seen.items.as_slice(), seen.fetched),
            ([5].as_slice(), false)
        );
        let mut deletes = Vec::new();
        wire.settle(&mut deletes);
        assert_eq!(deletes, b"delete 9\r\n");
        for reply in [b"TIMED_OUT\r\n".as_slice(), b"DELETED\r\n"] {
            wire.take(&mut Cursor::new(reply), &mut seen).unwrap();
        }
        assert_eq!((seen.fetched, seen.settled), (true, 1));
    }

    #[test]
    fn a_job_that_is_gone_already_is_told() {
        let mut wire = Text::default();
        wire.ids.push(3);
        wire.settle(&mut Vec::new());
        let taken = wire.take(&mut Cursor::new(b"NOT_FOUND\r\n"), &mut Seen::default());
        assert!(matches!(taken, Err(Cut::Wrong(_))), "{taken:?}");
    }

    #[test]
    fn jobs_of_all_states_are_counted() {
        let stats = "---\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 1\n\
                     current-jobs-reserved: 2\ncurrent-jobs-delayed: 4\ncurrent-jobs-buried: 8\n";
        assert_eq!(jobs(stats).unwrap(), 15);
        assert!(jobs("---\n").is_err());
    }
}
