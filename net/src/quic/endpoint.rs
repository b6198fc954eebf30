//! The task that drives a core's QUIC.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::UdpSocket;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn_proto::{
    ConnectionError, ConnectionHandle, DatagramEvent, EndpointConfig, EndpointEvent, Event,
    Incoming, MtuDiscoveryConfig, Transmit, TransportConfig, VarInt,
};

use super::answers::{Answered, Answers, ConnectionKey};
use super::connection::{Connection, STREAMS_AT_FIRST, Shared};
use super::ids::{CoreIds, QuicKeys};
use super::lanes::{Datagram, Lanes};
use super::limits::{QuicCounters, QuicLimits, add};
use super::partials::Partials;
use super::reason;
use super::socket::Socket;
use super::stream::FrameService;
use crate::frame::DATAGRAM_BYTES_MAX;
use crate::runtime::{Readiness, sleep_until, yield_to_driver};

/// Batches of datagrams taken from the socket in a round.
const BATCHES_PER_ROUND: usize = 4;
/// Datagrams taken from other cores in a round.
const PASSED_PER_ROUND: usize = 256;
/// Bursts that one connection sends in a round.
const BURSTS_PER_ROUND: usize = 16;
/// Bursts that wait for room in the socket. More are dropped, as a network would.
const UNSENT_MAX: usize = 256;
/// The least time between two stateless resets, which answer datagrams that nobody else would.
const RESET_INTERVAL: Duration = Duration::from_micros(100);
/// How often connections are looked at for frames that take too long, and for replies that nobody
/// acknowledges.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A core's QUIC before it is served.
pub struct Endpoint {
    socket: Socket,
    readiness: Readiness,
    lanes: Lanes,
    keys: QuicKeys,
    quic: quinn_proto::Endpoint,
    limits: QuicLimits,
}

impl Endpoint {
    /// For the core of `lanes`, on a socket that other cores may share the port of. `tls` is a
    /// configuration for QUIC, [`crate::frame::ALPN`] its protocol.
    ///
    /// # Errors
    /// The system refuses what the socket needs, or the driver cannot watch it.
    ///
    /// # Panics
    /// Outside a core. If `tls` has no TLS 1.3 with a suite that QUIC starts with.
    pub fn new(
        socket: UdpSocket,
        tls: Arc<rustls::ServerConfig>,
        keys: &QuicKeys,
        lanes: Lanes,
        limits: QuicLimits,
    ) -> io::Result<Endpoint> {
        let socket = Socket::new(socket)?;
        let readiness = socket.readiness()?;
        let crypto: Result<_, NoInitialCipherSuite> = QuicServerConfig::try_from(tls);
        let crypto = Arc::new(crypto.expect("TLS 1.3 has the suite that QUIC starts with"));
        let mut server = quinn_proto::ServerConfig::new(crypto, keys.tokens.clone());
        server
            .transport_config(Arc::new(transport(&limits)))
            .max_incoming(limits.handshakes_max);
        let ids = (keys.clone(), lanes.here);
        let mut config = EndpointConfig::new(keys.reset.clone());
        config
            .cid_generator(move || {
                Box::new(CoreIds {
                    keys: ids.0.clone(),
                    core: ids.1,
                })
            })
            .min_reset_interval(RESET_INTERVAL)
            .max_udp_payload_size(DATAGRAM_BYTES_MAX)
            .expect("more than QUIC's least");
        let finds_mtu = !socket.may_fragment();
        let quic =
            quinn_proto::Endpoint::new(Arc::new(config), Some(Arc::new(server)), finds_mtu, None);
        Ok(Endpoint {
            socket,
            readiness,
            lanes,
            keys: keys.clone(),
            quic,
            limits,
        })
    }
}

fn transport(limits: &QuicLimits) -> TransportConfig {
    let window = |bytes: u32| VarInt::from_u32(bytes);
    let idle = limits.idle_timeout.try_into();
    let mut transport = TransportConfig::default();
    let mut path = MtuDiscoveryConfig::default();
    path.upper_bound(DATAGRAM_BYTES_MAX);
    let streams_at_first = limits.streams_max.min(STREAMS_AT_FIRST);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_at_first))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(idle.expect("an idle timeout of less than ages")))
        .stream_receive_window(window(limits.stream_window_bytes))
        .receive_window(window(limits.connection_window_bytes))
        .send_window(limits.send_window_bytes)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(path));
    transport
}

