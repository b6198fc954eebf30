//! Bodies: reading a request's, and an answer that knows whether it left.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::runtime::timeout_at;

/// Why a request's body could not be read. The request has had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It has, or says it has, more bytes than allowed.
    #[error("the body is larger than {max} bytes")]
    TooLarge {
        /// What is allowed, in bytes.
        max: usize,
    },
    /// The deadline passed before all of it was there.
    #[error("the body did not arrive before the deadline")]
    TimedOut,
    /// The connection broke, or its framing is malformed.
    #[error("the body broke off")]
    Broken,
}

/// Reads a whole body of at most `max` bytes by `deadline`.
///
/// A body in one piece is not copied. One that announces its length is refused
/// before anything is read.
///
/// # Errors
///
/// See [`BodyError`]; the connection is closed or the stream reset once the
/// request has been answered.
pub async fn read_body<B>(body: B, max: usize, deadline: Instant) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > max as u64 {
        return Err(BodyError::TooLarge { max });
    }
    let read = timeout_at(deadline, collect(body, max)).await;
    read.unwrap_or(Err(BodyError::TimedOut))
}

async fn collect<B>(mut body: B, max: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(max);
    let mut collected = Collected::default();
    while let Some(data) = next_data(&mut body).await? {
        collected.add(data, announced, max)?;
    }
    Ok(collected.whole())
}

/// Why a body whose beginning says its size could not be read.
#[derive(Debug)]
pub enum SizedBodyError<E> {
    /// It could not be read; too large is what goes on beyond the size.
    Body(BodyError),
    /// Its beginning was refused.
    Refused(E),
}

impl<E> From<BodyError> for SizedBodyError<E> {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

/// Reads a whole body by `deadline`. Once its first `prefix_bytes` bytes are there, or all of a
/// shorter one, `size` says from them how many bytes it may have.
///
/// A body in one piece is not copied.
///
/// # Errors
///
/// What `size` refuses, and [`BodyError`].
pub async fn read_sized_body<B, E>(
    mut body: B,
    prefix_bytes: usize,
    deadline: Instant,
    size: impl FnOnce(&[u8]) -> Result<usize, E>,
) -> Result<Bytes, SizedBodyError<E>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let reading = async {
        let mut collected = Collected::default();
        while collected.len() < prefix_bytes
            && let Some(data) = next_data(&mut body).await?
        {
            collected.add(data, prefix_bytes, usize::MAX)?;
        }
        let max = size(collected.bytes()).map_err(SizedBodyError::Refused)?;
        if collected.len() > max {
            return Err(BodyError::TooLarge { max }.into());
        }
        while let Some(data) = next_data(&mut body).await? {
            collected.add(data, max, max)?;
        }
        Ok(collected.whole())
    };
    let read = timeout_at(deadline, reading).await;
    read.unwrap_or(Err(BodyError::TimedOut.into()))
}

async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| BodyError::Broken)?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// What has come of a body. One that comes in one piece is not copied.
#[derive(Default)]
struct Collected {
    first: Bytes,
    rest: BytesMut,
}

impl Collected {
    fn len(&self) -> usize {
        self.bytes().len()
    }

    fn bytes(&self) -> &[u8] {
        if self.rest.is_empty() {
            &self.first
        } else {
            &self.rest
        }
    }

    /// Adds a piece to a body that should have `expected` bytes and may have `max`.
    fn add(&mut self, data: Bytes, expected: usize, max: usize) -> Result<(), BodyError> {
        if self.len() + data.len() > max {
            return Err(BodyError::TooLarge { max });
        }
        if self.len() == 0 {
            self.first = data;
            return Ok(());
        }
        if self.rest.is_empty() {
            let there = self.first.len() + data.len();
            self.rest.reserve(expected.clamp(there, max));
            self.rest
                .extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&data);
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

/// An answer's body of one piece, which can tell that it never left.
///
/// "Left" means taken by the connection to be written. A client that goes away
/// after that is not noticed.
#[derive(Default)]
pub struct DeliveryBody {
    /// Never empty.
    data: Option<Bytes>,
    /// What comes behind the data, in HTTP/2.
    trailers: Option<HeaderMap>,
    undelivered: Option<Box<dyn FnOnce()>>,
}

impl DeliveryBody {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body of `data`.
    pub fn new(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self {
            data: (!data.is_empty()).then_some(data),
            trailers: None,
            undelivered: None,
        }
    }

    /// A body of `data` that calls `undelivered` if it is dropped before the
    /// connection has taken its bytes, because the client has gone or never
    /// asked for them (`HEAD`).
    ///
    /// # Panics
    ///
    /// If `data` is empty: then nothing would tell delivery from its absence.
    pub fn or_undo(data: impl Into<Bytes>, undelivered: impl FnOnce() + 'static) -> Self {
        let mut body = Self::new(data);
        assert!(
            body.data.is_some(),
            "an answer that can be undone has bytes"
        );
        body.undelivered = Some(Box::new(undelivered));
        body
    }

    /// With trailers behind its bytes. HTTP/1.1 leaves them out.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl Body for DeliveryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let data = this.data.take().map(Frame::data);
        this.undelivered = None;
        let frame = data.or_else(|| this.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

impl Drop for DeliveryBody {
    fn drop(&mut self) {
        if let Some(undelivered) = self.undelivered.take() {
            undelivered();
        }
    }
}

impl fmt::Debug for DeliveryBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryBody")
            .field("bytes", &self.data.as_ref().map_or(0, Bytes::len))
            .field("can_be_undone", &self.undelivered.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn counted(data: &'static str) -> (DeliveryBody, Rc<Cell<u32>>) {
        let undone = Rc::new(Cell::new(0));
        let seen = Rc::clone(&undone);
        let body = DeliveryBody::or_undo(data, move || seen.set(seen.get() + 1));
        (body, undone)
    }

    #[test]
    fn a_body_dropped_before_it_left_is_undone_once() {
        let (body, undone) = counted("grant");
        drop(body);
        assert_eq!(undone.get(), 1);
    }

    #[test]
    fn a_body_that_left_is_not_undone() {
        let (mut body, undone) = counted("grant");
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let frame = Pin::new(&mut body).poll_frame(&mut cx);
        assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(undone.get(), 0);
    }

    #[test]
    fn trailers_come_behind_the_data() {
        let trailers = HeaderMap::from_iter([(http::header::AGE, 7.into())]);
        let mut body = DeliveryBody::new("four").with_trailers(trailers.clone());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut next = || match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(frame) => frame.map(|Ok(frame)| frame),
            Poll::Pending => panic!("a body of one piece does not wait"),
        };
        assert_eq!(
            next().and_then(|one| one.into_data().ok()),
            Some("four".into())
        );
        assert_eq!(
            next().and_then(|one| one.into_trailers().ok()),
            Some(trailers)
        );
        assert!(next().is_none());
        assert!(body.is_end_stream());
    }

    #[test]
    fn a_body_knows_its_exact_size() {
        assert_eq!(DeliveryBody::new("four").size_hint().exact(), Some(4));
        assert_eq!(DeliveryBody::empty().size_hint().exact(), Some(0));
        assert!(DeliveryBody::new("").is_end_stream());
    }
}
