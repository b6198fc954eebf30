//! A core's UDP socket: many datagrams a system call, both ways.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsFd;

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};

use super::lanes::Datagram;
use crate::runtime::Readiness;

/// Datagrams that leave in one system call, at most: a longer burst overruns the buffers of
/// ordinary switches and virtual network cards.
const BURST_MAX: usize = 16;

/// Bytes that leave in one system call, at most: what fits a UDP datagram over IPv4, which the kernel
/// takes them for.
const BURST_BYTES_MAX: usize = 65_507;

/// The longest datagram that is received: more than one, joined by the kernel.
const RECEIVE_BYTES: usize = 64 << 10;

/// Bytes that the kernel is asked to hold for each direction. It may give less.
const KERNEL_BYTES: usize = 4 << 20;

/// What a core receives into.
pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Socket> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Less is no failure, only slower under bursts.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BYTES);
        Ok(Socket {
            socket,
            state,
            buffers: vec![0; RECEIVE_BYTES * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        })
    }

    /// For waiting until there are datagrams, or room.
    pub(super) fn readiness(&self) -> io::Result<Readiness> {
        Readiness::new(self.socket.as_fd().try_clone_to_owned()?)
    }

    /// Whether the kernel may cut datagrams in pieces: then the path's limit cannot be found out.
    pub(super) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Datagrams of so many bytes that may leave together.
    pub(super) fn burst_max(&self, datagram_bytes: u16) -> usize {
        let fit = BURST_BYTES_MAX / usize::from(datagram_bytes);
        self.state.max_gso_segments().min(BURST_MAX).min(fit)
    }

    /// Hands what is there to `take`, up to a batch; false if there is nothing more.
    pub(super) fn receive(&mut self, mut take: impl FnMut(Datagram)) -> io::Result<bool> {
        let mut pieces = self.buffers.chunks_exact_mut(RECEIVE_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
            IoSliceMut::new(pieces.next().expect("a piece for each of a batch"))
        });
        let socket = UdpSockRef::from(&self.socket);
        let received = match self.state.recv(socket, &mut slices, &mut self.metas) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        for (slice, meta) in slices.iter().zip(&self.metas).take(received) {
            let mut bytes = BytesMut::from(&slice[..meta.len]);
            while !bytes.is_empty() {
                let length = meta.stride.clamp(1, bytes.len());
                take(Datagram {
                    remote: meta.addr,
                    local_ip: meta.dst_ip,
                    ecn: meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8)),
                    bytes: bytes.split_to(length),
                });
            }
        }
        Ok(received == BATCH_SIZE)
    }

    /// Sends; [`io::ErrorKind::WouldBlock`] if there is no room. Nothing else that goes wrong is
    /// told: to QUIC it is a lost datagram.
    pub(super) fn send(&self, transmit: &Transmit, bytes: &[u8]) -> io::Result<()> {
        let datagrams = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit
                .ecn
                .and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: &bytes[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        self.state.send(UdpSockRef::from(&self.socket), &datagrams)
    }
}
