//! Why there are no events, or no more, in the words of every way to ask for them.

use omnirelay_net::rpc::{self, Code};

use super::{Busy, ReadError};

/// Why a reader is refused, or its stream ends.
#[derive(Debug)]
pub enum Refusal {
    /// The request asks for what there cannot be.
    Request(String),
    /// The node does not serve, not yet or no more.
    NotServing,
    /// The node goes down under the stream.
    Ending,
    /// The reader took nothing for too long.
    Slow,
    /// The node has no such shard.
    UnknownShard(u32),
    /// There is no place for another reader.
    Busy(Busy),
    /// The events cannot be read.
    Read(ReadError),
}

impl Refusal {
    /// The status.
    pub fn status(&self) -> Code {
        self.class().0
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.class().1
    }

    fn class(&self) -> (Code, &'static str) {
        match self {
            Refusal::Request(_) => (Code::InvalidArgument, "replication.request"),
            Refusal::NotServing | Refusal::Ending => (Code::Unavailable, "replication.not_serving"),
            Refusal::Slow => (Code::Aborted, "replication.slow_reader"),
            Refusal::UnknownShard(_) => (Code::NotFound, "replication.shard_unknown"),
            Refusal::Busy(_) => (Code::Unavailable, "replication.busy"),
            Refusal::Read(ReadError::OutOfRange { .. }) => {
                (Code::OutOfRange, "replication.out_of_range")
            }
            Refusal::Read(ReadError::Trimmed) => (Code::Aborted, "replication.trimmed"),
            Refusal::Read(_) => (Code::DataLoss, "replication.unreadable"),
        }
    }

    /// What happened, and what to do about it.
    pub fn message(&self) -> String {
        match self {
            Refusal::Request(message) => message.clone(),
            Refusal::NotServing => "the node does not serve: ask again once /readyz says so".into(),
            Refusal::Ending => {
                "the node ends; come back and go on after the last event that came".into()
            }
            Refusal::Slow => "the reader took nothing for too long; come back and go on after the \
                              last event that came"
                .into(),
            Refusal::UnknownShard(shard) => {
                format!("this node has no shard {shard}; `omnirelay replication status` lists them")
            }
            Refusal::Busy(busy) => busy.to_string(),
            Refusal::Read(error @ ReadError::OutOfRange { .. }) => {
                format!("{error}; ask from there, or with snapshot=true")
            }
            Refusal::Read(error) => error.to_string(),
        }
    }

    /// The oldest event that is kept, where that is the reason.
    pub fn oldest(&self) -> Option<u64> {
        match self {
            Refusal::Read(ReadError::OutOfRange { oldest }) => Some(*oldest),
            _ => None,
        }
    }

    /// As a call's error says it.
    pub fn to_error(&self) -> rpc::Error {
        let (code, error_code) = self.class();
        let error = rpc::Error {
            code,
            error_code: error_code.into(),
            message: self.message(),
            metadata: Default::default(),
        };
        match self.oldest() {
            Some(oldest) => error.with("oldestLsn", oldest.to_string()),
            None => error,
        }
    }

    /// Tells the operator if the log is at fault.
    pub fn log(&self) {
        if let Refusal::Read(
            error @ (ReadError::Log(_) | ReadError::Record { .. } | ReadError::Unsound { .. }),
        ) = self
        {
            tracing::error!(%error, "the log cannot be read for the replication stream");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_where_what_is_kept_begins() {
        let refusal = Refusal::Read(ReadError::OutOfRange { oldest: 7 });
        let error = refusal.to_error();
        assert_eq!(error.code, Code::OutOfRange);
        assert_eq!(error.error_code, "replication.out_of_range");
        assert_eq!(error.metadata["oldestLsn"], "7");
    }
}
