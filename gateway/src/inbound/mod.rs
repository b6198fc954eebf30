//! From bytes on a connection to a call on a core, and back.

mod budget;
mod http;

pub use http::HttpInbound;
