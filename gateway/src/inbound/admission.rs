//! What every face does with a call between its head and its outcome.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use omnirelay_net::http::{BodyError, DeliveryBody};
use omnirelay_net::rpc::{Call, Error, Request, RequestHead};
use omnirelay_queue::Nanos;
use omnirelay_wal::Disk;

use super::account::Account;
use super::budget::{BodyBudget, BodyShare, OPEN_CALLS_MAX};
use super::line_limit::LineLimit;
use crate::cores::CoreCell;
use crate::node::{CallContext, GrantRef, NamespaceId, OWNER_BYTES_MAX, Outcome};
use crate::replication::Subscriptions;
use crate::telemetry::Tracer;

/// A reply leaves this share of the ttl before the deadline, so that it is there in time.
const REPLY_MARGIN_SHARE: u32 = 8;
/// The least: timers are up to two milliseconds late.
const REPLY_MARGIN_MIN: Duration = Duration::from_millis(3);
/// The most that a reply leaves before its deadline.
const REPLY_MARGIN_MAX: Duration = Duration::from_millis(20);

/// Lets calls in to one core, within its limits.
pub(super) struct Admission<D: Disk> {
    pub(super) cell: Rc<CoreCell<D>>,
    pub(super) body_bytes_max: usize,
    /// Which calls are recorded, if any are.
    pub(super) tracer: Option<Tracer>,
    /// Where subscribers of the replication stream are handed over.
    pub(super) subscriptions: Subscriptions,
    /// Bounds the lines about errors of our own making.
    pub(super) internal_errors: RefCell<LineLimit>,
    budget: BodyBudget,
}

/// When a call came, and by when its reply has to leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) started: Instant,
    pub(super) reply_by: Instant,
}

impl Term {
    /// Of a call that came at `started` and has until `ttl` later.
    pub(super) fn new(started: Instant, ttl: Duration) -> Term {
        let margin = (ttl / REPLY_MARGIN_SHARE).clamp(REPLY_MARGIN_MIN, REPLY_MARGIN_MAX);
        Term {
            started,
            reply_by: started + ttl.saturating_sub(margin),
        }
    }
}

impl<D: Disk> Admission<D> {
    /// To the core of `cell`; bodies above `body_bytes_max` are refused.
    pub(super) fn new(
        cell: Rc<CoreCell<D>>,
        body_bytes_max: usize,
        tracer: Option<Tracer>,
        subscriptions: Subscriptions,
    ) -> Admission<D> {
        Admission {
            cell,
            body_bytes_max,
            tracer,
            subscriptions,
            internal_errors: RefCell::default(),
            budget: BodyBudget::default(),
        }
    }

    /// The namespace of a name.
    pub(super) fn namespace(&self, name: &str) -> Result<NamespaceId, Error> {
        let layout = self.cell.layout();
        layout.find_namespace(name).ok_or_else(|| {
            let names = layout.namespaces().iter();
            let names: Vec<&str> = names.map(|namespace| namespace.name.as_str()).collect();
            Error::namespace_unknown(format!(
                "no namespace `{name}`; this node has {}",
                names.join(", ")
            ))
        })
    }

    /// Checks that the core takes another call at all.
    pub(super) fn check_open_calls(&self) -> Result<(), Error> {
        if self.cell.open_calls() < OPEN_CALLS_MAX {
            return Ok(());
        }
        Err(Error::rate_limited(
            "this core holds as many unanswered calls as it may; retry later",
        ))
    }

    /// Takes room for a body that may have so many bytes, until it is dropped.
    pub(super) fn take_room(&self, bytes: usize) -> Result<BodyShare, Error> {
        self.budget.take(bytes).ok_or_else(|| {
            Error::rate_limited(
                "this core holds as many large bodies and pages as it may; retry later, or in smaller parts",
            )
        })
    }

    /// Hands a call to the core and waits for its outcome; `account` is told when.
    pub(super) async fn call(
        &self,
        head: &RequestHead<'_>,
        namespace: NamespaceId,
        request: Request,
        term: Term,
        account: &mut Account<D>,
    ) -> Outcome {
        match self.context(head, namespace, &request, term, account) {
            Ok(context) => self.cell.call(request, &context).await,
            Err(error) => refused(error),
        }
    }

    /// What the core is told of a call that is handed to it now.
    pub(super) fn context(
        &self,
        head: &RequestHead<'_>,
        namespace: NamespaceId,
        request: &Request,
        term: Term,
        account: &mut Account<D>,
    ) -> Result<CallContext, Error> {
        let owner = owner(head, request);
        if owner.len() > OWNER_BYTES_MAX {
            return Err(Error::payload_too_large(format!(
                "the owner of a lease is at most {OWNER_BYTES_MAX} bytes"
            )));
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let left = nanos(term.reply_by.saturating_duration_since(term.started));
        let spent = nanos(term.started.elapsed());
        let now = self.cell.clock().now();
        account.hand(now, request);
        Ok(CallContext {
            namespace,
            owner,
            shard_key: head.shard_key.as_deref().map(str::to_owned),
            reply_by: Nanos(now.0.saturating_sub(spent).saturating_add(left)),
        })
    }

    /// A response with such a body.
    pub(super) fn deliver(
        &self,
        response: Response<Bytes>,
        grants: Vec<GrantRef>,
    ) -> Response<DeliveryBody> {
        response.map(|body| self.body(body, grants))
    }

    /// A body of these bytes; grants in it go back if it is never taken.
    pub(super) fn body(&self, bytes: Bytes, grants: Vec<GrantRef>) -> DeliveryBody {
        if grants.is_empty() {
            return DeliveryBody::new(bytes);
        }
        let cell = Rc::clone(&self.cell);
        DeliveryBody::or_undo(bytes, move || cell.undelivered(grants))
    }
}

/// A call that got no further.
pub(super) fn refused(error: Error) -> Outcome {
    Outcome {
        reply: Err(error),
        shard: None,
        grants: Vec::new(),
        dispatched_at: None,
    }
}

/// What is wrong with a body, in words its sender can act on.
pub(super) fn unread(error: BodyError) -> Error {
    match error {
        BodyError::TooLarge { max } => too_large(max),
        BodyError::TimedOut => Error::deadline("the request's body did not arrive within its ttl"),
        BodyError::Broken => Error::body_malformed("the request's body broke off"),
    }
}

pub(super) fn too_large(limit: usize) -> Error {
    Error::payload_too_large(format!(
        "the request's body is above {limit} bytes; send less, or smaller batches"
    ))
}

/// Who will own the leases: `peerId`, else `x-peer-id`, else the caller. Nobody if there are none.
fn owner(head: &RequestHead<'_>, request: &Request) -> String {
    let asked = match request {
        Request::Call(Call::Lease(request)) => request.peer_id.as_deref(),
        Request::Call(Call::LeaseBatch(request)) => request.peer_id.as_deref(),
        _ => return String::new(),
    };
    asked
        .or(head.peer_id.as_deref())
        .unwrap_or(&head.caller)
        .to_owned()
}
