//! The system calls that the standard library does not have.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

/// The most slices one write takes; the log writes three at a time.
const SLICES_MAX: usize = 16;

/// Writes at an offset; may write less than all, as the system call does.
pub(crate) fn pwritev(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let count = slices.len().min(SLICES_MAX);
    let count = libc::c_int::try_from(count).expect("a small number");
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `IoSlice` has the layout of `iovec`, which its documentation
    // guarantees; `count` is at most the slice's length; the descriptor is open
    // for as long as `file` is borrowed.
    let wrote = unsafe { libc::pwritev(file.as_raw_fd(), slices.as_ptr().cast(), count, offset) };
    usize::try_from(wrote).map_err(|_| io::Error::last_os_error())
}

/// Reserves blocks for the first `len` bytes and makes the file at least that long.
pub(crate) fn fallocate(file: &File, len: u64) -> io::Result<()> {
    let len = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no memory is involved; the descriptor is open for as long as
    // `file` is borrowed.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads at an offset what the page cache holds; an error of kind
/// [`io::ErrorKind::WouldBlock`] if the disk would have to be asked.
pub(crate) fn pread_nowait(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the one `iovec` describes `buffer`, which is borrowed mutably for
    // the call; the descriptor is open for as long as `file` is borrowed.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &slice, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Has the page cache read bytes in the background. It is a hint: what the
/// kernel makes of it changes no result.
pub(crate) fn will_read(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else {
        return;
    };
    // SAFETY: no memory is involved; the descriptor is open for as long as
    // `file` is borrowed.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_WILLNEED) };
}

/// Where the first bytes are, from an offset on, that are not a hole of the
/// file; the file's end if there are none.
pub(crate) fn data_from(file: &File, offset: u64) -> io::Result<u64> {
    let from = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no memory is involved; the descriptor is open for as long as
    // `file` is borrowed. Its cursor moves, which nothing here relies on.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from, libc::SEEK_DATA) };
    match u64::try_from(at) {
        Ok(at) => Ok(at),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(file.metadata()?.len()),
            // A file system without holes.
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(offset),
            error => Err(error),
        },
    }
}