/// Serves calls over QUIC on this core until `shutdown` completes; then takes no new ones, lets
/// what was begun be answered, closes the connections, and returns when they have ended.
pub async fn serve<S: FrameService>(
    endpoint: Endpoint,
    service: Rc<S>,
    counters: Rc<QuicCounters>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let is_readable = Cell::new(true);
    let is_writable = Cell::new(true);
    let (readiness, mut driver) = Driver::new(endpoint, service, counters);
    // Each goes on for ever: what it waits for next is begun before it is needed, and never
    // given up and begun again.
    let mut readable = pin!(async {
        loop {
            until_not(&is_readable).await;
            if readiness.readable().await.is_err() {
                yield_to_driver().await;
            }
            is_readable.set(true);
        }
    });
    let mut writable = pin!(async {
        loop {
            until_not(&is_writable).await;
            if readiness.writable().await.is_err() {
                yield_to_driver().await;
            }
            is_writable.set(true);
        }
    });
    loop {
        let now = Instant::now();
        let has_more = driver.round(now, &is_readable, &is_writable);
        if driver.is_over(now) {
            driver.abandon();
            return;
        }
        if has_more {
            yield_to_driver().await;
        }
        let deadline = driver.next_deadline();
        let mut alarm = pin!(deadline.map(sleep_until));
        poll_fn(|cx| {
            if !driver.is_ending() && shutdown.as_mut().poll(cx).is_ready() {
                driver.end(Instant::now());
                return Poll::Ready(());
            }
            let _: Poll<()> = readable.as_mut().poll(cx);
            let _: Poll<()> = writable.as_mut().poll(cx);
            if has_more || is_readable.get() || driver.poll(cx, is_writable.get()).is_ready() {
                return Poll::Ready(());
            }
            match alarm.as_mut().as_pin_mut() {
                Some(alarm) => alarm.poll(cx),
                None => Poll::Pending,
            }
        })
        .await;
    }
}

