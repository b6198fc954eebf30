//! Where a server is: `host:port`, as it is typed and as it is resolved.

use std::net::IpAddr;

use super::failure::Failure;
use super::secure::{Server, TlsArgs};

/// Where a node serves RPC unless it is told otherwise.
pub(super) const RPC_DEFAULT: &str = "127.0.0.1:7420";
/// Where a node serves its admin endpoints unless it is told otherwise.
pub(super) const ADMIN_DEFAULT: &str = "127.0.0.1:7421";

/// The server that calls go to.
#[derive(Debug, clap::Args)]
pub(super) struct RpcServerArgs {
    /// The server, as host:port or https://host:port
    #[arg(
        long,
        env = "OMNIRELAY_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = RPC_DEFAULT,
        value_parser = parse,
        value_hint = clap::ValueHint::Hostname
    )]
    pub(super) address: Address,
}

/// The admin server that is asked.
#[derive(Debug, clap::Args)]
pub(super) struct AdminServerArgs {
    /// The node's admin address, as host:port or https://host:port
    #[arg(
        long,
        env = "OMNIRELAY_ADMIN_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = ADMIN_DEFAULT,
        value_parser = parse,
        value_hint = clap::ValueHint::Hostname
    )]
    pub(super) admin_address: Address,
}

/// The node that an administrative command is about.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    at: AdminServerArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

impl NodeArgs {
    /// The node's admin server.
    ///
    /// # Errors
    /// As [`TlsArgs::server`].
    pub(super) fn server(&self) -> Result<Server, Failure> {
        self.tls.server(&self.at.admin_address)
    }
}

/// How a server is spoken to, where its address says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) scheme: Option<Scheme>,
    pub(super) host_port: String,
}

impl Address {
    /// Whether it is this machine's alone.
    pub(super) fn is_loopback(&self) -> bool {
        let (host, _) = self.host_port.rsplit_once(':').unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

/// Reads `host:port`, or `https://host:port`.
///
/// # Errors
/// What the form is, for a person.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    let form = format!("an address is host:port, such as {RPC_DEFAULT} or [::1]:7420");
    let text = text.trim();
    let (scheme, text) = match text.split_once("://") {
        None => (None, text),
        Some((name, rest)) => {
            let scheme = match name {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                _ => return Err(format!("{form}; before it may be https:// or http://")),
            };
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            if let Some((_, path)) = rest.split_once('/') {
                return Err(format!("{form}; leave out /{path}"));
            }
            (Some(scheme), rest)
        }
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("{form}; it names no port"));
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !is_bracketed) {
        return Err(form);
    }
    match port.parse::<u16>() {
        Ok(0) => Err("port 0 is for listening: name the port that the server said".into()),
        Ok(_) => Ok(Address {
            scheme,
            host_port: text.to_owned(),
        }),
        Err(_) => Err(format!("{form}; `{port}` is no port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_by_its_names() {
        let is_loopback = |text| parse(text).unwrap().is_loopback();
        for here in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["10.0.0.1:1", "[::2]:1", "localhost.example:1", "0.0.0.0:1"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "127.0.0.1:7420",
            "[::1]:7420",
            "localhost:1",
            " db-1.internal:65535 ",
        ] {
            let address = parse(good).unwrap();
            assert_eq!((address.scheme, &*address.host_port), (None, good.trim()));
        }
        for (url, scheme) in [
            ("https://localhost:7420", Scheme::Https),
            ("https://localhost:7420/", Scheme::Https),
            ("http://localhost:7420", Scheme::Http),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.scheme, Some(scheme));
            assert_eq!(address.host_port, "localhost:7420");
        }
        for (bad, why) in [
            ("http://127.0.0.1:7420/yarpc/v1", "leave out /yarpc/v1"),
            ("quic://127.0.0.1:7420", "before it may be https://"),
            ("https://localhost", "it names no port"),
            ("localhost", "it names no port"),
            ("localhost:rpc", "`rpc` is no port"),
            ("localhost:70000", "`70000` is no port"),
            ("localhost:0", "port 0"),
            ("::1:7420", "[::1]:7420"),
            (":7420", "host:port"),
            ("", "host:port"),
        ] {
            let refused = parse(bad).unwrap_err();
            assert!(refused.contains(why), "{bad}: {refused}");
        }
    }
}
