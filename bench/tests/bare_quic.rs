//! `bench bare-quic` as the load generator meets it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use omnirelay_loadgen::{CallError, Caller, Connection, Load, Pace, Shape, Target, Transport};
use omnirelay_net::messages::{PeekRequest, Stats, StatsRequest};
use omnirelay_net::rpc::{Call, DEFAULT_NAMESPACE, Encoding, Procedure, Reply, codes};
use tokio::task::{JoinSet, LocalSet};

/// A running one; it ends when dropped.
struct Server {
    child: Child,
    target: Target,
}

impl Server {
    fn start(dir: &Path, options: &[&str]) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["bare-quic", "--listen", "127.0.0.1:0", "--dir"])
            .arg(dir)
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let said = child.stdout.as_mut().expect("it is piped");
        let read = BufReader::new(said).read_line(&mut line);
        read.expect("it says where it listens");
        let address = line.trim_end().strip_prefix("listening on ");
        let target = Target {
            address: address.expect(&line).to_owned(),
            transport: Transport::Quic,
            ca: None,
            client: None,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            encoding: Encoding::Proto,
        };
        Server { child, target }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn calls_of_several_connections_are_all_answered() {
    all_are_answered(&[]).await;
}

#[tokio::test]
async fn the_driver_of_the_cores_answers_them_too() {
    all_are_answered(&["--own-driver"]).await;
}

async fn all_are_answered(options: &[&str]) {
    const CONNECTIONS: usize = 3;
    const IN_FLIGHT: usize = 100;
    const CALLS: usize = 20;
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), options);
    let calling = async {
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let connection = Connection::open(&server.target).await.expect("it serves");
            let stats = Caller::new(&connection, &server.target, Procedure::Stats);
            let stats = stats.expect("a name");
            for _ in 0..IN_FLIGHT {
                let mut stats = stats.clone();
                tasks.spawn_local(async move {
                    for _ in 0..CALLS {
                        let call = Call::Stats(StatsRequest::default());
                        let Ok(Reply::Stats(reply)) = stats.call(&call).await else {
                            panic!("a call failed");
                        };
                        assert_eq!(reply.stats, Some(Stats::default()));
                    }
                });
            }
        }
        tasks.join_all().await
    };
    let answered = LocalSet::new().run_until(calling).await;
    assert_eq!(answered.len(), CONNECTIONS * IN_FLIGHT);
}

#[tokio::test]
async fn what_it_does_not_do_is_refused_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &[]);
    let calling = async {
        let connection = Connection::open(&server.target).await.expect("it serves");
        let caller = |procedure| Caller::new(&connection, &server.target, procedure);
        let mut peek = caller(Procedure::Peek).expect("a name");
        match peek.call(&Call::Peek(PeekRequest::default())).await {
            Err(CallError::Refused(error)) => assert!(error.is(codes::PROCEDURE_UNKNOWN)),
            other => panic!("{other:?}"),
        }
        let mut stats = caller(Procedure::Stats).expect("a name");
        let answer = stats.call(&Call::Stats(StatsRequest::default())).await;
        assert!(answer.is_ok(), "{answer:?}");
    };
    LocalSet::new().run_until(calling).await;
}

#[tokio::test]
async fn cycles_pass_the_load_generators_verification() {
    const CYCLES: u64 = 2_000;
    const PATIENCE: Duration = Duration::from_secs(60);
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start(dir.path(), &["--queue"]);
    let shape = Shape {
        connections: 3,
        calls_in_flight: 2,
        batch: 8,
        size: 256,
        slow_after: Duration::MAX,
    };
    let cycling = async {
        let load = Load::open(&server.target, shape, Pace::Backlog(24)).await;
        let mut load = load.expect("it serves");
        load.start_workers().expect("a name");
        load.start_producers().expect("a name");
        let run = load.run();
        let end = Instant::now() + PATIENCE;
        let wait_for = async |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(
                    Instant::now() < end && run.errors() == 0,
                    "{:?}",
                    run.first_error()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        wait_for(&|| run.ledger.borrow().completed() >= CYCLES).await;
        load.stop_producers();
        wait_for(&|| run.producers.get() == 0 && run.ledger.borrow().unfinished() == 0).await;
        assert_eq!(run.ledger.borrow().duplicates(), 0);
        load.close().await;
    };
    LocalSet::new().run_until(cycling).await;
}
