//! From the core that a datagram reached to the one that it is for.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use quinn_proto::EcnCodepoint;

use crate::ring::{Consumer, Producer, ring};
use crate::runtime::{Notifier, NotifierListener};

/// Datagrams that fit a lane. More are dropped, as a network would.
const LANE_DATAGRAMS: usize = 1_024;

/// A datagram as it came.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) remote: SocketAddr,
    pub(super) local_ip: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) bytes: BytesMut,
}

/// One core's ends of the lanes between all of them.
#[derive(Debug)]
pub struct Lanes {
    pub(super) here: u8,
    /// By core; none to itself.
    outbound: Vec<Option<(Producer<Datagram>, Notifier)>>,
    inbound: Vec<Consumer<Datagram>>,
    /// Whose turn it is.
    next: usize,
    pub(super) listener: NotifierListener,
}

/// Makes lanes between so many cores; one end for each, in order.
///
/// # Panics
/// For more than 256 cores.
pub fn lanes(cores: usize) -> Vec<Lanes> {
    let (notifiers, mut ends): (Vec<Notifier>, Vec<Lanes>) = (0..cores)
        .map(|core| {
            let (notifier, listener) = Notifier::pair();
            let end = Lanes {
                here: u8::try_from(core).expect("a connection id has one byte for the core"),
                outbound: Vec::new(),
                inbound: Vec::new(),
                next: 0,
                listener,
            };
            (notifier, end)
        })
        .unzip();
    for from in 0..cores {
        for (to, notifier) in notifiers.iter().enumerate() {
            let lane = (from != to).then(|| {
                let (producer, consumer) = ring(LANE_DATAGRAMS);
                ends[to].inbound.push(consumer);
                (producer, notifier.clone())
            });
            ends[from].outbound.push(lane);
        }
    }
    ends
}

impl Lanes {
    /// Passes a datagram on. False if that core is unknown, or does not keep up.
    pub(super) fn pass(&mut self, core: u8, datagram: Datagram) -> bool {
        let lane = self.outbound.get_mut(usize::from(core));
        let Some(Some((ring, notifier))) = lane else {
            return false;
        };
        let is_passed = ring.push(datagram).is_ok();
        notifier.notify();
        is_passed
    }

    /// A datagram that another core has passed on; the cores take turns.
    pub(super) fn take(&mut self) -> Option<Datagram> {
        for _ in 0..self.inbound.len() {
            self.next = (self.next + 1) % self.inbound.len();
            if let Some(datagram) = self.inbound[self.next].pop() {
                return Some(datagram);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: u8) -> Datagram {
        Datagram {
            remote: ([127, 0, 0, 1], 1).into(),
            local_ip: None,
            ecn: None,
            bytes: BytesMut::from(&[from][..]),
        }
    }

    #[test]
    fn a_busy_core_does_not_keep_out_what_others_pass_on() {
        let mut ends = lanes(3);
        for _ in 0..LANE_DATAGRAMS {
            assert!(ends[0].pass(2, datagram(0)));
        }
        assert!(!ends[0].pass(2, datagram(0)), "a full lane");
        assert!(!ends[0].pass(9, datagram(0)), "no such core");
        assert!(ends[1].pass(2, datagram(1)));
        let first: Vec<u8> = (0..2)
            .map(|_| ends[2].take().expect("a datagram").bytes[0])
            .collect();
        assert!(first.contains(&1), "{first:?}");
        let left = std::iter::from_fn(|| ends[2].take()).count();
        assert_eq!(left, LANE_DATAGRAMS - 1);
    }
}
