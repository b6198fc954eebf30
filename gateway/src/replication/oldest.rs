//! From which event on the shards of a log can be read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::PoisonError;

use omnirelay_queue::{Carry, Event, ShardId, kind};
use omnirelay_wal::{Disk, ReadFrom};

use super::Replication;
use super::reader::{ReadError, past_damage};

impl<D: Disk> Replication<D> {
    /// The oldest event of each shard that is kept; for a shard of which none is, the next. Reads
    /// each log from its start until all its shards were seen, once after each time that the log
    /// gave something up.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn oldest(&self) -> Result<BTreeMap<ShardId, u64>, ReadError> {
        let mut all = BTreeMap::new();
        for log in 0..self.logs.len() {
            all.extend(past_damage(|start| self.oldest_of(log, start))?);
        }
        Ok(all)
    }

    fn oldest_of(
        &self,
        number: usize,
        start: ReadFrom,
    ) -> Result<BTreeMap<ShardId, u64>, ReadError> {
        let log = &self.logs[number];
        let mut batches = log.view().read_from(start, Some(log.end()))?;
        let first = batches.position().segment;
        // Whoever panicked while holding it had replaced a whole entry, or none.
        let mut known = self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((segment, oldest)) = &known[number]
            && *segment == first
        {
            return Ok(oldest.clone());
        }
        let shards = self.layout.shards();
        let shards = shards.filter(|&shard| usize::from(self.layout.log_of(shard).0) == number);
        let mut missing = shards.count();
        let mut oldest = BTreeMap::new();
        while missing > 0 {
            let Some(batch) = batches.next_batch()? else {
                break;
            };
            for (header, _, body) in &batch.records {
                let lsn = match header.kind {
                    kind::CARRY => match Event::decode(header.kind, body) {
                        Ok(Event::Carry(Carry::Header { .. })) => header.lsn + 1,
                        _ => continue,
                    },
                    _ => header.lsn,
                };
                if let Entry::Vacant(unseen) = oldest.entry(ShardId(header.shard)) {
                    unseen.insert(lsn);
                    missing -= 1;
                }
            }
        }
        if missing == 0 {
            known[number] = Some((first, oldest.clone()));
        }
        Ok(oldest)
    }
}
