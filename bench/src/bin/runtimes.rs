//! What the runtimes that can be below a core cost: TCP echo, and being woken by another thread.
//!
//! ```sh
//! cargo run --release -p bench --features glommio --bin runtimes
//! ```
//!
//! The core under measurement is on CPU 0, its client on CPU 1 and the same each time. Runtimes are
//! measured in turns, so that whatever else the machine does falls on all of them.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use hyper::rt::{Read, ReadBuf, Write};
use omnirelay_net::runtime::{
    self, CoreOptions, CoreStats, DriverChoice, Notifier, TcpListener, TcpStream, bind_exclusive,
    core_stats, sleep, spawn,
};

/// Bytes of a call, and of its answer.
const CALL: usize = 64;
/// Before a round counts: connections are made, branches are learned.
const WARM_UP: Duration = Duration::from_millis(200);

/// Compare the runtimes that can be below a core
#[derive(Parser)]
struct Args {
    /// Rounds of each runtime
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a round lasts, in ms
    #[arg(long, default_value_t = 1_000)]
    round_ms: u64,
    /// Connections, each with one call in flight
    #[arg(long, default_value_t = 64)]
    connections: usize,
}

/// What one round came to.
#[derive(Clone, Copy)]
struct Round {
    per_second: f64,
    /// CPU time of the core, user and kernel.
    cpu_us: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let lasts = Duration::from_millis(args.round_ms);
    let drivers = DriverChoice::available();
    let mut echo = vec![Vec::new(); drivers.len()];
    let mut wakes = vec![Vec::new(); drivers.len()];
    for _ in 0..args.rounds {
        for (at, driver) in drivers.iter().enumerate() {
            echo[at].push(echo_round(*driver, args.connections, lasts)?);
            wakes[at].push(wake_round(*driver, lasts)?);
        }
    }
    println!("| runtime | echo calls/s | CPU µs a call | wakes/s | CPU µs a wake |");
    println!("|---|---|---|---|---|");
    for (at, driver) in drivers.iter().enumerate() {
        let kind = runtime::run(options(0, *driver), |kind| async move { kind })?;
        println!("| {kind} | {} | {} |", cells(&echo[at]), cells(&wakes[at]));
    }
    Ok(())
}

/// Median, and the range in brackets.
fn cells(rounds: &[Round]) -> String {
    let of = |value: fn(&Round) -> f64, digits: usize| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (first, last) = (values[0], values[values.len() - 1]);
        let median = values[values.len() / 2];
        format!("{median:.digits$} ({first:.digits$}–{last:.digits$})")
    };
    format!(
        "{} | {}",
        of(|round| round.per_second, 0),
        of(|round| round.cpu_us, 2)
    )
}

fn options(cpu: usize, driver: DriverChoice) -> CoreOptions {
    CoreOptions {
        cpu: Some(cpu),
        driver,
        ..CoreOptions::default()
    }
}

