//! A network between client and server that does to datagrams what it is told.
//!
//! The plan decides from a seed; the driver moves datagrams.

mod driver;
mod plan;

pub(crate) use self::driver::{Counts, Proxy};
pub(crate) use self::plan::{Blackhole, Path};
