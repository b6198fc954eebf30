//! Two bits for each LSN, in pages that are made where something is marked
//! and are looked at again in the order in which they were made.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use crate::ids::{Lsn, Nanos};
use crate::split_table::mix;

pub(crate) const PAGE_LSNS: u64 = 1 << 16;
pub(crate) const PAGE_WORDS: usize = (PAGE_LSNS * 2 / 64) as usize;

/// Most pages: 64 MiB.
const PAGES_MAX: usize = 4096;

/// A page with fewer marks is not given up before its time: an entry in a
/// table takes some 60 bytes for each, a page 16 KiB for all.
const PAGE_MARKS_WORTH: u32 = 256;

#[derive(Debug)]
struct Page {
    number: u64,
    in_line_at: Nanos,
    last_at: Nanos,
    marks: u32,
    /// The words from the first to the last that is not zero.
    words: Range<usize>,
    bits: Box<[u64; PAGE_WORDS]>,
}

#[derive(Debug)]
pub(crate) struct Marks {
    /// In the order in which they were made or last looked at.
    pages: VecDeque<Page>,
    /// How many pages have left the front of `pages` so far: what a page's
    /// place in there is counted from.
    left: u64,
    places: HashMap<u64, u64, BuildHasherDefault<PageHasher>>,
    /// The place of the page that was marked last, likely the next one too.
    last: u64,
    /// The highest number of a page so far.
    highest: u64,
    /// Words of all pages, from the first to the last of each that is not zero.
    words: usize,
    /// A page to be used again.
    spare: Option<Box<[u64; PAGE_WORDS]>>,
    /// Pages were added that may not be in line by their time.
    is_unordered: bool,
}

/// Page numbers are counted, not chosen by anyone.
#[derive(Clone, Copy, Debug, Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(self.0 ^ number);
    }
}

impl Marks {
    pub(crate) fn new() -> Marks {
        Marks {
            pages: VecDeque::new(),
            left: 0,
            places: HashMap::default(),
            last: 0,
            highest: 0,
            words: 0,
            spare: None,
            is_unordered: false,
        }
    }

    /// Marks an LSN, which is not marked yet, with a number from 1 to 3. False
    /// when there may be no further page.
    #[inline]
    pub(crate) fn set(&mut self, lsn: Lsn, mark: u8, at: Nanos) -> bool {
        assert!((1..=3).contains(&mark), "{mark} does not fit two bits");
        let number = lsn.0 / PAGE_LSNS;
        let nth = match self.find(number) {
            Some(nth) => nth,
            None if self.make_room(number) => {
                self.push(number, at);
                self.pages.len() - 1
            }
            None => return false,
        };
        self.last = self.left + nth as u64;
        let page = &mut self.pages[nth];
        let (word, shift) = position(lsn);
        let before = page.bits[word];
        page.bits[word] |= u64::from(mark) << shift;
        page.marks += 1;
        page.last_at = at;
        if before == 0 {
            self.words += page.extend(word..word + 1);
        }
        true
    }

    /// Adds the marks of a page, whose words begin with the one of this number,
    /// as they were at `last_at`.
    pub(crate) fn add(
        &mut self,
        number: u64,
        last_at: Nanos,
        first_word: u16,
        words: impl Iterator<Item = u64>,
    ) {
        let nth = match self.find(number) {
            Some(nth) => nth,
            None if self.make_room(number) => {
                self.is_unordered = true;
                self.push(number, last_at);
                self.pages.len() - 1
            }
            None => return,
        };
        let page = &mut self.pages[nth];
        page.last_at = page.last_at.max(last_at);
        for (nth, word) in (usize::from(first_word)..PAGE_WORDS).zip(words) {
            page.marks += marks_in(word & !page.bits[nth]);
            page.bits[nth] |= word;
            if word != 0 {
                self.words += page.extend(nth..nth + 1);
            }
        }
    }

    /// Brings the pages into the order in which they are looked at, if they are
    /// not.
    pub(crate) fn restore_order(&mut self) {
        if !std::mem::take(&mut self.is_unordered) {
            return;
        }
        let by_time = |page: &Page| (page.in_line_at, page.number);
        self.pages.make_contiguous().sort_unstable_by_key(by_time);
        for (nth, page) in self.pages.iter().enumerate() {
            self.places.insert(page.number, self.left + nth as u64);
        }
    }

