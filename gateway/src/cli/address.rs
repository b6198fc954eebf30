//! Where a server is: `host:port`, as it is typed and as it is resolved.

/// Where a node serves RPC unless it is told otherwise.
pub(super) const RPC_DEFAULT: &str = "127.0.0.1:7420";
/// Where a node serves its admin endpoints unless it is told otherwise.
pub(super) const ADMIN_DEFAULT: &str = "127.0.0.1:7421";

/// The server that calls go to.
#[derive(Debug, clap::Args)]
pub(super) struct RpcServerArgs {
    /// The server, as host:port
    #[arg(
        long,
        env = "OMNIRELAY_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = RPC_DEFAULT,
        value_parser = parse,
        value_hint = clap::ValueHint::Hostname
    )]
    pub(super) address: String,
}

/// The node that an administrative command is about.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// The node's admin address, as host:port
    #[arg(
        long,
        env = "OMNIRELAY_ADMIN_ADDRESS",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = ADMIN_DEFAULT,
        value_parser = parse,
        value_hint = clap::ValueHint::Hostname
    )]
    pub(super) admin_address: String,
}

/// Reads `host:port`.
///
/// # Errors
/// What the form is, for a person.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let form = format!("an address is host:port, such as {RPC_DEFAULT} or [::1]:7420");
    let text = text.trim();
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!(
            "{form}; leave out {scheme}:// and what is behind the port"
        ));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("{form}; it names no port"));
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || (host.contains(':') && !is_bracketed) {
        return Err(form);
    }
    match port.parse::<u16>() {
        Ok(0) => Err("port 0 is for listening: name the port that the server said".into()),
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{form}; `{port}` is no port")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in [
            "127.0.0.1:7420",
            "[::1]:7420",
            "localhost:1",
            " db-1.internal:65535 ",
        ] {
            assert_eq!(parse(good).as_deref(), Ok(good.trim()));
        }
        for (bad, why) in [
            ("http://127.0.0.1:7420/yarpc/v1", "leave out http://"),
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
