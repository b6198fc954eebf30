//! What the figures were measured on.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine, as far as it matters to a figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    file_system: String,
}

impl Machine {
    /// This one, with its data in `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        let told = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpus = told("/proc/cpuinfo");
        let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
        let model = |line: &&str| line.starts_with("model name") || line.starts_with("Model");
        let unknown = || "unknown".to_owned();
        Self {
            cpu: cpus
                .lines()
                .find(model)
                .and_then(value)
                .unwrap_or_else(unknown),
            cpus: cpus
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: told("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: dir
                .canonicalize()
                .ok()
                .and_then(|dir| file_system(&told("/proc/mounts"), &dir))
                .unwrap_or_else(unknown),
        }
    }

    /// In a sentence.
    pub(crate) fn words(&self) -> String {
        let Self {
            cpu,
            cpus,
            kernel,
            file_system,
        } = self;
        format!("{cpu}, {cpus} CPUs, Linux {kernel}, {file_system}")
    }
}

/// The type and device of the file system that a directory is on.
fn file_system(mounts: &str, dir: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    });
    let above = mounts.filter(|(_, place, _)| dir.starts_with(place));
    // Of several at one place the last is on top.
    let (device, _, kind) = above.max_by_key(|(_, place, _)| place.len())?;
    Some(format!("{kind} on {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_on_the_file_system_nearest_above_it() {
        let mounts =
            "/dev/a / ext4 rw 0 0\n/dev/b /data xfs rw 0 0\ntmpfs /data/tmp tmpfs rw 0 0\n";
        let of = |dir: &str| file_system(mounts, Path::new(dir));
        assert_eq!(of("/data/x").as_deref(), Some("xfs on /dev/b"));
        assert_eq!(of("/database").as_deref(), Some("ext4 on /dev/a"));
        assert_eq!(of("/data/tmp").as_deref(), Some("tmpfs on tmpfs"));
    }
}
