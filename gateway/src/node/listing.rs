//! Showing the items of a namespace, a page at a time: shard by shard, each in its own order.

use omnirelay_net::messages::{DeadLettersResponse, ErrorInfo, PeekResponse, PendingItem};
use omnirelay_net::rpc::{BATCH_BYTES_MAX, BODY_BYTES_MAX, Error, PAGE_ITEMS_DEFAULT, Reply};
use omnirelay_queue::{Cursor, ItemView, Listing, Nanos, Origin, ShardId};
use omnirelay_wal::Disk;

use super::calls::{CallId, Walk};
use super::core::Core;
use super::execute::Decided;
use super::layout::NamespaceId;
use super::owned_log::HeldResult;
use super::part::{ItemResult, Part, Ticket};
use super::reads::RecordBytes;
use super::records;

/// Items that one step looks at in a shard.
const LOOK_MAX: usize = 4_096;
/// Steps of one page: most shards are empty, or give many items at once.
const STEPS_MAX: u32 = 8_192;
/// A page ends with the item that brings it above this: the largest still leaves it within what
/// a batch may be.
const PAGE_BYTES_MAX: usize = BATCH_BYTES_MAX - 2 * BODY_BYTES_MAX;

/// How far a page has come.
#[derive(Debug)]
pub(super) struct ListWalk {
    which: Listing,
    /// Which of the namespace's shards comes next, and where in it.
    index: u32,
    after: Option<Cursor>,
    max: usize,
    items: Vec<PendingItem>,
    bytes: usize,
    steps: u32,
}

/// A step of a page: some items of one shard.
#[derive(Debug)]
pub(super) struct ListWish {
    shard: ShardId,
    which: Listing,
    after: Option<Cursor>,
    max: usize,
    bytes_max: usize,
}

/// An item that is being shown.
pub(super) struct ListedItem {
    pub(super) view: ItemView,
    origin: Origin,
}

impl<D: Disk> Core<D> {
    /// Begins a page, or goes on where the one before it ended.
    pub(super) fn list(
        &mut self,
        now: Nanos,
        id: CallId,
        which: Listing,
        max: Option<u32>,
        cursor: Option<&str>,
    ) {
        let namespace = self.calls.get_mut(id).expect("just made").namespace;
        let shards = self.layout.namespace(namespace).shards;
        let (index, after) = match cursor.map_or(Some((0, None)), parse_cursor) {
            Some(place) if place.0 < shards => place,
            _ => {
                let what = "cursor is not one that a page of this namespace gave";
                return self.answer(id, Err(Error::body_malformed(what)));
            }
        };
        let walk = ListWalk {
            which,
            index,
            after,
            max: max.unwrap_or(PAGE_ITEMS_DEFAULT) as usize,
            items: Vec::new(),
            bytes: 0,
            steps: 0,
        };
        self.list_on(now, id, walk);
    }

    /// Takes in a step's items.
    pub(super) fn handle_listed(
        &mut self,
        id: CallId,
        mut walk: ListWalk,
        results: Vec<ItemResult>,
    ) {
        for result in results {
            match result {
                ItemResult::Listed(item) => {
                    walk.bytes += omnirelay_net::rpc::pending_item_bytes(&item);
                    walk.items.push(*item);
                }
                ItemResult::ListedTo(Some(next)) => walk.after = Some(next),
                ItemResult::ListedTo(None) => {
                    walk.after = None;
                    walk.index += 1;
                }
                ItemResult::Refused(error) => return self.answer(id, Err(*error)),
                _ => unreachable!("a step of a listing shows items"),
            }
        }
        self.walk_later(id, Walk::List(walk));
    }

