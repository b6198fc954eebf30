//! quinn's state machines, one socket, and turns.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use omnirelay_net::frame::DATAGRAM_BYTES_MAX;
use omnirelay_net::quic::QuicLimits;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt,
};
use tokio_rustls::rustls;

use super::connection::Connection;
use super::service::Service;
use super::socket::{Datagram, Socket};

/// Batches of datagrams taken in a turn, and bursts that one connection sends in it: as of the
/// node's endpoint.
const BATCHES_PER_TURN: usize = 4;
const BURSTS_PER_TURN: usize = 16;
/// Streams that a client may open: the load generator opens one.
const STREAMS_MAX: u32 = 7;
/// Connections open at a time; more are refused.
const CONNECTIONS_MAX: usize = 1_024;

pub(super) struct Driver<S> {
    socket: Socket,
    quic: Endpoint,
    service: S,
    /// By quinn's handles.
    connections: Vec<Option<Connection>>,
    /// Those that have something to do.
    dirty: Vec<usize>,
    burst: Vec<u8>,
    /// The last turn left datagrams, or bursts.
    has_more: bool,
}

impl<S: Service> Driver<S> {
    pub(super) fn new(
        socket: UdpSocket,
        tls: Arc<rustls::ServerConfig>,
        service: S,
    ) -> anyhow::Result<Self> {
        let socket = Socket::new(socket)?;
        let crypto = QuicServerConfig::try_from(tls).context("TLS 1.3 for QUIC")?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport()?));
        let mut config = EndpointConfig::default();
        config.max_udp_payload_size(DATAGRAM_BYTES_MAX)?;
        let finds_mtu = !socket.may_fragment();
        let quic = Endpoint::new(Arc::new(config), Some(Arc::new(server)), finds_mtu, None);
        Ok(Self {
            socket,
            quic,
            service,
            connections: Vec::new(),
            dirty: Vec::new(),
            burst: Vec::new(),
            has_more: false,
        })
    }

    /// Waits until there is something to do, and does it.
    ///
    /// # Errors
    /// If the socket fails, or what was answered cannot be made durable.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        if !self.has_more {
            let deadline = self.next_deadline();
            let wait = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            self.socket.wait(wait)?;
        }
        let now = Instant::now();
        self.has_more = self.receive(now)?;
        self.fire(now);
        for at in 0..self.dirty.len() {
            self.read(now, self.dirty[at]);
        }
        self.service.handle_turn_end(now)?;
        while let Some((key, reply)) = self.service.poll_reply() {
            if let Some(connection) = self.connections[key.connection].as_mut() {
                connection.put(key.stream, reply);
                mark(connection, &mut self.dirty);
            }
        }
        for index in std::mem::take(&mut self.dirty) {
            self.send(now, index)?;
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let connections = self.connections.iter().flatten();
        let deadlines = connections.filter_map(|connection| connection.deadline);
        deadlines.chain(self.service.next_deadline()).min()
    }

    /// Takes datagrams from the socket; true if there may be more.
    fn receive(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..BATCHES_PER_TURN {
            let mut batch = Vec::new();
            let may_have_more = self.socket.receive(|datagram| batch.push(datagram))?;
            for datagram in batch {
                self.take(now, datagram)?;
            }
            if !may_have_more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take(&mut self, now: Instant, datagram: Datagram) -> io::Result<()> {
        let Datagram {
            remote,
            local_ip,
            ecn,
            bytes,
        } = datagram;
        let out = &mut self.burst;
        out.clear();
        let transmit = match self.quic.handle(now, remote, local_ip, ecn, bytes, out) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections[handle.0].as_mut() {
                    connection.quic.handle_event(event);
                    mark(connection, &mut self.dirty);
                }
                return Ok(());
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                out.clear();
                if self.quic.open_connections() >= CONNECTIONS_MAX {
                    Some(self.quic.refuse(incoming, out))
                } else {
                    match self.quic.accept(incoming, now, out, None) {
                        Ok((handle, quic)) => {
                            if self.connections.len() <= handle.0 {
                                self.connections.resize_with(handle.0 + 1, || None);
                            }
                            let connection = Connection::new(handle.0, quic);
                            let connection = self.connections[handle.0].insert(connection);
                            mark(connection, &mut self.dirty);
                            None
                        }
                        Err(error) => error.response,
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => Some(transmit),
            None => None,
        };
        match transmit {
            Some(transmit) => self.socket.send(&transmit, &self.burst),
            None => Ok(()),
        }
    }

    /// Has connections look at their timers.
    fn fire(&mut self, now: Instant) {
        for connection in self.connections.iter_mut().flatten() {
            if connection.deadline.is_some_and(|at| at <= now) {
                connection.quic.handle_timeout(now);
                mark(connection, &mut self.dirty);
            }
        }
    }

    /// Reads what has come on a connection.
    fn read(&mut self, now: Instant, index: usize) {
        let Some(connection) = self.connections[index].as_mut() else {
            return;
        };
        while let Some(event) = connection.quic.poll() {
            connection.handle(now, event, &mut self.service);
        }
    }

    /// Writes what is to leave on a connection, and sends it.
    fn send(&mut self, now: Instant, index: usize) -> io::Result<()> {
        let Some(connection) = self.connections[index].as_mut() else {
            return Ok(());
        };
        connection.is_dirty = false;
        connection.write_all();
        let mut is_gone = false;
        while let Some(event) = connection.quic.poll_endpoint_events() {
            is_gone |= event.is_drained();
            if let Some(event) = self.quic.handle_event(ConnectionHandle(index), event) {
                connection.quic.handle_event(event);
            }
        }
        let burst_max = self.socket.burst_max(connection.quic.current_mtu());
        let mut bursts = 0;
        while bursts < BURSTS_PER_TURN {
            self.burst.clear();
            let transmit = connection
                .quic
                .poll_transmit(now, burst_max, &mut self.burst);
            let Some(transmit) = transmit else {
                break;
            };
            self.socket.send(&transmit, &self.burst)?;
            bursts += 1;
        }
        if is_gone {
            self.connections[index] = None;
            self.service.handle_gone(index);
            return Ok(());
        }
        connection.deadline = connection.quic.poll_timeout();
        if bursts == BURSTS_PER_TURN {
            mark(connection, &mut self.dirty);
            self.has_more = true;
        }
        Ok(())
    }
}

/// Has a connection its turn.
fn mark(connection: &mut Connection, dirty: &mut Vec<usize>) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push(connection.index);
    }
}

/// What the node's endpoint says to its clients too.
fn transport() -> anyhow::Result<TransportConfig> {
    let limits = QuicLimits::default();
    let window = |bytes: u32| VarInt::from_u32(bytes);
    let mut path = MtuDiscoveryConfig::default();
    path.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(limits.idle_timeout.try_into()?))
        .stream_receive_window(window(limits.stream_window_bytes))
        .receive_window(window(limits.connection_window_bytes))
        .send_window(limits.send_window_bytes)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(path));
    Ok(transport)
}
