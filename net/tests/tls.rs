//! Certificates and keys from files, and how they are replaced while a server runs.
#![cfg(all(feature = "node", not(loom)))]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omnirelay_net::tls::{
    ClientAuth, ClientFiles, ServerCheck, ServerTls, TlsError, TlsFiles, client_config, self_signed,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

const LIMIT: Duration = Duration::from_secs(20);

/// A directory with a certificate of its own.
fn files(dir: &Path) -> TlsFiles {
    self_signed(dir).unwrap()
}

/// Lets the two talk until neither has more to say; what either refused.
fn handshake(
    server: &Arc<ServerConfig>,
    client: ClientConfig,
) -> Result<(ServerConnection, ClientConnection), rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok((server, client))
}

fn trusting(files: &TlsFiles, alpn: &[&[u8]]) -> ClientConfig {
    client_config(&ServerCheck::Ca(files.cert.clone()), None, alpn).unwrap()
}

/// Waits until it is so.
fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LIMIT, "{what} took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_self_signed_certificate_is_made_once_and_trusted_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let made = files(dir.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&made.key), 0o600);
    let before = fs::read(&made.cert).unwrap();
    assert_eq!(files(dir.path()), made);
    assert_eq!(fs::read(&made.cert).unwrap(), before, "kept");

    let tls = ServerTls::load(made.clone()).unwrap();
    let certificate = tls.status().certificate;
    assert_eq!(
        certificate.names,
        ["DNS:localhost", "IP:127.0.0.1", "IP:::1"]
    );
    assert_eq!(certificate.usages, ["server"]);
    assert!(!certificate.is_ca);
    let years = (certificate.not_after - certificate.not_before) / (365 * 86_400);
    assert_eq!(years, 10);

    let over_tcp = tls.over_tcp(&[b"h2", b"http/1.1"], ClientAuth::Required);
    let (server, client) = handshake(&over_tcp, trusting(&made, &[b"http/1.1"])).unwrap();
    assert_eq!(server.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(
        client.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let over_quic = tls.over_quic(&[b"omnirelay/1"]);
    assert_eq!(over_quic.max_early_data_size, 0);
    assert!(
        handshake(&over_quic, trusting(&made, &[b"h2"])).is_err(),
        "no protocol in common"
    );
    assert!(handshake(&over_quic, trusting(&made, &[b"omnirelay/1"])).is_ok());

    // Half of it is lost: both are made anew.
    fs::remove_file(&made.key).unwrap();
    files(dir.path());
    assert_ne!(fs::read(&made.cert).unwrap(), before);
    ServerTls::load(made).unwrap();
}

#[test]
fn files_that_cannot_be_used_say_which_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let made = files(dir.path());
    let other = files(&dir.path().join("other"));
    let refused = |files: TlsFiles| ServerTls::load(files).unwrap_err();
    let with_key = |key: &Path| {
        refused(TlsFiles {
            key: key.to_owned(),
            ..made.clone()
        })
    };

    let error = with_key(&other.key);
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error}");
    assert!(
        error.to_string().contains(other.key.to_str().unwrap()),
        "{error}"
    );

    let error = with_key(&dir.path().join("none.key"));
    assert!(error.to_string().contains("none.key"), "{error}");
    let error = with_key(&made.cert);
    assert!(error.to_string().contains("everybody"), "{error}");

    fs::set_permissions(&made.key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(made.clone());
    assert!(error.to_string().contains("chmod o-rwx"), "{error}");
    fs::set_permissions(&made.key, fs::Permissions::from_mode(0o640)).unwrap();
    ServerTls::load(made.clone()).expect("its group may read it");

    let blank = dir.path().join("blank");
    fs::write(&blank, "nothing\n").unwrap();
    fs::set_permissions(&blank, fs::Permissions::from_mode(0o600)).unwrap();
    let error = with_key(&blank);
    assert!(
        error.to_string().contains("no private key in it"),
        "{error}"
    );
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(&blank, encrypted).unwrap();
    let error = with_key(&blank);
    assert!(error.to_string().contains("openssl pkey"), "{error}");
    fs::write(&blank, vec![b'-'; (1 << 20) + 1]).unwrap();
    let error = refused(TlsFiles {
        cert: blank.clone(),
        ..made.clone()
    });
    assert!(matches!(error, TlsError::TooLarge { .. }), "{error}");
    fs::write(&blank, "").unwrap();
    let error = refused(TlsFiles {
        client_ca: Some(blank),
        ..made
    });
    assert!(
        error.to_string().contains("no certificate in it"),
        "{error}"
    );
}

