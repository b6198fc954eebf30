//! What the kernel says of this process.

use std::{fs, io};

/// Clock ticks a second in `/proc`: fixed in the kernel's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process at one moment. What the kernel does not tell is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) threads: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) fds_max: Option<u64>,
}

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Process {
        let text =
            |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
        let status = text("status");
        Process {
            cpu_seconds: cpu_seconds(&text("stat")),
            resident_bytes: status_kib(&status, "VmRSS:").map(|kib| kib * 1_024),
            virtual_bytes: status_kib(&status, "VmSize:").map(|kib| kib * 1_024),
            threads: status_kib(&status, "Threads:"),
            open_fds: open_fds().ok(),
            fds_max: fds_max(&text("limits")),
        }
    }
}

/// User and system time of all threads. The command's name, second in `stat`, may hold anything,
/// so fields are counted from its closing parenthesis.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields
        .split_ascii_whitespace()
        .skip(11)
        .map(str::parse::<f64>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn status_kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn open_fds() -> io::Result<u64> {
    // The listing itself holds one.
    Ok((fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

fn fds_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_threads_and_files() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some());
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads.unwrap() >= 1);
        assert!(process.open_fds.unwrap() >= 3 && process.open_fds < process.fds_max);
    }

    #[test]
    fn a_command_named_like_fields_does_not_shift_them() {
        let stat = "7 (a) 9 (b) ) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a"), None);
    }
}
