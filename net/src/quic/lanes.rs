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

    /// A datagram that another core has passed on.
    pub(super) fn take(&mut self) -> Option<Datagram> {
        self.inbound.iter_mut().find_map(Consumer::pop)
    }
}
