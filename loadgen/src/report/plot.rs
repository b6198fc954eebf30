//! A run's latencies as a picture.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use omnirelay_loadgen::plot::{Curve, picture};

use super::{FileError, Step};

/// The file that the picture goes to.
#[derive(Debug)]
pub(crate) struct PlotFile {
    path: PathBuf,
}

impl PlotFile {
    /// Sees that there can be such a file; one that is there stays as it is until a run succeeds.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let file = Self {
            path: path.to_owned(),
        };
        let is_there = path.exists();
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|_| match is_there {
                true => Ok(()),
                false => fs::remove_file(path),
            })
            .map_err(|cause| file.error(cause))?;
        Ok(file)
    }

    pub(super) fn write(
        &self,
        steps: &[Step],
        title: &str,
        settings: &str,
    ) -> Result<(), FileError> {
        let curves: Vec<_> = steps
            .iter()
            .map(|step| Curve {
                name: step.name,
                histogram: &step.histogram,
            })
            .collect();
        let picture = picture(&curves, title, settings);
        fs::write(&self.path, picture).map_err(|cause| self.error(cause))
    }

    fn error(&self, cause: std::io::Error) -> FileError {
        FileError {
            option: "--plot",
            path: self.path.clone(),
            cause,
        }
    }
}
