//! A write to SQLite that a worker which lost its lease cannot overwrite:
//! `cargo run -p omnirelay-client --example fenced_sqlite`
//!
//! A worker can be stopped (by the kernel, a debugger, a long pause) right before it writes, and go
//! on after its lease has ended and another worker has done the work. It does not know, and no
//! look at a clock or a lease can close the gap between looking and writing. So the database
//! looks: each row keeps the fence of its last writer, and refuses an older one.
//!
//! `OMNIRELAY_ADDRESS` and `OMNIRELAY_CA` say where the node is and whom to trust; unless said, a
//! node that runs in this folder.

use std::env;
use std::time::Duration;

use omnirelay_client::{Client, Item, LeaseOptions, Tls, Token};
use rusqlite::{Connection, params};

const SCHEMA: &str = "
    CREATE TABLE vacuumed (
        name TEXT PRIMARY KEY,
        writer TEXT NOT NULL,
        item INTEGER NOT NULL,
        attempt INTEGER NOT NULL
    )";

/// Within one item the attempt grows with each grant. Of two items of one resource the later has
/// the higher number: with `ordering = \"per-resource\"` they are leased one after the other, so that
/// item and attempt together only ever grow.
const WRITE: &str = "
    INSERT INTO vacuumed (name, writer, item, attempt) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (name) DO UPDATE
        SET writer = excluded.writer, item = excluded.item, attempt = excluded.attempt
        WHERE (excluded.item, excluded.attempt) >= (item, attempt)";

/// Writes, unless a later owner has written before; says whether it did.
fn write(db: &Connection, name: &str, writer: &str, fence: &Token) -> rusqlite::Result<bool> {
    // SQLite's integers have 63 bits, and a sequence id at most 53.
    let item = i64::try_from(fence.sequence_id).unwrap_or(i64::MAX);
    let rows = db.execute(WRITE, params![name, writer, item, fence.attempt])?;
    Ok(rows == 1)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::var("OMNIRELAY_ADDRESS").unwrap_or("127.0.0.1:7420".into());
    let ca = env::var("OMNIRELAY_CA").unwrap_or("omnirelay-data/tls/server.crt".into());
    let client = Client::builder()
        .address(address)
        .tls(Tls::ca(ca))
        .connect()
        .await?;
    let queue = client.default_namespace();
    let db = Connection::open_in_memory()?;
    db.execute(SCHEMA, [])?;

    queue
        .enqueue(Item::new("table", "orders").partition_key("fenced"))
        .await?;
    let take = LeaseOptions::default()
        .partition_key("fenced")
        .lease_for(Duration::from_secs(1))
        .wait(Duration::from_secs(10));

    // The first worker takes the item and is stopped: no heartbeat, so its lease ends.
    let leases = queue.lease_with(take.clone()).await?;
    let zombie = leases.first().ok_or("no item came")?;
    // The second gets it, does the work, and writes.
    let leases = queue.lease_with(take).await?;
    let owner = leases.first().ok_or("the item did not come again")?;
    assert_eq!((zombie.attempt(), owner.attempt()), (1, 2));
    assert!(write(&db, "orders", "owner", owner.token())?);
    owner.complete().await?;

    // The first one wakes up, and writes what it was about to write.
    let wrote = write(&db, "orders", "zombie", zombie.token())?;
    let last: String = db.query_row("SELECT writer FROM vacuumed", [], |row| row.get(0))?;
    println!("the zombie wrote: {wrote}; the row is the {last}'s");
    assert!(
        !wrote && last == "owner",
        "a zombie has overwritten the row"
    );
    // The queue refuses it as well.
    let error = zombie
        .complete()
        .await
        .err()
        .ok_or("a zombie has completed the item")?;
    println!("the zombie's completion: {error}");
    client.close().await;
    Ok(())
}
