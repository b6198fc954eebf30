//! A UDP socket: many datagrams a system call, both ways.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};

/// Datagrams and bytes that leave in one system call, at most: as of the node's endpoint.
const BURST_MAX: usize = 16;
const BURST_BYTES_MAX: usize = 65_507;
/// The longest that is received: datagrams that the kernel has joined.
const RECEIVE_BYTES: usize = 64 << 10;
/// Bytes that the kernel is asked to hold for each direction. It may give less.
const KERNEL_BYTES: usize = 4 << 20;

pub(super) struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
}

/// A datagram as it came.
pub(super) struct Datagram {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: BytesMut,
}

impl Socket {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Less is no failure, only slower under bursts.
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BYTES);
        Ok(Self {
            socket,
            state,
            buffers: vec![0; RECEIVE_BYTES * BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        })
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

    /// Waits until there are datagrams, at most so long.
    pub(super) fn wait(&self, time_max: Option<Duration>) -> io::Result<()> {
        self.poll(libc::POLLIN, time_max)
    }

    fn poll(&self, events: libc::c_short, time_max: Option<Duration>) -> io::Result<()> {
        let mut watched = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events,
            revents: 0,
        };
        let time = time_max.map(|time| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `watched` is one pollfd that outlives the call, and `time` is null or does; the
        // null mask leaves the signals as they are.
        match unsafe { libc::ppoll(&mut watched, 1, time, ptr::null()) } {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
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

    /// Sends, once there is room. What goes wrong is a lost datagram to QUIC.
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
        loop {
            let sent = self.state.send(UdpSockRef::from(&self.socket), &datagrams);
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll(libc::POLLOUT, None)?;
                }
                _ => return Ok(()),
            }
        }
    }
}
