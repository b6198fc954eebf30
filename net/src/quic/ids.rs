//! Connection ids that say where a connection lives, and the keys that outlive a process.

use std::fmt;
use std::sync::Arc;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};

/// Bytes of a [`QuicKeys`] secret.
pub const SECRET_BYTES: usize = 32;

/// Core, generation, random bytes, check.
const ID_BYTES: usize = CHECKED_BYTES + CHECK_BYTES;
const CHECKED_BYTES: usize = 1 + GENERATION_BYTES + RANDOM_BYTES;
const GENERATION_BYTES: usize = 2;
const RANDOM_BYTES: usize = 6;
const CHECK_BYTES: usize = 4;

/// Keys of a node's QUIC, made from one secret that is kept over restarts: so a client of the
/// process before is told at once that its connection is gone, and a token that proves a client's
/// address stays good.
#[derive(Clone)]
pub struct QuicKeys {
    pub(super) reset: Arc<hmac::Key>,
    pub(super) tokens: Arc<hkdf::Prk>,
    ids: hmac::Key,
    /// Of the process, told apart from the ones before.
    generation: [u8; GENERATION_BYTES],
}

impl QuicKeys {
    /// From the node's secret; `generation` is another one each time the process starts.
    pub fn new(secret: &[u8; SECRET_BYTES], generation: u16) -> QuicKeys {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = |purpose: &str| {
            let bytes = hmac::sign(&root, purpose.as_bytes());
            hmac::Key::new(hmac::HMAC_SHA256, bytes.as_ref())
        };
        let tokens = hmac::sign(&root, b"address validation tokens");
        QuicKeys {
            reset: Arc::new(derived("stateless resets")),
            tokens: Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(tokens.as_ref())),
            ids: derived("connection ids"),
            generation: generation.to_be_bytes(),
        }
    }

    fn check(&self, checked: &[u8]) -> [u8; CHECK_BYTES] {
        let tag = hmac::sign(&self.ids, checked);
        *tag.as_ref().first_chunk().expect("a tag is longer")
    }

    fn is_ours(&self, id: &[u8]) -> bool {
        id.len() == ID_BYTES && self.check(&id[..CHECKED_BYTES]) == id[CHECKED_BYTES..]
    }

    /// The core that a datagram is for, if that is another one than `here`.
    ///
    /// Ids of another process's are for nobody else: whoever has them says that they are gone.
    pub(super) fn elsewhere(&self, datagram: &[u8], here: u8) -> Option<u8> {
        let id = destination(datagram)?;
        let core = id[0];
        let is_current = id[1..][..GENERATION_BYTES] == self.generation;
        (core != here && is_current && self.is_ours(id)).then_some(core)
    }
}

impl fmt::Debug for QuicKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("QuicKeys").finish_non_exhaustive()
    }
}

/// The connection id that a datagram's first packet is for, if it has the length of ours.
/// <https://www.rfc-editor.org/rfc/rfc8999.html#section-5>
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let is_long = datagram.first()? & 0x80 != 0;
    if !is_long {
        return datagram.get(1..1 + ID_BYTES);
    }
    let length = usize::from(*datagram.get(5)?);
    if length != ID_BYTES {
        return None;
    }
    datagram.get(6..6 + ID_BYTES)
}

/// Makes the ids of one core's connections.
#[derive(Debug)]
pub(super) struct CoreIds {
    pub(super) keys: QuicKeys,
    pub(super) core: u8,
}

impl ConnectionIdGenerator for CoreIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        id[0] = self.core;
        id[1..][..GENERATION_BYTES].copy_from_slice(&self.keys.generation);
        SystemRandom::new()
            .fill(&mut id[1 + GENERATION_BYTES..CHECKED_BYTES])
            .expect("the system has random bytes");
        let check = self.keys.check(&id[..CHECKED_BYTES]);
        id[CHECKED_BYTES..].copy_from_slice(&check);
        ConnectionId::new(&id)
    }

    /// Only ids that this node has given out are worth an answer, whichever of its processes did.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.keys.is_ours(id) {
            Ok(())
        } else {
            Err(InvalidCid)
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: u8, generation: u16) -> QuicKeys {
        QuicKeys::new(&[secret; SECRET_BYTES], generation)
    }

    fn id(keys: &QuicKeys, core: u8) -> ConnectionId {
        let mut ids = CoreIds {
            keys: keys.clone(),
            core,
        };
        ids.generate_cid()
    }

    #[test]
    fn a_datagram_says_which_core_it_is_for() {
        let keys = keys(1, 7);
        let short = [&[0x40][..], &id(&keys, 3), &[0; 20]].concat();
        assert_eq!(keys.elsewhere(&short, 0), Some(3));
        assert_eq!(keys.elsewhere(&short, 3), None, "it is here");
        let long = [
            &[0xe0, 0, 0, 0, 1, ID_BYTES as u8][..],
            &id(&keys, 2),
            &[0; 20],
        ]
        .concat();
        assert_eq!(keys.elsewhere(&long, 0), Some(2));
        for cut in 0..short.len().min(1 + ID_BYTES) {
            assert_eq!(keys.elsewhere(&short[..cut], 0), None);
        }
        assert_eq!(keys.elsewhere(&long[..10], 0), None);
    }

    #[test]
    fn an_id_of_another_process_stays_here_and_a_strangers_is_none() {
        let now = keys(1, 8);
        let before = id(&keys(1, 7), 3);
        let ids = CoreIds {
            keys: now.clone(),
            core: 0,
        };
        let datagram = |id: &[u8]| [&[0x40][..], id, &[0; 20]].concat();
        assert_eq!(now.elsewhere(&datagram(&before), 0), None);
        assert!(ids.validate(&before).is_ok(), "it is told that it is gone");
        let strange = id(&keys(2, 8), 3);
        assert_eq!(now.elsewhere(&datagram(&strange), 0), None);
        assert!(ids.validate(&strange).is_err());
        let mut bent = id(&now, 3).to_vec();
        bent[0] = 4;
        assert_eq!(now.elsewhere(&datagram(&bent), 0), None);
        assert_ne!(id(&now, 3), id(&now, 3));
    }
}
