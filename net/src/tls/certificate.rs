//! What a certificate says, for people and for warnings.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest::{SHA256, digest};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that has less than this left, and less than a third of its life, nears its end.
const EXPIRING: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a certificate says. Nothing here has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it is for, as `CN=…, O=…`; may be empty.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// In hexadecimal.
    pub serial: String,
    /// `DNS:…`, `IP:…` and `URI:…`.
    pub names: Vec<String>,
    /// May it sign others?
    pub is_ca: bool,
    /// `server`, `client`: what it may be used for. Empty is anything.
    pub usages: Vec<&'static str>,
    /// Seconds since 1970 from when it is good.
    pub not_before: i64,
    /// Seconds since 1970 until when it is good.
    pub not_after: i64,
    /// See [`fingerprint`].
    pub fingerprint: String,
}

/// Whether a certificate is good at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// It will be.
    NotYet,
    /// It is.
    Good,
    /// It is, and not for long: less than a week and less than a third of its life.
    Expiring,
    /// It was.
    Expired,
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(der: &[u8]) -> Result<Certificate, String> {
        let (_, read) = X509Certificate::from_der(der)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let unreadable = |error| format!("not an X.509 certificate: {error}");
        let names = read.subject_alternative_name().map_err(unreadable)?;
        let usage = read.extended_key_usage().map_err(unreadable)?;
        let mut usages = Vec::new();
        if let Some(usage) = usage.filter(|usage| !usage.value.any) {
            usages.extend(usage.value.server_auth.then_some("server"));
            usages.extend(usage.value.client_auth.then_some("client"));
        }
        Ok(Certificate {
            subject: read.subject().to_string(),
            issuer: read.issuer().to_string(),
            serial: hexadecimal(read.raw_serial(), ":"),
            names: names.map_or_else(Vec::new, |names| {
                names.value.general_names.iter().map(name).collect()
            }),
            is_ca: read.is_ca(),
            usages,
            not_before: read.validity().not_before.timestamp(),
            not_after: read.validity().not_after.timestamp(),
            fingerprint: fingerprint(der),
        })
    }

    /// Whether the certificate is good at `now`, which is in seconds since 1970.
    pub fn validity(&self, now: i64) -> Validity {
        let left = self.not_after.saturating_sub(now);
        let life = self.not_after.saturating_sub(self.not_before);
        if now < self.not_before {
            Validity::NotYet
        } else if left < 0 {
            Validity::Expired
        } else if left < (EXPIRING.as_secs() as i64).min(life / 3) {
            Validity::Expiring
        } else {
            Validity::Good
        }
    }

    /// Whether the certificate is good by the system's clock.
    pub fn validity_now(&self) -> Validity {
        self.validity(unix_now())
    }
}

/// SHA-256 of a certificate in DER, as `openssl x509 -fingerprint -sha256` writes it.
pub fn fingerprint(der: &[u8]) -> String {
    hexadecimal(digest(&SHA256, der).as_ref(), ":")
}

/// Seconds since 1970 by the system's clock.
fn unix_now() -> i64 {
    let now = system_now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

/// The system's time, by which certificates are made and judged.
#[expect(
    clippy::disallowed_methods,
    reason = "a certificate's time is the world's"
)]
pub(super) fn system_now() -> SystemTime {
    SystemTime::now()
}

fn hexadecimal(bytes: &[u8], between: &str) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if !text.is_empty() {
            text.push_str(between);
        }
        write!(text, "{byte:02X}").expect("a string takes all");
    }
    text
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::IPAddress(bytes) => match ip(bytes) {
            Some(ip) => format!("IP:{ip}"),
            None => format!("IP:{}", hexadecimal(bytes, ":")),
        },
        GeneralName::RFC822Name(address) => format!("email:{address}"),
        other => other.to_string(),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(not_before: i64, not_after: i64) -> Certificate {
        Certificate {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            names: Vec::new(),
            is_ca: false,
            usages: Vec::new(),
            not_before,
            not_after,
            fingerprint: String::new(),
        }
    }

    #[test]
    fn a_certificate_is_good_in_its_time_and_nears_its_end_by_its_own_length() {
        const DAY: i64 = 86_400;
        let quarter = certificate(0, 90 * DAY);
        assert_eq!(quarter.validity(-1), Validity::NotYet);
        assert_eq!(quarter.validity(0), Validity::Good);
        assert_eq!(quarter.validity(83 * DAY), Validity::Good);
        assert_eq!(quarter.validity(83 * DAY + 1), Validity::Expiring);
        assert_eq!(quarter.validity(90 * DAY), Validity::Expiring);
        assert_eq!(quarter.validity(90 * DAY + 1), Validity::Expired);
        let day = certificate(0, DAY);
        assert_eq!(day.validity(DAY / 2), Validity::Good);
        assert_eq!(day.validity(DAY * 3 / 4), Validity::Expiring);
    }

    #[test]
    fn a_fingerprint_is_written_as_openssl_does() {
        assert!(fingerprint(b"").starts_with("E3:B0:C4:42:98:FC:1C:14:"));
        assert!(Certificate::parse(b"none").is_err());
    }
}
