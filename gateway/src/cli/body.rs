//! The body of a call, from the command line, a file or stdin.

use std::io::Read;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::failure::Failure;

/// Largest body that is read, one byte above what a server takes, so that the server says so.
const READ_BYTES_MAX: u64 = (16 << 20) + 1;

/// Where the body comes from; empty without any of them.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub(super) struct BodyArgs {
    /// The body as text
    #[arg(long, value_name = "TEXT")]
    pub(super) body: Option<String>,
    /// A file that holds the body; `-` reads stdin
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(super) body_file: Option<PathBuf>,
    /// The body in base64
    #[arg(long, value_name = "BASE64")]
    pub body_base64: Option<String>,
}

impl BodyArgs {
    /// Reads the body.
    ///
    /// # Errors
    /// `cli.usage` if the base64 is none, `cli.body` if the file cannot be read.
    pub(super) fn read(&self) -> Result<Option<Bytes>, Failure> {
        if let Some(text) = &self.body {
            return Ok(Some(Bytes::copy_from_slice(text.as_bytes())));
        }
        if let Some(text) = &self.body_base64 {
            let body = STANDARD.decode(text.trim()).map_err(|error| {
                Failure::usage(
                    format!("--body-base64 is not base64: {error}"),
                    "use standard base64 with padding",
                )
            })?;
            return Ok(Some(body.into()));
        }
        let Some(path) = &self.body_file else {
            return Ok(None);
        };
        let mut body = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin()
                .lock()
                .take(READ_BYTES_MAX)
                .read_to_end(&mut body)
        } else {
            std::fs::File::open(path)
                .and_then(|file| file.take(READ_BYTES_MAX).read_to_end(&mut body))
        };
        match read {
            Ok(_) => Ok(Some(body.into())),
            Err(error) => Err(Failure::failed(
                "cli.body",
                format!("cannot read {}: {error}", path.display()),
                "name a readable file with --body-file",
            )),
        }
    }
}

/// Reads `key=value`.
///
/// # Errors
/// What the form is, for a person.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("it needs the form KEY=VALUE".into()),
    }
}

/// Reads a duration as the configuration writes it.
///
/// # Errors
/// What the form is, for a person.
pub(super) fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    crate::config::value::parse_duration(text)
        .ok_or_else(|| "a duration is a number and a unit: 1500ms, 30s, 10m, 12h or 30d".into())
}
