//! The clients of the protocols with the real servers, where those are installed.

use std::time::Duration;

use omnirelay_loadgen::Latencies;
use tokio::task::LocalSet;

use super::{Durability, Side};
use crate::peers::rows::{Row, Timing};

async fn works(side: Side) {
    let program = side.program();
    let Some(found) = program.find() else {
        eprintln!("skipped: {program} is not installed: {}", program.help());
        return;
    };
    if !side.is_possible(&found) {
        let version = &found.version;
        eprintln!(
            "skipped: {program} {version} cannot sync: {}",
            program.help()
        );
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let timing = Timing::of(Duration::from_millis(100));
    for row in [Row::new(1, 1), Row::new(3, 8)] {
        let running = side.run(&found, dir.path(), row, 256, timing);
        let figures = LocalSet::new().run_until(running).await;
        let figures = figures.unwrap_or_else(|error| panic!("{error:#}"));
        assert!(figures.measured.server_cpu_s > 0.0);
        let Latencies {
            enqueue,
            lease,
            complete,
        } = &figures.latencies;
        // A device that others keep busy may sync nothing in so short a time.
        eprintln!("{row}: {:?}", figures.measured);
        assert!(enqueue.max() > 0 || enqueue.is_empty());
        assert!(lease.max() > 0 || lease.is_empty());
        // RabbitMQ says nothing to an acknowledgement.
        assert!(complete.is_empty() || side != Side::RabbitMq);
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[tokio::test]
async fn redis() {
    works(Side::Redis(Durability::EachReply)).await;
    works(Side::Redis(Durability::None)).await;
}

#[tokio::test]
async fn beanstalkd() {
    works(Side::Beanstalkd(Durability::EachReply)).await;
    works(Side::Beanstalkd(Durability::None)).await;
}

#[tokio::test]
async fn nats() {
    works(Side::Nats(Durability::EachReply)).await;
    works(Side::Nats(Durability::None)).await;
}

#[tokio::test]
async fn rabbitmq() {
    works(Side::RabbitMq).await;
}
