//! The refusals a node can give, in words that say what to do.

use omnirelay_net::rpc::Error;

pub(super) fn none_available() -> Error {
    Error::none_available("no item became ready while the call waited; ask again, or raise waitMs")
}

pub(super) fn deadline() -> Error {
    Error::deadline(
        "the call's time ran out before its outcome was certain; retry with the same requestId or token, or raise the ttl",
    )
}

pub(super) fn draining() -> Error {
    Error::peer_unavailable("the node is shutting down; retry on another node or when it is back")
}

pub(super) fn backpressure(why: &str) -> Error {
    Error::backpressure(format!(
        "the queue is full: {why}; retry later or raise the limit"
    ))
}

pub(super) fn at_capacity() -> Error {
    backpressure("the namespace is at its `capacity`")
}

pub(super) fn dedupe_full() -> Error {
    backpressure("`dedupe_entries_max` request ids are within the dedupe window")
}

pub(super) fn item_not_found() -> Error {
    Error::item_not_found(
        "the item is not there: it was completed, cancelled or drained, or the number was never an item's",
    )
}

pub(super) fn storage_full() -> Error {
    Error::storage_full(
        "the disk has no room for new work; free space under the data directory, it clears by itself",
    )
}

pub(super) fn durability_lost(why: &str) -> Error {
    Error::durability_lost(format!(
        "the log can no longer be written ({why}); what was acknowledged is safe, restart the node once the disk is sound"
    ))
}

pub(super) fn unknown_token() -> Error {
    Error::unknown_token(
        "this node never issued the token: check that sequenceId, attempt and leaseId were copied unchanged",
    )
}

pub(super) fn not_owner() -> Error {
    Error::not_owner(
        "the token was issued after this node's state: it is not the shard's current owner",
    )
}

pub(super) fn fenced(reason: Option<&str>) -> Error {
    let error = Error::fenced(match reason {
        Some("completed") => "the lease has ended: the item was completed",
        Some("failed") => "the lease has ended: the item was failed",
        Some("expired") => "the lease has ended: it expired without a heartbeat",
        _ => "the lease has ended: the item was handed out again since",
    });
    match reason {
        Some(reason) => error.with("reason", reason),
        None => error,
    }
}

pub(super) fn unreadable(why: &str) -> Error {
    Error::internal(format!(
        "the item's payload could not be read back ({why}); it stays in the queue"
    ))
}
