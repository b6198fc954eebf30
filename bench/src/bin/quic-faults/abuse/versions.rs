//! Versions of QUIC and of the frames that the server does not speak.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use omnirelay_net::frame::{Frame, FrameReader, VERSION, encode};
use quinn::TransportConfig;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::attacker::{Done, Stop, Target};
use super::raw::{Raw, hello, next};

const DATAGRAMS_PER_SECOND: f64 = 1_000.0;
/// Streams that begin with another version of the frames, one for so many datagrams.
const DATAGRAMS_PER_STREAM: u64 = 50;
/// Shorter ones are not answered.
const DATAGRAM_BYTES: usize = 1_200;
/// Until the last has been answered.
const ANSWERED_MAX: Duration = Duration::from_secs(2);
const QUIC_VERSION: u32 = 0x5a5a_5a5a;

pub(super) async fn run(
    target: &Target,
    ready: oneshot::Sender<()>,
    stop: &Stop,
) -> anyhow::Result<Done> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(target.server)?;
    socket.set_nonblocking(true)?;
    let mut random = SmallRng::seed_from_u64(1);
    let raw = Raw::new(
        target.server,
        &target.certificate,
        TransportConfig::default(),
    )?;
    let connection = raw.connect().await?;
    // Whoever waits for it may have given up.
    let _ = ready.send(());
    let began = Instant::now();
    let (mut sent, mut negotiated, mut refused) = (0_u64, 0_u64, 0_u64);
    let mut answer = [0; 64];
    while !stop.is_set() {
        let due = began.elapsed().as_secs_f64() * DATAGRAMS_PER_SECOND;
        while (sent as f64) < due {
            // A full socket loses the datagram.
            let _ = socket.send(&datagram(&mut random));
            sent += 1;
            if sent.is_multiple_of(DATAGRAMS_PER_STREAM) {
                refused += u64::from(is_refused(&connection).await?);
            }
        }
        while let Ok(length) = socket.recv(&mut answer) {
            negotiated += u64::from(is_negotiation(&answer[..length]));
        }
        sleep(Duration::from_millis(1)).await;
    }
    // A server that has much to do takes its time, and a full socket loses some.
    let deadline = Instant::now() + ANSWERED_MAX;
    while negotiated < sent && Instant::now() < deadline {
        while let Ok(length) = socket.recv(&mut answer) {
            negotiated += u64::from(is_negotiation(&answer[..length]));
        }
        sleep(Duration::from_millis(10)).await;
    }
    let mut broken = Vec::new();
    if negotiated < sent / 2 {
        broken.push(format!(
            "{negotiated} of {sent} datagrams were answered with the versions"
        ));
    }
    if refused < sent / DATAGRAMS_PER_STREAM {
        broken.push(format!("only {refused} streams were refused"));
    }
    raw.close().await;
    Ok(Done { sent, broken })
}

/// A long header of a version that nobody has.
fn datagram(random: &mut SmallRng) -> Vec<u8> {
    let mut datagram = vec![0; DATAGRAM_BYTES];
    random.fill(&mut datagram[..]);
    datagram[0] |= 0xc0;
    datagram[1..5].copy_from_slice(&QUIC_VERSION.to_be_bytes());
    // Ids of 8 bytes each.
    datagram[5] = 8;
    datagram[14] = 8;
    datagram
}

/// <https://www.rfc-editor.org/rfc/rfc8999.html#section-6>
fn is_negotiation(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0x80 != 0)
        && datagram.get(1..5) == Some(&[0; 4][..])
}

/// Whether a stream of another version of the frames is refused with the reason.
async fn is_refused(connection: &quinn::Connection) -> anyhow::Result<bool> {
    let (mut out, mut back) = connection.open_bi().await?;
    out.write_all(&encode::hello(&hello(VERSION + 98))).await?;
    let mut reader = FrameReader::default();
    Ok(match next(&mut reader, &mut back).await? {
        Frame::Farewell(error) => error.error_code == "rpc.version.unsupported",
        _ => false,
    })
}
