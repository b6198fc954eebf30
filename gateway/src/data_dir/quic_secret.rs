//! The secret that the keys of a node's QUIC are made of, so that they outlive the process.

use std::io;
use std::path::Path;

use omnirelay_net::quic::SECRET_BYTES;

use super::write;

/// Hex digits on one line.
const NAME: &str = "quic.secret";

/// Reads the secret, or makes it.
pub(super) fn open(dir: &Path, mut entropy: impl FnMut() -> u64) -> io::Result<[u8; SECRET_BYTES]> {
    match std::fs::read(dir.join(NAME)) {
        Ok(text) => match parse(&text) {
            Some(secret) => return Ok(secret),
            // All that is lost is that clients of the process before wait for their timeout.
            None => tracing::warn!("{NAME} is damaged and is made anew"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut secret = [0; SECRET_BYTES];
    for word in secret.chunks_exact_mut(8) {
        word.copy_from_slice(&entropy().to_be_bytes());
    }
    let mut text = String::new();
    for byte in secret {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    write::replace(dir, NAME, text.as_bytes(), 0o600)?;
    Ok(secret)
}

fn parse(text: &[u8]) -> Option<[u8; SECRET_BYTES]> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    if text.len() != 2 * SECRET_BYTES || !text.is_ascii() {
        return None;
    }
    let mut secret = [0; SECRET_BYTES];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_again_only_where_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let mut next = 0_u64;
        let mut open = || {
            open(dir.path(), || {
                next += 1;
                next
            })
            .unwrap()
        };
        let first = open();
        assert_eq!(open(), first);
        assert_eq!(
            first[..16],
            [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]
        );
        let path = dir.path().join(NAME);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for damaged in [
            "",
            "00",
            &"zz".repeat(SECRET_BYTES),
            &"é".repeat(SECRET_BYTES),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let made = open();
            assert_ne!(made, first);
            assert_eq!(open(), made);
        }
    }
}
