//! The options that say which server, and how to reach it.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use omnirelay_loadgen::Target;
use omnirelay_net::rpc;
use omnirelay_net::tls::ClientFiles;

/// How to reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// YARPC's headers over HTTP/2
    Http,
    /// gRPC
    Grpc,
    /// Frames over QUIC
    Quic,
}

impl From<Transport> for omnirelay_loadgen::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Http => Self::Http,
            Transport::Grpc => Self::Grpc,
            Transport::Quic => Self::Quic,
        }
    }
}

/// How bodies are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    Json,
    Proto,
}

impl From<Encoding> for rpc::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Json => Self::Json,
            Encoding::Proto => Self::Proto,
        }
    }
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TargetArgs {
    /// How to reach the server
    #[arg(long, value_enum, default_value_t = Transport::Http)]
    transport: Transport,

    /// The server's RPC address
    #[arg(long, default_value = "127.0.0.1:7420")]
    address: String,

    /// Speak TLS; the certificates to trust, in PEM: the CA's, or the server's own. QUIC always
    /// does, and needs none on loopback
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show this client certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "ca", requires = "key")]
    cert: Option<PathBuf>,

    /// Its private key, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// The namespace to work in
    #[arg(long, default_value = rpc::DEFAULT_NAMESPACE)]
    namespace: String,

    /// How bodies are encoded
    #[arg(long, value_enum, default_value_t = Encoding::Proto)]
    encoding: Encoding,
}

impl TargetArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.transport == Transport::Quic && self.ca.is_none() && !is_loopback(&self.address) {
            return Err(format!(
                "--address {}: a server beyond loopback has to prove who it is: give --ca",
                self.address
            ));
        }
        Ok(())
    }

    pub(crate) fn target(&self) -> Target {
        let client = self.cert.clone().zip(self.key.clone());
        Target {
            address: self.address.clone(),
            transport: self.transport.into(),
            ca: self.ca.clone(),
            client: client.map(|(cert, key)| ClientFiles { cert, key }),
            namespace: self.namespace.clone(),
            encoding: self.encoding.into(),
        }
    }

    /// As it is said in a picture's title: `quic, proto`.
    pub(crate) fn words(&self) -> String {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        let transport = name(self.transport.to_possible_value());
        let tls = match (&self.ca, self.transport) {
            (Some(_), Transport::Http | Transport::Grpc) => " over TLS",
            _ => "",
        };
        format!(
            "{transport}{tls}, {}",
            name(self.encoding.to_possible_value())
        )
    }
}

/// Whether an address with its port is this machine's alone.
fn is_loopback(address: &str) -> bool {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}