    pub(crate) fn page_numbers(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().map(|page| page.number)
    }

    /// When a page was last marked, and its words.
    pub(crate) fn page(&self, number: u64) -> Option<(Nanos, &[u64; PAGE_WORDS])> {
        let page = &self.pages[self.find(number)?];
        Some((page.last_at, &page.bits))
    }

    /// The mark of an LSN; 0 when it has none.
    pub(crate) fn get(&self, lsn: Lsn) -> u8 {
        let (word, shift) = position(lsn);
        self.find(lsn.0 / PAGE_LSNS)
            .map_or(0, |nth| (self.pages[nth].bits[word] >> shift) as u8 & 3)
    }

    /// Looks at the first page in line: if its last mark `is_over`, the page
    /// goes, otherwise it is in line again as of that mark. False when no
    /// page's turn has come.
    #[inline]
    pub(crate) fn sweep(&mut self, is_over: impl Fn(Nanos) -> bool) -> bool {
        match self.pages.front() {
            Some(page) if !is_over(page.in_line_at) => return false,
            Some(page) if is_over(page.last_at) => self.forget_first(),
            Some(_) => self.line_up_first(),
            None => return false,
        }
        true
    }

    /// How many pages there are.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Words of all pages, from the first to the last of each that is not zero.
    pub(crate) fn words(&self) -> usize {
        self.words
    }

    #[inline]
    fn find(&self, number: u64) -> Option<usize> {
        let last = self.last.wrapping_sub(self.left) as usize;
        match self.pages.get(last) {
            Some(page) if page.number == number => Some(last),
            _ => Some((self.places.get(&number)? - self.left) as usize),
        }
    }

    /// Makes sure that there may be one page more. LSNs ahead of all others
    /// take the place of the oldest ones; others do not.
    fn make_room(&mut self, number: u64) -> bool {
        if self.pages.len() < PAGES_MAX {
            return true;
        }
        let is_ahead = number > self.highest;
        let is_worth = self.pages[0].marks >= PAGE_MARKS_WORTH;
        if is_ahead && is_worth {
            self.forget_first();
        }
        is_ahead && is_worth
    }

    fn push(&mut self, number: u64, at: Nanos) {
        let bits = self.spare.take();
        self.highest = self.highest.max(number);
        self.line_up(Page {
            number,
            in_line_at: at,
            last_at: at,
            marks: 0,
            words: 0..0,
            bits: bits.unwrap_or_else(|| Box::new([0; PAGE_WORDS])),
        });
    }

    fn line_up(&mut self, page: Page) {
        let place = self.left + self.pages.len() as u64;
        self.places.insert(page.number, place);
        self.pages.push_back(page);
    }

    fn line_up_first(&mut self) {
        let mut page = self.pages.pop_front().expect("there is a first page");
        self.left += 1;
        page.in_line_at = page.last_at;
        self.line_up(page);
    }

    fn forget_first(&mut self) {
        let mut page = self.pages.pop_front().expect("there is a first page");
        self.left += 1;
        self.words -= page.words.len();
        self.places.remove(&page.number);
        page.bits.fill(0);
        self.spare = Some(page.bits);
    }
}

/// How many marks a word holds.
fn marks_in(word: u64) -> u32 {
    const LOW_BITS: u64 = u64::MAX / 3;
    ((word | word >> 1) & LOW_BITS).count_ones()
}

impl Page {
    /// Takes words in that are not zero now; returns how many words more there
    /// are from the first to the last.
    fn extend(&mut self, words: Range<usize>) -> usize {
        let before = self.words.len();
        self.words = match before {
            0 => words,
            _ => self.words.start.min(words.start)..self.words.end.max(words.end),
        };
        self.words.len() - before
    }
}

