//! `omnirelay demo`: a node with example traffic.

use crate::logging;

use super::failure::Failure;
use super::serve::{SourceArgs, failed};

/// Run a node with example traffic, to look around
///
/// A seeder enqueues work about tables, shards and workflows; two workers take it, keep their
/// leases with heartbeats, complete most of it and fail some. Ctrl-C ends it; what is left in the
/// queue is there again the next time.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay demo\n  omnirelay demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"
)]
pub(super) struct DemoArgs {
    /// Directory of the logs
    #[arg(long, value_name = "DIR", default_value = "./omnirelay-demo")]
    data_dir: String,
    /// Where RPC is served; port 0 picks one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7420")]
    listen: String,
    /// Where the admin endpoints are served; port 0 picks one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7421")]
    admin_listen: String,
}

pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let sources = SourceArgs {
        data_dir: Some(args.data_dir.clone()),
        listen: Some(args.listen.clone()),
        admin_listen: Some(args.admin_listen.clone()),
        // Short leases and delays show in seconds what otherwise takes minutes.
        set: vec![
            "namespaces.resourcelease.lease_duration=5s".into(),
            "namespaces.resourcelease.requeue_delay=500ms".into(),
            "namespaces.resourcelease.max_attempts=5".into(),
        ],
        ..SourceArgs::default()
    };
    let config = sources.load()?;
    logging::init(&config.log);
    crate::demo::run(&config).map_err(|error| failed(&error))
}
