//! The catalog: what was decided once for this data directory and can never change under its
//! records, which are the number of logs and each namespace's shards and secret.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use omnirelay_queue::{Options, Secret, ShardId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::write;
use crate::config;
use crate::node::{Durability, Namespace, Watermarks};

/// The catalog's format. A file with a higher one is refused.
const FORMAT: u32 = 1;
const FILE: &str = "catalog.json";
/// Shard ids are 20 bits of a lease id.
const SHARDS_MAX: u64 = 1 << 20;

/// Why a catalog cannot be used.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a catalog.
    #[error(
        "{path} is damaged: {source}; restore it from a backup, the logs cannot be read without it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// The file is there no more, but the logs are.
    #[error(
        "{path} is missing but there are logs beside it; restore it from a backup, the logs cannot be read without it"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has format {found}, this version reads up to {FORMAT}; start the newer version that wrote it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A namespace was made with another number of shards.
    #[error(
        "namespaces.{name}.shards is {wanted}, but the namespace was made with {made}: the number is fixed; \
         set it to {made}, or configure a namespace with another name"
    )]
    ShardsChanged {
        /// The namespace.
        name: String,
        /// What the configuration says.
        wanted: u32,
        /// What the data directory was made with.
        made: u32,
    },
    /// All namespaces together have too many shards.
    #[error("all namespaces together have {0} shards; at most {SHARDS_MAX} are possible")]
    TooManyShards(u64),
}

/// One namespace's entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NamespaceEntry {
    /// Its name.
    pub name: String,
    /// Its first shard.
    pub first_shard: u32,
    /// How many it has.
    pub shards: u32,
    /// Signs its lease ids; hexadecimal.
    secret: String,
    /// Names it among clusters; hexadecimal.
    origin: String,
    /// It was `memory` once: numbers that it has given out may not be in its log, so it skips
    /// some at every open, for ever.
    #[serde(default)]
    skips: bool,
}

/// What a data directory was made with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Catalog {
    format: u32,
    /// How many logs it has.
    pub logs: u16,
    /// Its namespaces in the order they were made.
    pub namespaces: Vec<NamespaceEntry>,
}

