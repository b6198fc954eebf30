//! A certificate for those who have none, good on loopback only.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use super::certificate::{Validity, system_now};
use super::error::TlsError;
use super::files::{Identity, TlsFiles, pem};

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(24 * 3_600);
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// A self-signed certificate for `localhost`, `127.0.0.1` and `::1`, as `server.crt` and
/// `server.key` in `dir`. Both are made if they are missing, damaged or near their end, after ten
/// years; else they stay as they are, so that clients which trust the one go on doing so.
///
/// It is no CA: who trusts it trusts this one server.
///
/// # Errors
/// If the directory cannot be used.
pub fn self_signed(dir: &Path) -> Result<TlsFiles, TlsError> {
    let files = TlsFiles {
        cert: dir.join("server.crt"),
        key: dir.join("server.key"),
        client_ca: None,
    };
    match Identity::load(&files.cert, &files.key) {
        Ok(there) if there.certificate.validity_now() == Validity::Good => return Ok(files),
        Ok(_) => tracing::info!("the self-signed certificate nears its end and is made anew"),
        Err(TlsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        Err(error @ (TlsError::Io { .. } | TlsError::KeyExposed { .. })) => return Err(error),
        Err(error) => tracing::warn!(%error, "the self-signed certificate is made anew"),
    }
    let (certificate, key) = make().map_err(|error| TlsError::Make(error.to_string()))?;
    let written = DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| replace(dir, "server.key", &pem("PRIVATE KEY", &key), 0o600))
        .and_then(|()| replace(dir, "server.crt", &pem("CERTIFICATE", &certificate), 0o644));
    written.map_err(|source| TlsError::Io {
        path: dir.to_owned(),
        source,
    })?;
    Ok(files)
}

/// Certificate and key in DER.
fn make() -> Result<(Vec<u8>, Vec<u8>), rcgen::Error> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "OmniRelay self-signed");
    // A clock that is a little behind is no reason to refuse it.
    let now = system_now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFE).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // ECDSA on P-256.
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.der().to_vec(), key.serialize_der()))
}

/// Replaces a file durably, so that a crash leaves the old or the new one.
fn replace(dir: &Path, name: &str, text: &str, mode: u32) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    // One that a crash left behind keeps its own.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}
