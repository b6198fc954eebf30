//! What became of every item: the proof that each acknowledged one was leased and completed
//! exactly once.

/// Items of one chunk; a chunk is freed when all of its items came to their proper end.
const CHUNK_ITEMS: usize = 1 << 16;

/// The server acknowledged the item.
const ACKNOWLEDGED: u8 = 1 << 0;
/// The server refused the item: it must never be seen again.
const REFUSED: u8 = 1 << 1;
/// The item was leased.
const LEASED: u8 = 1 << 2;
/// The item was completed.
const COMPLETED: u8 = 1 << 3;
/// The item was leased again, or completed again.
const DUPLICATE: u8 = 1 << 4;

const ENDED_WELL: u8 = ACKNOWLEDGED | LEASED | COMPLETED;

/// The states of all items of a run, by their number.
#[derive(Debug, Default)]
pub struct Ledger {
    /// `None` where every item ended well.
    chunks: Vec<Option<Box<Chunk>>>,
    items: u64,
    acknowledged: u64,
    completed: u64,
    unfinished: u64,
    duplicates: u64,
}

#[derive(Debug)]
struct Chunk {
    states: [u8; CHUNK_ITEMS],
    /// When each enqueue began, µs since the run did.
    began_us: [u32; CHUNK_ITEMS],
    ended_well: usize,
}

/// What the ledger says of a grant.
#[derive(Debug, PartialEq, Eq)]
pub enum Grant {
    /// The item's first, as it should be.
    First {
        /// When its enqueue began, µs since the run did.
        began_us: u32,
    },
    /// The item was leased before.
    Again,
    /// The item was never sent, or was refused.
    Impossible,
}

impl Ledger {
    /// Numbers `count` items that are about to be sent, and says when; the first number comes back.
    pub fn begin(&mut self, count: usize, began_us: u32) -> u64 {
        let first = self.items;
        for item in first..first + count as u64 {
            let (chunk, at) = split(item);
            if chunk == self.chunks.len() {
                self.chunks.push(Some(Chunk::new()));
            }
            let chunk = self.chunks[chunk]
                .as_mut()
                .expect("a chunk with unsent items is open");
            chunk.began_us[at] = began_us;
        }
        self.items += count as u64;
        first
    }

    /// The server took the item.
    pub fn acknowledge(&mut self, item: u64) {
        self.acknowledged += 1;
        let before = self.mark(item, ACKNOWLEDGED);
        // The worker may have heard of the item before its producer did.
        self.unfinished += u64::from(before & COMPLETED == 0);
    }

    /// The server refused the item.
    pub fn refuse(&mut self, item: u64) {
        self.mark(item, REFUSED);
    }

    /// A worker was given the item.
    pub fn grant(&mut self, item: u64) -> Grant {
        if item >= self.items {
            return Grant::Impossible;
        }
        let (chunk, at) = split(item);
        let Some(chunk) = &self.chunks[chunk] else {
            self.duplicates += 1;
            return Grant::Again;
        };
        let (state, began_us) = (chunk.states[at], chunk.began_us[at]);
        if state & LEASED != 0 {
            self.duplicate(item);
            Grant::Again
        } else {
            self.mark(item, LEASED);
            match state & REFUSED {
                0 => Grant::First { began_us },
                _ => Grant::Impossible,
            }
        }
    }

    /// The server took the item's completion.
    pub fn complete(&mut self, item: u64) {
        self.completed += 1;
        let before = self.mark(item, COMPLETED);
        if before & COMPLETED != 0 {
            self.duplicate(item);
        } else if before & ACKNOWLEDGED != 0 {
            self.unfinished -= 1;
        }
    }

    /// Completions the server took.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// Items the server acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Acknowledged items that are not completed: at the end of a run, the lost ones.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Items that were leased or completed more than once.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Counts an item as a duplicate, once. Of a freed chunk that is not known any more, and
    /// [`Ledger::grant`] has counted.
    fn duplicate(&mut self, item: u64) {
        let (chunk, _) = split(item);
        if self.chunks[chunk].is_some() && self.mark(item, DUPLICATE) & DUPLICATE == 0 {
            self.duplicates += 1;
        }
    }

    /// Adds to an item's state and says what it was. In a freed chunk every item ended well.
    fn mark(&mut self, item: u64, mark: u8) -> u8 {
        let (index, at) = split(item);
        let Some(chunk) = self.chunks[index].as_mut() else {
            return ENDED_WELL;
        };
        let before = chunk.states[at];
        let after = before | mark;
        chunk.states[at] = after;
        if after & ENDED_WELL == ENDED_WELL && before & ENDED_WELL != ENDED_WELL {
            chunk.ended_well += 1;
            if chunk.ended_well == CHUNK_ITEMS {
                self.chunks[index] = None;
            }
        }
        before
    }
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self {
            states: [0; CHUNK_ITEMS],
            began_us: [0; CHUNK_ITEMS],
            ended_well: 0,
        })
    }
}

/// The chunk of an item, and its place there.
fn split(item: u64) -> (usize, usize) {
    let item = usize::try_from(item).expect("items are counted in memory");
    (item / CHUNK_ITEMS, item % CHUNK_ITEMS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_leased_and_completed_once_is_fine() {
        let mut ledger = Ledger::default();
        let item = ledger.begin(1, 7);
        ledger.acknowledge(item);
        assert_eq!(ledger.unfinished(), 1);
        assert_eq!(ledger.grant(item), Grant::First { began_us: 7 });
        ledger.complete(item);
        assert_eq!(
            (ledger.unfinished(), ledger.duplicates(), ledger.completed()),
            (0, 0, 1)
        );
    }

    #[test]
    fn a_completion_may_overtake_the_acknowledgement() {
        let mut ledger = Ledger::default();
        let item = ledger.begin(1, 0);
        ledger.grant(item);
        ledger.complete(item);
        ledger.acknowledge(item);
        assert_eq!((ledger.unfinished(), ledger.duplicates()), (0, 0));
    }

    #[test]
    fn an_item_leased_or_completed_twice_is_one_duplicate() {
        let mut ledger = Ledger::default();
        let item = ledger.begin(1, 0);
        ledger.acknowledge(item);
        ledger.grant(item);
        assert_eq!(ledger.grant(item), Grant::Again);
        ledger.complete(item);
        ledger.complete(item);
        assert_eq!((ledger.unfinished(), ledger.duplicates()), (0, 1));
    }

    #[test]
    fn an_item_nobody_sent_or_the_server_refused_cannot_be_granted() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.grant(0), Grant::Impossible);
        let item = ledger.begin(1, 0);
        ledger.refuse(item);
        assert_eq!(ledger.grant(item), Grant::Impossible);
    }

    #[test]
    fn a_chunk_is_freed_and_still_knows_a_duplicate() {
        let mut ledger = Ledger::default();
        let items = ledger.begin(CHUNK_ITEMS + 1, 0)..(CHUNK_ITEMS + 1) as u64;
        for item in items {
            ledger.acknowledge(item);
            ledger.grant(item);
            ledger.complete(item);
        }
        assert!(ledger.chunks[0].is_none());
        assert!(ledger.chunks[1].is_some());
        assert_eq!(ledger.grant(3), Grant::Again);
        ledger.complete(3);
        assert_eq!((ledger.unfinished(), ledger.duplicates()), (0, 1));
    }
}
