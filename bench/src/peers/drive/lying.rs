//! Servers that lose items, hand them out twice or change them must fail the measurement.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::measure;
use crate::peers::figures::Figures;
use crate::peers::rows::{Row, Timing};
use crate::peers::sides::beanstalkd::Beanstalkd;

/// What a server does to its fifth item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    Loses,
    Doubles,
    Changes,
    /// It says that it has an item left.
    Keeps,
}

/// A queue in memory that speaks beanstalkd's protocol.
struct Server {
    lie: Lie,
    jobs: RefCell<VecDeque<(u64, Vec<u8>)>>,
    next: RefCell<u64>,
}

impl Server {
    async fn serve(self: Rc<Self>, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let reply = match words.next().unwrap_or_default() {
                "put" => {
                    let size: usize = words.last().unwrap().parse().unwrap();
                    let mut body = vec![0; size + 2];
                    stream.read_exact(&mut body).await?;
                    body.truncate(size);
                    self.put(body).into_bytes()
                }
                "reserve-with-timeout" => self.reserve().await,
                "delete" => b"DELETED\r\n".to_vec(),
                "stats" => self.stats().into_bytes(),
                other => panic!("{other}"),
            };
            stream.write_all(&reply).await?;
        }
    }

    fn put(&self, mut body: Vec<u8>) -> String {
        let id = *self.next.borrow();
        *self.next.borrow_mut() += 1;
        let is_fifth = id == 5;
        if is_fifth && self.lie == Lie::Changes {
            *body.last_mut().unwrap() ^= 1;
        }
        let copies = match self.lie {
            Lie::Loses if is_fifth => 0,
            Lie::Doubles if is_fifth => 2,
            _ => 1,
        };
        let mut jobs = self.jobs.borrow_mut();
        (0..copies).for_each(|_| jobs.push_back((id, body.clone())));
        format!("INSERTED {id}\r\n")
    }

    async fn reserve(&self) -> Vec<u8> {
        if self.jobs.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Some((id, body)) = self.jobs.borrow_mut().pop_front() else {
            return b"TIMED_OUT\r\n".to_vec();
        };
        let head = format!("RESERVED {id} {}\r\n", body.len()).into_bytes();
        [head, body, b"\r\n".to_vec()].concat()
    }

    fn stats(&self) -> String {
        let ready = match self.lie {
            Lie::Keeps => 1,
            _ => self.jobs.borrow().len(),
        };
        let stats = format!(
            "---\ncurrent-jobs-ready: {ready}\ncurrent-jobs-reserved: 0\n\
             current-jobs-delayed: 0\ncurrent-jobs-buried: 0\n"
        );
        format!("OK {}\r\n{stats}\r\n", stats.len())
    }
}

async fn measured(lie: Lie) -> anyhow::Result<Figures> {
    let measuring = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address: SocketAddr = listener.local_addr()?;
        let server = Rc::new(Server {
            lie,
            jobs: RefCell::default(),
            next: RefCell::default(),
        });
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(Rc::clone(&server).serve(stream));
            }
        });
        let timing = Timing {
            patience: Duration::from_millis(300),
            ..Timing::of(Duration::from_millis(50))
        };
        let peer = Beanstalkd::new(address);
        measure(&peer, std::process::id(), Row::new(2, 4), 64, timing).await
    };
    LocalSet::new().run_until(measuring).await
}

async fn complaint(lie: Lie) -> String {
    let error = measured(lie).await.err();
    format!("{:#}", error.expect("the lie is noticed"))
}

#[tokio::test]
async fn an_honest_server_is_measured() {
    let figures = measured(Lie::Nothing).await.unwrap();
    assert!(figures.measured.cycles > 0);
    assert!(!figures.latencies.enqueue.is_empty());
    assert!(!figures.latencies.complete.is_empty());
}

#[tokio::test]
async fn an_item_that_is_lost_is_noticed() {
    let complaint = complaint(Lie::Loses).await;
    assert!(
        complaint.contains("1 acknowledged items were lost"),
        "{complaint}"
    );
}

#[tokio::test]
async fn an_item_that_comes_twice_is_noticed() {
    let complaint = complaint(Lie::Doubles).await;
    assert!(complaint.contains("came twice"), "{complaint}");
}

#[tokio::test]
async fn a_body_that_was_changed_is_noticed() {
    let complaint = complaint(Lie::Changes).await;
    assert!(
        complaint.contains("a body is not as it was sent"),
        "{complaint}"
    );
}

#[tokio::test]
async fn an_item_that_stays_is_noticed() {
    let complaint = complaint(Lie::Keeps).await;
    assert!(
        complaint.contains("1 items are left in the queue"),
        "{complaint}"
    );
}
