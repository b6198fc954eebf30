//! Which threads go first.

#![allow(unsafe_code, reason = "a system call; its block says why it is sound")]

use std::io;

/// The kindest that a thread can be.
const NICE_MAX: libc::c_int = 19;

/// Lets all others go before this thread.
///
/// # Errors
/// If the system refuses.
pub fn lowest() -> io::Result<()> {
    // SAFETY: takes numbers only; 0 is the calling thread.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE_MAX) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
