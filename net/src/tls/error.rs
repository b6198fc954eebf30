//! Why certificates and keys cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why certificates and keys cannot be used. Each says which file it is about and what to do;
/// nothing that was in use before has changed.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is larger than any certificate chain.
    #[error("{path} has more than {max} bytes; a certificate chain or key has a few thousand")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// A file holds something else.
    #[error("{path}: {why}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what is expected.
        why: String,
    },
    /// Everybody on the machine may read a key.
    #[error(
        "{path} may be read by everybody (mode {mode:o}): a private key is its owner's; \
         `chmod o-rwx {path}`, or `defaultMode: 0440` where it is mounted from a Kubernetes secret"
    )]
    KeyExposed {
        /// The key.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The key is another certificate's.
    #[error(
        "the key in {key} is not that of the certificate in {cert}: \
         name two files that were issued together, the server's own certificate first in its chain"
    )]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}
