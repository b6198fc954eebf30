//! The codes of [`super::Reason`]: why an item is where it is. Each says which metadata it has.

/// A worker has it: `ownerPeerId`, `leaseExpiresAt`.
pub const LEASED: &str = "leased";
/// Its delay has not ended: `until`, and `afterFailure`, `true` or `false`.
pub const DELAYED: &str = "delayed";
/// An item of its resource goes first: `sequenceId` and `state` of that one.
pub const BEHIND_ITEM: &str = "behind_item";
/// Others go first: `ahead`, how many at least; `aheadIsCut`, whether there may be more;
/// `effectivePriority`.
pub const POSITION: &str = "position";
/// Partition keys take turns: `partitionKey`, its `weight`, `keysWaiting`, and `position`, the
/// turns of other keys before its own; `positionIsCut`, whether there may be more.
pub const KEY_SHARE: &str = "key_share";
/// No call waits for an item of this namespace: `waiting`, which is 0.
pub const NO_WORKER: &str = "no_worker";
/// The namespace takes no new items: `live`, `low`, `high`, `capacity`.
pub const BACKPRESSURE: &str = "backpressure";
/// The log of its shard hands out nothing: `state`, `full` or `failed`.
pub const STORAGE: &str = "storage";
/// It was given up on: `attempts`.
pub const DEAD: &str = "dead";
/// It is gone: `reason`, how its last lease ended, where that is remembered.
pub const GONE: &str = "gone";
