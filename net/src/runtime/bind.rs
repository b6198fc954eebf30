//! Binding a port for several cores that no other process shares unnoticed.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections the kernel holds for a listener until they are accepted.
///
/// The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A connection on which nothing has come for so long is asked whether its other
/// end is still there, again and again at [`PROBE_EVERY`], until [`PROBES_MAX`]
/// in a row had no answer: a client that waits for what it is sent may be quiet
/// for ever, and one that has lost its power is just as quiet.
const QUIET_MAX: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES_MAX: u32 = 4;

/// How long a port that is in use is tried again.
///
/// The kernel lets go of a killed process's sockets a little after the process
/// itself where io_uring holds them, and a restart must not stumble over that.
const IN_USE_PATIENCE: Duration = Duration::from_secs(1);

/// Binds and listens on `addr` if nobody else does. Port 0 picks a free one.
/// Tries for up to a second while somebody does; blocks meanwhile.
///
/// # Errors
///
/// Names the address; [`io::ErrorKind::AddrInUse`] if a listener has it, one
/// with `SO_REUSEPORT` included.
pub fn bind_exclusive(addr: SocketAddr) -> io::Result<TcpListener> {
    patiently(addr, || listen(addr, false))
}

/// Tries for a while to get a port that is in use.
fn patiently<T>(addr: SocketAddr, bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match bind() {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < IN_USE_PATIENCE =>
            {
                thread::sleep(IN_USE_PATIENCE / 50);
            }
            done => return done.map_err(|error| refused(addr, &error)),
        }
    }
}

/// Binds and listens on `addr` together with others that do so by this function.
///
/// # Errors
///
/// Names the address; [`io::ErrorKind::AddrInUse`] if a listener has it without
/// `SO_REUSEPORT`, or as another user.
pub fn bind_reuse_port(addr: SocketAddr) -> io::Result<TcpListener> {
    listen(addr, true).map_err(|error| refused(addr, &error))
}

/// Binds `addr` for `n` cores: `n` listeners of one port, among which the
/// kernel spreads connections. Port 0 picks a free one. Also returns the
/// address with its real port.
///
/// The first listener is bound exclusively, so it fails if any other process
/// has the port, a second one of this program included; then it is opened to
/// sharing without ever letting go of the port. (A process of the same user
/// that asks for `SO_REUSEPORT` at once, without asking for the port exclusively
/// first, can still join: the kernel has no way to close a shared port again.)
///
/// # Errors
///
/// Names the address; [`io::ErrorKind::AddrInUse`] if the port is taken.
///
/// # Panics
///
/// If `n` is 0.
pub fn bind_cores(addr: SocketAddr, n: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    assert!(n > 0, "a port is bound for at least one core");
    let first = bind_exclusive(addr)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    if n > 1 {
        let first = Socket::from(listeners.pop().expect("just bound"));
        first.set_reuse_port(true)?;
        listeners.push(first.into());
        for _ in 1..n {
            listeners.push(bind_reuse_port(bound)?);
        }
    }
    Ok((bound, listeners))
}

/// As [`bind_cores`], for UDP.
///
/// # Errors
///
/// As [`bind_cores`].
///
/// # Panics
///
/// If `n` is 0.
pub fn bind_udp_cores(addr: SocketAddr, n: usize) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    assert!(n > 0, "a port is bound for at least one core");
    let first = patiently(addr, || datagrams(addr, false))?;
    let bound = first.local_addr()?;
    // Those who come later may join from here on; a socket that asked before was refused.
    socket2::SockRef::from(&first).set_reuse_port(n > 1)?;
    let mut sockets = vec![first];
    for _ in 1..n {
        sockets.push(datagrams(bound, true).map_err(|error| refused(bound, &error))?);
    }
    Ok((bound, sockets))
}

fn datagrams(addr: SocketAddr, reuse_port: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        // As TCP does here: an address of one family is of that family alone unless it is the
        // unspecified one.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&addr.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn listen(addr: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted connections inherit it.
    let keepalive = TcpKeepalive::new()
        .with_time(QUIET_MAX)
        .with_interval(PROBE_EVERY)
        .with_retries(PROBES_MAX);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&addr.into())?;
    // Two sockets with SO_REUSEADDR may both bind; only one may listen.
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn refused(addr: SocketAddr, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "another process uses it already".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {why}"))
}
