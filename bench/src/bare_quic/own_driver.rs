//! The driver of OmniRelay's own cores instead of the bare one, with the same echo behind it.

use std::future::pending;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use omnirelay_net::quic::{
    self, Answer, Endpoint, FrameService, IncomingCall, QuicCounters, QuicKeys, QuicLimits,
    SECRET_BYTES,
};
use omnirelay_net::runtime::{self, CoreOptions, bind_udp_cores};
use tokio_rustls::rustls;

use super::LISTENING;
use super::echo::Echo;

/// Of no use to anyone: connections end with the process.
const SECRET: [u8; SECRET_BYTES] = [7; SECRET_BYTES];

impl FrameService for Echo {
    type Open = ();

    fn begin(self: &Rc<Self>, call: IncomingCall) -> Option<()> {
        let reply = self.answer(&call.frame);
        call.replies.end(Answer::new(reply));
        None
    }
}

/// Serves until it is ended by a signal.
///
/// # Errors
/// If there is no such address, or no core.
pub(super) fn serve(listen: SocketAddr, tls: Arc<rustls::ServerConfig>) -> anyhow::Result<()> {
    let bound = bind_udp_cores(listen, 1);
    let (address, sockets) = bound.with_context(|| format!("--listen {listen}"))?;
    let only = sockets.into_iter().zip(quic::lanes(1)).next();
    let (socket, lanes) = only.ok_or_else(|| anyhow!("no socket"))?;
    let keys = QuicKeys::new(&SECRET, 0);
    runtime::run(CoreOptions::default(), |_| async move {
        let endpoint = Endpoint::new(socket, tls, &keys, lanes, QuicLimits::default())?;
        println!("{LISTENING}{address}");
        std::io::stdout().flush()?;
        let counters = Rc::new(QuicCounters::default());
        quic::serve(endpoint, Rc::new(Echo::default()), counters, pending()).await;
        anyhow::Ok(())
    })?
}
