//! QUIC's own costs: a server of one thread that speaks the frames of OmniRelay and answers each
//! call at once, with no queue, no admission and no telemetry behind it. Whatever serves the same
//! calls over quinn's state machines can hardly take less. With [`queue`] it answers what a cycle
//! of an item is made of; with [`own_driver`] it is the driver that is not bare.
//!
//! A turn of [`driver`] is: wait for datagrams, take them, read streams, answer, send.

mod args;
mod connection;
mod driver;
mod echo;
mod log;
mod own_driver;
mod queue;
mod service;
mod socket;

use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::Context;
use omnirelay_net::frame::ALPN;
use omnirelay_net::tls::{ServerTls, self_signed};
use tokio_rustls::rustls::ServerConfig;

pub(crate) use self::args::Args;
use self::driver::Driver;
use self::echo::Echo;
use self::log::Log;
use self::queue::Queue;
use self::service::Service;

/// What is said before the address once calls are taken.
pub(crate) const LISTENING: &str = "listening on ";

/// Serves until it is ended by a signal.
///
/// # Errors
/// If there is no such address, no place for a certificate and a log, or no more to write.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.own_driver {
        return own_driver::serve(args.listen, tls(args)?);
    }
    if !args.queue {
        return serve(args, Echo::default());
    }
    let path = args.dir.join("log");
    let created = fs::create_dir_all(&args.dir).and_then(|()| Log::create(&path));
    let log = created.with_context(|| path.display().to_string())?;
    serve(args, Queue::new(log))
}

fn tls(args: &Args) -> anyhow::Result<Arc<ServerConfig>> {
    let files = self_signed(&args.dir.join("tls"))?;
    Ok(ServerTls::load(files)?.over_quic(&[ALPN]))
}

fn serve(args: &Args, service: impl Service) -> anyhow::Result<()> {
    let tls = tls(args)?;
    let listening = || format!("--listen {}", args.listen);
    let socket = UdpSocket::bind(args.listen).with_context(listening)?;
    let address = socket.local_addr().with_context(listening)?;
    let mut driver = Driver::new(socket, tls, service).with_context(listening)?;
    println!("{LISTENING}{address}");
    std::io::stdout().flush()?;
    loop {
        driver.turn().with_context(listening)?;
    }
}
