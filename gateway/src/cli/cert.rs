//! `omnirelay cert`: certificates for a node and its clients, from a CA of one's own.

mod inspect;
mod issue;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use omnirelay_net::tls::{Certificate, Validity};
use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{self, Output, OutputArgs};
use crate::admin::rfc3339_seconds;

/// Make and show certificates
///
/// A CA of one's own signs certificates of nodes (tls.cert, tls.key) and of clients. Keys are
/// ECDSA on P-256.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay cert init-ca\n  omnirelay cert issue node-1 --dns node-1.example --ip 10.0.0.1\n  omnirelay cert issue worker-a --client\n  omnirelay cert inspect 127.0.0.1:7420"
)]
pub(super) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Make a CA: ca.crt, which whoever has to trust it gets, and ca.key, which nobody does
    #[command(
        after_help = "EXAMPLE:\n  omnirelay cert init-ca\n  omnirelay cert init-ca --dir /etc/omnirelay/tls --name 'Example CA' --days 1825"
    )]
    InitCa(issue::InitCaArgs),
    /// Make a certificate and its key, signed by the CA
    ///
    /// Of a node, good for the names that clients know it by; or with --client of a client, for a
    /// node that has tls.client_ca.
    #[command(
        after_help = "EXAMPLE:\n  omnirelay cert issue node-1 --dns node-1.example --ip 10.0.0.1\n  omnirelay cert issue worker-a --client\n  omnirelay cert issue worker-a --client --uri spiffe://example/worker-a --days 30"
    )]
    Issue(issue::IssueArgs),
    /// Show the certificates in a file, or those that a server shows
    #[command(
        after_help = "EXAMPLE:\n  omnirelay cert inspect ca.crt\n  omnirelay cert inspect 127.0.0.1:7420\n  omnirelay cert inspect omnirelay-data/tls/server.crt --output json | jq .fingerprint"
    )]
    Inspect(inspect::InspectArgs),
}

/// Where certificates and keys are, and go.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// Directory of the files; made if missing
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &CertArgs) -> Result<(), Failure> {
    match &args.command {
        CertCommand::InitCa(args) => issue::init_ca(args),
        CertCommand::Issue(args) => issue::issue(args),
        CertCommand::Inspect(args) => inspect::run(args),
    }
}

impl FileArgs {
    /// Writes a certificate and its key as NAME.crt and NAME.key; where they are.
    ///
    /// # Errors
    /// `cert.exists` unless forced, `cert.file` if they cannot be written.
    fn write(&self, name: &str, cert: &str, key: &str) -> Result<(PathBuf, PathBuf), Failure> {
        let [cert_path, key_path] =
            ["crt", "key"].map(|kind| self.dir.join(format!("{name}.{kind}")));
        if !self.force
            && let Some(there) = [&cert_path, &key_path]
                .into_iter()
                .find(|path| path.exists())
        {
            return Err(Failure::failed(
                "cert.exists",
                format!("{} is there already", there.display()),
                "nothing was written; name another, or replace it with --force",
            ));
        }
        let failed = |path: &Path, error: io::Error| {
            Failure::failed(
                "cert.file",
                format!("cannot write {}: {error}", path.display()),
                "name a directory that you may write to with --dir",
            )
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .map_err(|error| failed(&self.dir, error))?;
        for (path, text, mode) in [(&key_path, key, 0o600), (&cert_path, cert, 0o644)] {
            replace(path, text, mode).map_err(|error| failed(path, error))?;
        }
        Ok((cert_path, key_path))
    }
}

/// Writes a file of its own under the permissions and moves it into place, so that whoever reads
/// it sees the old or the new one.
fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_added_extension("new");
    // One that was left behind would keep its permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// A certificate as a document.
fn document(certificate: &Certificate) -> Value {
    json!({
        "subject": certificate.subject,
        "names": certificate.names,
        "issuer": certificate.issuer,
        "notBefore": rfc3339_seconds(certificate.not_before),
        "notAfter": rfc3339_seconds(certificate.not_after),
        "validity": validity(certificate),
        "isCa": certificate.is_ca,
        "usages": certificate.usages,
        "serial": certificate.serial,
        "fingerprint": certificate.fingerprint,
    })
}

fn validity(certificate: &Certificate) -> &'static str {
    match certificate.validity_now() {
        Validity::NotYet => "not yet valid",
        Validity::Good => "valid",
        Validity::Expiring => "expires soon",
        Validity::Expired => "expired",
    }
}

/// Prints a document as JSON, or a row for each of its values that says anything.
fn print(document: &Value, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return output::json(document);
    }
    let fields = document.as_object().into_iter().flatten();
    let rows = fields.filter_map(|(key, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Array(items) => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
                items.join(", ")
            }
            other => other.to_string(),
        };
        (!text.is_empty()).then(|| vec![key.clone(), text])
    });
    output::table(&["KEY", "VALUE"], rows)
}
