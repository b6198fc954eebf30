//! The merged tree against the table of knobs: every key exists, every value is in its bounds.

use std::collections::{BTreeMap, BTreeSet};

use figment::value::{Dict, Tag, Value};
use figment::{Figment, Profile, Provider};

use super::error::ConfigError;
use super::knob::{Knob, NAMESPACE, NAMESPACES_MAX, NODE};
use super::value::{Kind, Setting, quoted, render, render_for};

/// The namespace that always exists.
pub(super) const DEFAULT_NAMESPACE: &str = "resourcelease";

/// Longest name of a namespace, in bytes.
const NAMESPACE_NAME_BYTES_MAX: usize = 128;

/// One key's checked value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) knob: &'static Knob,
    /// The key's last segment as it is, without quotes.
    pub(super) name: String,
    /// Full dotted key, with quotes where a segment needs them.
    pub(super) path: String,
    pub(super) setting: Setting,
    pub(super) origin: String,
    pub(super) is_default: bool,
}

/// All entries of one table of knobs, in the table's order, defaults filled in. A knob whose
/// default follows from another key is absent if nothing sets it; one for any name is there once
/// for each name that is set.
pub(super) type Section = Vec<Entry>;

/// The whole configuration, each value checked on its own.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) node: Section,
    pub(super) namespaces: BTreeMap<String, Section>,
}

impl Settings {
    pub(super) fn read(figment: &Figment) -> Result<Settings, ConfigError> {
        let data = figment
            .data()
            .expect("every layer is parsed before it is merged");
        let mut root = data.get(&Profile::Default).cloned().unwrap_or_default();
        let origins = Origins(figment);
        let mut namespaces = BTreeMap::new();
        let named = match root.remove("namespaces") {
            None => Dict::new(),
            Some(Value::Dict(_, named)) => named,
            Some(other) => {
                return Err(origins.refuse("namespaces", &other, "a table of namespaces"));
            }
        };
        for (name, value) in named {
            let path = format!("namespaces.{}", segment(&name));
            let Value::Dict(tag, dict) = value else {
                return Err(origins.refuse(&path, &value, "a table of namespace options"));
            };
            if !is_namespace_name(&name) {
                return Err(ConfigError::Value {
                    origin: origins.of_dict(tag, &dict),
                    key: "namespaces.<name>".into(),
                    value: quoted(&name),
                    allowed: format!(
                        "1 to {NAMESPACE_NAME_BYTES_MAX} ASCII letters, digits, `.`, `-` or `_`, starting with a letter or digit"
                    ),
                });
            }
            namespaces.insert(name, section(&origins, NAMESPACE, &path, &dict)?);
        }
        if !namespaces.contains_key(DEFAULT_NAMESPACE) {
            let path = format!("namespaces.{DEFAULT_NAMESPACE}");
            namespaces.insert(
                DEFAULT_NAMESPACE.into(),
                section(&origins, NAMESPACE, &path, &Dict::new())?,
            );
        }
        if namespaces.len() > NAMESPACES_MAX {
            return Err(ConfigError::Contradiction {
                message: format!(
                    "{} namespaces are configured, at most {NAMESPACES_MAX} are allowed",
                    namespaces.len()
                ),
                help: "merge namespaces that need no options of their own".into(),
            });
        }
        Ok(Settings {
            node: section(&origins, NODE, "", &root)?,
            namespaces,
        })
    }
}

/// Finds an entry by its knob's key.
///
/// # Panics
/// If the table has no such knob with a default: a broken invariant.
pub(super) fn entry<'a>(section: &'a [Entry], key: &str) -> &'a Entry {
    optional_entry(section, key).unwrap_or_else(|| panic!("no knob `{key}` with a default"))
}

/// Finds an entry that may be absent because its default follows from others.
pub(super) fn optional_entry<'a>(section: &'a [Entry], key: &str) -> Option<&'a Entry> {
    section.iter().find(|entry| entry.knob.key == key)
}

