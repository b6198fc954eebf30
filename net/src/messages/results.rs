//! Batch results, where an entry is either a response or the error that refused it.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::{ChangeResult, EnqueueResponse, EnqueueResult, Error, SettleResult};

impl Serialize for EnqueueResult {
    /// A response, or `{"error": …}` alone: beside an error the other fields mean nothing.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let name = "EnqueueResult";
        if let Some(error) = &self.error {
            let mut fields = serializer.serialize_struct(name, 1)?;
            fields.serialize_field("error", error)?;
            return fields.end();
        }
        let present = 2 + usize::from(self.stats.is_some()) + usize::from(self.receipt.is_some());
        let mut fields = serializer.serialize_struct(name, present)?;
        fields.serialize_field("sequenceId", &self.sequence_id)?;
        fields.serialize_field("duplicate", &self.duplicate)?;
        if let Some(stats) = &self.stats {
            fields.serialize_field("stats", stats)?;
        }
        if let Some(receipt) = &self.receipt {
            fields.serialize_field("receipt", receipt)?;
        }
        fields.end()
    }
}

impl From<Result<EnqueueResponse, Error>> for EnqueueResult {
    fn from(outcome: Result<EnqueueResponse, Error>) -> Self {
        match outcome {
            Ok(response) => Self {
                sequence_id: response.sequence_id,
                duplicate: response.duplicate,
                stats: response.stats,
                receipt: response.receipt,
                error: None,
            },
            Err(error) => Self {
                error: Some(error),
                ..Self::default()
            },
        }
    }
}

impl From<Error> for SettleResult {
    /// The entry was refused: `success` is false.
    fn from(error: Error) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }
}

impl From<Error> for ChangeResult {
    /// The item was left as it was: `success` is false.
    fn from(error: Error) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }
}
