//! Moves datagrams as the plan says.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};

use super::plan::{Fate, Path, Plan};

/// Clients of one network at a time. One more takes the place of the one that was silent for
/// longest.
const FLOWS_MAX: usize = 16;
/// Datagrams under way. More are lost, as in any network.
const UNDER_WAY_MAX: usize = 10_000;
/// Datagrams taken from a socket before the next one has its turn.
const TURN: usize = 64;
/// Datagrams of clients that are kept.
const RECORD_MAX: usize = 1_000;
/// No datagram is longer.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// A network; it ends with its handle.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where the server seems to be.
    pub(crate) address: SocketAddr,
    counts: Rc<Counts>,
    record: Rc<RefCell<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

/// What happened to datagrams, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) came: Cell<u64>,
    pub(crate) lost: Cell<u64>,
    pub(crate) doubled: Cell<u64>,
    pub(crate) rebound: Cell<u64>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Begins to stand for the server, at `address`.
    pub(crate) fn start(
        address: SocketAddr,
        server: SocketAddr,
        path: Path,
        seed: u64,
    ) -> io::Result<Proxy> {
        let socket = Socket::new(std::net::UdpSocket::bind(address)?)?;
        let address = socket.sending.local_addr()?;
        let counts = Rc::new(Counts::default());
        let record = Rc::<RefCell<Vec<Vec<u8>>>>::default();
        let driver = Driver {
            record: Rc::clone(&record),
            socket,
            server,
            path,
            up: Plan::new(path, seed),
            down: Plan::new(path, !seed),
            started: Instant::now(),
            flows: Vec::new(),
            under_way: BinaryHeap::new(),
            number: 0,
            alarm: Box::pin(sleep_until(Instant::now())),
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            counts: Rc::clone(&counts),
        };
        let task = tokio::task::spawn_local(driver.run());
        Ok(Proxy {
            address,
            counts,
            record,
            task,
        })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The first datagrams that clients sent.
    pub(crate) fn record(&self) -> Vec<Vec<u8>> {
        self.record.borrow().clone()
    }
}

/// A socket, and another handle of it for sending: tokio's would refuse to until it has been
/// polled.
struct Socket {
    receiving: UdpSocket,
    sending: std::net::UdpSocket,
}

/// A client, and the address that the server knows it by.
struct Flow {
    client: SocketAddr,
    upstream: Socket,
    binding: u128,
    heard: Instant,
}

/// A datagram under way; the heap has the soonest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    at: Instant,
    /// What is due at the same time keeps its order.
    number: u64,
    client: SocketAddr,
    goes_up: bool,
    bytes: Vec<u8>,
}

struct Driver {
    record: Rc<RefCell<Vec<Vec<u8>>>>,
    socket: Socket,
    server: SocketAddr,
    path: Path,
    up: Plan,
    down: Plan,
    started: Instant,
    flows: Vec<Flow>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
    alarm: Pin<Box<Sleep>>,
    buffer: Vec<u8>,
    counts: Rc<Counts>,
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

impl Driver {
    async fn run(mut self) {
        loop {
            poll_fn(|cx| self.poll(cx)).await;
            // A busy network leaves others their turns.
            tokio::task::yield_now().await;
        }
    }

    /// Ready after some work.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut has_worked = false;
        for _ in 0..TURN {
            let Poll::Ready(Some((bytes, client))) =
                receive(&self.socket.receiving, &mut self.buffer, cx)
            else {
                break;
            };
            has_worked = true;
            let bytes = self.buffer[..bytes].to_vec();
            if self.record.borrow().len() < RECORD_MAX {
                self.record.borrow_mut().push(bytes.clone());
            }
            self.take(client, true, bytes);
        }
        for index in 0..self.flows.len() {
            for _ in 0..TURN {
                let flow = &self.flows[index];
                let Poll::Ready(received) = receive(&flow.upstream.receiving, &mut self.buffer, cx)
                else {
                    break;
                };
                has_worked = true;
                // What the network says of an earlier datagram is nothing that arrives.
                if let Some((bytes, _)) = received {
                    let (client, bytes) = (flow.client, self.buffer[..bytes].to_vec());
                    self.take(client, false, bytes);
                }
            }
        }
        has_worked |= self.deliver();
        if has_worked {
            return Poll::Ready(());
        }
        let Some(Reverse(next)) = self.under_way.peek() else {
            return Poll::Pending;
        };
        self.alarm.as_mut().reset(next.at);
        self.alarm.as_mut().poll(cx)
    }

    fn take(&mut self, client: SocketAddr, goes_up: bool, bytes: Vec<u8>) {
        add(&self.counts.came);
        let now = Instant::now();
        let plan = if goes_up {
            &mut self.up
        } else {
            &mut self.down
        };
        let fate = plan.decide(now - self.started, bytes.len());
        let Fate::Arrives { after, again_after } = fate else {
            return add(&self.counts.lost);
        };
        if again_after.is_some() {
            add(&self.counts.doubled);
        }
        let copy = again_after.map(|after| (after, bytes.clone()));
        for (after, bytes) in copy.into_iter().chain([(after, bytes)]) {
            self.put(now + after, client, goes_up, bytes);
        }
    }

