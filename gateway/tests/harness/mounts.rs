//! File systems that only a node sees, gone with it. They need root: see [`allowed`].

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Whether this process may mount; if not, says which test is left out.
pub fn allowed(test: &str) -> bool {
    // SAFETY: reads the process's own identity.
    let is_root = unsafe { libc::geteuid() } == 0;
    // SAFETY: fork and immediate exit in the child; nothing is shared but a copy of memory.
    let can_mount = is_root
        && unsafe {
            match libc::fork() {
                0 => libc::_exit(libc::unshare(libc::CLONE_NEWNS)),
                child => {
                    let mut status = 0;
                    libc::waitpid(child, &raw mut status, 0) == child && status == 0
                }
            }
        };
    if !can_mount {
        eprintln!("SKIPPED: {test} mounts a file system, which this process may not");
    }
    can_mount
}

/// What a child does before it becomes the node, to have a `tmpfs` of so many bytes at `dir`.
pub fn tmpfs(dir: &Path, bytes: u64) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let dir = path(dir);
    let size = CString::new(format!("size={bytes}")).expect("no zero byte");
    move || {
        own_mounts()?;
        mount(c"tmpfs", &dir, c"tmpfs", 0, Some(&size))
    }
}

/// What a child does before it becomes the node, to see `dir` read-only.
pub fn read_only(dir: &Path) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    let dir = path(dir);
    move || {
        own_mounts()?;
        mount(&dir, &dir, c"", libc::MS_BIND, None)?;
        mount(
            &dir,
            &dir,
            c"",
            libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY,
            None,
        )
    }
}

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte")
}

/// Leaves the mounts of the other processes.
fn own_mounts() -> io::Result<()> {
    // SAFETY: no memory is touched; only this process's view of mounts changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, None)
}

fn mount(
    what: &std::ffi::CStr,
    at: &std::ffi::CStr,
    kind: &std::ffi::CStr,
    flags: libc::c_ulong,
    data: Option<&CString>,
) -> io::Result<()> {
    let data = data.map_or(ptr::null(), |data| data.as_ptr().cast());
    // SAFETY: all pointers are to strings that end in zero and live through the call, or null
    // where mount(2) takes it.
    match unsafe { libc::mount(what.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
