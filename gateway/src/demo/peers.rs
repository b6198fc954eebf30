//! What the newest committed events say of those who do the work.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::admin::rfc3339;
use crate::replication::{EventType, RecentEvent};

/// All peers that the events name.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeaseHealth {
    /// Healthy peers.
    eligible: usize,
    unhealthy: usize,
    /// Items that a peer failed or lost and that nobody has taken since.
    pending_reassignments: usize,
    peers: Vec<Peer>,
    /// What it was told from; what was before that is not known.
    window: Window,
}

/// The events that were looked at.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Window {
    events: usize,
    from: Option<String>,
    to: Option<String>,
}

/// One owner of leases.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    peer_id: String,
    /// The last that was heard of it is not that a lease of its ran out.
    is_healthy: bool,
    last_seen: Option<String>,
    active_leases: usize,
    granted: usize,
    completed: usize,
    failed: usize,
    expired: usize,
}

/// The item of an event, by namespace and sequence id.
type ItemName<'a> = (&'a str, u64);

/// Tells how the peers are; `events` are newest first, as they are read.
pub(super) fn lease_health(events: &[RecentEvent]) -> LeaseHealth {
    let mut peers: BTreeMap<&str, Peer> = BTreeMap::new();
    let mut owners: HashMap<ItemName<'_>, &str> = HashMap::new();
    let mut lost: HashSet<ItemName<'_>> = HashSet::new();
    for event in events.iter().rev() {
        let Some(sequence_id) = event.sequence_id else {
            continue;
        };
        let item = (event.namespace.as_str(), sequence_id);
        let is_given_back = matches!(event.event_type, EventType::Failed | EventType::Expired);
        match event.event_type {
            EventType::LeaseGranted => {
                lost.remove(&item);
                if let Some(peer) = event.peer_id.as_deref() {
                    owners.insert(item, peer);
                }
            }
            EventType::Enqueue | EventType::Heartbeat | EventType::Redriven => {}
            _ => {
                owners.remove(&item);
                lost.remove(&item);
                if is_given_back && !event.dead_letter {
                    lost.insert(item);
                }
            }
        }
        if let Some(peer) = event.peer_id.as_deref() {
            peers.entry(peer).or_default().note(event);
        }
    }
    for owner in owners.into_values() {
        peers.entry(owner).or_default().active_leases += 1;
    }
    let peers: Vec<Peer> = peers
        .into_iter()
        .map(|(name, peer)| Peer {
            peer_id: name.to_owned(),
            ..peer
        })
        .collect();
    let eligible = peers.iter().filter(|peer| peer.is_healthy).count();
    LeaseHealth {
        eligible,
        unhealthy: peers.len() - eligible,
        pending_reassignments: lost.len(),
        peers,
        window: Window {
            events: events.len(),
            from: events.last().map(|event| rfc3339(event.timestamp)),
            to: events.first().map(|event| rfc3339(event.timestamp)),
        },
    }
}

impl Peer {
    fn note(&mut self, event: &RecentEvent) {
        let count = match event.event_type {
            EventType::LeaseGranted => Some(&mut self.granted),
            EventType::Completed => Some(&mut self.completed),
            EventType::Failed => Some(&mut self.failed),
            EventType::Expired => Some(&mut self.expired),
            EventType::Heartbeat => None,
            // Not the peer's doing.
            _ => return,
        };
        if let Some(count) = count {
            *count += 1;
        }
        self.is_healthy = event.event_type != EventType::Expired;
        if self.is_healthy {
            self.last_seen = Some(rfc3339(event.timestamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_queue::Nanos;

    use super::*;

    fn event(at_s: u64, event_type: EventType, item: u64, peer: Option<&str>) -> RecentEvent {
        RecentEvent {
            sequence_number: at_s,
            shard_id: 0,
            namespace: "resourcelease".into(),
            event_type,
            timestamp: Nanos::from_millis(at_s * 1_000),
            sequence_id: Some(item),
            peer_id: peer.map(str::to_owned),
            attempt: None,
            resource_type: None,
            resource_id: None,
            error: None,
            dead_letter: false,
        }
    }

    /// In the order in which they happened.
    fn health(mut events: Vec<RecentEvent>) -> LeaseHealth {
        events.reverse();
        lease_health(&events)
    }

    #[test]
    fn a_peer_is_healthy_until_a_lease_of_its_runs_out_and_again_when_it_is_heard_of() {
        let mut events = vec![
            event(1, EventType::LeaseGranted, 1, Some("a")),
            event(2, EventType::LeaseGranted, 2, Some("b")),
            event(3, EventType::Completed, 2, Some("b")),
            event(6, EventType::Expired, 1, Some("a")),
        ];
        let told = health(events.clone());
        assert_eq!((told.eligible, told.unhealthy), (1, 1));
        let [a, b] = &told.peers[..] else {
            panic!("{told:?}")
        };
        assert_eq!((a.is_healthy, a.granted, a.expired), (false, 1, 1));
        assert_eq!(a.last_seen.as_deref(), Some("1970-01-01T00:00:01Z"));
        assert_eq!((b.is_healthy, b.completed), (true, 1));
        assert_eq!(told.pending_reassignments, 1);

        events.push(event(7, EventType::LeaseGranted, 1, Some("b")));
        events.push(event(8, EventType::LeaseGranted, 3, Some("a")));
        let told = health(events);
        assert_eq!((told.eligible, told.pending_reassignments), (2, 0));
        let active: Vec<_> = told.peers.iter().map(|peer| peer.active_leases).collect();
        assert_eq!(active, [1, 1]);
    }

    #[test]
    fn what_is_given_up_on_or_taken_away_is_not_reassigned() {
        let mut dead = event(2, EventType::Failed, 1, Some("a"));
        dead.dead_letter = true;
        let told = health(vec![
            event(1, EventType::LeaseGranted, 1, Some("a")),
            dead,
            event(3, EventType::LeaseGranted, 2, Some("a")),
            event(4, EventType::Failed, 2, Some("a")),
            event(5, EventType::Cancelled, 2, None),
        ]);
        assert_eq!((told.pending_reassignments, told.eligible), (0, 1));
        assert_eq!(told.peers[0].failed, 2);
        assert_eq!(told.peers[0].active_leases, 0);
    }

    #[test]
    fn nothing_is_told_of_nothing() {
        assert_eq!(lease_health(&[]), LeaseHealth::default());
    }
}
