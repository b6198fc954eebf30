//! The trace that a command's calls belong to.

use omnirelay_net::rpc::TraceContext;

/// The option of every command that makes calls.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct TraceArgs {
    /// The trace it belongs to, as W3C writes it [default: $TRACEPARENT]
    #[arg(long, value_name = "CONTEXT")]
    traceparent: Option<TraceContext>,
}

impl TraceArgs {
    /// What was said, else what the environment says; what makes no sense there counts as nothing.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.traceparent
            .or_else(|| std::env::var("TRACEPARENT").ok()?.parse().ok())
    }
}
