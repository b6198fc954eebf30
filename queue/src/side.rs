//! A table beside the items, for what only some shards keep of them: rows by
//! slot, in chunks that are made when they are first needed.

/// Rows that are made at once.
const CHUNK_ROWS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Side<T> {
    chunks: Vec<Option<Box<[T]>>>,
    /// What a row is until it is set.
    blank: T,
}

impl<T: Clone> Side<T> {
    pub(crate) fn new(blank: T) -> Side<T> {
        Side {
            chunks: Vec::new(),
            blank,
        }
    }

    #[inline]
    pub(crate) fn get(&self, row: u32) -> &T {
        let row = row as usize;
        match self.chunks.get(row / CHUNK_ROWS) {
            Some(Some(chunk)) => &chunk[row % CHUNK_ROWS],
            _ => &self.blank,
        }
    }

    /// A row to be changed; makes its chunk if there is none.
    pub(crate) fn get_mut(&mut self, row: u32) -> &mut T {
        let row = row as usize;
        let (chunk, offset) = (row / CHUNK_ROWS, row % CHUNK_ROWS);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let blank = &self.blank;
        let rows = self.chunks[chunk]
            .get_or_insert_with(|| vec![blank.clone(); CHUNK_ROWS].into_boxed_slice());
        &mut rows[offset]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_blank_until_it_is_set_and_takes_a_chunk_only_then() {
        let mut side = Side::new(7);
        assert_eq!(*side.get(u32::MAX), 7);
        *side.get_mut(9000) = 1;
        assert_eq!([*side.get(9000), *side.get(9001), *side.get(0)], [1, 7, 7]);
        assert_eq!(side.chunks.iter().filter(|c| c.is_some()).count(), 1);
    }
}
