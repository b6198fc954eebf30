//! A CA, and certificates that it signs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use omnirelay_net::tls::{Certificate, Identity, TlsError, pem, read_key};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::Value;

use super::{FileArgs, OutputArgs, document, print};
use crate::cli::failure::Failure;

/// Clocks that are a little behind take a certificate all the same.
const HEAD_START: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Longest that a certificate is made for, in days.
const DAYS_MAX: i64 = 36_500;

#[derive(Debug, clap::Args)]
pub(super) struct InitCaArgs {
    /// What the CA is called
    #[arg(long, value_name = "NAME", default_value = "OmniRelay CA", value_parser = name)]
    name: String,
    /// Days it is good for
    #[arg(long, value_name = "N", default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub(super) struct IssueArgs {
    /// Whom it is for: the files are called NAME.crt and NAME.key
    #[arg(value_parser = file_name)]
    name: String,
    /// For a client instead of a node
    #[arg(long)]
    client: bool,
    /// A DNS name that it is good for
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    dns: Vec<String>,
    /// An IP address that it is good for
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    ip: Vec<IpAddr>,
    /// A URI that it is good for, such as a SPIFFE ID
    #[arg(long, value_name = "URI")]
    uri: Vec<String>,
    /// Days it is good for
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    days: u32,
    /// The CA's certificate [default: ca.crt in --dir]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    ca_cert: Option<PathBuf>,
    /// The CA's key [default: ca.key in --dir]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    ca_key: Option<PathBuf>,
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn init_ca(args: &InitCaArgs) -> Result<(), Failure> {
    let mut params = params(&args.name, args.days);
    // Signs certificates of nodes and clients, and no further CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().map_err(|error| not_made(&error))?;
    let made = params.self_signed(&key).map_err(|error| not_made(&error))?;
    save(&args.files, "ca", made.der(), &key, &args.output)
}

pub(super) fn issue(args: &IssueArgs) -> Result<(), Failure> {
    if args.name == "ca" {
        return Err(Failure::usage(
            "ca.crt and ca.key are the CA's files",
            "call the node or the client something else",
        ));
    }
    let mut params = params(&args.name, args.days);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match args.client {
        true => ExtendedKeyUsagePurpose::ClientAuth,
        false => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    params.subject_alt_names = names(args)?;
    let issuer = issuer(args)?;
    let key = KeyPair::generate().map_err(|error| not_made(&error))?;
    let made = params.signed_by(&key, &issuer);
    let made = made.map_err(|error| not_made(&error))?;
    save(&args.files, &args.name, made.der(), &key, &args.output)
}

/// What the certificate is good for. A node's without any is good for its name, a client's for
/// none: it is known by its subject.
fn names(args: &IssueArgs) -> Result<Vec<SanType>, Failure> {
    let text = |option: &str, text: &str| {
        text.to_owned().try_into().map_err(|_| {
            Failure::usage(
                format!("{option} {text}: a certificate's names are ASCII"),
                "write an international name in its xn-- form",
            )
        })
    };
    let mut names = Vec::new();
    for dns in &args.dns {
        names.push(SanType::DnsName(text("--dns", dns)?));
    }
    names.extend(args.ip.iter().copied().map(SanType::IpAddress));
    for uri in &args.uri {
        names.push(SanType::URI(text("--uri", uri)?));
    }
    if names.is_empty() && !args.client {
        names.push(match args.name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(text("NAME", &args.name)?),
        });
    }
    Ok(names)
}

/// The CA with its key.
fn issuer(args: &IssueArgs) -> Result<Issuer<'static, KeyPair>, Failure> {
    let path = |given: &Option<PathBuf>, name: &str| {
        given.clone().unwrap_or_else(|| args.files.dir.join(name))
    };
    let (cert_path, key_path) = (path(&args.ca_cert, "ca.crt"), path(&args.ca_key, "ca.key"));
    let refused = |message: String| {
        Failure::failed(
            "cert.ca",
            message,
            "make a CA with `omnirelay cert init-ca`, or name its files with --dir, or with \
             --ca-cert and --ca-key",
        )
    };
    let unusable = |error: TlsError| refused(error.to_string());
    // Found to belong together, too.
    let ca = Identity::load(&cert_path, &key_path).map_err(unusable)?;
    let cert = &ca.certified.cert[0];
    let key = read_key(&key_path).map_err(unusable)?;
    if !ca.certificate.is_ca {
        return Err(refused(format!("{} is no CA", cert_path.display())));
    }
    let key = KeyPair::try_from(&key)
        .map_err(|error| refused(format!("{}: {error}", key_path.display())))?;
    Issuer::from_ca_cert_der(cert, key)
        .map_err(|error| refused(format!("{}: {error}", cert_path.display())))
}

fn params(name: &str, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = now();
    params.not_before = (now - HEAD_START).into();
    params.not_after = (now + DAY * days).into();
    params
}

#[expect(
    clippy::disallowed_methods,
    reason = "a certificate's time is the world's"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Writes the files and says what is in them.
fn save(
    files: &FileArgs,
    name: &str,
    cert: &[u8],
    key: &KeyPair,
    output: &OutputArgs,
) -> Result<(), Failure> {
    let text = (
        pem("CERTIFICATE", cert),
        pem("PRIVATE KEY", &key.serialize_der()),
    );
    let (cert_path, key_path) = files.write(name, &text.0, &text.1)?;
    let certificate = Certificate::parse(cert).expect("it was just made");
    let mut said = document(&certificate);
    said["certificate"] = Value::from(cert_path.to_string_lossy());
    said["key"] = Value::from(key_path.to_string_lossy());
    print(&said, output.output)
}

fn not_made(error: &rcgen::Error) -> Failure {
    Failure::failed(
        "cert.make",
        format!("cannot make the certificate: {error}"),
        "check the names that it is to be good for",
    )
}

/// A name that a person reads.
fn name(text: &str) -> Result<String, String> {
    let is_name = !text.trim().is_empty() && text.len() <= 64 && !text.contains(char::is_control);
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "a name has 1 to 64 bytes, and no control characters".into())
}

/// A name that is a file's, too.
fn file_name(text: &str) -> Result<String, String> {
    let text = name(text)?;
    if text.contains('/') || text.starts_with(['.', '-']) {
        return Err("it names files: it has no / and begins with neither . nor -".into());
    }
    Ok(text)
}