impl Catalog {
    /// Reads the catalog of `dir`, or makes one with `logs` logs if the directory is fresh; adds
    /// the namespaces that the configuration has beyond it. Written back if anything is new.
    ///
    /// # Errors
    /// See [`CatalogError`]. Nothing has been written then.
    pub fn open(
        dir: &Path,
        logs: u16,
        configured: &BTreeMap<String, config::Namespace>,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Result<Catalog, CatalogError> {
        let path = dir.join(FILE);
        let (mut catalog, mut changed) = match std::fs::read(&path) {
            Ok(bytes) => (parse(&path, &bytes)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if dir.join("log-0").exists() {
                    return Err(CatalogError::Missing { path });
                }
                (
                    Catalog {
                        format: FORMAT,
                        logs,
                        namespaces: Vec::new(),
                    },
                    true,
                )
            }
            Err(source) => return Err(CatalogError::Io { path, source }),
        };
        for (name, wanted) in configured {
            match catalog.namespaces.iter().find(|entry| entry.name == *name) {
                Some(entry) if entry.shards != wanted.shards => {
                    return Err(CatalogError::ShardsChanged {
                        name: name.clone(),
                        wanted: wanted.shards,
                        made: entry.shards,
                    });
                }
                Some(_) => {}
                None => {
                    catalog.add(name, wanted.shards, entropy)?;
                    changed = true;
                }
            }
            let entry = catalog
                .namespaces
                .iter_mut()
                .find(|entry| entry.name == *name);
            let entry = entry.expect("it was there or has been added");
            if wanted.durability == Durability::Memory && !entry.skips {
                entry.skips = true;
                changed = true;
            }
        }
        if changed {
            let json = serde_json::to_vec_pretty(&catalog).expect("plain data serialises");
            // It holds secrets: nobody else may read it.
            write::replace(dir, FILE, &json, 0o600)
                .map_err(|source| CatalogError::Io { path, source })?;
        }
        Ok(catalog)
    }

    fn add(
        &mut self,
        name: &str,
        shards: u32,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Result<(), CatalogError> {
        let first: u64 = self
            .namespaces
            .iter()
            .map(|entry| u64::from(entry.shards))
            .sum();
        if first + u64::from(shards) > SHARDS_MAX {
            return Err(CatalogError::TooManyShards(first + u64::from(shards)));
        }
        let mut random = || format!("{:016x}{:016x}", entropy(), entropy());
        self.namespaces.push(NamespaceEntry {
            name: name.to_owned(),
            first_shard: u32::try_from(first).expect("below the maximum"),
            shards,
            secret: random(),
            origin: random(),
            skips: false,
        });
        Ok(())
    }

    /// The namespaces as the node serves them. One that is no longer configured keeps its items
    /// and is served with default options.
    pub fn namespaces(&self, configured: &BTreeMap<String, config::Namespace>) -> Vec<Namespace> {
        self.namespaces
            .iter()
            .map(|entry| {
                let configured = configured.get(&entry.name);
                if configured.is_none() {
                    tracing::warn!(
                        namespace = entry.name,
                        "the namespace has data but is not configured: it is served with default options"
                    );
                }
                Namespace {
                    name: entry.name.clone(),
                    first_shard: ShardId(entry.first_shard),
                    shards: entry.shards,
                    durability: configured.map_or(Durability::Disk, |n| n.durability),
                    options: configured.map_or_else(Options::default, config::Namespace::shard_options),
                    watermarks: configured.map_or_else(
                        || Watermarks::of(Options::default().capacity),
                        |n| n.watermarks,
                    ),
                    origin: entry.origin(),
                    secret: Secret(number(&entry.secret).expect(CHECKED)),
                    skips: entry.skips,
                }
            })
            .collect()
    }
}

impl NamespaceEntry {
    /// What [`Namespace::origin`] is.
    pub fn origin(&self) -> [u8; 16] {
        number(&self.origin).expect(CHECKED)
    }
}

const CHECKED: &str = "checked when the catalog was read";

/// Reads 32 hexadecimal digits.
fn number(text: &str) -> Option<[u8; 16]> {
    omnirelay_net::rpc::parse_origin(text).ok()
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Catalog, CatalogError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let damaged = |source| CatalogError::Damaged {
        path: path.to_owned(),
        source,
    };
    let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
    if head.format > FORMAT {
        return Err(CatalogError::Newer {
            path: path.to_owned(),
            found: head.format,
        });
    }
    let catalog: Catalog = serde_json::from_slice(bytes).map_err(damaged)?;
    let mut next = 0;
    for entry in &catalog.namespaces {
        let refuse = |why: &str| {
            let why = format!("namespace {} {why}", entry.name);
            Err(damaged(serde::de::Error::custom(why)))
        };
        if entry.first_shard != next || entry.shards == 0 {
            return refuse("does not follow the one before it");
        }
        if number(&entry.secret).is_none() || number(&entry.origin).is_none() {
            return refuse("has a secret or an origin that is not 32 hexadecimal digits");
        }
        next = entry
            .first_shard
            .checked_add(entry.shards)
            .filter(|&next| u64::from(next) <= SHARDS_MAX)
            .ok_or_else(|| damaged(serde::de::Error::custom("too many shards")))?;
    }
    if catalog.logs == 0 {
        return Err(damaged(serde::de::Error::custom("no logs")));
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(shards: u32) -> BTreeMap<String, config::Namespace> {
        let sources = config::Sources {
            set: vec![format!("namespaces.jobs.shards={shards}")],
            ..Default::default()
        };
        config::load(&sources).expect("valid").namespaces
    }

    fn open(dir: &Path, shards: u32) -> Result<Catalog, CatalogError> {
        let mut n = 0;
        Catalog::open(dir, 2, &configured(shards), &mut || {
            n += 1;
            n
        })
    }

    #[test]
    fn secrets_and_shards_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), 4).unwrap();
        let second = open(dir.path(), 4).unwrap();
        assert_eq!(first.logs, 2);
        let entries = |c: &Catalog| -> Vec<_> {
            c.namespaces
                .iter()
                .map(|n| {
                    (
                        n.name.clone(),
                        n.first_shard,
                        n.shards,
                        n.secret.clone(),
                        n.origin(),
                    )
                })
                .collect()
        };
        assert_eq!(entries(&first), entries(&second));
        assert_eq!(entries(&first).len(), 2, "`jobs` and the default namespace");
    }

    #[test]
    fn a_namespace_is_served_with_the_origin_it_was_made_with() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path(), 4).unwrap();
        let served = catalog.namespaces(&configured(4));
        let origins: Vec<_> = served.iter().map(|n| n.origin).collect();
        let made: Vec<_> = catalog
            .namespaces
            .iter()
            .map(NamespaceEntry::origin)
            .collect();
        assert_eq!(origins, made);
        assert_ne!(origins[0], origins[1]);

        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let origin = omnirelay_net::rpc::origin_text(origins[0]);
        std::fs::write(&path, text.replace(&origin, &origin[..31])).unwrap();
        let error = open(dir.path(), 4).unwrap_err();
        assert!(
            error.to_string().contains("not 32 hexadecimal digits"),
            "{error}"
        );
    }

    #[test]
    fn another_number_of_shards_is_refused_and_nothing_written() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 4).unwrap();
        let before = std::fs::read(dir.path().join(FILE)).unwrap();
        let error = open(dir.path(), 8).unwrap_err();
        assert!(error.to_string().contains("set it to 4"), "{error}");
        assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
    }

    #[test]
    fn a_missing_catalog_beside_logs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log-0")).unwrap();
        assert!(matches!(
            open(dir.path(), 4),
            Err(CatalogError::Missing { .. })
        ));
    }

    #[test]
    fn damaged_and_newer_catalogs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, b"{\"format\": 99}").unwrap();
        assert!(matches!(
            open(dir.path(), 4),
            Err(CatalogError::Newer { found: 99, .. })
        ));
        std::fs::write(&path, b"{\"format\": 1, \"logs\":").unwrap();
        assert!(matches!(
            open(dir.path(), 4),
            Err(CatalogError::Damaged { .. })
        ));
        std::fs::write(&path, br#"{"format":1,"logs":1,"namespaces":[{"name":"a","first_shard":7,"shards":1,"secret":"00","origin":""}]}"#).unwrap();
        assert!(matches!(
            open(dir.path(), 4),
            Err(CatalogError::Damaged { .. })
        ));
    }
}
