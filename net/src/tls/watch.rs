//! Files that are replaced while the server runs.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::files::{self, TlsFiles};
use super::server::{ServerTls, warn_of};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often a certificate that nears its end is spoken of.
const WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

/// Reloads a server's files for as long as it lives.
///
/// It is their content that is compared, once a second: that finds files written in place, renamed
/// over or behind a symbolic link that was swapped, as Kubernetes does it. What has changed is
/// taken into use once it stays the same for a second, so that a certificate and its key may be
/// replaced one after the other.
#[derive(Debug)]
pub struct TlsWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TlsWatch {
    pub(super) fn start(tls: ServerTls) -> io::Result<TlsWatch> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("tls".into()).spawn(move || {
            let mut watched = Watched::new(&tls);
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                watched.look(&tls);
            }
        })?;
        Ok(TlsWatch {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for TlsWatch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reloads TLS certificates panicked");
        }
    }
}

/// What the files hold: the digest of each, nothing for one that cannot be read.
pub(super) type Content = [Option<[u8; 32]>; 3];

/// Reads what the files hold. Done before they are taken into use, a change in between is found
/// later.
pub(super) fn content(files: &TlsFiles) -> Content {
    let digest = |path: &PathBuf| {
        let bytes = files::read(path, |_| Ok(())).ok()?;
        digest(&SHA256, &bytes).as_ref().try_into().ok()
    };
    [
        digest(&files.cert),
        digest(&files.key),
        files.client_ca.as_ref().and_then(digest),
    ]
}

struct Watched {
    /// What was taken into use, or found to be of no use.
    done: Content,
    /// What was there a moment ago.
    seen: Content,
    warned: Instant,
}

impl Watched {
    fn new(tls: &ServerTls) -> Watched {
        Watched {
            done: *tls.content(),
            seen: *tls.content(),
            warned: Instant::now(),
        }
    }

    fn look(&mut self, tls: &ServerTls) {
        let found = content(tls.files());
        let is_settled = found == self.seen;
        self.seen = found;
        if is_settled && found != self.done {
            self.done = found;
            match tls.reload() {
                Ok(()) => {
                    let certificate = tls.status().certificate;
                    tracing::info!(
                        fingerprint = certificate.fingerprint,
                        until = certificate.not_after,
                        "new TLS certificate in use for new connections"
                    );
                }
                Err(error) => {
                    tracing::error!(%error, "the changed TLS files cannot be used; the old certificate stays");
                }
            }
            self.warned = Instant::now();
        } else if self.warned.elapsed() >= WARNING_INTERVAL {
            warn_of(&tls.status().certificate, tls.files());
            self.warned = Instant::now();
        }
    }
}
