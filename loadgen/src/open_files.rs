//! How many files, and so sockets, this process may have open.

#![allow(unsafe_code, reason = "system calls; each block says why it is sound")]

use std::io;
use std::mem::MaybeUninit;

/// Sees that this process may have so many files open, as far as it may raise its own limit.
///
/// # Errors
/// How many it may have, and that this is not enough.
pub fn allow_open_files(wanted: u64) -> io::Result<()> {
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: getrlimit writes a whole rlimit, which zeros are one of.
    let limit = unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.assume_init()
    };
    if limit.rlim_cur >= wanted {
        return Ok(());
    }
    let raised = libc::rlimit {
        rlim_cur: wanted,
        // Root may raise this one, too.
        rlim_max: limit.rlim_max.max(wanted),
    };
    // SAFETY: the call reads one rlimit, which `raised` is.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } == 0 {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{wanted} files have to be open at a time and {} may be: raise the hard limit (`ulimit -Hn`)",
        limit.rlim_max
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_beyond_all_bounds_is_refused_with_the_one_there_is() {
        allow_open_files(16).unwrap();
        let refused = allow_open_files(1 << 40).unwrap_err().to_string();
        assert!(refused.contains("ulimit -Hn"), "{refused}");
    }
}
