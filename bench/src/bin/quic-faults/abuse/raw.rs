//! Connections that do as they like.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use omnirelay_net::frame::encode::{self, CallHead};
use omnirelay_net::frame::{ALPN, FRAME_BYTES_MAX, Frame, FrameReader, Hello, VERSION};
use omnirelay_net::messages::{CancelRequest, EnqueueRequest, Payload};
use omnirelay_net::rpc::{Call, DEFAULT_NAMESPACE, Encoding, Reply, decode_reply};
use omnirelay_net::tls::{ServerCheck, client_config};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, Connecting, Connection, Endpoint, RecvStream, SendStream, TransportConfig,
};

/// Of items that nobody is to lease.
const DELAY_MS: u64 = 3_600_000;

/// A socket, and how connections of it are opened.
pub(crate) struct Raw {
    endpoint: Endpoint,
    config: ClientConfig,
    server: SocketAddr,
}

impl Raw {
    pub(crate) fn new(
        server: SocketAddr,
        certificate: &Path,
        transport: TransportConfig,
    ) -> anyhow::Result<Raw> {
        let mut config = config(certificate)?;
        config.transport_config(Arc::new(transport));
        let any: IpAddr = Ipv4Addr::LOCALHOST.into();
        Ok(Raw {
            endpoint: Endpoint::client((any, 0).into())?,
            config,
            server,
        })
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        self.connecting()?.await.context("connecting")
    }

    /// Begins to connect.
    pub(crate) fn connecting(&self) -> anyhow::Result<Connecting> {
        let name = self.server.ip().to_string();
        let config = self.config.clone();
        Ok(self.endpoint.connect_with(config, self.server, &name)?)
    }

    /// Waits until the server was told that its connections are closed.
    pub(crate) async fn close(&self) {
        self.endpoint.close(0_u32.into(), b"done");
        self.endpoint.wait_idle().await;
    }
}

/// What a client of these servers begins with.
pub(super) fn config(certificate: &Path) -> anyhow::Result<ClientConfig> {
    let check = ServerCheck::Ca(certificate.to_owned());
    let tls = client_config(&check, None, &[ALPN])?;
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(
        tls,
    )?)))
}

pub(crate) fn hello(version: u32) -> Hello {
    Hello {
        version_min: version,
        version_max: version,
        caller: "quic-faults".into(),
        service: "omnirelay".into(),
        ..Hello::default()
    }
}

/// A connection with one greeted stream, and calls on it.
pub(crate) struct Caller {
    _connection: Connection,
    out: SendStream,
    back: RecvStream,
    reader: FrameReader,
    last: u64,
}

impl Caller {
    /// Opens the stream and exchanges greetings.
    pub(crate) async fn new(connection: Connection) -> anyhow::Result<Caller> {
        let (mut out, mut back) = connection.open_bi().await?;
        out.write_all(&encode::hello(&hello(VERSION))).await?;
        let mut reader = FrameReader::default();
        match next(&mut reader, &mut back).await? {
            Frame::Welcome(_) => {}
            other => bail!("no welcome but {other:?}"),
        }
        Ok(Caller {
            _connection: connection,
            out,
            back,
            reader,
            last: 0,
        })
    }

    /// Makes a call and does not wait for its reply.
    pub(super) async fn ask(&mut self, call: &Call) -> anyhow::Result<()> {
        self.last += 1;
        let head = CallHead {
            id: self.last,
            procedure: &format!("{DEFAULT_NAMESPACE}::{}", call.procedure()),
            ..CallHead::default()
        };
        let frame = encode::call(&head, Encoding::Proto, call)?;
        Ok(self.out.write_all(&frame).await?)
    }

    /// Makes a call and waits for its reply.
    pub(super) async fn call(&mut self, call: &Call) -> anyhow::Result<Reply> {
        self.ask(call).await?;
        match next(&mut self.reader, &mut self.back).await? {
            Frame::Reply(reply) => {
                let body = reply.outcome?;
                Ok(decode_reply(call.procedure(), Encoding::Proto, &body)?)
            }
            other => Err(anyhow!("no reply but {other:?}")),
        }
    }

    /// Enqueues items that nobody will lease, without request ids; their names.
    pub(super) async fn enqueue_delayed(
        &mut self,
        items: u32,
        bytes: usize,
    ) -> anyhow::Result<Vec<u64>> {
        let mut names = Vec::new();
        for number in 0..items {
            let call = Call::Enqueue(EnqueueRequest {
                payload: Some(Payload {
                    resource_type: "page".into(),
                    resource_id: number.to_string(),
                    payload_encoding: "application/octet-stream".into(),
                    body: vec![7; bytes].into(),
                    ..Payload::default()
                }),
                delay_ms: Some(DELAY_MS),
                ..EnqueueRequest::default()
            });
            match self.call(&call).await? {
                Reply::Enqueue(put) => names.push(put.sequence_id),
                other => bail!("no reply to an enqueue: {other:?}"),
            }
        }
        Ok(names)
    }

    /// Takes items out again.
    pub(super) async fn cancel(&mut self, names: Vec<u64>) -> anyhow::Result<()> {
        let call = Call::Cancel(CancelRequest {
            sequence_ids: names,
            ..CancelRequest::default()
        });
        self.call(&call).await?;
        Ok(())
    }
}

/// The next frame that comes.
pub(crate) async fn next(reader: &mut FrameReader, back: &mut RecvStream) -> anyhow::Result<Frame> {
    loop {
        if let Some(frame) = reader.next(FRAME_BYTES_MAX)? {
            return Ok(Frame::decode(&frame)?);
        }
        let chunk = back.read_chunk(usize::MAX, true).await?;
        reader.push(chunk.context("the stream has ended")?.bytes);
    }
}
