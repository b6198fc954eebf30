//! Bugs that are planted on purpose: patches in `sim/bugs`, each with a header that says what it
//! breaks and what must find it.

use std::fs;
use std::path::{Path, PathBuf};

/// Seeds that find a bug unless its header says otherwise.
const SEEDS_DEFAULT: u64 = 200;

/// A bug.
#[derive(Debug, Clone)]
pub struct Bug {
    /// The name of its file.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What it breaks.
    pub what: String,
    /// Seeds within which the simulator must find it.
    pub seeds: u64,
    /// Instead: arguments of `cargo test` that must find it.
    pub test: Option<String>,
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    sim.parent().expect("the simulator is in a workspace")
}

/// All bugs, by name.
///
/// # Errors
/// If one cannot be read, or its header does not say what it breaks.
pub fn all_bugs() -> Result<Vec<Bug>, String> {
    let folder = workspace().join("sim/bugs");
    let files = fs::read_dir(&folder)
        .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
    let mut bugs = Vec::new();
    for file in files.flatten() {
        let path = file.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "patch")
        {
            bugs.push(read_bug(path)?);
        }
    }
    bugs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(bugs)
}

fn read_bug(path: PathBuf) -> Result<Bug, String> {
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let header = || text.lines().take_while(|line| !line.starts_with("diff "));
    let field = |name: &str| {
        let mut values = header().filter_map(|line| line.strip_prefix(name));
        values.next().map(|value| value.trim().to_owned())
    };
    let what = field("Breaks:").ok_or_else(|| format!("{} has no Breaks:", path.display()))?;
    let seeds = match field("Seeds:") {
        None => SEEDS_DEFAULT,
        Some(seeds) => seeds
            .parse()
            .map_err(|_| format!("{}: Seeds: is no number", path.display()))?,
    };
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned());
    Ok(Bug {
        name: name.unwrap_or_default(),
        what,
        seeds,
        test: field("Test:"),
        path,
    })
}
