//! Keeps web pages of others from changing anything here.
//!
//! Whoever reaches the admin port may use it, and a browser on this machine reaches it for every
//! page that it shows. A browser says in `Origin` for which page it asks, and in `Host` under
//! which name it looked the server up: a page of others has an origin that is not ours, and one
//! whose name was pointed at this machine (DNS rebinding) has a host that is no address.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;

use super::server::document;

/// How the node's own page is reached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) is_on_loopback: bool,
    /// Over TLS.
    pub(super) is_secure: bool,
}

/// Lets a request that changes something pass unless it may be a strange page's.
pub(super) async fn only(site: Site, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match check(site, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(message) => document(StatusCode::FORBIDDEN, &json!({"message": message})),
    }
}

fn check(site: Site, headers: &HeaderMap) -> Result<(), &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let (Some(host), Some(authority)) = (host, authority) else {
        return Err("a request that changes something needs one Host header");
    };
    let name = authority.host();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let is_address = name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok();
    let mut origins = headers.get_all(ORIGIN).iter().peekable();
    let is_from_page = origins.peek().is_some();
    if !is_address && (site.is_on_loopback || is_from_page) {
        return Err(
            "a request that changes something names this node in its Host header by an \
             address, or as localhost",
        );
    }
    let scheme = if site.is_secure { "https" } else { "http" };
    let ours = format!("{scheme}://{host}");
    if origins.all(|origin| origin.as_bytes().eq_ignore_ascii_case(ours.as_bytes())) {
        Ok(())
    } else {
        Err("a page of another origin changes nothing here")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(is_on_loopback: bool, lines: &[(&'static str, &'static str)]) -> bool {
        let site = Site {
            is_on_loopback,
            is_secure: false,
        };
        passes_at(site, lines)
    }

    fn passes_at(site: Site, lines: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        check(site, &headers).is_ok()
    }

    #[test]
    fn programs_and_our_own_page_pass() {
        for host in [
            "127.0.0.1:7421",
            "[::1]:7421",
            "localhost:7421",
            "LOCALHOST",
            "10.0.0.1",
        ] {
            assert!(passes(true, &[("host", host)]), "{host}");
        }
        let page = [
            ("host", "localhost:7421"),
            ("origin", "http://localhost:7421"),
        ];
        assert!(passes(true, &page));
        assert!(passes(false, &page));
        assert!(passes(false, &[("host", "node-1.example:7421")]));
    }

    #[test]
    fn pages_of_others_do_not() {
        let host = ("host", "127.0.0.1:7421");
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:8080",
            "https://127.0.0.1:7421",
            "null",
            "",
        ] {
            assert!(!passes(true, &[host, ("origin", origin)]), "{origin}");
            assert!(!passes(false, &[host, ("origin", origin)]), "{origin}");
        }
        let two = [
            host,
            ("origin", "http://127.0.0.1:7421"),
            ("origin", "http://evil.example"),
        ];
        assert!(!passes(true, &two));
    }

    #[test]
    fn over_tls_our_own_page_is_one_over_tls() {
        let site = Site {
            is_on_loopback: true,
            is_secure: true,
        };
        let host = ("host", "127.0.0.1:7421");
        assert!(passes_at(
            site,
            &[host, ("origin", "https://127.0.0.1:7421")]
        ));
        assert!(!passes_at(
            site,
            &[host, ("origin", "http://127.0.0.1:7421")]
        ));
    }

    #[test]
    fn a_name_that_was_pointed_here_does_not_pass() {
        assert!(!passes(true, &[("host", "evil.example:7421")]));
        let rebound = [
            ("host", "evil.example:7421"),
            ("origin", "http://evil.example:7421"),
        ];
        assert!(!passes(true, &rebound));
        assert!(!passes(false, &rebound));
        assert!(!passes(true, &[("host", "127.0.0.1.evil.example")]));
        assert!(!passes(true, &[]));
        assert!(!passes(
            true,
            &[("host", "127.0.0.1"), ("host", "127.0.0.1")]
        ));
    }
}
