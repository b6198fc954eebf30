//! Records are read as they were written, and nothing that is read panics.

use omnirelay_queue::{
    Attributes, EnqueuedBody, Epoch, Event, FailedBody, FenceReason, LeaseRef, Lsn, Millis, Nanos,
    PayloadRef,
};
use proptest::prelude::*;

fn lease() -> impl Strategy<Value = LeaseRef> {
    (any::<u64>(), any::<u16>(), any::<u16>(), 0..1_u32 << 24).prop_map(
        |(item, attempt, grant, epoch)| LeaseRef {
            item: Lsn(item),
            attempt,
            grant,
            epoch: Epoch(epoch),
        },
    )
}

fn check(event: &Event<'_>) -> Result<(), TestCaseError> {
    let mut body = Vec::new();
    event.encode(&mut body);
    prop_assert_eq!(body.len(), event.encoded_len());
    prop_assert_eq!(&Event::decode(event.kind(), &body), &Ok(*event));
    if let Event::Enqueued(enqueued) = event {
        let decoded = Event::decode(event.kind(), &body);
        let Ok(Event::Enqueued(decoded)) = decoded else {
            return Err(TestCaseError::fail("another kind"));
        };
        prop_assert_eq!(decoded.body_range(), enqueued.body_range());
        prop_assert_eq!(&body[decoded.body_range()], enqueued.payload.body);
    } else {
        for len in 0..body.len() {
            prop_assert!(Event::decode(event.kind(), &body[..len]).is_err());
        }
        body.push(0);
        prop_assert!(Event::decode(event.kind(), &body).is_err());
    }
    Ok(())
}

proptest! {
    #[test]
    fn small_records_survive_encoding(
        lease in lease(),
        millis in any::<u32>(),
        owner in ".{0,40}",
        counted: bool,
        dead: bool,
    ) {
        let duration = Millis(millis);
        check(&Event::EpochStarted { previous: lease.epoch })?;
        check(&Event::LeaseGranted { lease, duration, owner: &owner })?;
        for since in [None, Some(Nanos(u64::from(millis)))] {
            check(&Event::GrantReleased { lease, counted, dead, since })?;
        }
        check(&Event::Heartbeat { lease, duration })?;
        check(&Event::Completed { lease })?;
        check(&Event::Expired { lease, dead })?;
        for last in [None, Some((lease, FenceReason::Expired))] {
            check(&Event::ItemExpired { item: lease.item, last })?;
            check(&Event::Cancelled { item: lease.item, last, leased: counted, dead })?;
        }
        check(&Event::Redriven { item: lease.item, max_attempts: lease.attempt })?;
    }

    #[test]
    fn items_survive_encoding(
        numbers in (any::<u64>(), prop::option::of(any::<u32>()), 1..=u16::MAX, any::<u8>()),
        texts in prop::array::uniform4(".{0,20}"),
        optional in prop::array::uniform2(prop::option::of(".{0,20}")),
        attributes in prop::collection::vec((".{0,9}", ".{0,9}"), 0..5),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let (ready_at, ttl, max_attempts, priority) = numbers;
        let pairs: Vec<(&str, &str)> = attributes.iter().map(|(k, v)| (&**k, &**v)).collect();
        check(&Event::Enqueued(EnqueuedBody {
            ready_at: Nanos(ready_at),
            ttl: ttl.map(Millis),
            max_attempts,
            priority,
            enqueued_by: &texts[0],
            payload: PayloadRef {
                resource_type: &texts[1],
                resource_id: &texts[2],
                partition_key: optional[0].as_deref(),
                encoding: &texts[3],
                body: &body,
                attributes: Attributes::Pairs(&pairs),
                request_id: optional[1].as_deref(),
            },
        }))?;
    }

    #[test]
    fn failures_survive_encoding(
        lease in lease(),
        dead: bool,
        ready_at: u64,
        texts in prop::array::uniform2(prop::option::of(".{0,40}")),
        metadata in prop::collection::vec((".{0,9}", ".{0,9}"), 0..5),
    ) {
        let pairs: Vec<(&str, &str)> = metadata.iter().map(|(k, v)| (&**k, &**v)).collect();
        check(&Event::Failed(FailedBody {
            lease,
            dead,
            ready_at: Nanos(ready_at),
            reason: texts[0].as_deref(),
            code: texts[1].as_deref(),
            metadata: Attributes::Pairs(&pairs),
        }))?;
    }

    #[test]
    fn whatever_is_read_does_not_panic(
        kind in 0..20_u8,
        body in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..120),
    ) {
        if let Ok(event) = Event::decode(kind, &body) {
            let mut again = Vec::new();
            event.encode(&mut again);
            // Checksums are made anew.
            prop_assert_eq!(again.len(), body.len());
            prop_assert_eq!(Event::decode(kind, &again), Ok(event));
        }
    }
}

/// Logs outlive versions: this layout is part of the disk format.
#[test]
fn the_layout_of_an_item_is_pinned() {
    let event = Event::Enqueued(EnqueuedBody {
        ready_at: Nanos(0x0102_0304_0506_0708),
        ttl: Some(Millis(9)),
        max_attempts: 10,
        priority: 11,
        enqueued_by: "w",
        payload: PayloadRef {
            resource_type: "t",
            resource_id: "i",
            partition_key: Some("p"),
            encoding: "e",
            body: b"body",
            attributes: Attributes::Pairs(&[("k", "v")]),
            request_id: Some("r"),
        },
    });
    let mut body = Vec::new();
    event.encode(&mut body);
    let expected =
        b"\xe7\x73\x5e\xe5\x08\x07\x06\x05\x04\x03\x02\x01\x0a\x00\x0b\x07\x09\x00\x00\x00\
        \x01\x00w\x01\x00t\x01\x00i\x01\x00e\x01\x00p\x01\x00r\
        \x0a\x00\x00\x00\x01\x00\x00\x00k\x01\x00\x00\x00vbody";
    assert_eq!(body, expected);
}