    fn put(&mut self, at: Instant, client: SocketAddr, goes_up: bool, bytes: Vec<u8>) {
        if self.under_way.len() == UNDER_WAY_MAX {
            return add(&self.counts.lost);
        }
        self.number += 1;
        self.under_way.push(Reverse(UnderWay {
            at,
            number: self.number,
            client,
            goes_up,
            bytes,
        }));
    }

    /// Delivers what is due; true if there was anything.
    fn deliver(&mut self) -> bool {
        let now = Instant::now();
        let mut has_any = false;
        while let Some(Reverse(next)) = self.under_way.peek()
            && next.at <= now
        {
            has_any = true;
            let Some(Reverse(due)) = self.under_way.pop() else {
                break;
            };
            // Without room in a socket it is lost.
            let sent = if due.goes_up {
                self.upstream(due.client, now)
                    .and_then(|upstream| upstream.sending.send(&due.bytes))
            } else {
                self.socket.sending.send_to(&due.bytes, due.client)
            };
            if sent.is_err() {
                add(&self.counts.lost);
            }
        }
        has_any
    }

    /// The socket by which the server knows a client now. What still comes to the one before is
    /// lost, as behind a router that has forgotten it.
    fn upstream(&mut self, client: SocketAddr, now: Instant) -> io::Result<&Socket> {
        let binding = self.path.binding(now - self.started);
        let found = self.flows.iter().position(|flow| flow.client == client);
        let index = match found {
            Some(index) => {
                let flow = &mut self.flows[index];
                flow.heard = now;
                if flow.binding != binding {
                    flow.upstream = bound_to(self.server)?;
                    flow.binding = binding;
                    add(&self.counts.rebound);
                }
                index
            }
            None => {
                if self.flows.len() == FLOWS_MAX {
                    let silent = self.flows.iter().enumerate();
                    let silent = silent.min_by_key(|(_, flow)| flow.heard);
                    let index = silent.map(|(index, _)| index).unwrap_or_default();
                    self.flows.swap_remove(index);
                }
                self.flows.push(Flow {
                    client,
                    upstream: bound_to(self.server)?,
                    binding,
                    heard: now,
                });
                self.flows.len() - 1
            }
        };
        Ok(&self.flows[index].upstream)
    }
}

impl Socket {
    fn new(sending: std::net::UdpSocket) -> io::Result<Socket> {
        sending.set_nonblocking(true)?;
        let receiving = UdpSocket::from_std(sending.try_clone()?)?;
        Ok(Socket { receiving, sending })
    }
}

fn bound_to(server: SocketAddr) -> io::Result<Socket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    Socket::new(socket)
}

/// A datagram; none for an error that an earlier one met.
fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    cx: &mut Context<'_>,
) -> Poll<Option<(usize, SocketAddr)>> {
    let mut buffer = ReadBuf::new(buffer);
    let received = std::task::ready!(socket.poll_recv_from(cx, &mut buffer));
    Poll::Ready(received.ok().map(|from| (buffer.filled().len(), from)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far longer than anything here takes.
    const BOUND: Duration = Duration::from_secs(10);

    /// A server that echoes, and what it knows its client by.
    async fn echo(path: Path) -> (Proxy, UdpSocket, UdpSocket) {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = UdpSocket::bind(any).await.unwrap();
        let to = server.local_addr().unwrap();
        let proxy = Proxy::start(any, to, path, 1).unwrap();
        let client = UdpSocket::bind(any).await.unwrap();
        client.connect(proxy.address).await.unwrap();
        (proxy, server, client)
    }

    async fn round(server: &UdpSocket, client: &UdpSocket) -> SocketAddr {
        let mut buffer = [0; 16];
        client.send(b"there").await.unwrap();
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        server.send_to(&buffer[..length], from).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"there");
        from
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let test = async { tokio::time::timeout(BOUND, test).await.unwrap() };
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn datagrams_go_there_and_back_after_their_delay() {
        run(async {
            let delay = Duration::from_millis(30);
            let path = Path {
                delay,
                ..Path::default()
            };
            let (proxy, server, client) = echo(path).await;
            let began = Instant::now();
            round(&server, &client).await;
            assert!(began.elapsed() >= delay * 2);
            assert_eq!(
                (proxy.counts().came.get(), proxy.counts().lost.get()),
                (2, 0)
            );
        });
    }

    #[test]
    fn the_server_sees_another_address_after_a_while() {
        run(async {
            let path = Path {
                rebind_every: Some(Duration::from_millis(50)),
                ..Path::default()
            };
            let (proxy, server, client) = echo(path).await;
            let before = round(&server, &client).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert_ne!(round(&server, &client).await, before);
            assert!(proxy.counts().rebound.get() >= 1);
        });
    }
}