fn section(
    origins: &Origins<'_>,
    table: &'static [Knob],
    path: &str,
    dict: &Dict,
) -> Result<Section, ConfigError> {
    let mut given = Vec::new();
    walk(origins, table, path, "", dict, &mut given)?;
    let mut entries = Vec::with_capacity(table.len());
    for knob in table {
        let before = entries.len();
        entries.extend(given.extract_if(.., |entry: &mut Entry| entry.knob.key == knob.key));
        if entries.len() > before {
            continue;
        }
        if let Some(default) = knob.default {
            let value = default_value(default);
            let setting = knob
                .kind
                .read(&value)
                .expect("every default is within its bounds");
            let path = join(path, knob.key);
            entries.push(Entry {
                knob,
                name: last_segment(knob.key).into(),
                path,
                setting,
                origin: "default".into(),
                is_default: true,
            });
        }
    }
    Ok(entries)
}

fn default_value(text: &str) -> Value {
    let mut dict: Dict = toml::from_str(&format!("value = {text}")).expect("every default is TOML");
    dict.remove("value").expect("it was just named")
}

fn walk(
    origins: &Origins<'_>,
    table: &'static [Knob],
    path: &str,
    prefix: &str,
    dict: &Dict,
    given: &mut Vec<Entry>,
) -> Result<(), ConfigError> {
    for (name, value) in dict {
        let key = join(prefix, name);
        let full = join(&join(path, prefix), &segment(name));
        let any = join(prefix, "*");
        let knob = match prefix {
            "" => table
                .iter()
                .find(|knob| knob.key == name && !knob.key.ends_with('*')),
            _ => table.iter().find(|knob| knob.key == key || knob.key == any),
        };
        if let Some(knob) = knob {
            let Some(setting) = knob.kind.read(value) else {
                return Err(refuse_value(origins, knob, &full, value));
            };
            let origin = origins.of(value);
            given.push(Entry {
                knob,
                name: name.clone(),
                path: full,
                setting,
                origin,
                is_default: false,
            });
        } else if table.iter().any(|knob| {
            knob.key
                .strip_prefix(&key)
                .is_some_and(|rest| rest.starts_with('.'))
        }) {
            match value {
                Value::Dict(_, inner) => walk(origins, table, path, &key, inner, given)?,
                other => return Err(origins.refuse(&full, other, "a table")),
            }
        } else {
            return Err(unknown(origins, table, path, prefix, name, value));
        }
    }
    Ok(())
}

fn refuse_value(origins: &Origins<'_>, knob: &Knob, path: &str, value: &Value) -> ConfigError {
    let mut allowed = knob.kind.allowed();
    if knob.key == "durability" && value.as_str() == Some("quorum") {
        allowed.push_str("; quorum needs three voters, and this is a single node");
    }
    let is_https = value
        .as_str()
        .is_some_and(|url| url.starts_with("https://"));
    if knob.kind == Kind::OtlpEndpoint && is_https {
        allowed.push_str(
            "; nothing is sent over TLS here: name a collector or an agent on this machine, and \
             have that send it on over https",
        );
    }
    ConfigError::Value {
        origin: origins.of(value),
        key: path.to_owned(),
        value: render_for(knob.kind, value),
        allowed,
    }
}

