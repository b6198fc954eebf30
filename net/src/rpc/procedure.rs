//! The lease procedures: `<namespace>::<operation>`.

use std::fmt;

use super::Error;

/// The namespace that exists without being configured.
pub const DEFAULT_NAMESPACE: &str = "resourcelease";

/// An operation of the lease queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Procedure {
    /// Adds one item.
    Enqueue,
    /// Adds many items, each on its own.
    EnqueueBatch,
    /// Grants one item.
    Lease,
    /// Grants up to so many items.
    LeaseBatch,
    /// Extends a lease.
    Heartbeat,
    /// Ends a lease, its work done.
    Complete,
    /// Ends a lease, its work not done.
    Fail,
    /// Completes, fails or extends many leases, each on its own.
    Settle,
    /// Counts the namespace's items.
    Stats,
    /// Shows items that wait, are blocked or delayed.
    Peek,
    /// Shows dead letters.
    DeadLetters,
    /// Lets dead letters wait again.
    Redrive,
    /// Takes items out for good.
    Cancel,
    /// Says where an item stands, and why.
    Explain,
    /// Takes items out, to be restored elsewhere.
    Drain,
    /// Takes drained items in.
    Restore,
}

impl Procedure {
    /// Every procedure.
    pub const ALL: [Self; 16] = [
        Self::Enqueue,
        Self::EnqueueBatch,
        Self::Lease,
        Self::LeaseBatch,
        Self::Heartbeat,
        Self::Complete,
        Self::Fail,
        Self::Settle,
        Self::Stats,
        Self::Peek,
        Self::DeadLetters,
        Self::Redrive,
        Self::Cancel,
        Self::Explain,
        Self::Drain,
        Self::Restore,
    ];

    /// The operation's name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::EnqueueBatch => "enqueueBatch",
            Self::Lease => "lease",
            Self::LeaseBatch => "leaseBatch",
            Self::Heartbeat => "heartbeat",
            Self::Complete => "complete",
            Self::Fail => "fail",
            Self::Settle => "settle",
            Self::Stats => "stats",
            Self::Peek => "peek",
            Self::DeadLetters => "deadLetters",
            Self::Redrive => "redrive",
            Self::Cancel => "cancel",
            Self::Explain => "explain",
            Self::Drain => "drain",
            Self::Restore => "restore",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "enqueue" => Self::Enqueue,
            "enqueueBatch" => Self::EnqueueBatch,
            "lease" => Self::Lease,
            "leaseBatch" => Self::LeaseBatch,
            "heartbeat" => Self::Heartbeat,
            "complete" => Self::Complete,
            "fail" => Self::Fail,
            "settle" => Self::Settle,
            "stats" => Self::Stats,
            "peek" => Self::Peek,
            "deadLetters" => Self::DeadLetters,
            "redrive" => Self::Redrive,
            "cancel" => Self::Cancel,
            "explain" => Self::Explain,
            "drain" => Self::Drain,
            "restore" => Self::Restore,
            _ => return None,
        })
    }

    /// Splits `<namespace>::<operation>`. Whether the namespace exists is for the caller to say.
    ///
    /// # Errors
    /// `rpc.procedure.unknown`, listing the operations there are.
    pub fn parse(procedure: &str) -> Result<(&str, Self), Error> {
        let known = split(procedure).and_then(|(namespace, operation)| {
            let found = Self::from_name(operation)?;
            Some((namespace, found))
        });
        known.ok_or_else(|| {
            let shown: String = procedure.chars().take(128).collect();
            let operations = Self::ALL.map(Self::name).join(", ");
            Error::procedure_unknown(format!(
                "no procedure `{shown}`; there are <namespace>::<operation>, as in \
                 `{DEFAULT_NAMESPACE}::enqueue`, with the operations {operations}"
            ))
        })
    }
}

/// At the last `::`, with something in front of it.
fn split(procedure: &str) -> Option<(&str, &str)> {
    let (front, operation) = procedure.rsplit_once(':')?;
    let namespace = front.strip_suffix(':')?;
    (!namespace.is_empty()).then_some((namespace, operation))
}

impl fmt::Display for Procedure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::codes;

    #[test]
    fn a_procedure_is_a_namespace_and_an_operation() {
        for procedure in Procedure::ALL {
            let name = format!("resourcelease.users::{procedure}");
            assert_eq!(
                Procedure::parse(&name),
                Ok(("resourcelease.users", procedure))
            );
        }
    }

    #[test]
    fn an_unknown_procedure_is_refused_with_what_exists() {
        for name in [
            "",
            "enqueue",
            "::enqueue",
            "resourcelease::",
            "resourcelease::Enqueue",
            "a::b",
        ] {
            let error = Procedure::parse(name).unwrap_err();
            assert!(error.is(codes::PROCEDURE_UNKNOWN), "{name}");
            assert!(
                error.message.contains("enqueueBatch, lease, "),
                "{}",
                error.message
            );
        }
    }
}
