//! From a call to a live connection, whichever that is at the moment.
//!
//! [`dial`] opens one, [`link`] is one that is open, [`supervisor`] keeps one there.

mod dial;
mod link;
mod supervisor;

pub(crate) use self::dial::Dialer;
pub(crate) use self::link::{Link, Outgoing, Route};
pub(crate) use self::supervisor::{Reconnect, Supervisor};