    pub(super) fn list_on(&mut self, now: Nanos, id: CallId, mut walk: ListWalk) {
        let call = self.calls.get_mut(id).expect("only open calls walk");
        let namespace = call.namespace;
        let first = self.layout.namespace(namespace).first_shard;
        let is_over = walk.index >= self.layout.namespace(namespace).shards;
        let is_full = walk.items.len() >= walk.max || walk.bytes >= PAGE_BYTES_MAX;
        walk.steps += 1;
        if is_over || is_full || walk.steps > STEPS_MAX {
            let cursor = (!is_over).then(|| cursor_text(walk.index, walk.after));
            let reply = match walk.which {
                Listing::Waiting => Reply::Peek(PeekResponse {
                    items: walk.items,
                    cursor,
                }),
                Listing::Dead => Reply::DeadLetters(DeadLettersResponse {
                    items: walk.items,
                    cursor,
                }),
            };
            return self.answer(id, Ok(reply));
        }
        let shard = ShardId(first.0 + walk.index);
        let wish = ListWish {
            shard,
            which: walk.which,
            after: walk.after,
            max: walk.max - walk.items.len(),
            bytes_max: PAGE_BYTES_MAX - walk.bytes,
        };
        let call = self.calls.get_mut(id).expect("just seen");
        call.walk = Some(Box::new(Walk::List(walk)));
        call.outstanding = 1;
        let ticket = Ticket {
            core: self.id,
            call: id,
        };
        let log = self.layout.log_of(shard);
        self.dispatch(now, ticket, log, Part::List(namespace, wish));
    }

    pub(super) fn decide_list(
        &mut self,
        namespace: NamespaceId,
        log: usize,
        wish: &ListWish,
    ) -> Decided {
        let slot = self.locate(log, wish.shard);
        let owned = &self.logs[log].shards[slot];
        let shard = &owned.shard;
        let mut page = shard.list(wish.which, wish.after, wish.max, LOOK_MAX);
        let fitting = fitting(&page.items, wish.bytes_max);
        if fitting < page.items.len() {
            page = shard.list(wish.which, wish.after, fitting, LOOK_MAX);
        }
        let origin = self.layout.namespace(namespace).origin;
        let mut decided = Decided::with_capacity(page.items.len() + 1);
        if self.is_durable(namespace) {
            decided.batch = owned.last_batch;
        }
        for view in page.items {
            let item = ListedItem { view, origin };
            decided.push_held(HeldResult::Listed(Box::new(item)));
        }
        decided.push_held(HeldResult::Ready(ItemResult::ListedTo(page.next)));
        decided
    }

    /// An item as it is shown, with its payload if that can be read.
    pub(super) fn listed(&self, item: &ListedItem, bytes: &RecordBytes) -> ItemResult {
        let mut shown = records::listed(&item.view, item.origin);
        match (bytes.payload(), bytes.error_info()) {
            (Ok(payload), Ok(error)) => {
                shown.payload = Some(payload);
                shown.last_error = error;
            }
            (Err(why), _) | (_, Err(why)) => {
                shown.last_error = Some(ErrorInfo {
                    message: format!("what the item holds cannot be read back: {why}"),
                    code: Some("omnirelay.unreadable".to_owned()),
                    ..ErrorInfo::default()
                });
            }
        }
        ItemResult::Listed(Box::new(shown))
    }
}

/// How many items of a page are within so many bytes; at least one.
fn fitting(items: &[ItemView], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let too_many = items.iter().position(|view| {
        bytes += view.body_len as usize + view.last_error.map_or(0, |(_, len)| len as usize);
        bytes > bytes_max
    });
    too_many.map_or(items.len(), |at| at + 1)
}

/// Where a page ended: the shard's place in the namespace, and the queue's own cursor.
fn cursor_text(index: u32, after: Option<Cursor>) -> String {
    match after {
        None => format!("{index}"),
        Some(Cursor(a, b)) => format!("{index}-{a:x}-{b:x}"),
    }
}

fn parse_cursor(text: &str) -> Option<(u32, Option<Cursor>)> {
    let mut fields = text.split('-');
    let index = fields.next()?.parse().ok()?;
    let number = |field: &str| u64::from_str_radix(field, 16).ok();
    let after = match (fields.next(), fields.next()) {
        (None, _) => None,
        (Some(a), Some(b)) => Some(Cursor(number(a)?, number(b)?)),
        (Some(_), None) => return None,
    };
    fields.next().is_none().then_some((index, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_garbage_is_none() {
        for place in [(0, None), (15, Some(Cursor(u64::MAX, 0)))] {
            assert_eq!(parse_cursor(&cursor_text(place.0, place.1)), Some(place));
        }
        for text in ["", "x", "1-2", "1-2-", "1-2-3-4", "-1", "1-g-2"] {
            assert_eq!(parse_cursor(text), None, "{text}");
        }
    }
}
