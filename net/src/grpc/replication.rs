//! The messages of the replication stream's service.

/// What prost makes of `proto/`: a package finds another from its own place in the tree of both.
#[allow(missing_docs, unreachable_pub)]
mod packages {
    pub mod resourcelease {
        pub mod v1 {
            pub use crate::messages::{ErrorInfo, OwnershipToken, Payload, PendingItem};
        }
    }

    pub mod replication {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/omnirelay.replication.v1.rs"));
        }
    }
}

pub use packages::replication::v1::{Event, SubscribeRequest};
