use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::encode::{self, CallHead, ReplyHead};
use super::*;
use crate::messages::{EnqueueResponse, Stats, StatsRequest, StatsResponse};
use crate::rpc::{Call, Encoding, Error, Reply};

/// What `frame.proto` comes to in a protobuf library's hands.
mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/omnirelay.rpc.v1.rs"));
}
use wire::frame::Kind;

/// The frames in a run of bytes.
fn frames(bytes: impl IntoIterator<Item = Bytes>) -> Vec<Frame> {
    let mut reader = FrameReader::default();
    let mut found = Vec::new();
    for chunk in bytes {
        reader.push(chunk);
        while let Some(frame) = reader.next(FRAME_BYTES_MAX).expect("frames") {
            found.push(Frame::decode(&frame).expect("a frame"));
        }
    }
    assert_eq!(reader.pending(), 0);
    found
}

fn library(bytes: &Bytes) -> Kind {
    let frame = wire::Frame::decode_length_delimited(bytes.clone()).expect("protobuf");
    frame.kind.expect("a kind")
}

fn of_library(kind: Kind) -> Bytes {
    let frame = wire::Frame { kind: Some(kind) };
    frame.encode_length_delimited_to_vec().into()
}

fn an_error() -> Error {
    let mut error = Error::fenced("the lease has ended");
    error.metadata.insert("reason".into(), "expired".into());
    error
}

#[test]
fn a_library_reads_what_is_written_here() {
    let head = CallHead {
        id: 300,
        procedure: "resourcelease::stats",
        ttl_ms: Some(1_500),
        caller: "worker",
        service: "omnirelay",
        shard_key: "users/7",
        peer_id: "p-1",
        traceparent: "00-0af7",
        headers: &[("tenant", "a"), ("", "")],
    };
    let stats = Call::Stats(StatsRequest::default());
    let Kind::Call(call) = library(&encode::call(&head, Encoding::Json, &stats).unwrap()) else {
        panic!("a call");
    };
    assert_eq!(call.id, 300);
    assert_eq!(call.procedure, "resourcelease::stats");
    assert_eq!(call.ttl_ms, Some(1_500));
    assert_eq!(call.caller, "worker");
    assert_eq!(call.service, "omnirelay");
    assert_eq!(call.shard_key, "users/7");
    assert_eq!(call.peer_id, "p-1");
    assert_eq!(call.traceparent, "00-0af7");
    assert_eq!(call.encoding, wire::Encoding::Json as i32);
    assert_eq!(call.headers.len(), 2);
    assert_eq!(call.body, &b"{}"[..]);

    let reply = Reply::Enqueue(EnqueueResponse {
        sequence_id: 7,
        ..EnqueueResponse::default()
    });
    let head = ReplyHead {
        id: u64::MAX,
        shard: Some(0),
        traceresponse: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        more: true,
    };
    let Kind::Reply(said) = library(&encode::reply(&head, Encoding::Proto, &reply)) else {
        panic!("a reply");
    };
    assert_eq!((said.id, said.shard), (u64::MAX, Some(0)));
    assert!(said.more);
    assert_eq!(said.traceresponse, head.traceresponse);
    let mut reader = FrameReader::default();
    reader.push(encode::reply(&head, Encoding::Proto, &reply));
    let frame = reader.next(FRAME_BYTES_MAX).unwrap().unwrap();
    let Ok(Frame::Reply(read)) = Frame::decode(&frame) else {
        panic!("a reply");
    };
    assert_eq!(read.traceresponse, head.traceresponse);
    let Some(wire::reply::Outcome::Body(body)) = said.outcome else {
        panic!("a body");
    };
    assert_eq!(EnqueueResponse::decode(body).unwrap().sequence_id, 7);

    let Kind::Reply(said) = library(&encode::error(&ReplyHead::default(), &an_error())) else {
        panic!("a reply");
    };
    let Some(wire::reply::Outcome::Error(error)) = said.outcome else {
        panic!("an error");
    };
    assert_eq!(
        (error.status, &*error.code),
        (10, "resourcelease.lease.fenced")
    );
    assert_eq!(error.metadata["reason"], "expired");

    let Kind::Cancel(cancel) = library(&encode::cancel(9)) else {
        panic!("a cancel");
    };
    assert_eq!(cancel.id, 9);
    let Kind::Farewell(farewell) = library(&encode::farewell(&an_error())) else {
        panic!("a farewell");
    };
    assert_eq!(farewell.error.unwrap().message, "the lease has ended");
}

