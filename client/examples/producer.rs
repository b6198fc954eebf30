//! Puts work in: `cargo run -p omnirelay-client --example producer -- orders customers …`
//!
//! `OMNIRELAY_ADDRESS` and `OMNIRELAY_CA` say where the node is and whom to trust; unless said, a
//! node that runs in this folder.

use std::env;

use omnirelay_client::{Client, Item, Tls};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::var("OMNIRELAY_ADDRESS").unwrap_or("127.0.0.1:7420".into());
    let ca = env::var("OMNIRELAY_CA").unwrap_or("omnirelay-data/tls/server.crt".into());
    let client = Client::builder()
        .address(address)
        .tls(Tls::ca(ca))
        .caller("example-producer")
        .connect()
        .await?;
    let queue = client.default_namespace();

    // Calls that are made at the same time travel together; each has its own result.
    let calls = env::args().skip(1).map(|table| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let item = Item::new("table", &table).body("text/plain", "vacuum");
            (queue.enqueue(item).await, table)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        match call.await? {
            (Ok(put), table) => println!("{table}: item {}", put.sequence_id),
            (Err(error), table) => println!("{table}: {error}"),
        }
    }
    client.close().await;
    Ok(())
}
