//! Datagrams from very many addresses, none of which answers.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use quinn_proto::{Endpoint, EndpointConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::attacker::{Done, Stop, Target};
use super::raw;

/// Addresses that datagrams come from.
const SOURCES: u8 = 64;
const INITIALS_PER_SECOND: u32 = 1_000;
/// Made before the attack, since each costs as much as a server's part of it; then sent in turn.
/// The server has given up the first when it comes again, or has told it to prove its address.
const INITIALS: usize = 4_000;
const GARBAGE_PER_SECOND: u32 = 5_000;
const GARBAGE_BYTES_MAX: usize = 1_400;

/// Sockets on addresses of their own. What comes back is never read.
pub(super) fn sources(target: &Target) -> anyhow::Result<Vec<UdpSocket>> {
    let source = |number: u8| {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 77, 0, number), 0))?;
        socket.connect(target.server)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let sources: std::io::Result<_> = (1..=SOURCES).map(source).collect();
    sources.context("loopback addresses other than 127.0.0.1")
}

/// Sends; a full socket loses the datagram, and a refusal is about an earlier one.
pub(super) fn send(sources: &[UdpSocket], number: u64, bytes: &[u8]) {
    let source = usize::try_from(number).unwrap_or_default() % sources.len();
    let _ = sources[source].send(bytes);
}

/// First packets of connections that go no further.
pub(super) fn initials(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let sources = sources(target)?;
    let packets: Vec<Vec<u8>> = first_packets(target)?;
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    let sent = stop.pace(INITIALS_PER_SECOND, |number| {
        let packet = usize::try_from(number).unwrap_or_default() % packets.len();
        send(&sources, number, &packets[packet]);
        Ok(())
    })?;
    Ok(Done {
        sent,
        ..Done::default()
    })
}

fn first_packets(target: &Target) -> anyhow::Result<Vec<Vec<u8>>> {
    let config = raw::config(&target.certificate)?;
    let name = target.server.ip().to_string();
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
    let packet = |_| {
        let now = Instant::now();
        let made = endpoint.connect(now, config.clone(), target.server, &name);
        let (_, mut connection) = made?;
        let mut packet = Vec::new();
        match connection.poll_transmit(now, 1, &mut packet) {
            Some(_) => Ok(packet),
            None => Err(anyhow!("a connection begins with no packet")),
        }
    };
    (0..INITIALS).map(packet).collect()
}

/// Random bytes, some of which look like QUIC at first.
pub(super) fn garbage(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let sources = sources(target)?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut bytes = vec![0; GARBAGE_BYTES_MAX];
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    let sent = stop.pace(GARBAGE_PER_SECOND, |number| {
        let length = random.random_range(1..=GARBAGE_BYTES_MAX);
        let bytes = &mut bytes[..length];
        random.fill(bytes);
        if number % 2 == 0 && length > 5 {
            // A long header of version 1.
            bytes[0] |= 0xc0;
            bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        send(&sources, number, bytes);
        Ok(())
    })?;
    Ok(Done {
        sent,
        ..Done::default()
    })
}