fn unknown(
    origins: &Origins<'_>,
    table: &'static [Knob],
    path: &str,
    prefix: &str,
    name: &str,
    value: &Value,
) -> ConfigError {
    let mut known = BTreeSet::new();
    for knob in table {
        let rest = if prefix.is_empty() {
            Some(knob.key)
        } else {
            knob.key
                .strip_prefix(prefix)
                .and_then(|k| k.strip_prefix('.'))
        };
        if let Some(rest) = rest {
            known.insert(rest.split('.').next().unwrap_or(rest).to_owned());
        }
    }
    if path.is_empty() && prefix.is_empty() {
        known.insert("namespaces".into());
    }
    // A key of another section, written without or with the wrong section, is found by its last part.
    let elsewhere = table
        .iter()
        .map(|knob| knob.key)
        .filter(|key| last_segment(key) == name && !key.ends_with('*'));
    let here = known.iter().map(|key| join(prefix, key));
    let suggestion = elsewhere
        .map(str::to_owned)
        .next()
        .or_else(|| nearest(&join(prefix, name), here))
        .or_else(|| {
            let keys = table.iter().map(|knob| knob.key);
            nearest(
                name,
                keys.filter(|key| !key.ends_with('*')).map(str::to_owned),
            )
        })
        .map(|key| join(path, &key));
    let full = join(&join(path, prefix), &segment(name));
    ConfigError::UnknownKey {
        origin: origins.of(value),
        key: full,
        suggestion,
        known: known.into_iter().collect(),
    }
}

/// The candidate that a slip of the finger could have turned into `typed`.
fn nearest(typed: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let slips_max = (typed.len() / 3).clamp(1, 4);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&typed, &candidate), candidate))
        .filter(|(distance, _)| *distance <= slips_max)
        .min()
        .map(|(_, candidate)| candidate)
}

fn join(prefix: &str, key: &str) -> String {
    match (prefix, key) {
        ("", key) => key.to_owned(),
        (prefix, "") => prefix.to_owned(),
        (prefix, key) => format!("{prefix}.{key}"),
    }
}

pub(super) fn last_segment(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

/// A key's segment as TOML writes it.
pub(super) fn segment(name: &str) -> String {
    let bare = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare {
        return name.to_owned();
    }
    // Not as a value: a key knows no strings of several lines.
    let mut out = String::from('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn is_namespace_name(name: &str) -> bool {
    name.len() <= NAMESPACE_NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Looks up where a value came from.
struct Origins<'a>(&'a Figment);

impl Origins<'_> {
    fn of(&self, value: &Value) -> String {
        match value {
            Value::Dict(tag, dict) => self.of_dict(*tag, dict),
            other => self.of_tag(other.tag()),
        }
    }

    /// A table merged from several sources is named after one of the values in it.
    fn of_dict(&self, tag: Tag, dict: &Dict) -> String {
        dict.values()
            .next()
            .map_or_else(|| self.of_tag(tag), |value| self.of(value))
    }

    fn of_tag(&self, tag: Tag) -> String {
        self.0.get_metadata(tag).map_or_else(
            || "the configuration".into(),
            |metadata| metadata.name.to_string(),
        )
    }

    fn refuse(&self, key: &str, value: &Value, allowed: &str) -> ConfigError {
        ConfigError::Value {
            origin: self.of(value),
            key: key.to_owned(),
            value: render(value),
            allowed: allowed.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_bounds() {
        for knob in NODE.iter().chain(NAMESPACE) {
            if let Some(default) = knob.default {
                assert!(
                    knob.kind.read(&default_value(default)).is_some(),
                    "{}",
                    knob.key
                );
            }
        }
    }

    #[test]
    fn any_name_is_written_as_a_key_that_reads_back() {
        for name in [
            "plain-1",
            "",
            "a.b",
            "a \"b\" \\",
            "'",
            "\n\t\u{1}\u{7f}\u{85}",
            "größe",
            "\u{1F600}",
        ] {
            let table: toml::Table = toml::from_str(&format!("{} = 1", segment(name))).unwrap();
            assert_eq!(table.keys().next().map(String::as_str), Some(name));
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let candidates = || NODE.iter().map(|knob| knob.key.to_owned());
        assert_eq!(nearest("lisen", candidates()).as_deref(), Some("listen"));
        assert_eq!(
            nearest("data-dir", candidates()).as_deref(),
            Some("data_dir")
        );
        assert_eq!(nearest("colour", candidates()), None);
    }
}
