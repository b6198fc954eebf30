//! One open connection: one stream, all calls in flight on it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::frame::{FRAME_BYTES_MAX, Frame, FrameReader, ReplyFrame};
use omnirelay_net::messages::{LeaseResponse, SettleItem, SettleRequest};
use omnirelay_net::rpc::{Call, Encoding, Procedure, Reply, TraceContext, decode_reply};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::error::Error;

/// Calls on one connection at a time; a server works on no more.
const CALLS_MAX: usize = 4_096;
/// KiB of calls that wait to be sent. A call longer than all of it waits for all of it.
const OUTBOX_KIB_MAX: u32 = 64 << 10;
/// Calls for leases that were given up, and whose replies would be given back should they have
/// been under way already.
const LATE_MAX: usize = 1_024;

/// What the calls of a handle have in common.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) namespace: String,
    /// The trace that they are part of, and the span that they go under.
    pub(crate) trace: Option<TraceContext>,
}

/// A call as it goes out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) route: &'a Arc<Route>,
    pub(crate) procedure: Procedure,
    pub(crate) body: &'a [u8],
    pub(crate) ttl_ms: u32,
}

/// An open connection. It is closed with the last handle.
#[derive(Debug)]
pub(crate) struct Link {
    state: Mutex<State>,
    /// There is something to send, or nobody will send any more.
    woken: Arc<Notify>,
    /// Why it ended; `None` while it is good.
    ended: watch::Sender<Option<String>>,
    calls: Semaphore,
    room: Arc<Semaphore>,
    connection: quinn::Connection,
    /// Without it the connection has no socket.
    endpoint: quinn::Endpoint,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    outbox: Vec<Queued>,
    waiting: HashMap<u64, Waiting>,
    late: VecDeque<(u64, Grants)>,
    ended: bool,
}

/// A frame that waits to be sent, with the room it takes.
#[derive(Debug)]
struct Queued {
    id: u64,
    frame: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Result<ReplyFrame, Error>>,
    sent: bool,
    grants: Option<Grants>,
}

/// A call whose reply may bring leases, and what is needed to read it and give them back.
type Grants = (Arc<Route>, Procedure);

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"done");
        self.woken.notify_one();
    }
}

impl Link {
    /// Takes over a stream on which the hello was sent; returns once the server has answered it.
    pub(super) async fn start(
        endpoint: quinn::Endpoint,
        connection: quinn::Connection,
        out: SendStream,
        mut back: RecvStream,
    ) -> Result<Arc<Link>, String> {
        let mut reader = FrameReader::default();
        match next_frame(&mut reader, &mut back).await? {
            Frame::Welcome(_) => {}
            Frame::Farewell(error) => return Err(error.to_string()),
            _ => return Err("the server did not answer the hello".into()),
        }
        let woken = Arc::new(Notify::new());
        let link = Arc::new(Link {
            state: Mutex::default(),
            woken: Arc::clone(&woken),
            ended: watch::Sender::new(None),
            calls: Semaphore::new(CALLS_MAX),
            room: Arc::new(Semaphore::new(OUTBOX_KIB_MAX as usize)),
            connection,
            endpoint,
        });
        tokio::spawn(write(Arc::downgrade(&link), woken, out));
        tokio::spawn(read(Arc::downgrade(&link), reader, back));
        Ok(link)
    }

