//! Works items off until Ctrl-C, or for `SECONDS`:
//! `cargo run -p omnirelay-client --example worker [-- SECONDS]`
//!
//! `OMNIRELAY_ADDRESS` and `OMNIRELAY_CA` say where the node is and whom to trust; unless said, a
//! node that runs in this folder.

use std::env;
use std::time::Duration;

use omnirelay_client::{Client, Failure, Job, Tls};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let address = env::var("OMNIRELAY_ADDRESS").unwrap_or("127.0.0.1:7420".into());
    let ca = env::var("OMNIRELAY_CA").unwrap_or("omnirelay-data/tls/server.crt".into());
    let client = Client::builder()
        .address(address)
        .tls(Tls::ca(ca))
        .caller("example-worker")
        .connect()
        .await?;

    let seconds: Option<u64> = env::args().nth(1).map(|text| text.parse()).transpose()?;
    let shutdown = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    };
    let worker = client.default_namespace().worker().concurrency(8);
    let report = worker.run_until(shutdown, handle).await?;
    println!("{report:?}");
    client.close().await;
    Ok(())
}

async fn handle(job: Job) -> Result<(), Failure> {
    let what = std::str::from_utf8(job.body())?;
    println!("{what} {} (attempt {})", job.resource_id(), job.attempt());
    // Anything that takes its time; the lease is renewed meanwhile. Should it be lost all the same,
    // there is nothing left to do here.
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(50)) => Ok(()),
        () = job.lost() => Err(Failure::retry("the lease was lost")),
    }
}
