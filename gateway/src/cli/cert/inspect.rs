//! What a certificate says.

use std::path::Path;
use std::time::Duration;

use omnirelay_net::tls::{Certificate, read_certificates};
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{OutputArgs, document, print};
use crate::cli::address;
use crate::cli::client::{Server, block_on};
use crate::cli::failure::Failure;
use crate::cli::output::{self, Output};
use crate::cli::secure::unusable;

/// How long a server may take to show its certificate.
const TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A PEM file, or a server as host:port
    #[arg(value_name = "FILE|ADDRESS", value_hint = clap::ValueHint::FilePath)]
    what: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let path = Path::new(&args.what);
    let chain = match address::parse(&args.what) {
        Ok(server) if !path.exists() => block_on(shown_by(&server.host_port))?,
        _ => read_certificates(path).map_err(unusable)?,
    };
    for (at, der) in chain.iter().enumerate() {
        let certificate = Certificate::parse(der).map_err(|why| {
            Failure::failed(
                "cert.content",
                format!("{}: certificate {}: {why}", args.what, at + 1),
                "name a file with X.509 certificates in PEM",
            )
        })?;
        if at > 0 && args.output.output == Output::Table {
            output::write(b"\n")?;
        }
        let mut said = document(&certificate);
        said["position"] = Value::from(at);
        print(&said, args.output.output)?;
    }
    Ok(())
}

/// The chain that a server shows, trusted or not.
async fn shown_by(address: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let server = Server::unverified(address)?;
    let asked = async {
        let stream = TcpStream::connect(address).await.map_err(|error| {
            let help =
                "is the server running, and is this its address? a file is named by its path";
            Failure::unreachable(address, error, help)
        })?;
        let stream = server.secure(stream, &[]).await?;
        let chain = stream.get_ref().1.peer_certificates();
        Ok(chain
            .unwrap_or_default()
            .iter()
            .map(|der| der.clone().into_owned())
            .collect())
    };
    timeout(TIME_MAX, asked).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", TIME_MAX.as_secs());
        Err(Failure::unreachable(address, reason, "is it a TLS port?"))
    })
}
