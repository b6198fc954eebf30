//! RabbitMQ: a quorum queue of one node, with confirms, in AMQP 0-9-1.

mod frame;
mod node;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::net::TcpStream;

use self::frame::{Method, long, method, short};
pub(super) use self::node::{Processes, start};
use crate::peers::drive::{Link, Peer, Role};
use crate::peers::rows::Row;
use crate::peers::wire::{Cursor, Cut, Parsed, Seen, Wire, item_of, shown};

const QUEUE: &str = "q";
/// Before another look at who is still connected.
const STEP: Duration = Duration::from_millis(20);

/// A running node with an empty queue.
#[derive(Debug)]
pub(super) struct RabbitMq {
    address: SocketAddr,
}

impl RabbitMq {
    pub(super) async fn prepare(address: SocketAddr) -> anyhow::Result<Self> {
        let rabbit = Self { address };
        rabbit.declare().await?;
        Ok(rabbit)
    }

    /// Makes the queue where it is not there; messages that nobody was given, and consumers.
    async fn declare(&self) -> anyhow::Result<(u32, u32)> {
        let mut link = self.open().await?;
        let said = call(
            &mut link,
            frame::QUEUE_DECLARE,
            frame::QUEUE_DECLARE_OK,
            |out| {
                out.extend_from_slice(&[0, 0]);
                short(QUEUE, out);
                let durable = 1 << 1;
                out.push(durable);
                let mut table = Vec::new();
                short("x-queue-type", &mut table);
                table.push(b'S');
                long("quorum", &mut table);
                let length = u32::try_from(table.len()).expect("the table is a constant");
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&table);
            },
        );
        let said = said.await?;
        let mut from = Cursor::new(&said);
        let counts = frame::short_from(&mut from)
            .and_then(|_| Ok((frame::u32_from(&mut from)?, frame::u32_from(&mut from)?)));
        counts.map_err(|cut| anyhow!("a queue that does not tell its counts: {cut:?}"))
    }

    /// A connection with a channel.
    async fn open(&self) -> anyhow::Result<Link<Amqp>> {
        let stream = TcpStream::connect(self.address).await?;
        let mut link = Link::new(stream, Amqp::default())?;
        link.out.extend_from_slice(b"AMQP\x00\x00\x09\x01");
        answer(&mut link, frame::CONNECTION_START).await?;
        method(frame::CONNECTION_START_OK, 0, &mut link.out, |out| {
            out.extend_from_slice(&[0; 4]);
            short("PLAIN", out);
            long("\0guest\0guest", out);
            short("en_US", out);
        });
        let tune = answer(&mut link, frame::CONNECTION_TUNE).await?;
        let limits = tune.get(..6).context("RabbitMQ tells no limits")?.to_vec();
        method(frame::CONNECTION_TUNE_OK, 0, &mut link.out, |out| {
            out.extend_from_slice(&limits);
            // No heartbeats.
            out.extend_from_slice(&[0, 0]);
        });
        method(frame::CONNECTION_OPEN, 0, &mut link.out, |out| {
            short("/", out);
            out.extend_from_slice(&[0, 0]);
        });
        answer(&mut link, frame::CONNECTION_OPEN_OK).await?;
        let opened = frame::CHANNEL_OPEN_OK;
        call(&mut link, frame::CHANNEL_OPEN, opened, |out| out.push(0)).await?;
        Ok(link)
    }
}

impl Peer for RabbitMq {
    type Wire = Amqp;

    async fn connect(&self, role: Role, _: usize, row: Row) -> anyhow::Result<Link<Amqp>> {
        let mut link = self.open().await?;
        match role {
            Role::Producer => {
                let selected = frame::CONFIRM_SELECT_OK;
                call(&mut link, frame::CONFIRM_SELECT, selected, |out| {
                    out.push(0)
                })
                .await?;
            }
            Role::Worker => {
                let items = u16::try_from(row.in_flight)?;
                call(&mut link, frame::BASIC_QOS, frame::BASIC_QOS_OK, |out| {
                    out.extend_from_slice(&[0; 4]);
                    out.extend_from_slice(&items.to_be_bytes());
                    out.push(0);
                })
                .await?;
            }
        }
        Ok(link)
    }

