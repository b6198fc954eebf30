//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Serve calls over QUIC with nothing behind it: what QUIC alone costs
///
/// One thread answers every `stats` call at once with the smallest reply, over quinn's state
/// machines with the settings of OmniRelay's own endpoint. With --queue it also answers what a cycle
/// of an item is made of, from a list in memory, once as many bytes are on the device as a queue's
/// log would have. It ends with a signal.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to listen; with port 0 the system picks one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7430")]
    pub(crate) listen: SocketAddr,

    /// Also answer enqueueBatch, leaseBatch and settle, behind one write and fdatasync a turn
    #[arg(long)]
    pub(crate) queue: bool,

    /// Echo over the driver of OmniRelay's own cores: what that takes beside the bare one
    #[arg(long, conflicts_with = "queue")]
    pub(crate) own_driver: bool,

    /// Where the self-signed certificate and the bytes of --queue are kept
    #[arg(long, default_value = "target/bare-quic")]
    pub(crate) dir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  What an echo costs at least:
    cargo run --release -p bench -- bare-quic &
    cargo run --release -p omnirelay-loadgen -- echo --transport quic --address 127.0.0.1:7430 \\
      --connections 16 --pipeline 64 --server-pid \"$(pgrep -f 'bench bare-quic')\"

  What a cycle costs at least:
    cargo run --release -p bench -- bare-quic --queue &
    cargo run --release -p omnirelay-loadgen -- cycle --transport quic --address 127.0.0.1:7430 \\
      --connections 16 --pipeline 64 --batch 64 --server-pid \"$(pgrep -f 'bench bare-quic')\"";