#[test]
fn what_a_library_writes_is_read_here() {
    let call = wire::Call {
        id: 1,
        procedure: "a::b".into(),
        body: Bytes::from_static(b"body"),
        ttl_ms: Some(0),
        encoding: 2,
        caller: "c".into(),
        service: "s".into(),
        shard_key: "k".into(),
        peer_id: "p".into(),
        routing_key: "r".into(),
        routing_delegate: "d".into(),
        lease_token: "1/2/3".into(),
        traceparent: "t".into(),
        tracestate: "v=1".into(),
        headers: BTreeMap::from([("h".into(), "w".into())]),
    };
    let read = frames([of_library(Kind::Call(call))]);
    let [Frame::Call(call)] = &read[..] else {
        panic!("one call");
    };
    assert_eq!((call.id, call.encoding), (1, Some(Encoding::Raw)));
    assert_eq!(
        (call.procedure(), call.caller(), call.service()),
        ("a::b", "c", "s")
    );
    assert_eq!((call.shard_key(), call.peer_id()), ("k", "p"));
    assert_eq!((call.routing_key(), call.routing_delegate()), ("r", "d"));
    assert_eq!(
        (call.lease_token(), call.traceparent(), call.tracestate()),
        ("1/2/3", "t", "v=1")
    );
    assert_eq!(call.ttl().as_millis(), 0);
    assert_eq!(call.body(), &b"body"[..]);
    assert_eq!(call.headers().collect::<Vec<_>>(), [("h", "w")]);

    let hello = wire::Hello {
        version_min: 1,
        version_max: 3,
        features: 5,
        caller: "c".into(),
        service: "s".into(),
        agent: "a".into(),
    };
    let read = frames([of_library(Kind::Hello(hello))]);
    let [Frame::Hello(hello)] = &read[..] else {
        panic!("one hello");
    };
    assert_eq!(
        (hello.version_min, hello.version_max, hello.features),
        (1, 3, 5)
    );
    let head = ReplyHead {
        id: 4,
        ..ReplyHead::default()
    };
    let read = frames([encode::error(&head, &an_error()), encode::cancel(4)]);
    let [Frame::Reply(reply), Frame::Cancel(4)] = &read[..] else {
        panic!("a reply and a cancel");
    };
    assert_eq!(reply.outcome, Err(an_error()));
}

#[test]
fn a_frame_of_a_later_version_is_passed_over() {
    // Field 15, a message; then field 3 of a call, as a number.
    assert_eq!(
        Frame::decode(&Bytes::from_static(&[0x7a, 1, 0])),
        Ok(Frame::Unknown)
    );
    assert_eq!(
        Frame::decode(&Bytes::from_static(&[0x18, 1])),
        Ok(Frame::Unknown)
    );
    assert_eq!(Frame::decode(&Bytes::new()), Ok(Frame::Unknown));
}

