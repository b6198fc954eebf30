//! Puts the same work in from two places, and it is there once:
//! `cargo run -p omnirelay-client --example idempotent_enqueue`
//!
//! `OMNIRELAY_ADDRESS` and `OMNIRELAY_CA` say where the node is and whom to trust; unless said, a
//! node that runs in this folder.

use std::env;

use omnirelay_client::{Client, Item, Tls};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::var("OMNIRELAY_ADDRESS").unwrap_or("127.0.0.1:7420".into());
    let ca = env::var("OMNIRELAY_CA").unwrap_or("omnirelay-data/tls/server.crt".into());
    let builder = Client::builder().address(address).tls(Tls::ca(ca));

    // The id names the deed, not the call: whoever wants this deed done comes to the same one.
    // A cron job that runs on two machines, or an HTTP handler whose client tries again, adds the
    // item once within the namespace's dedupe window.
    let item = Item::new("invoice", "2026-0042")
        .body("application/json", r#"{"send": "by post"}"#)
        .request_id("send-invoice-2026-0042");

    let mut found = Vec::new();
    for place in ["here", "there"] {
        let client = builder.clone().caller(place).connect().await?;
        let put = client.default_namespace().enqueue(item.clone()).await?;
        println!(
            "{place}: item {}, duplicate: {}",
            put.sequence_id, put.duplicate
        );
        found.push(put.sequence_id);
        client.close().await;
    }
    assert_eq!(found[0], found[1], "it was added twice");
    Ok(())
}