/// Calls that a client has answered.
fn echo_round(driver: DriverChoice, connections: usize, lasts: Duration) -> anyhow::Result<Round> {
    let listener = bind_exclusive(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = listener.local_addr()?;
    let (ask, asked) = Notifier::pair();
    let (tell, told) = mpsc::channel();
    let server =
        thread::spawn(move || runtime::run(options(0, driver), |_| serve(listener, asked, tell)));
    let client = thread::spawn(move || {
        // The client is the same whatever it measures.
        runtime::run(options(1, DriverChoice::Epoll), |_| async move {
            let (calls, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            for _ in 0..connections {
                let stream = std::net::TcpStream::connect(address)?;
                let stream = TcpStream::from_std(stream)?;
                let (calls, stop) = (Rc::clone(&calls), Rc::clone(&stop));
                spawn(async move {
                    // An end of the stream shows in the figures: no calls.
                    let _ = call(stream, &calls, &stop).await;
                });
            }
            let mark = || {
                ask.notify();
                told.recv().map_err(io::Error::other)
            };
            sleep(WARM_UP).await;
            let (began, before, first) = (Instant::now(), calls.get(), mark()?);
            sleep(lasts).await;
            let (took, after, last) = (began.elapsed(), calls.get(), mark()?);
            stop.set(true);
            io::Result::Ok(round(after - before, took, first, last))
        })
    });
    let round = client.join().expect("the client does not panic")??;
    server.join().expect("the server does not panic")??;
    anyhow::ensure!(round.per_second > 0.0, "no call was answered on {driver:?}");
    Ok(round)
}

fn round(count: u64, took: Duration, first: CoreStats, last: CoreStats) -> Round {
    let cpu = last.cpu.saturating_sub(first.cpu);
    Round {
        per_second: count as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
    }
}

/// Echoes until its client has asked twice what the core has done.
async fn serve(
    listener: std::net::TcpListener,
    mut asked: omnirelay_net::runtime::NotifierListener,
    tell: mpsc::Sender<CoreStats>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let ended = Rc::new(Cell::new(false));
    let accepting = Rc::clone(&ended);
    spawn(async move {
        while !accepting.get() {
            let accepted = runtime::timeout(Duration::from_millis(20), listener.accept()).await;
            if let Ok(Ok(mut stream)) = accepted {
                spawn(async move {
                    let mut call = [0; CALL];
                    while let Ok(true) = read_all(&mut stream, &mut call).await {
                        if write_all(&mut stream, &call).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    for _ in 0..2 {
        asked.notified().await;
        // A client that has gone asks nothing more.
        let _ = tell.send(core_stats());
    }
    ended.set(true);
    Ok(())
}

async fn call(mut stream: TcpStream, calls: &Cell<u64>, stop: &Cell<bool>) -> io::Result<()> {
    let mut bytes = [7; CALL];
    while !stop.get() {
        write_all(&mut stream, &bytes).await?;
        if !read_all(&mut stream, &mut bytes).await? {
            break;
        }
        calls.set(calls.get() + 1);
    }
    Ok(())
}

/// Fills `bytes`; false at the end of the stream.
async fn read_all(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<bool> {
    let mut buffer = ReadBuf::new(bytes);
    while buffer.filled().len() < CALL {
        let before = buffer.filled().len();
        std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, buffer.unfilled())).await?;
        if buffer.filled().len() == before {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn write_all(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written =
            std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_write(cx, bytes)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Times that a thread woke a sleeping core and was answered.
fn wake_round(driver: DriverChoice, lasts: Duration) -> anyhow::Result<Round> {
    let (ping, mut pings) = Notifier::pair();
    let answered = Arc::new(AtomicBool::new(false));
    let ended = Arc::new(AtomicBool::new(false));
    let (answer, end) = (Arc::clone(&answered), Arc::clone(&ended));
    let core = thread::spawn(move || {
        runtime::run(options(0, driver), |_| async move {
            let mut first = None;
            while !end.load(Ordering::Acquire) {
                pings.notified().await;
                first.get_or_insert_with(core_stats);
                answer.store(true, Ordering::Release);
            }
            (first, core_stats())
        })
    });
    let (mut count, mut began) = (0_u64, None);
    let knock = || {
        ping.notify();
        while !answered.swap(false, Ordering::AcqRel) {
            thread::yield_now();
        }
    };
    loop {
        knock();
        let began = *began.get_or_insert_with(Instant::now);
        count += 1;
        if began.elapsed() >= lasts {
            break;
        }
        // Long enough for the core to be asleep again.
        thread::sleep(Duration::from_micros(30));
    }
    let took = began.context("it began")?.elapsed();
    ended.store(true, Ordering::Release);
    ping.notify();
    let (first, last) = core.join().expect("the core does not panic")?;
    Ok(round(count, took, first.context("a wake")?, last))
}
