//! The smallest call there and back.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use omnirelay_net::frame::CallFrame;
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::messages::{Stats, StatsResponse};
use omnirelay_net::rpc::{Encoding, Error, Procedure, Reply, encode_reply};

use super::service::{CallKey, Service, procedure};

/// Answers `stats` with counts that are all 0.
#[derive(Debug)]
pub(super) struct Echo {
    body: Bytes,
    replies: VecDeque<(CallKey, Bytes)>,
}

impl Default for Echo {
    fn default() -> Self {
        let reply = Reply::Stats(StatsResponse {
            stats: Some(Stats::default()),
        });
        Self {
            body: encode_reply(Encoding::Proto, &reply),
            replies: VecDeque::new(),
        }
    }
}

impl Echo {
    /// The reply to a call.
    pub(super) fn answer(&self, call: &CallFrame) -> Bytes {
        let head = ReplyHead {
            id: call.id,
            ..ReplyHead::default()
        };
        match procedure(call) {
            Ok(Procedure::Stats) => encode::raw_reply(&head, &self.body),
            Ok(other) => {
                let why = format!("there is no queue behind this server: no {other}, only stats");
                encode::error(&head, &Error::procedure_unknown(why))
            }
            Err(error) => encode::error(&head, &error),
        }
    }
}

impl Service for Echo {
    fn handle_call(&mut self, _: Instant, key: CallKey, call: &CallFrame) {
        self.replies.push_back((key, self.answer(call)));
    }

    fn handle_turn_end(&mut self, _: Instant) -> io::Result<()> {
        Ok(())
    }

    fn handle_gone(&mut self, _: usize) {}

    fn poll_reply(&mut self) -> Option<(CallKey, Bytes)> {
        self.replies.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_net::frame::encode::CallHead;
    use omnirelay_net::frame::{Frame, FrameReader};
    use omnirelay_net::messages::{PeekRequest, StatsRequest};
    use omnirelay_net::rpc::{Call, decode_reply};
    use quinn_proto::{Dir, Side, StreamId};

    use super::*;

    fn frame(bytes: Bytes) -> Frame {
        let mut reader = FrameReader::default();
        reader.push(bytes);
        let frame = reader.next(1 << 20).unwrap().expect("a whole frame");
        Frame::decode(&frame).unwrap()
    }

    fn answer(name: &str, encoding: Encoding, call: &Call) -> Result<Bytes, Error> {
        let head = CallHead {
            id: 7,
            procedure: name,
            ..CallHead::default()
        };
        let Frame::Call(call) = frame(encode::call(&head, encoding, call).unwrap()) else {
            panic!("no call");
        };
        let key = CallKey {
            connection: 3,
            stream: StreamId::new(Side::Client, Dir::Bi, 0),
            id: call.id,
        };
        let mut echo = Echo::default();
        echo.handle_call(Instant::now(), key, &call);
        let (to, reply) = echo.poll_reply().expect("it is answered at once");
        assert_eq!((to, echo.poll_reply()), (key, None));
        let Frame::Reply(reply) = frame(reply) else {
            panic!("no reply");
        };
        assert_eq!(reply.id, 7);
        reply.outcome
    }

    #[test]
    fn a_reply_to_stats_is_small_and_has_counts() {
        let call = Call::Stats(StatsRequest::default());
        let body = answer("any::stats", Encoding::Proto, &call).unwrap();
        assert!(body.len() < 8, "{body:?}");
        let Ok(Reply::Stats(reply)) = decode_reply(Procedure::Stats, Encoding::Proto, &body) else {
            panic!("no counts");
        };
        assert_eq!(reply.stats, Some(Stats::default()));
    }

    #[test]
    fn what_it_does_not_do_is_refused_in_words() {
        let peek = Call::Peek(PeekRequest::default());
        let refused = answer("any::peek", Encoding::Proto, &peek).unwrap_err();
        assert!(refused.message.contains("no peek, only stats"), "{refused}");
        let stats = Call::Stats(StatsRequest::default());
        let refused = answer("any::stats", Encoding::Json, &stats).unwrap_err();
        assert!(refused.message.contains("only protobuf"), "{refused}");
    }
}
