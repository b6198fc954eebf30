//! The data directory: what a node keeps between its lives.
//!
//! | Entry | Holds |
//! |---|---|
//! | `lock` | the process that has the directory |
//! | `catalog.json` | the number of logs; names, shards and secrets of namespaces |
//! | `node.json` | addresses and process id of the running node, for people and scripts |
//! | `quic.secret` | what the keys of QUIC are made of: stateless resets, tokens, connection ids |
//! | `tls/` | a self-signed certificate and its key, where none is configured |
//! | `log-N/` | the segments of log N |

mod catalog;
mod logs;
mod quic_secret;
mod write;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use omnirelay_net::quic::SECRET_BYTES;
use omnirelay_wal::{DirLock, LockError, OpenError};
use serde::Serialize;
use thiserror::Error;

pub use catalog::{Catalog, CatalogError, NamespaceEntry};
pub use logs::{LogRecovery, LogSettings, OpenedLogs, open_log, open_logs};

/// Why a data directory cannot be used. Each says what to do; nothing in it has been changed.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// It cannot be made or entered.
    #[error(
        "cannot use the data directory {path}: {source}; check the path, its owner and that the disk is writable"
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its catalog does not fit the configuration, or cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A log cannot be opened.
    #[error("log {log}: {source}")]
    Log {
        /// Which log.
        log: u16,
        /// What is wrong.
        source: OpenError,
    },
}

/// A data directory that this process has to itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: DirLock,
}

/// What `node.json` says.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFile {
    /// The process.
    pub pid: u32,
    /// The product's version.
    pub version: &'static str,
    /// Where RPC over TCP is served.
    pub listen: SocketAddr,
    /// Where RPC over QUIC is served, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quic_listen: Option<SocketAddr>,
    /// Where the admin endpoints are.
    pub admin_listen: SocketAddr,
    /// Its certificate, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<NodeFileTls>,
}

/// What `node.json` says of the certificate.
#[derive(Debug, Clone, Serialize)]
pub struct NodeFileTls {
    /// Its file.
    pub certificate: PathBuf,
    /// Its SHA-256, of one that stays the same while the node runs: a configured one may be
    /// replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If it cannot be made, entered or locked.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let unusable = |source| DataDirError::Unusable {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let lock = DirLock::acquire(path)?;
        Ok(DataDir {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret of the node's QUIC, made once and kept.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn quic_secret(
        &self,
        entropy: impl FnMut() -> u64,
    ) -> Result<[u8; SECRET_BYTES], DataDirError> {
        quic_secret::open(&self.path, entropy).map_err(|source| DataDirError::Unusable {
            path: self.path.clone(),
            source,
        })
    }

    /// Says in `node.json` where the node listens.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_node_file(&self, node: &NodeFile) -> Result<(), DataDirError> {
        let json = serde_json::to_vec_pretty(node).expect("plain data serialises");
        write::replace(&self.path, "node.json", &json, 0o644).map_err(|source| {
            DataDirError::Unusable {
                path: self.path.clone(),
                source,
            }
        })
    }
}