fn position(lsn: Lsn) -> (usize, u64) {
    let bit = (lsn.0 % PAGE_LSNS) * 2;
    ((bit / 64) as usize, bit % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const WINDOW: u64 = 100;

    fn is_over(now: u64) -> impl Fn(Nanos) -> bool {
        move |at| at.0 + WINDOW <= now
    }

    proptest! {
        #[test]
        fn marks_are_kept_for_the_window_and_their_pages_no_longer_than_two(
            ops in prop::collection::vec((0..8_u64, 0..50_u64, 1..4_u8, 0..20_u64), 1..300),
        ) {
            let mut marks = Marks::new();
            let mut model: BTreeMap<u64, (u8, u64)> = BTreeMap::new();
            let mut now = 0;
            for (page, nth, mark, wait) in ops {
                now += wait;
                while marks.sweep(is_over(now)) {}
                let lsn = page * PAGE_LSNS + nth * 1_009;
                let (kept, at) = model.get(&lsn).copied().unwrap_or((0, 0));
                if kept == 0 {
                    prop_assert_eq!(marks.get(Lsn(lsn)), 0);
                    prop_assert!(marks.set(Lsn(lsn), mark, Nanos(now)));
                    model.insert(lsn, (mark, now));
                } else if at + WINDOW > now {
                    prop_assert_eq!(marks.get(Lsn(lsn)), kept);
                }
                let last_of_page = |page| {
                    let lsns = page * PAGE_LSNS..(page + 1) * PAGE_LSNS;
                    model.range(lsns).map(|(_, (_, at))| *at).max()
                };
                let gone = |page| last_of_page(page).is_none_or(|at| at + 2 * WINDOW <= now);
                for page in (0..8).filter(|page| gone(*page)) {
                    prop_assert!(marks.find(page).is_none());
                }
                model.retain(|lsn, _| marks.find(lsn / PAGE_LSNS).is_some());
                let words = marks.pages.iter().map(|page| {
                    let first = page.bits.iter().position(|word| *word != 0);
                    let last = page.bits.iter().rposition(|word| *word != 0);
                    last.zip(first).map_or(0, |(last, first)| last + 1 - first)
                });
                prop_assert_eq!(marks.words(), words.sum::<usize>());
            }
        }
    }

    proptest! {
        #[test]
        fn pages_that_are_added_in_any_order_are_as_they_were(
            ops in prop::collection::vec((0..8_u64, 0..50_u64, 1..4_u8, 0..20_u64), 1..100),
            known in prop::collection::vec(any::<bool>(), 100),
            order in Just((0..8_u64).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let (mut marks, mut copy) = (Marks::new(), Marks::new());
            let mut now = 0;
            for ((page, nth, mark, wait), known) in ops.iter().zip(known) {
                now += wait;
                let lsn = Lsn(page * PAGE_LSNS + nth * 1_009);
                if marks.get(lsn) == 0 {
                    marks.set(lsn, *mark, Nanos(now));
                    if known {
                        copy.set(lsn, *mark, Nanos(now));
                    }
                }
            }
            for number in order {
                if let Some((last_at, bits)) = marks.page(number) {
                    copy.add(number, last_at, 3, bits[3..].iter().copied());
                    copy.add(number, last_at, 0, bits[..3].iter().copied());
                }
            }
            copy.restore_order();
            for page in &marks.pages {
                let nth = copy.find(page.number).expect("it was added");
                let theirs = &copy.pages[nth];
                prop_assert_eq!((page.last_at, page.marks), (theirs.last_at, theirs.marks));
                prop_assert!(page.bits == theirs.bits);
            }
            prop_assert_eq!(copy.pages.len(), marks.pages.len());
            prop_assert!(copy.pages.iter().is_sorted_by_key(|page| page.in_line_at));
        }
    }

    #[test]
    fn when_there_are_too_many_pages_the_oldest_give_way_to_what_is_ahead() {
        let mut marks = Marks::new();
        let pages = PAGES_MAX as u64;
        let set = |marks: &mut Marks, lsn| marks.set(Lsn(lsn), 1, Nanos(0));
        for page in 0..pages {
            assert!(set(&mut marks, page * PAGE_LSNS + 5));
        }
        let ahead = pages * PAGE_LSNS;
        assert!(!set(&mut marks, ahead), "one mark is not worth a page");
        for lsn in 6..5 + u64::from(PAGE_MARKS_WORTH) {
            assert!(set(&mut marks, lsn));
        }
        assert!(set(&mut marks, ahead));
        assert_eq!(marks.get(Lsn(5)), 0);
        assert_eq!(marks.get(Lsn(PAGE_LSNS + 5)), 1);
        assert!(!set(&mut marks, 7), "what is behind takes no page's place");
    }
}
