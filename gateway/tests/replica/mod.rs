//! A copy of a shard that knows nothing but the stream's JSON.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Pending,
    Leased { peer: Value, token: Value },
    Dead,
}

/// What the stream says of one item.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub state: State,
    pub payload: Value,
    pub attempt: u64,
    pub max_attempts: u64,
    pub priority: u64,
    pub enqueued_at: Value,
    pub expires_at: Value,
    pub last_error: Value,
}

/// A shard as its events make it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replica {
    pub items: BTreeMap<u64, Item>,
    /// The number of the last event.
    pub last: u64,
    /// Snapshot events that are still to come.
    snapshot_left: Option<u64>,
}

impl Replica {
    /// Takes in the next event.
    ///
    /// # Panics
    /// If it does not follow from those before it.
    pub fn apply(&mut self, event: &Value) {
        let number = event["sequenceNumber"].as_u64().expect("a number");
        let kind = event["eventType"].as_str().expect("a type");
        if kind == "Snapshot" {
            self.snapshot(number, event);
            return;
        }
        assert_eq!(
            self.snapshot_left.unwrap_or(0),
            0,
            "a snapshot is cut short"
        );
        self.snapshot_left = None;
        assert!(
            number == self.last + 1 || (kind == "EpochStarted" && number > self.last),
            "{number} after {}: {event}",
            self.last
        );
        self.last = number;
        let id = text(event, "item.sequenceId").map(|text| text.parse().expect("a number"));
        match kind {
            "EpochStarted" => {}
            "Enqueue" => self.enqueue(id.expect("its item"), event),
            "RestoreSnapshot" => {
                let restored = from_pending(&event["item"]);
                let before = self.items.insert(id.expect("its item"), restored);
                assert_eq!(before, None, "{event}");
            }
            "DrainSnapshot" if event["item"].is_null() => {}
            "DrainSnapshot" => {
                let drained = self.items.remove(&id.expect("its item"));
                assert_eq!(drained, Some(from_pending(&event["item"])), "{event}");
            }
            "Completed" | "ItemExpired" | "Cancelled" => {
                let gone = self.items.remove(&id.expect("its item"));
                assert!(gone.is_some(), "{event}");
            }
            _ => self.change(kind, id.expect("its item"), event),
        }
        self.check_counts(event);
    }

    fn enqueue(&mut self, id: u64, event: &Value) {
        let item = Item {
            state: State::Pending,
            payload: event["payload"].clone(),
            attempt: 0,
            max_attempts: number(event, "item.maxAttempts"),
            priority: number(event, "item.priority"),
            enqueued_at: event["timestamp"].clone(),
            expires_at: event["metadata"]["item.expiresAt"].clone(),
            last_error: Value::Null,
        };
        assert_eq!(self.items.insert(id, item), None, "{event}");
    }

    fn change(&mut self, kind: &str, id: u64, event: &Value) {
        let item = self.items.get_mut(&id).expect("the item is there");
        let token = &event["ownershipToken"];
        if !matches!(kind, "LeaseGranted" | "Redriven") {
            let leased = State::Leased {
                peer: event["peerId"].clone(),
                token: token.clone(),
            };
            assert_eq!(item.state, leased, "{event}");
        }
        let ended = if text(event, "item.deadLetter") == Some("true") {
            State::Dead
        } else {
            State::Pending
        };
        match kind {
            "LeaseGranted" => {
                assert_eq!(item.state, State::Pending, "{event}");
                item.attempt += 1;
                assert_eq!(token["attempt"], item.attempt, "{event}");
                item.state = State::Leased {
                    peer: event["peerId"].clone(),
                    token: token.clone(),
                };
            }
            "Heartbeat" => {}
            "Expired" => item.state = ended,
            "LeaseReleased" => {
                if text(event, "attempt.counted") == Some("false") {
                    item.attempt -= 1;
                }
                item.state = ended;
            }
            "Failed" => {
                item.last_error = event["error"].clone();
                item.state = ended;
            }
            "Redriven" => {
                assert_eq!(item.state, State::Dead, "{event}");
                item.state = State::Pending;
                item.max_attempts = number(event, "item.maxAttempts");
                let is_over = item.expires_at.as_str().is_some_and(|end| {
                    time(end) <= time(event["timestamp"].as_str().expect("a time"))
                });
                if is_over {
                    item.expires_at = Value::Null;
                }
            }
            other => panic!("an event of an unknown type: {other}"),
        }
    }

    fn snapshot(&mut self, number_of: u64, event: &Value) {
        let of = number(event, "snapshot.of");
        let left = match self.snapshot_left {
            None => {
                *self = Replica {
                    last: number_of,
                    ..Replica::default()
                };
                of
            }
            Some(left) => left,
        };
        assert_eq!(number_of, self.last, "a snapshot is of one moment");
        if of == 0 {
            assert!(event["item"].is_null(), "{event}");
            self.snapshot_left = Some(0);
            return;
        }
        assert_eq!(number(event, "snapshot.index"), of - left, "{event}");
        let mut item = from_pending(&event["item"]);
        if event["item"]["state"] == "leased" {
            item.state = State::Leased {
                peer: event["peerId"].clone(),
                token: event["ownershipToken"].clone(),
            };
        }
        let id = event["item"]["sequenceId"].as_u64().expect("a number");
        assert_eq!(self.items.insert(id, item), None, "{event}");
        self.snapshot_left = Some(left - 1);
        if left == 1 {
            self.check_counts(event);
        }
    }

    fn check_counts(&self, event: &Value) {
        let [pending, leased, _] = self.counts();
        let told = [
            number(event, "queue.pending"),
            number(event, "queue.active"),
        ];
        assert_eq!(told, [pending, leased], "{event}");
    }

    /// Items that wait or are delayed, leased, dead.
    pub fn counts(&self) -> [u64; 3] {
        let count = |is: fn(&State) -> bool| {
            self.items.values().filter(|item| is(&item.state)).count() as u64
        };
        [
            count(|state| matches!(state, State::Pending)),
            count(|state| matches!(state, State::Leased { .. })),
            count(|state| matches!(state, State::Dead)),
        ]
    }
}

/// A text of an event's metadata.
fn text<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event["metadata"][name].as_str()
}

fn time(text: &str) -> (i64, i32) {
    let time: omnirelay_net::messages::Timestamp = text.parse().expect("a time");
    (time.seconds, time.nanos)
}

fn number(event: &Value, name: &str) -> u64 {
    let text = text(event, name).unwrap_or_else(|| panic!("no {name} in {event}"));
    text.parse().expect("a number")
}

/// An item that is not leased, as drains, restores and snapshots tell it.
pub fn from_pending(item: &Value) -> Item {
    let dead = item["deadLetter"] == true;
    Item {
        state: if dead { State::Dead } else { State::Pending },
        payload: item["payload"].clone(),
        attempt: item["attempt"].as_u64().expect("a number"),
        max_attempts: item["maxAttempts"].as_u64().expect("a number"),
        priority: item["priority"].as_u64().expect("a number"),
        enqueued_at: item["enqueuedAt"].clone(),
        expires_at: item["expiresAt"].clone(),
        last_error: item["lastError"].clone(),
    }
}
