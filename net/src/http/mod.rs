//! HTTP/1.1 and HTTP/2 on a core: one port, told apart by the first bytes of a
//! connection.
//!
//! Where it is given a TLS configuration the port speaks TLS only.
//!
//! [`serve`] accepts connections and hands each request to a [`Service`], which
//! reads its body with [`read_body`] and answers, usually with a
//! [`DeliveryBody`]. Malformed and oversized input is answered or cut off here
//! and never reaches the service.

mod body;
mod connection;
mod connections;
mod limits;
mod serve;
mod socket;

pub use self::body::{BodyError, DeliveryBody, SizedBodyError, read_body, read_sized_body};
pub use self::limits::{HttpCounters, HttpLimits};
pub use self::serve::{ACCEPTS_PER_TURN_MAX, Service, serve};
pub use self::socket::TLS_ONLY;