/// Waits for a flag that is taken down by the same task, which then polls again.
async fn until_not(flag: &Cell<bool>) {
    poll_fn(|_| match flag.get() {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

/// What is driven.
struct Driver<S: FrameService> {
    socket: Socket,
    lanes: Lanes,
    keys: QuicKeys,
    quic: quinn_proto::Endpoint,
    shared: Shared<S>,
    /// By quinn's handles.
    connections: Vec<Option<Connection<S>>>,
    serial: u64,
    handshakes: usize,
    /// Connections that began with a handshake, in the order in which that is to be done by;
    /// it may be done, or they may be gone.
    handshake_ends: VecDeque<(Instant, ConnectionKey)>,
    /// Connections that have something to do, in the order in which it came.
    dirty: VecDeque<usize>,
    /// When connections' timers are to be looked at, one entry each.
    alarms: BTreeSet<(Instant, usize)>,
    /// When all connections are looked at, if any needs it.
    look_at: Option<Instant>,
    answered: Vec<Answered>,
    burst: Vec<u8>,
    /// Left when the socket took nothing more.
    unsent: VecDeque<(Transmit, Bytes)>,
    ending: Option<Instant>,
    are_closed: bool,
}

impl<S: FrameService> Driver<S> {
    fn new(
        endpoint: Endpoint,
        service: Rc<S>,
        counters: Rc<QuicCounters>,
    ) -> (Readiness, Driver<S>) {
        let driver = Driver {
            socket: endpoint.socket,
            lanes: endpoint.lanes,
            keys: endpoint.keys,
            quic: endpoint.quic,
            shared: Shared {
                service,
                limits: endpoint.limits,
                counters,
                answers: Rc::new(Answers::default()),
                partials: Partials::default(),
                has_deliveries: false,
            },
            connections: Vec::new(),
            serial: 0,
            handshakes: 0,
            handshake_ends: VecDeque::new(),
            dirty: VecDeque::new(),
            alarms: BTreeSet::new(),
            look_at: None,
            answered: Vec::new(),
            burst: Vec::new(),
            unsent: VecDeque::new(),
            ending: None,
            are_closed: false,
        };
        (endpoint.readiness, driver)
    }

    /// One round of everything; true if there is more to do at once.
    fn round(&mut self, now: Instant, readable: &Cell<bool>, writable: &Cell<bool>) -> bool {
        if !self.unsent.is_empty() && writable.get() {
            self.send_unsent(writable);
        }
        let mut has_more = false;
        if readable.get() {
            let is_empty = self.receive(now, writable);
            readable.set(!is_empty);
            has_more |= !is_empty;
        }
        has_more |= self.take_passed(now, writable);
        self.take_answers(now);
        if self.ending.is_some() {
            self.close_drained(now);
        }
        self.drive(now, writable);
        // What is to be sent comes before the timers: that of loss recovery must find something in
        // flight on the path that a connection has just changed to, or it probes in vain.
        if self.unsent.is_empty() {
            self.fire(now);
        }
        has_more || (!self.dirty.is_empty() && writable.get())
    }

    /// Ready if another thread or a call has something for this task.
    fn poll(&mut self, cx: &mut Context<'_>, is_writable: bool) -> Poll<()> {
        if is_writable && (!self.unsent.is_empty() || !self.dirty.is_empty()) {
            return Poll::Ready(());
        }
        if self.shared.answers.poll(cx.waker()).is_ready() {
            return Poll::Ready(());
        }
        self.lanes.listener.poll_notified(cx)
    }

    /// Takes datagrams from the socket; true if it is empty.
    fn receive(&mut self, now: Instant, writable: &Cell<bool>) -> bool {
        for _ in 0..BATCHES_PER_ROUND {
            let mut batch = Vec::new();
            let received = self.socket.receive(|datagram| batch.push(datagram));
            add(&self.shared.counters.datagrams_in, batch.len() as u64);
            for datagram in batch {
                match self.keys.elsewhere(&datagram.bytes, self.lanes.here) {
                    Some(core) => {
                        let counters = &self.shared.counters;
                        let is_passed = self.lanes.pass(core, datagram);
                        let counter = if is_passed {
                            &counters.passed_on
                        } else {
                            &counters.dropped
                        };
                        add(counter, 1);
                    }
                    None => self.take(now, datagram, writable),
                }
            }
            match received {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => {
                    // What the network says of earlier datagrams; the socket goes on.
                    tracing::debug!(%error, "a datagram could not be received");
                }
            }
        }
        false
    }

    /// Takes datagrams from other cores; true if there may be more.
    fn take_passed(&mut self, now: Instant, writable: &Cell<bool>) -> bool {
        for _ in 0..PASSED_PER_ROUND {
            let Some(datagram) = self.lanes.take() else {
                return false;
            };
            self.take(now, datagram, writable);
        }
        true
    }

    fn take(&mut self, now: Instant, datagram: Datagram, writable: &Cell<bool>) {
        let Datagram {
            remote,
            local_ip,
            ecn,
            bytes,
        } = datagram;
        let mut out = std::mem::take(&mut self.burst);
        out.clear();
        match self
            .quic
            .handle(now, remote, local_ip, ecn, bytes, &mut out)
        {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.connections[handle.0].as_mut() {
                    connection.quic.handle_event(event);
                    mark(connection, &mut self.dirty);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                out.clear();
                if let Some(transmit) = self.admit(now, incoming, &mut out) {
                    self.send(transmit, &out, writable);
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                add(&self.shared.counters.stray, 1);
                self.send(transmit, &out, writable);
            }
            None => add(&self.shared.counters.stray, 1),
        }
        self.burst = out;
    }

    /// Decides about a client that wants to connect; what it is sent, if anything.
    fn admit(&mut self, now: Instant, incoming: Incoming, out: &mut Vec<u8>) -> Option<Transmit> {
        let limits = &self.shared.limits;
        let counters = &self.shared.counters;
        let is_full = self.quic.open_connections() >= limits.connections_max
            || self.handshakes >= limits.handshakes_max;
        if is_full || self.ending.is_some() {
            add(&counters.refused, 1);
            return Some(self.quic.refuse(incoming, out));
        }
        let is_busy = self.handshakes >= limits.handshakes_unproved_max;
        if is_busy && !incoming.remote_address_validated() && incoming.may_retry() {
            add(&counters.retried, 1);
            return self.quic.retry(incoming, out).ok();
        }
        match self.quic.accept(incoming, now, out, None) {
            Ok((handle, quic)) => {
                add(&counters.accepted, 1);
                counters.open.set(counters.open.get() + 1);
                self.serial += 1;
                self.handshakes += 1;
                let key = ConnectionKey {
                    index: handle.0,
                    serial: self.serial,
                };
                if self.connections.len() <= handle.0 {
                    self.connections.resize_with(handle.0 + 1, || None);
                }
                self.handshake_ends
                    .push_back((now + limits.handshake_timeout, key));
                let connection = self.connections[handle.0].insert(Connection::new(key, quic));
                mark(connection, &mut self.dirty);
                None
            }
            Err(error) => {
                add(&counters.handshakes_failed, 1);
                tracing::debug!(error = %error.cause, "a client could not connect over QUIC");
                error.response
            }
        }
    }

    fn take_answers(&mut self, now: Instant) {
        let mut answered = std::mem::take(&mut self.answered);
        self.shared.answers.take(&mut answered);
        for one in answered.drain(..) {
            let key = one.of.connection;
            // One for a connection that is gone takes back what it gave.
            if let Some(connection) = self.connections.get_mut(key.index).and_then(Option::as_mut)
                && connection.key == key
            {
                connection.handle_answered(now, one, &mut self.shared);
                mark(connection, &mut self.dirty);
            }
        }
        self.answered = answered;
    }

    fn fire(&mut self, now: Instant) {
        while let Some((at, index)) = self.alarms.first().copied()
            && at <= now
        {
            self.alarms.pop_first();
            let connection = self.connections[index].as_mut();
            let connection = connection.expect("what is gone has no alarm");
            connection.armed = None;
            if connection.quic.poll_timeout().is_some_and(|at| at <= now) {
                let was_at = connection.quic.remote_address();
                connection.quic.handle_timeout(now);
                if connection.quic.remote_address() != was_at {
                    // The client's new address did not prove itself and the one before counts
                    // again, with nothing in flight: without a word there, nothing would tell
                    // that what was sent to the other is lost.
                    connection.quic.ping();
                }
            }
            mark(connection, &mut self.dirty);
        }
        self.end_slow_handshakes(now);
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(now);
        }
        let has_reason = self.shared.partials.streams > 0 || self.shared.has_deliveries;
        if self.look_at.is_none() && has_reason {
            self.look_at = Some(now + LOOK_EVERY);
        }
    }

    /// Looks at all connections for what takes too long.
    fn look(&mut self, now: Instant) {
        self.look_at = None;
        self.shared.has_deliveries = false;
        for connection in self.connections.iter_mut().flatten() {
            if connection.handle_slow_frames(now, &mut self.shared) {
                mark(connection, &mut self.dirty);
            }
            if connection.is_unreachable(now, &self.shared.limits) {
                let peer = connection.quic.remote_address();
                tracing::debug!(%peer, "a QUIC client acknowledges nothing: its leases go back");
                add(&self.shared.counters.timed_out, 1);
                let why = Bytes::from_static(b"nothing was acknowledged for too long");
                connection.forget_all(&mut self.shared);
                connection.quic.close(now, reason::UNREACHABLE, why);
                mark(connection, &mut self.dirty);
            }
            self.shared.has_deliveries |= connection.settle_deliveries();
        }
    }

    /// Gives up handshakes that took too long, so that clients which begin many and finish none
    /// do not keep others out.
    fn end_slow_handshakes(&mut self, now: Instant) {
        while let Some((at, key)) = self.handshake_ends.front().copied()
            && at <= now
        {
            self.handshake_ends.pop_front();
            if let Some(connection) = self.connections[key.index].as_mut()
                && connection.key == key
                && !connection.is_established
                && !connection.quic.is_closed()
            {
                add(&self.shared.counters.handshakes_failed, 1);
                let why = Bytes::from_static(b"the handshake took too long");
                connection.quic.close(now, reason::OVERLOADED, why);
                mark(connection, &mut self.dirty);
            }
        }
    }

    /// Gives each connection that has something to do its turn.
    fn drive(&mut self, now: Instant, writable: &Cell<bool>) {
        for _ in 0..self.dirty.len() {
            if !self.unsent.is_empty() {
                return;
            }
            let Some(index) = self.dirty.pop_front() else {
                return;
            };
            let Some(mut connection) = self.connections[index].take() else {
                continue;
            };
            connection.is_dirty = false;
            if self.drive_one(now, &mut connection, writable) {
                self.shared.has_deliveries |= connection.settle_deliveries();
                let slot = self.connections[index].insert(connection);
                arm(slot, &mut self.alarms);
            } else {
                connection.forget_all(&mut self.shared);
                if let Some(at) = connection.armed {
                    self.alarms.remove(&(at, index));
                }
                let open = &self.shared.counters.open;
                open.set(open.get() - 1);
                if !connection.is_established {
                    self.handshakes -= 1;
                }
            }
        }
    }

    /// False once nothing is left of the connection.
    fn drive_one(
        &mut self,
        now: Instant,
        connection: &mut Connection<S>,
        writable: &Cell<bool>,
    ) -> bool {
        let mut is_gone = false;
        loop {
            while let Some(event) = connection.quic.poll() {
                self.handle(now, connection, event);
            }
            let mut has_told = false;
            while let Some(event) = connection.quic.poll_endpoint_events() {
                is_gone |= event.is_drained();
                let handle = ConnectionHandle(connection.key.index);
                if let Some(event) = self.quic.handle_event(handle, event) {
                    connection.quic.handle_event(event);
                    has_told = true;
                }
            }
            if !has_told {
                break;
            }
        }
        if connection.is_given_up {
            // There is nothing more to say, and where a client does that in the first datagram that
            // comes of it, quinn-proto would keep the connection for the whole idle timeout.
            let handle = ConnectionHandle(connection.key.index);
            if !is_gone {
                let _ = self.quic.handle_event(handle, EndpointEvent::drained());
            }
            return false;
        }
        let burst_max = self.socket.burst_max(connection.quic.current_mtu());
        for _ in 0..BURSTS_PER_ROUND {
            self.burst.clear();
            let transmit = connection
                .quic
                .poll_transmit(now, burst_max, &mut self.burst);
            let Some(transmit) = transmit else {
                return !is_gone;
            };
            let burst = std::mem::take(&mut self.burst);
            self.send(transmit, &burst, writable);
            self.burst = burst;
            if !self.unsent.is_empty() {
                break;
            }
        }
        if !is_gone {
            mark(connection, &mut self.dirty);
        }
        !is_gone
    }

    fn handle(&mut self, now: Instant, connection: &mut Connection<S>, event: Event) {
        match event {
            Event::Stream(event) => {
                connection.handle_stream(now, event, &mut self.shared);
                if self.ending.is_some() {
                    connection.drain(&mut self.shared);
                }
            }
            Event::Connected => {
                connection.is_established = true;
                self.handshakes -= 1;
                if self.ending.is_some() {
                    connection.drain(&mut self.shared);
                }
            }
            Event::ConnectionLost { reason } => {
                self.count_lost(connection, &reason);
                connection.is_given_up = !connection.is_established
                    && matches!(
                        reason,
                        ConnectionError::ConnectionClosed(_)
                            | ConnectionError::ApplicationClosed(_)
                    );
                connection.forget_all(&mut self.shared);
            }
            Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
        }
    }

    fn count_lost(&self, connection: &Connection<S>, reason: &ConnectionError) {
        let counters = &self.shared.counters;
        let peer = connection.quic.remote_address();
        let counter = match reason {
            ConnectionError::LocallyClosed | ConnectionError::ApplicationClosed(_) => return,
            _ if !connection.is_established => &counters.handshakes_failed,
            ConnectionError::TimedOut => &counters.timed_out,
            // A client that ends without a word of ours.
            ConnectionError::ConnectionClosed(_) => return,
            _ => &counters.failed,
        };
        add(counter, 1);
        tracing::debug!(%peer, %reason, "a QUIC connection was lost");
    }

    fn send(&mut self, transmit: Transmit, bytes: &[u8], writable: &Cell<bool>) {
        let datagrams = match transmit.segment_size {
            Some(size) => transmit.size.div_ceil(size),
            None => 1,
        };
        if self.unsent.is_empty() {
            match self.socket.send(&transmit, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    add(&self.shared.counters.blocked, 1);
                    writable.set(false);
                }
                Err(error) => tracing::debug!(%error, "a datagram could not be sent"),
                Ok(()) => add(&self.shared.counters.datagrams_out, datagrams as u64),
            }
            if writable.get() {
                return;
            }
        }
        if self.unsent.len() < UNSENT_MAX {
            let bytes = Bytes::copy_from_slice(&bytes[..transmit.size]);
            self.unsent.push_back((transmit, bytes));
        }
    }

    fn send_unsent(&mut self, writable: &Cell<bool>) {
        while let Some((transmit, bytes)) = self.unsent.front() {
            match self.socket.send(transmit, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    writable.set(false);
                    return;
                }
                // Lost, as far as QUIC is concerned.
                _ => drop(self.unsent.pop_front()),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let closing = self.ending.filter(|_| !self.are_closed || self.has_open());
        if !self.unsent.is_empty() {
            // Timers wait for the socket.
            return closing;
        }
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let handshake = self.handshake_ends.front().map(|(at, _)| *at);
        [alarm, handshake, self.look_at, closing]
            .into_iter()
            .flatten()
            .min()
    }

    fn has_open(&self) -> bool {
        self.shared.counters.open.get() > 0
    }

    fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Takes nothing new from now on.
    fn end(&mut self, now: Instant) {
        self.ending = Some(now + self.shared.limits.close_timeout);
        for connection in self.connections.iter_mut().flatten() {
            connection.drain(&mut self.shared);
            mark(connection, &mut self.dirty);
        }
    }

    /// Closes connections that have nothing left to do, all of them when time is up.
    fn close_drained(&mut self, now: Instant) {
        let is_late = self.ending.is_some_and(|at| at <= now);
        let mut all = true;
        for connection in self.connections.iter_mut().flatten() {
            connection.drain(&mut self.shared);
            if connection.quic.is_closed() {
                continue;
            }
            if connection.is_drained() && connection.quic.streams().send_streams() == 0 || is_late {
                let why = Bytes::from_static(b"the server is ending");
                connection.quic.close(now, reason::ENDING, why);
                mark(connection, &mut self.dirty);
            } else {
                all = false;
            }
        }
        self.are_closed = all;
    }

    /// Whether there is nothing left to serve.
    fn is_over(&self, now: Instant) -> bool {
        self.are_closed && (self.is_late(now) || (self.unsent.is_empty() && !self.has_open()))
    }

    /// Forgets connections whose clients were told that it is over and may not have heard it:
    /// QUIC would wait for a few of their round trips, which can be longer than the node has.
    fn abandon(&mut self) {
        for mut connection in self.connections.drain(..).flatten() {
            connection.forget_all(&mut self.shared);
        }
        self.shared.counters.open.set(0);
    }

    fn is_late(&self, now: Instant) -> bool {
        self.ending.is_some_and(|at| at <= now)
    }
}

/// Has a connection its turn.
fn mark<S: FrameService>(connection: &mut Connection<S>, dirty: &mut VecDeque<usize>) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push_back(connection.key.index);
    }
}

/// Has a connection's timer looked at in time. An alarm that is too early is left: it costs a look,
/// once, where setting it anew would cost one for every datagram.
fn arm<S: FrameService>(connection: &mut Connection<S>, alarms: &mut BTreeSet<(Instant, usize)>) {
    let Some(at) = connection.quic.poll_timeout() else {
        return;
    };
    let index = connection.key.index;
    match connection.armed {
        Some(armed) if armed <= at => return,
        Some(armed) => drop(alarms.remove(&(armed, index))),
        None => {}
    }
    connection.armed = Some(at);
    alarms.insert((at, index));
}
