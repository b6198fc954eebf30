//! Memory of another process.

use std::fs;
use std::io;

/// Bytes of a process that are in memory, as Linux counts them (`VmRSS`); the kernel's own, such
/// as socket buffers, are not among them.
///
/// # Errors
/// If there is no such process.
pub fn resident_bytes(pid: i32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map(|kib| kib * 1_024)
        .ok_or_else(|| io::Error::other("it has no memory of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_allocates_and_writes_shows() {
        let own = std::process::id().cast_signed();
        let before = resident_bytes(own).unwrap();
        let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident_bytes(own).unwrap();
        assert!(after >= before + (32 << 20), "{before} {after}");
        drop(memory);
        assert!(resident_bytes(i32::MAX).is_err());
    }
}