    /// Waits until the connection has ended, and says why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let why = ended.wait_for(Option::is_some).await;
        why.ok().and_then(|why| why.clone()).unwrap_or_default()
    }

    /// Closes the connection and waits until the server was told.
    pub(crate) async fn close(&self) {
        self.end("the client was closed");
        self.connection.close(VarInt::from_u32(0), b"done");
        self.endpoint.wait_idle().await;
    }

    /// Makes a call. A caller that does not wait for the reply takes the call back.
    pub(crate) async fn call(&self, call: Outgoing<'_>) -> Result<Bytes, Error> {
        let _call = self.calls.acquire().await.map_err(|_| Error::closed())?;
        let kib = u32::try_from(call.body.len() >> 10).unwrap_or(u32::MAX);
        let kib = kib.saturating_add(1).min(OUTBOX_KIB_MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        let room = room.map_err(|_| Error::closed())?;
        let mut flight = self.put(&call, room)?;
        let reply = (&mut flight.reply).await;
        flight.answered = true;
        match reply {
            Ok(reply) => Ok(reply?.outcome?),
            Err(_) => Err(Error::connection("it was closed", true)),
        }
    }

    fn put<'a>(
        &'a self,
        call: &Outgoing<'a>,
        room: OwnedSemaphorePermit,
    ) -> Result<Flight<'a>, Error> {
        let mut state = self.state();
        if state.ended {
            drop(state);
            let why = self.ended.borrow().clone().unwrap_or_default();
            return Err(Error::connection(&why, false));
        }
        state.last += 1;
        let id = state.last;
        let trace = call.route.trace.map(|trace| trace.to_string());
        let head = CallHead {
            id,
            procedure: &format!("{}::{}", call.route.namespace, call.procedure),
            ttl_ms: Some(call.ttl_ms),
            traceparent: trace.as_deref().unwrap_or_default(),
            ..CallHead::default()
        };
        let frame = encode::raw_call(&head, Encoding::Proto, call.body);
        let (sender, reply) = oneshot::channel();
        let waiting = Waiting {
            reply: sender,
            sent: false,
            grants: grants(call.route, call.procedure),
        };
        state.waiting.insert(id, waiting);
        let _room = Some(room);
        state.outbox.push(Queued { id, frame, _room });
        drop(state);
        self.woken.notify_one();
        Ok(Flight {
            link: self,
            id,
            route: call.route,
            procedure: call.procedure,
            reply,
            answered: false,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all calls. Those that were not sent certainly were not done.
    fn end(&self, why: &str) {
        let waiting = {
            let mut state = self.state();
            state.ended = true;
            state.outbox.clear();
            std::mem::take(&mut state.waiting)
        };
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why.to_owned());
            }
            first
        });
        for waiting in waiting.into_values() {
            let error = Error::connection(why, waiting.sent);
            // Whoever asked may have given up.
            let _ = waiting.reply.send(Err(error));
        }
        self.woken.notify_one();
    }

    fn take_outbox(&self) -> Vec<Queued> {
        let mut state = self.state();
        let queued = std::mem::take(&mut state.outbox);
        for queued in &queued {
            if let Some(waiting) = state.waiting.get_mut(&queued.id) {
                waiting.sent = true;
            }
        }
        queued
    }

    fn handle_reply(&self, reply: ReplyFrame) {
        let mut state = self.state();
        if let Some(waiting) = state.waiting.remove(&reply.id) {
            drop(state);
            // Its caller may leave at this very moment.
            if let Err(Ok(reply)) = waiting.reply.send(Ok(reply)) {
                self.give_back(waiting.grants, &reply);
            }
            return;
        }
        let place = state.late.iter().position(|(id, _)| *id == reply.id);
        let late = place.and_then(|place| state.late.remove(place));
        drop(state);
        self.give_back(late.map(|(_, grants)| grants), &reply);
    }

    /// Lets leases go that were granted to a call which nobody waited for any more.
    fn give_back(&self, grants: Option<Grants>, reply: &ReplyFrame) {
        let (Some((route, procedure)), Ok(body)) = (grants, &reply.outcome) else {
            return;
        };
        let leases = match decode_reply(procedure, Encoding::Proto, body) {
            Ok(Reply::Lease(lease)) => vec![lease],
            Ok(Reply::LeaseBatch(batch)) => batch.leases,
            _ => return,
        };
        let items = leases.into_iter().map(returned).collect();
        let call = Call::Settle(SettleRequest {
            items,
            ..SettleRequest::default()
        });
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        let head = CallHead {
            id,
            procedure: &format!("{}::{}", route.namespace, Procedure::Settle),
            ..CallHead::default()
        };
        if let Ok(frame) = encode::call(&head, Encoding::Proto, &call) {
            let _room = None;
            state.outbox.push(Queued { id, frame, _room });
        }
        drop(state);
        self.woken.notify_one();
    }
}

fn grants(route: &Arc<Route>, procedure: Procedure) -> Option<Grants> {
    let grants = matches!(procedure, Procedure::Lease | Procedure::LeaseBatch);
    grants.then(|| (Arc::clone(route), procedure))
}

/// A failure that lets the item be leased again at once.
fn returned(lease: LeaseResponse) -> SettleItem {
    SettleItem {
        ownership_token: lease.ownership_token,
        action: "fail".into(),
        reason: Some("the caller left before the lease arrived".into()),
        requeue: Some(true),
        delay_ms: Some(0),
        ..SettleItem::default()
    }
}

/// A call that has been made and not answered.
#[derive(Debug)]
struct Flight<'a> {
    link: &'a Link,
    id: u64,
    route: &'a Arc<Route>,
    procedure: Procedure,
    reply: oneshot::Receiver<Result<ReplyFrame, Error>>,
    answered: bool,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.reply.close();
        let mut state = self.link.state();
        let Some(waiting) = state.waiting.remove(&self.id) else {
            drop(state);
            if let Ok(Ok(reply)) = self.reply.try_recv() {
                let grants = grants(self.route, self.procedure);
                self.link.give_back(grants, &reply);
            }
            return;
        };
        if !waiting.sent {
            let id = self.id;
            state.outbox.retain(|queued| queued.id != id);
            return;
        }
        if let Some(grants) = waiting.grants {
            if state.late.len() == LATE_MAX {
                state.late.pop_front();
            }
            state.late.push_back((self.id, grants));
        }
        let _room = None;
        let frame = encode::cancel(self.id);
        let id = self.id;
        state.outbox.push(Queued { id, frame, _room });
        drop(state);
        self.link.woken.notify_one();
    }
}

/// Sends what is in the outbox, all of it at once.
async fn write(link: Weak<Link>, woken: Arc<Notify>, mut out: SendStream) {
    loop {
        woken.notified().await;
        let Some(queued) = link.upgrade().map(|link| link.take_outbox()) else {
            return;
        };
        let mut frames: Vec<Bytes> = queued.iter().map(|queued| queued.frame.clone()).collect();
        if let Err(error) = out.write_all_chunks(&mut frames).await {
            if let Some(link) = link.upgrade() {
                link.end(&error.to_string());
            }
            return;
        }
    }
}

/// Hands replies to those who wait for them.
async fn read(link: Weak<Link>, mut reader: FrameReader, mut back: RecvStream) {
    loop {
        let frame = next_frame(&mut reader, &mut back).await;
        let Some(link) = link.upgrade() else {
            return;
        };
        match frame {
            Ok(Frame::Reply(reply)) => link.handle_reply(reply),
            Ok(Frame::Farewell(error)) => return link.end(&error.to_string()),
            Ok(_) => {}
            Err(why) => return link.end(&why),
        }
    }
}

async fn next_frame(reader: &mut FrameReader, back: &mut RecvStream) -> Result<Frame, String> {
    loop {
        if let Some(frame) = reader.next(FRAME_BYTES_MAX).map_err(|e| e.to_string())? {
            return Frame::decode(&frame).map_err(|error| error.to_string());
        }
        match back.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => reader.push(chunk.bytes),
            Ok(None) => return Err("the server ended the stream".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}
