//! `planted`: breaks the product on purpose, one bug at a time, and sees each one found.
//!
//! Every `sim/bugs/*.patch` begins with what it breaks and what must find it. The tree is copied
//! into the target directory, where one build cache serves all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Instant;

use clap::Parser;
use omnirelay_sim::bugs::{Bug, all_bugs, workspace};

/// Plants each bug of sim/bugs in a copy of the tree and runs what must find it.
///
/// Exits 0 if every bug was found.
///
/// Example: cargo run -p sim --bin planted -- --only starve
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Only bugs whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Where to build; a folder in the target directory unless given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match plant_all(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn plant_all(args: &Args) -> Result<bool, String> {
    let dir = args.dir.clone().unwrap_or_else(default_dir);
    let plot = Plot {
        tree: dir.join("tree"),
        build: dir.join("build"),
    };
    let _alone = plot.lock()?;
    plot.copy_tree()?;
    let bugs = all_bugs()?;
    let wanted = |bug: &&Bug| {
        args.only
            .as_ref()
            .is_none_or(|text| bug.name.contains(text))
    };
    println!("{:<28} {:>6}  found by", "bug", "s");
    let mut all_found = true;
    for bug in bugs.iter().filter(wanted) {
        let began = Instant::now();
        let found = plot.plant(bug)?;
        let took = began.elapsed().as_secs();
        let how = found.as_deref().unwrap_or("NOT FOUND");
        println!("{:<28} {took:>6}  {how}", bug.name);
        all_found &= found.is_some();
    }
    Ok(all_found)
}

fn default_dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("planted")
}

/// Where bugs are planted.
struct Plot {
    tree: PathBuf,
    build: PathBuf,
}

impl Plot {
    /// Two at once would plant into each other's tree.
    fn lock(&self) -> Result<fs::File, String> {
        let path = self.tree.with_file_name("lock");
        let folder = path.parent().expect("it was just joined");
        let taken = fs::create_dir_all(folder).and_then(|()| fs::File::create(&path));
        let file = taken.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(_) => Err(format!("another process plants in {}", folder.display())),
        }
    }

    /// Copies what git knows of, and leaves alone what is the same, so that little is built again.
    /// What is there and nothing that git knows goes: an earlier tree may have had it.
    fn copy_tree(&self) -> Result<(), String> {
        let list = output(
            Command::new("git")
                .args([
                    "ls-files",
                    "-z",
                    "--cached",
                    "--others",
                    "--exclude-standard",
                ])
                .current_dir(workspace()),
        )?;
        let mut known = BTreeSet::new();
        for name in String::from_utf8_lossy(&list.stdout).split_terminator('\0') {
            let (from, to) = (workspace().join(name), self.tree.join(name));
            let Ok(contents) = fs::read(&from) else {
                continue;
            };
            known.insert(to.clone());
            if fs::read(&to).is_ok_and(|same| same == contents) {
                continue;
            }
            let folder = to.parent().expect("a file is in a folder");
            fs::create_dir_all(folder)
                .and_then(|()| fs::copy(&from, &to))
                .map_err(|error| format!("cannot copy to {}: {error}", to.display()))?;
        }
        remove_unknown(&self.tree, &known)
            .map_err(|error| format!("cannot tidy {}: {error}", self.tree.display()))
    }

    /// Plants a bug and says what found it, if anything did; the tree is as before then.
    fn plant(&self, bug: &Bug) -> Result<Option<String>, String> {
        self.apply(bug, &[])?;
        let found = self.hunt(bug);
        self.apply(bug, &["--reverse"])?;
        found
    }

    fn hunt(&self, bug: &Bug) -> Result<Option<String>, String> {
        if let Some(test) = &bug.test {
            let built = self.cargo(&format!("test --no-run {test}"))?;
            if !built.status.success() {
                return Ok(unbuilt(bug, &built));
            }
            let ran = self.cargo(&format!("test {test}"))?;
            return Ok((!ran.status.success()).then(|| format!("cargo test {test}")));
        }
        let built = self.cargo("build -p sim --bin sim")?;
        if !built.status.success() {
            return Ok(unbuilt(bug, &built));
        }
        let mut sim = Command::new(self.build.join("debug/sim"));
        let ran = sim.args(["--seeds", &bug.seeds.to_string()]).output();
        let ran = ran.map_err(|error| format!("cannot run the simulator: {error}"))?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let found = text.lines().find(|line| line.contains("broken: "));
        Ok(found.map(|line| line.chars().take(100).collect()))
    }

    fn apply(&self, bug: &Bug, more: &[&str]) -> Result<(), String> {
        let mut git = Command::new("git");
        // The copy is no repository, whatever it lies in.
        let above = self.tree.parent().unwrap_or(Path::new("/"));
        git.env("GIT_CEILING_DIRECTORIES", above);
        git.arg("apply").args(more).arg(&bug.path);
        output(git.current_dir(&self.tree)).map(drop)
    }

    fn cargo(&self, arguments: &str) -> Result<Output, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        Command::new(cargo)
            .args(arguments.split_whitespace())
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot run cargo: {error}"))
    }
}

/// A bug that does not build is found by nothing.
fn unbuilt(bug: &Bug, built: &Output) -> Option<String> {
    let why = String::from_utf8_lossy(&built.stderr);
    eprintln!("{} does not build:\n{why}", bug.name);
    None
}

/// Removes the files below `folder` that are not in `known`.
fn remove_unknown(folder: &Path, known: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_unknown(&entry.path(), known)?;
        } else if !known.contains(&entry.path()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn output(command: &mut Command) -> Result<Output, String> {
    let done = command
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if done.status.success() {
        Ok(done)
    } else {
        let why = String::from_utf8_lossy(&done.stderr);
        Err(format!("{command:?} failed: {why}"))
    }
}
