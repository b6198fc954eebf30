//! The same queue over QUIC.

use std::net::{SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use omnirelay_net::frame::encode::{self, ReplyHead};
use omnirelay_net::frame::{
    ALPN, CallFrame, FRAME_BYTES_MAX, Frame, FrameReader, VERSION, Welcome,
};
use omnirelay_net::rpc::RequestHead;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig, TokioRuntime,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinSet, spawn_local};
use tokio_rustls::rustls;

use super::{Server, handle};

/// A socket on the port.
pub(super) fn socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(address)
}

/// Serves, and tells how each connection ends.
pub(super) async fn serve(
    server: Rc<Server>,
    socket: UdpSocket,
    mut tls: rustls::ServerConfig,
    ends: Sender<ConnectionError>,
) {
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).unwrap();
    let config = ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = Endpoint::new(
        EndpointConfig::default(),
        Some(config),
        socket,
        Arc::new(TokioRuntime),
    );
    let endpoint = endpoint.unwrap();
    while let Some(incoming) = endpoint.accept().await {
        let Some(number) = server.number_connection() else {
            incoming.refuse();
            continue;
        };
        let (server, ends) = (Rc::clone(&server), ends.clone());
        spawn_local(async move {
            // Clients that are not trusted, or do not trust, get no further.
            let Ok(connection) = incoming.await else {
                return;
            };
            let streams = async {
                while let Ok((out, back)) = connection.accept_bi().await {
                    spawn_local(stream(Rc::clone(&server), number, out, back));
                }
            };
            tokio::select! {
                () = streams => {}
                () = server.end.notified() => connection.close(3_u32.into(), b"the end"),
            }
            // Only one test listens.
            let _ = ends.send(connection.closed().await);
        });
    }
}

async fn stream(server: Rc<Server>, number: u64, out: SendStream, mut back: RecvStream) {
    let (replies, written) = unbounded_channel();
    spawn_local(write(out, written));
    // Calls end with their stream: nobody would take what they bring.
    let mut calls = JoinSet::new();
    let mut reader = FrameReader::default();
    loop {
        match reader.next(FRAME_BYTES_MAX).unwrap() {
            None => match back.read_chunk(usize::MAX, true).await {
                Ok(Some(chunk)) => reader.push(chunk.bytes),
                Ok(None) | Err(_) => return,
            },
            Some(frame) => match Frame::decode(&frame).unwrap() {
                Frame::Hello(_) => {
                    let welcome = Welcome {
                        version: VERSION,
                        ..Welcome::default()
                    };
                    let _ = replies.send(encode::welcome(&welcome));
                }
                Frame::Call(call) => {
                    server.note_call(number);
                    calls.spawn_local(answer(Rc::clone(&server), call, replies.clone()));
                    while calls.try_join_next().is_some() {}
                }
                _ => {}
            },
        }
    }
}

async fn answer(server: Rc<Server>, call: CallFrame, replies: UnboundedSender<Bytes>) {
    let encoding = call.encoding.unwrap();
    let procedure = call.procedure().to_owned();
    let rpc = RequestHead::new("caller", "service", procedure, encoding);
    let head = ReplyHead {
        id: call.id,
        ..ReplyHead::default()
    };
    let frame = match handle(&server, &rpc, &call.body()).await {
        Ok(reply) => encode::reply(&head, encoding, &reply),
        Err(error) => encode::error(&head, &error),
    };
    // A client that leaves is no concern of the server's.
    let _ = replies.send(frame);
}

async fn write(mut out: SendStream, mut frames: UnboundedReceiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if out.write_chunk(frame).await.is_err() {
            return;
        }
    }
}
