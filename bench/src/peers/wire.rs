//! What a queue's protocol makes of items and bytes, without IO.

use anyhow::{anyhow, bail};

/// Hexadecimal digits at the front of a body that number its item.
const NUMBER_DIGITS: usize = 16;

/// What comes behind the number, again and again.
const FILLING: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The longest line of any protocol here: what is longer is not one.
const LINE_BYTES_MAX: usize = 64 << 10;

/// One connection's side of a protocol. Replies come in the order of what was asked, unless
/// [`Seen`] says which they are of.
pub(crate) trait Wire {
    /// Asks to store an item. The connection's first is number 0, and so on.
    fn put(&mut self, body: &[u8], out: &mut Vec<u8>);

    /// Asks for up to so many items, and to wait for the first of them.
    fn fetch(&mut self, items: usize, out: &mut Vec<u8>);

    /// Asks to remove all items that came and were not yet asked to be removed; how many are done
    /// with that because the protocol has no reply to it.
    fn settle(&mut self, out: &mut Vec<u8>) -> usize;

    /// Takes one whole reply. What it says is in `seen` only if all of it was there.
    fn take(&mut self, from: &mut Cursor<'_>, seen: &mut Seen) -> Parsed<()>;
}

/// What replies said.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Puts that are stored, by their number on the connection.
    pub(crate) stored: Vec<u64>,
    /// Numbers of the items that came.
    pub(crate) items: Vec<u64>,
    /// Removals that were confirmed, the oldest first.
    pub(crate) settled: usize,
    /// The last fetch gives nothing more.
    pub(crate) fetched: bool,
    /// What the protocol wants answered at once.
    pub(crate) answer: Vec<u8>,
}

impl Seen {
    /// Forgets everything, in the same memory.
    pub(crate) fn clear(&mut self) {
        self.stored.clear();
        self.items.clear();
        self.settled = 0;
        self.fetched = false;
        self.answer.clear();
    }
}

/// Why there is no reply in some bytes.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The rest has not arrived.
    More,
    /// It is not what the protocol allows, or the server refused something.
    Wrong(anyhow::Error),
}

pub(crate) type Parsed<T> = Result<T, Cut>;

impl From<anyhow::Error> for Cut {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(error)
    }
}

/// Bytes that have arrived, read from the front.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(crate) fn read(&self) -> usize {
        self.at
    }

    /// So many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Cut::More)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Cut::More)?;
        self.at = end;
        Ok(bytes)
    }

    /// Bytes up to CR LF, which are read as well.
    pub(crate) fn line(&mut self) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return match rest.len() > LINE_BYTES_MAX {
                true => Err(anyhow!("a line has no end").into()),
                false => Err(Cut::More),
            };
        };
        self.at += end + 1;
        rest[..end]
            .strip_suffix(b"\r")
            .ok_or_else(|| anyhow!("a line does not end with CR LF: {}", shown(rest)).into())
    }

    /// So many bytes, and CR LF.
    pub(crate) fn block(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let block = self.exactly(count)?;
        match self.exactly(2)? {
            b"\r\n" => Ok(block),
            _ => Err(anyhow!("{count} bytes do not end with CR LF").into()),
        }
    }
}

/// A number in decimal digits.
pub(crate) fn number(digits: &[u8]) -> anyhow::Result<u64> {
    let text = std::str::from_utf8(digits).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| anyhow!("not a number: {}", shown(digits)))
}

/// The beginning of what a server said, to be told to people.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(200)];
    String::from_utf8_lossy(first).trim_end().to_owned()
}

/// Bodies that tell which item they are of.
#[derive(Debug)]
pub(crate) struct Body(Vec<u8>);

impl Body {
    /// Of so many bytes, at least those of the number.
    pub(crate) fn new(size: usize) -> Self {
        let mut body = vec![b'0'; NUMBER_DIGITS];
        let filling = FILLING.iter().cycle();
        body.extend(filling.take(size.saturating_sub(NUMBER_DIGITS)));
        Self(body)
    }

    /// The body of an item.
    pub(crate) fn of(&mut self, item: u64) -> &[u8] {
        for (at, place) in self.0[..NUMBER_DIGITS].iter_mut().rev().enumerate() {
            *place = b"0123456789abcdef"[(item >> (4 * at)) as usize & 0xf];
        }
        &self.0
    }
}

/// Which item a body is of.
///
/// # Errors
/// If it is not as it was sent.
pub(crate) fn item_of(body: &[u8]) -> anyhow::Result<u64> {
    let Some((digits, rest)) = body.split_at_checked(NUMBER_DIGITS) else {
        bail!("a body of {} bytes is too short", body.len());
    };
    let as_sent = |part: &[u8]| part == &FILLING[..part.len()];
    if !rest.chunks(FILLING.len()).all(as_sent) {
        bail!("a body is not as it was sent: {}", shown(body));
    }
    let digits = std::str::from_utf8(digits)?;
    Ok(u64::from_str_radix(digits, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_tells_its_item() {
        let mut body = Body::new(256);
        for item in [0, 7, 0xfed_cba9, u64::MAX] {
            assert_eq!(body.of(item).len(), 256);
            assert_eq!(item_of(body.of(item)).unwrap(), item);
        }
    }

    #[test]
    fn a_body_that_was_changed_or_cut_is_told() {
        let mut body = Body::new(64);
        let mut changed = body.of(3).to_vec();
        changed[40] ^= 1;
        assert!(item_of(&changed).is_err());
        assert!(item_of(&body.of(3)[..10]).is_err());
    }

    #[test]
    fn a_line_is_there_once_its_end_is() {
        assert!(matches!(Cursor::new(b"+OK\r").line(), Err(Cut::More)));
        let mut cursor = Cursor::new(b"+OK\r\nrest");
        assert_eq!(cursor.line().unwrap(), b"+OK");
        assert_eq!(cursor.read(), 5);
        assert!(matches!(cursor.exactly(5), Err(Cut::More)));
        assert!(matches!(Cursor::new(b"+OK\n").line(), Err(Cut::Wrong(_))));
    }
}