    /// Those that nobody was given.
    async fn left(&self) -> anyhow::Result<u64> {
        Ok(self.declare().await?.0.into())
    }

    /// Whatever a consumer did not acknowledge is back in the queue once it is gone.
    async fn left_behind(&self) -> anyhow::Result<u64> {
        loop {
            match self.declare().await? {
                (messages, 0) => return Ok(messages.into()),
                _ => tokio::time::sleep(STEP).await,
            }
        }
    }
}

/// Calls a method of the channel; the arguments of the answer.
async fn call(
    link: &mut Link<Amqp>,
    asked: Method,
    answered: Method,
    fill: impl FnOnce(&mut Vec<u8>),
) -> anyhow::Result<Vec<u8>> {
    method(asked, frame::CHANNEL, &mut link.out, fill);
    answer(link, answered).await
}

/// Waits for a method; its arguments.
async fn answer(link: &mut Link<Amqp>, wanted: Method) -> anyhow::Result<Vec<u8>> {
    link.flush().await?;
    while link.wire.said.is_empty() {
        link.read().await?;
    }
    match link.wire.said.pop_front() {
        Some((method, arguments)) if method == wanted => Ok(arguments),
        said => bail!("RabbitMQ said {said:?} instead of {wanted:?}"),
    }
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Amqp {
    puts: u64,
    /// Puts that are not confirmed.
    open: BTreeSet<u64>,
    consuming: bool,
    /// The last delivery that came, and how many are not acknowledged.
    delivered: u64,
    held: usize,
    /// Methods that are not about items.
    said: VecDeque<(Method, Vec<u8>)>,
}

impl Amqp {
    fn take_confirm(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let tag = frame::u64_from(from)?;
        let is_multiple = from.exactly(1)?[0] & 1 == 1;
        let put = tag
            .checked_sub(1)
            .ok_or_else(|| anyhow!("a confirm of no message"))?;
        if is_multiple {
            let later = self.open.split_off(&tag);
            seen.stored.extend(std::mem::replace(&mut self.open, later));
        } else if self.open.remove(&put) {
            seen.stored.push(put);
        } else {
            return Err(anyhow!("a message was confirmed twice").into());
        }
        Ok(())
    }

    /// A delivery's arguments; its header and body are the next frames.
    fn take_delivery(
        &mut self,
        arguments: &mut Cursor<'_>,
        from: &mut Cursor<'_>,
        seen: &mut Seen,
    ) -> Parsed<()> {
        let _consumer = frame::short_from(arguments)?;
        let tag = frame::u64_from(arguments)?;
        let (frame::HEADER, _) = frame::frame_from(from)? else {
            return Err(anyhow!("a delivery without a header").into());
        };
        let (frame::BODY, body) = frame::frame_from(from)? else {
            return Err(anyhow!("a delivery without a body").into());
        };
        seen.items.push(item_of(body)?);
        self.delivered = tag;
        self.held += 1;
        Ok(())
    }
}

impl Wire for Amqp {
    fn put(&mut self, body: &[u8], out: &mut Vec<u8>) {
        method(frame::BASIC_PUBLISH, frame::CHANNEL, out, |out| {
            out.extend_from_slice(&[0, 0]);
            short("", out);
            short(QUEUE, out);
            out.push(0);
        });
        frame::frame(frame::HEADER, frame::CHANNEL, out, |out| {
            out.extend_from_slice(&frame::BASIC.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&(body.len() as u64).to_be_bytes());
            let (has_delivery_mode, persistent) = (1_u16 << 12, 2);
            out.extend_from_slice(&has_delivery_mode.to_be_bytes());
            out.push(persistent);
        });
        frame::frame(frame::BODY, frame::CHANNEL, out, |out| {
            out.extend_from_slice(body)
        });
        self.open.insert(self.puts);
        self.puts += 1;
    }

    /// Deliveries come by themselves once there is a consumer, as many as are in flight at most.
    fn fetch(&mut self, _: usize, out: &mut Vec<u8>) {
        if !self.consuming {
            self.consuming = true;
            method(frame::BASIC_CONSUME, frame::CHANNEL, out, |out| {
                out.extend_from_slice(&[0, 0]);
                short(QUEUE, out);
                short("", out);
                out.push(0);
                out.extend_from_slice(&[0; 4]);
            });
        }
    }

    /// Nothing is said to an acknowledgement.
    fn settle(&mut self, out: &mut Vec<u8>) -> usize {
        method(frame::BASIC_ACK, frame::CHANNEL, out, |out| {
            out.extend_from_slice(&self.delivered.to_be_bytes());
            let multiple = 1;
            out.push(multiple);
        });
        std::mem::take(&mut self.held)
    }

    fn take(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()> {
        let (kind, payload) = frame::frame_from(from)?;
        if kind != frame::METHOD {
            return Err(anyhow!("RabbitMQ sent a frame of kind {kind} alone").into());
        }
        let mut arguments = Cursor::new(payload);
        let method = (
            frame::u16_from(&mut arguments)?,
            frame::u16_from(&mut arguments)?,
        );
        match method {
            frame::BASIC_ACK => self.take_confirm(&mut arguments, seen),
            frame::BASIC_DELIVER => self.take_delivery(&mut arguments, from, seen),
            frame::BASIC_CONSUME_OK => Ok(()),
            // Connection and channel closed; a message refused.
            (10, 50) | (20, 40) | (frame::BASIC, 120) => {
                Err(Cut::Wrong(anyhow!("RabbitMQ said: {}", shown(payload))))
            }
            method => {
                self.said.push_back((method, payload[4..].to_vec()));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::wire::Body;

    fn ack(tag: u64, is_multiple: bool) -> Vec<u8> {
        let mut out = Vec::new();
        method(frame::BASIC_ACK, 1, &mut out, |out| {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(is_multiple.into());
        });
        out
    }

    #[test]
    fn confirms_may_be_of_many_and_out_of_order() {
        let mut wire = Amqp::default();
        let mut seen = Seen::default();
        (0..4).for_each(|_| wire.put(b"body", &mut Vec::new()));
        for confirm in [ack(2, false), ack(3, true), ack(4, false)] {
            wire.take(&mut Cursor::new(&confirm), &mut seen).unwrap();
        }
        assert_eq!(seen.stored, [1, 0, 2, 3]);
        let again = wire.take(&mut Cursor::new(&ack(4, false)), &mut seen);
        assert!(matches!(again, Err(Cut::Wrong(_))), "{again:?}");
    }

    #[test]
    fn a_delivery_counts_once_its_body_is_there_and_is_acknowledged_with_those_before() {
        let mut body = Body::new(32);
        let mut bytes = Vec::new();
        method(frame::BASIC_DELIVER, 1, &mut bytes, |out| {
            short("consumer", out);
            out.extend_from_slice(&7_u64.to_be_bytes());
            out.push(0);
            short("", out);
            short(QUEUE, out);
        });
        frame::frame(frame::HEADER, 1, &mut bytes, |out| {
            out.extend_from_slice(&[0; 14])
        });
        frame::frame(frame::BODY, 1, &mut bytes, |out| {
            out.extend_from_slice(body.of(5))
        });
        let mut wire = Amqp::default();
        let mut seen = Seen::default();
        for end in 0..bytes.len() {
            let taken = wire.take(&mut Cursor::new(&bytes[..end]), &mut seen);
            assert!(
                matches!(taken, Err(Cut::More)) && seen.items.is_empty(),
                "at {end}"
            );
        }
        wire.take(&mut Cursor::new(&bytes), &mut seen).unwrap();
        assert_eq!(seen.items, [5]);
        let mut out = Vec::new();
        assert_eq!(wire.settle(&mut out), 1);
        assert_eq!(out, ack(7, true));
    }

    #[test]
    fn a_channel_that_is_closed_is_told_with_the_reason() {
        let mut bytes = Vec::new();
        method((20, 40), 1, &mut bytes, |out| {
            out.extend_from_slice(&404_u16.to_be_bytes());
            short("NOT_FOUND - no queue 'q'", out);
        });
        let taken = Amqp::default().take(&mut Cursor::new(&bytes), &mut Seen::default());
        match taken {
            Err(Cut::Wrong(error)) => assert!(error.to_string().contains("NOT_FOUND")),
            other => panic!("{other:?}"),
        }
    }
}