#[test]
fn lengths_that_lie_are_refused() {
    let refuse = |bytes: &'static [u8]| {
        let mut reader = FrameReader::default();
        reader.push(Bytes::from_static(bytes));
        reader.next(FRAME_BYTES_MAX).unwrap_err()
    };
    assert_eq!(refuse(&[0xff; 10]), FrameError::Length);
    assert_eq!(
        refuse(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        FrameError::Length
    );
    let too_long = refuse(&[0x80, 0x80, 0x80, 0x80, 1]);
    assert!(matches!(
        too_long,
        FrameError::TooLong {
            bytes: 0x1000_0000,
            ..
        }
    ));
    // A call that says it is longer than its frame; texts that are none; a group.
    for bytes in [&[0x1a, 9, 0x08][..], &[0x1a, 3, 0x12, 1, 0xff], &[0x1b]] {
        let malformed = Frame::decode(&Bytes::from_static(bytes));
        assert!(
            matches!(malformed, Err(FrameError::Malformed(_))),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_frame_in_one_chunk_is_not_copied_and_a_cut_one_does_not_keep_its_chunk() {
    let call = |id| {
        let head = CallHead {
            id,
            procedure: "a::b",
            ..CallHead::default()
        };
        encode::raw_call(&head, Encoding::Raw, &[7; 1_000])
    };
    let chunk = Bytes::from([call(1), call(2)].concat());
    let mut reader = FrameReader::default();
    reader.push(chunk.clone());
    let frame = reader.next(FRAME_BYTES_MAX).unwrap().unwrap();
    assert!(chunk.as_ptr_range().contains(&frame.as_ptr()));
    drop(frame);
    let mut reader = FrameReader::default();
    reader.push(chunk.slice(..100));
    assert_eq!(reader.next(FRAME_BYTES_MAX), Ok(None));
    reader.push(chunk.slice(100..));
    let frame = reader.next(FRAME_BYTES_MAX).unwrap().unwrap();
    assert!(!chunk.as_ptr_range().contains(&frame.as_ptr()));
    assert!(reader.next(FRAME_BYTES_MAX).unwrap().is_some());
    assert_eq!(reader.pending(), 0);
    // Not even a byte of its length.
    let chunk = Bytes::from(vec![0x80; 1_000]);
    let mut reader = FrameReader::default();
    reader.push(chunk.slice(..1));
    assert_eq!(reader.next(FRAME_BYTES_MAX), Ok(None));
    assert_eq!(reader.pending(), 1);
    assert!(chunk.is_unique());
}

proptest! {
    #[test]
    fn frames_come_out_whole_however_a_stream_is_cut(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..12),
        cuts in prop::collection::vec(1_usize..300, 1..40),
    ) {
        let mut stream = Vec::new();
        for (id, body) in (0..).zip(&bodies) {
            let head = CallHead { id, procedure: "n::op", ..CallHead::default() };
            stream.extend_from_slice(&encode::raw_call(&head, Encoding::Raw, body));
        }
        let mut rest = Bytes::from(stream);
        let mut chunks = Vec::new();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let cut = (*cuts.next().expect("endless")).min(rest.len());
            chunks.push(rest.split_to(cut));
        }
        let read = frames(chunks);
        prop_assert_eq!(read.len(), bodies.len());
        for ((id, body), frame) in (0..).zip(&bodies).zip(read) {
            let Frame::Call(call) = frame else {
                return Err(TestCaseError::fail("no call"));
            };
            prop_assert_eq!(call.id, id);
            prop_assert_eq!(call.body(), &body[..]);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_the_library_does(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let ours = Frame::decode(&bytes);
        if let Ok(wire::Frame { kind: Some(Kind::Call(call)) }) = wire::Frame::decode(bytes.clone())
            && let Ok(Frame::Call(read)) = ours
        {
            prop_assert_eq!(read.body(), call.body);
        }
    }
}

/// The example of `docs/protocol.md`, byte by byte.
#[test]
fn the_example_in_the_protocols_document_is_true() {
    let document = include_str!("../../../docs/protocol.md");
    let shown = |name: &str| -> Vec<u8> {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| {name} |")));
        let cells: Vec<&str> = row.expect(name).split('|').collect();
        let hex = cells[2].replace([' ', '`'], "");
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        (0..hex.len()).step_by(2).map(digit).collect()
    };
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        caller: "worker-1".into(),
        service: "omnirelay".into(),
        ..Hello::default()
    };
    assert_eq!(encode::hello(&hello), shown("hello"));
    let welcome = Welcome {
        version: 1,
        agent: "omnirelay/0.1.0".into(),
        frame_bytes_max: FRAME_BYTES_MAX as u32,
        calls_max: 4_096,
        ..Welcome::default()
    };
    assert_eq!(encode::welcome(&welcome), shown("welcome"));
    let head = CallHead {
        id: 1,
        procedure: "resourcelease::stats",
        ttl_ms: Some(1_000),
        ..CallHead::default()
    };
    let stats = Call::Stats(StatsRequest::default());
    assert_eq!(
        encode::call(&head, Encoding::Proto, &stats).unwrap(),
        shown("call")
    );
    let reply = Reply::Stats(StatsResponse {
        stats: Some(Stats {
            pending_count: 3,
            ..Stats::default()
        }),
    });
    let head = ReplyHead {
        id: 1,
        ..ReplyHead::default()
    };
    assert_eq!(
        encode::reply(&head, Encoding::Proto, &reply),
        shown("reply")
    );
    let error = Error::procedure_unknown("no");
    assert_eq!(encode::error(&head, &error), shown("refusal"));
    assert_eq!(encode::cancel(1), shown("cancel"));
}
