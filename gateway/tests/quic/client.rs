//! quinn's ordinary client, and the frames of one stream.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::frame::{ALPN, FRAME_BYTES_MAX, Frame, FrameReader, Hello, ReplyFrame};
use omnirelay_net::rpc::{Encoding, Error};
use omnirelay_net::tls::{ClientFiles, ServerCheck, client_config};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, WriteError,
};
use serde_json::Value;

use crate::harness::BOUND;

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Within the time that anything may take.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(BOUND, future).await;
    waited.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// Looks again and again until it is so, while the connections of this runtime go on.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let poll = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, poll).await;
}

/// A socket of its own: which core serves a client is decided by its port.
pub fn endpoint(ca: &Path, identity: Option<&ClientFiles>) -> Endpoint {
    let tls = client_config(&ServerCheck::Ca(ca.to_owned()), identity, &[ALPN]).expect("TLS");
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3");
    let config = ClientConfig::new(Arc::new(crypto));
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a socket");
    endpoint.set_default_client_config(config);
    endpoint
}

/// A connection of a client without a certificate.
pub async fn connect(address: SocketAddr, ca: &Path) -> Connection {
    let connecting = try_connect(&endpoint(ca, None), address).await;
    connecting.expect("the node takes connections")
}

pub async fn try_connect(
    endpoint: &Endpoint,
    address: SocketAddr,
) -> Result<Connection, ConnectionError> {
    let connecting = endpoint.connect(address, "localhost").expect("a start");
    within("a connection", connecting).await
}

/// A stream on which a client has been welcomed.
pub struct Line {
    out: SendStream,
    back: RecvStream,
    reader: FrameReader,
    last: u64,
}

impl Line {
    pub async fn open(connection: &Connection) -> Line {
        Line::try_open(connection).await.expect("a welcome")
    }

    /// None if the connection ends instead.
    pub async fn try_open(connection: &Connection) -> Option<Line> {
        let (out, back) = connection.open_bi().await.ok()?;
        let mut line = Line {
            out,
            back,
            reader: FrameReader::default(),
            last: 0,
        };
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            caller: "tests".into(),
            service: "queue".into(),
            ..Hello::default()
        };
        line.out.write_all(&encode::hello(&hello)).await.ok()?;
        match line.next().await {
            Some(Frame::Welcome(_)) => Some(line),
            _ => None,
        }
    }

    /// Sends a call of the default namespace with a JSON body; its id.
    pub async fn send(&mut self, operation: &str, body: &Value) -> u64 {
        let sent = self.try_send(operation, body).await;
        sent.expect("it is taken")
    }

    pub async fn try_send(&mut self, operation: &str, body: &Value) -> Result<u64, WriteError> {
        self.last += 1;
        let procedure = format!("resourcelease::{operation}");
        let head = CallHead {
            id: self.last,
            procedure: &procedure,
            ..CallHead::default()
        };
        let frame = encode::raw_call(&head, Encoding::Json, body.to_string().as_bytes());
        self.out.write_all(&frame).await?;
        Ok(self.last)
    }

    /// A call that succeeds.
    pub async fn call(&mut self, operation: &str, body: &Value) -> Value {
        let id = self.send(operation, body).await;
        let reply = self.reply().await;
        assert_eq!(reply.id, id);
        let body = reply.outcome.expect("it succeeds");
        serde_json::from_slice(&body).expect("JSON")
    }

    pub async fn reply(&mut self) -> ReplyFrame {
        match self.next().await {
            Some(Frame::Reply(reply)) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    /// The stream's last frame.
    pub async fn farewell(&mut self) -> Error {
        match self.next().await {
            Some(Frame::Farewell(error)) => error,
            other => panic!("no farewell but {other:?}"),
        }
    }

    /// The next frame; none at the end of the stream or the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.reader.next(FRAME_BYTES_MAX).expect("frames") {
                return Some(Frame::decode(&frame).expect("a frame"));
            }
            let chunk = within("a frame", self.back.read_chunk(usize::MAX, true)).await;
            self.reader.push(chunk.ok()??.bytes);
        }
    }
}