#[test]
fn changed_files_are_taken_into_use_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let made = files(dir.path());
    let tls = ServerTls::load(made.clone()).unwrap();
    let config = tls.over_quic(&[b"omnirelay/1"]);
    let connect = || handshake(&config, trusting(&made, &[b"omnirelay/1"]));
    let old = trusting(&made, &[b"omnirelay/1"]);
    let _watch = tls.watch().unwrap();
    connect().unwrap();

    let first = tls.status().certificate.fingerprint;
    let next = files(&dir.path().join("next"));
    fs::rename(&next.cert, &made.cert).unwrap();
    fs::rename(&next.key, &made.key).unwrap();
    until("the reload", || tls.status().reloads == 1);
    assert_ne!(tls.status().certificate.fingerprint, first);
    assert_eq!(tls.status().failure, None);
    connect().unwrap();
    assert!(
        handshake(&config, old).is_err(),
        "the old certificate is shown no more"
    );

    let good = fs::read(&made.cert).unwrap();
    let trusted = trusting(&made, &[b"omnirelay/1"]);
    fs::write(&made.cert, "broken").unwrap();
    until("the refusal", || tls.status().reloads_failed == 1);
    assert!(
        tls.status()
            .failure
            .unwrap()
            .contains("no certificate in it")
    );
    handshake(&config, trusted).expect("what was in use stays");
    fs::write(&made.cert, good).unwrap();
    until("the return", || tls.status().reloads == 2);
    assert_eq!(tls.status().failure, None);
}

#[test]
fn a_directory_behind_a_symbolic_link_is_swapped_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    files(&path("first"));
    let second = files(&path("second"));
    // As a secret is mounted: tls.crt -> ..data/tls.crt, ..data -> ..2026
    symlink("first", path("..data")).unwrap();
    symlink("..data/server.crt", path("tls.crt")).unwrap();
    symlink("..data/server.key", path("tls.key")).unwrap();
    let tls = ServerTls::load(TlsFiles {
        cert: path("tls.crt"),
        key: path("tls.key"),
        client_ca: None,
    })
    .unwrap();
    let _watch = tls.watch().unwrap();
    symlink("second", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    until("the reload", || tls.status().reloads == 1);
    let wanted = ServerTls::load(second).unwrap().status().certificate;
    assert_eq!(tls.status().certificate, wanted);
    assert_eq!(tls.status().reloads_failed, 0);
}

#[test]
fn clients_show_certificates_where_a_ca_is_given_and_the_ca_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let made = files(dir.path());
    let (alice, bob) = (
        signed_client(dir.path(), "alice"),
        signed_client(dir.path(), "bob"),
    );
    let ca = dir.path().join("clients.crt");
    fs::copy(&alice.cert, &ca).unwrap();
    let tls = ServerTls::load(TlsFiles {
        client_ca: Some(ca.clone()),
        ..made.clone()
    })
    .unwrap();
    let required = tls.over_tcp(&[], ClientAuth::Required);
    let optional = tls.over_tcp(&[], ClientAuth::Optional);
    let connect = |config: &Arc<ServerConfig>, who: Option<&ClientFiles>| {
        let check = ServerCheck::Ca(made.cert.clone());
        handshake(config, client_config(&check, who, &[]).unwrap())
    };
    let (server, _) = connect(&required, Some(&alice)).unwrap();
    assert_eq!(server.peer_certificates().map(<[_]>::len), Some(1));
    assert!(connect(&required, Some(&bob)).is_err());
    assert!(connect(&required, None).is_err());
    assert!(connect(&optional, Some(&alice)).is_ok());
    assert!(
        connect(&optional, Some(&bob)).is_err(),
        "one that is shown must be good"
    );
    let (server, _) = connect(&optional, None).unwrap();
    assert!(server.peer_certificates().is_none());

    fs::copy(&bob.cert, &ca).unwrap();
    tls.reload().unwrap();
    assert!(connect(&required, Some(&alice)).is_err());
    assert!(connect(&required, Some(&bob)).is_ok());
}

/// A client's certificate that is its own CA.
fn signed_client(dir: &Path, name: &str) -> ClientFiles {
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = ClientFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    };
    fs::write(
        &files.cert,
        omnirelay_net::tls::pem("CERTIFICATE", certificate.der()),
    )
    .unwrap();
    fs::write(
        &files.key,
        omnirelay_net::tls::pem("PRIVATE KEY", &key.serialize_der()),
    )
    .unwrap();
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
    files
}
