//! Bodies of calls and replies, in both encodings.

use bytes::Bytes;
use omnirelay_net::messages::{BATCH_ITEMS_MAX, JSON_INTEGER_MAX};
use omnirelay_net::rpc::{
    Call, Encoding, Procedure, Reply, codes, decode_call, decode_reply, decode_request,
    encode_call, encode_reply, validate_call, validate_enqueue, validate_request,
    validate_settle_item,
};

/// Reads bytes as the body of every kind of call and reply. The first byte
/// chooses procedure, direction and encoding, the rest is the body.
///
/// What is read as a call is written and read again in both encodings: both
/// must take it and give back an equal one.
///
/// # Panics
/// When the encodings disagree, or a reader does.
pub fn json(bytes: &[u8]) -> &'static str {
    let Some((&choice, body)) = bytes.split_first() else {
        return "nothing";
    };
    let (choice, encoding) = match choice.is_multiple_of(2) {
        true => (choice / 2, Encoding::Json),
        false => (choice / 2, Encoding::Proto),
    };
    let is_reply = choice >= 96;
    let procedure = Procedure::ALL[usize::from(choice % 96) % Procedure::ALL.len()];
    let body = Bytes::copy_from_slice(body);
    match is_reply {
        true => reply(procedure, encoding, &body),
        false => call(procedure, encoding, &body),
    }
}

fn call(procedure: Procedure, encoding: Encoding, body: &Bytes) -> &'static str {
    let read = decode_call(procedure, encoding, body);
    let in_place = decode_request(procedure, encoding, body);
    assert_eq!(
        in_place.map(|request| validate_request(&request)),
        read.as_ref().map(validate_call).map_err(Clone::clone),
        "whether it is read where it lies makes no difference"
    );
    let Ok(call) = read else {
        return "a call refused";
    };
    assert_eq!(call.procedure(), procedure);
    for again in [Encoding::Json, Encoding::Proto] {
        let written = encode_call(again, &call).expect("both encodings carry calls");
        match decode_call(procedure, again, &written) {
            Ok(read) => assert_eq!(read, call, "{again:?} of {encoding:?}"),
            Err(error) if again == Encoding::Json => {
                let most = integers(&call).into_iter().max();
                assert!(most > Some(JSON_INTEGER_MAX), "{error}");
            }
            Err(error) => {
                // JSON keeps one item more than fits, for validation to see.
                assert!(error.is(codes::PAYLOAD_TOO_LARGE), "{error}");
                assert!(items(&call) > BATCH_ITEMS_MAX, "{error}");
                assert_eq!(validate_call(&call), Err(error));
            }
        }
    }
    match &call {
        Call::EnqueueBatch(batch) => {
            for item in &batch.items {
                let _ = validate_enqueue(&item.view());
            }
        }
        Call::Settle(batch) => {
            for item in &batch.items {
                let _ = validate_settle_item(&item.view());
            }
        }
        _ => {}
    }
    match validate_call(&call) {
        Ok(()) => "a call",
        Err(_) => "a call that is not valid",
    }
}

/// Some of a reply is left out or brought into range in writing, so it is what
/// was written that must be read as it was.
fn reply(procedure: Procedure, encoding: Encoding, body: &Bytes) -> &'static str {
    let Ok(first) = decode_reply(procedure, encoding, body) else {
        return "a reply refused";
    };
    let written = encode_reply(encoding, &first);
    let second = match decode_reply(procedure, encoding, &written) {
        Ok(second) => second,
        Err(error) => panic!("a reply that was written cannot be read: {error}"),
    };
    assert_eq!(encode_reply(encoding, &second), written);
    let other = match encoding {
        Encoding::Json => Encoding::Proto,
        _ => Encoding::Json,
    };
    let written = encode_reply(other, &second);
    if encoding == Encoding::Json {
        let read = decode_reply(procedure, other, &written);
        assert_eq!(read.as_ref(), Ok(&second), "protobuf of JSON");
    }
    match second {
        Reply::Lease(_) | Reply::LeaseBatch(_) => "a lease",
        _ => "a reply",
    }
}

/// The integers of a call that JSON cannot carry at all sizes.
fn integers(call: &Call) -> Vec<u64> {
    let token = |token: &Option<omnirelay_net::messages::OwnershipToken>| {
        token.as_ref().map(|token| token.sequence_id)
    };
    let found = match call {
        Call::Enqueue(enqueue) => vec![enqueue.delay_ms, enqueue.ttl_ms],
        Call::EnqueueBatch(batch) => {
            let items = batch.items.iter();
            items
                .flat_map(|item| [item.delay_ms, item.ttl_ms])
                .collect()
        }
        Call::Lease(lease) => vec![lease.wait_ms, lease.lease_ms],
        Call::LeaseBatch(lease) => vec![lease.wait_ms, lease.lease_ms],
        Call::Heartbeat(beat) => vec![token(&beat.ownership_token), beat.extend_ms],
        Call::Complete(complete) => vec![token(&complete.ownership_token)],
        Call::Fail(fail) => vec![token(&fail.ownership_token), fail.delay_ms],
        Call::Settle(batch) => {
            let items = batch.items.iter();
            let of = |item: &omnirelay_net::messages::SettleItem| {
                [token(&item.ownership_token), item.delay_ms, item.extend_ms]
            };
            items.flat_map(of).collect()
        }
        Call::Redrive(change) => change.sequence_ids.iter().map(|id| Some(*id)).collect(),
        Call::Cancel(change) => change.sequence_ids.iter().map(|id| Some(*id)).collect(),
        Call::Explain(explain) => vec![Some(explain.sequence_id)],
        Call::Restore(restore) => {
            let items = restore.items.iter();
            items.map(|item| Some(item.sequence_id)).collect()
        }
        Call::Stats(_) | Call::Peek(_) | Call::DeadLetters(_) | Call::Drain(_) => Vec::new(),
    };
    found.into_iter().flatten().collect()
}

fn items(call: &Call) -> usize {
    match call {
        Call::EnqueueBatch(batch) => batch.items.len(),
        Call::Settle(batch) => batch.items.len(),
        Call::Restore(batch) => batch.items.len(),
        Call::Redrive(change) => change.sequence_ids.len(),
        Call::Cancel(change) => change.sequence_ids.len(),
        _ => 0,
    }
}
