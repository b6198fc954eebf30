//! Where values come from: the file, the environment, flags and `--set`, each a layer whose
//! origin is remembered for messages and for `config show`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::error::ConfigError;
use super::knob::{Knob, NAMESPACE, NODE};

/// Prefix of the environment variables that are read.
const PREFIX: &str = "OMNIRELAY_";

/// Variables with the prefix that are not configuration of a node. Kubernetes injects the first
/// two for a service called omnirelay; the others are options of the command line.
const FOREIGN_PREFIXES: [&str; 2] = ["SERVICE_", "PORT"];
const FOREIGN: [&str; 8] = [
    "ADDRESS",
    "ADMIN_ADDRESS",
    "CA",
    "CALLER",
    "CERT",
    "CONFIG",
    "KEY",
    "NAMESPACE",
];

/// The environment variables that all programs with OpenTelemetry take, and the keys they stand
/// for where nothing else sets those.
const OTEL: [(&str, &str); 7] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers"),
    ("OTEL_SERVICE_NAME", "service_name"),
    ("OTEL_RESOURCE_ATTRIBUTES", "resource_attributes"),
    ("OTEL_TRACES_SAMPLER", "traces_sampler"),
    ("OTEL_TRACES_SAMPLER_ARG", "traces_sample_ratio"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "metrics_interval"),
];

/// A value given by a command-line flag of its own.
#[derive(Debug, Clone)]
pub struct Flag {
    /// The flag as it is typed, such as `--listen`.
    pub name: &'static str,
    /// The dotted key that it sets.
    pub key: &'static str,
    /// Its value as text.
    pub value: String,
}

/// Everything a configuration is made from, weakest first: file, environment, flags, `--set`.
#[derive(Debug, Clone)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are passed over.
    pub env: Vec<(OsString, OsString)>,
    /// Flags.
    pub flags: Vec<Flag>,
    /// `--set` arguments, `key=value` with a dotted TOML key; a later one wins.
    pub set: Vec<String>,
    /// CPUs that this process may run on, in order.
    pub cpus: Vec<usize>,
    /// How many of them it can keep busy: fewer where a quota of CPU time says so.
    pub cpus_max: usize,
}

impl Default for Sources {
    /// No file, no environment, no flags: the defaults, on this machine's CPUs.
    fn default() -> Sources {
        Sources {
            file: None,
            env: Vec::new(),
            flags: Vec::new(),
            set: Vec::new(),
            cpus: allowed_cpus(),
            cpus_max: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

impl Sources {
    /// The same, with the process's environment.
    pub fn from_process() -> Sources {
        Sources {
            env: std::env::vars_os().collect(),
            ..Sources::default()
        }
    }

    /// Merges all layers into one tree whose values know their origin.
    pub(super) fn merge(&self) -> Result<Figment, ConfigError> {
        let mut figment = Figment::new();
        for layer in self.otel_layers()? {
            figment = figment.merge(layer);
        }
        if let Some(path) = &self.file {
            figment = figment.merge(file_layer(path)?);
        }
        let mut env: Vec<_> = self.env.iter().filter_map(relevant_variable).collect();
        env.sort();
        for (name, value) in env {
            figment = figment.merge(env_layer(&name, value)?);
        }
        for flag in &self.flags {
            let path: Vec<_> = flag.key.split('.').map(str::to_owned).collect();
            let value = read_text(&path, &flag.value);
            figment = figment.merge(Layer::new(format!("flag {}", flag.name), &path, value));
        }
        for argument in &self.set {
            figment = figment.merge(set_layer(argument)?);
        }
        Ok(figment)
    }
}

impl Sources {
    /// What OpenTelemetry's own variables say; an empty one says nothing.
    fn otel_layers(&self) -> Result<Vec<Layer>, ConfigError> {
        let mut layers = Vec::new();
        for (name, key) in OTEL {
            let Some(text) = self.otel(name)? else {
                continue;
            };
            let text = match name {
                "OTEL_METRIC_EXPORT_INTERVAL" => format!("{text}ms"),
                _ => text.to_owned(),
            };
            let path = ["telemetry".to_owned(), key.to_owned()];
            let value = read_text(&path, &text);
            layers.push(Layer::new(variable(name), &path, value));
        }
        // It says how the endpoint beside it is talked to.
        let protocol = self.otel("OTEL_EXPORTER_OTLP_PROTOCOL")?;
        match protocol.filter(|protocol| *protocol != "http/protobuf") {
            Some(other) if self.otel("OTEL_EXPORTER_OTLP_ENDPOINT")?.is_some() => {
                Err(ConfigError::Contradiction {
                    message: format!(
                        "`{other}` (environment variable OTEL_EXPORTER_OTLP_PROTOCOL) is not spoken \
                         here: OTLP is sent as http/protobuf"
                    ),
                    help:
                        "name a collector's HTTP port, as a rule 4318, and http/protobuf; or take \
                           OTEL_EXPORTER_OTLP_ENDPOINT out"
                            .into(),
                })
            }
            _ => Ok(layers),
        }
    }

    fn otel(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        let found = self.env.iter().find(|(known, _)| known == name);
        match found.map(|(_, value)| value.to_str()) {
            Some(None) => Err(ConfigError::Syntax {
                origin: variable(name),
                reason: "its value is not UTF-8".into(),
            }),
            Some(Some("")) | None => Ok(None),
            Some(text) => Ok(text),
        }
    }
}

fn variable(name: &str) -> String {
    format!("environment variable {name}")
}

/// The CPUs that the kernel lets this process run on, by its affinity and its cpuset.
fn allowed_cpus() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(|list| parse_cpu_list(list.trim()));
    allowed.unwrap_or_else(|| {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        (0..count).collect()
    })
}

/// Reads the kernel's list format: `0-3,8,10-11`.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    (!cpus.is_empty()).then_some(cpus)
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let origin = path.display().to_string();
    match toml::from_str(&text) {
        Ok(dict) => Ok(Layer { origin, dict }),
        Err(error) => Err(syntax(origin, &text, &error)),
    }
}

fn syntax(origin: String, text: &str, error: &toml::de::Error) -> ConfigError {
    let message = error.message().trim().replace('\n', ", ");
    let reason = match error.span() {
        Some(span) => {
            let before = &text[..span.start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before
                .rsplit('\n')
                .next()
                .unwrap_or_default()
                .chars()
                .count()
                + 1;
            format!("line {line}, column {column}: {message}")
        }
        None => message,
    };
    ConfigError::Syntax { origin, reason }
}

fn relevant_variable((name, value): &(OsString, OsString)) -> Option<(String, &OsString)> {
    let name = name.to_string_lossy();
    let key = name.strip_prefix(PREFIX)?;
    let foreign = FOREIGN.contains(&key)
        || FOREIGN_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix));
    (!foreign).then(|| (name.clone().into_owned(), value))
}

fn env_layer(name: &str, value: &OsString) -> Result<Layer, ConfigError> {
    let origin = variable(name);
    let path: Vec<_> = name[PREFIX.len()..]
        .split("__")
        .map(str::to_ascii_lowercase)
        .collect();
    let Some(text) = value.to_str() else {
        return Err(ConfigError::Syntax {
            origin,
            reason: "its value is not UTF-8".into(),
        });
    };
    let value = read_text(&path, text);
    Ok(Layer::new(origin, &path, value))
}

fn set_layer(argument: &str) -> Result<Layer, ConfigError> {
    let origin = format!("--set {argument}");
    let refuse = |reason: &str| ConfigError::Syntax {
        origin: origin.clone(),
        reason: reason.into(),
    };
    let (key, text) = split_assignment(argument)
        .ok_or_else(|| refuse("it needs the form key=value, such as log.level=debug"))?;
    let keys: toml::Table = toml::from_str(&format!("{key} = 0")).map_err(|_| {
        refuse("its key is not a dotted TOML key; quote segments with dots in them")
    })?;
    let mut path = Vec::new();
    let mut inner = &toml::Value::Table(keys);
    while let toml::Value::Table(table) = inner {
        let mut entries = table.iter();
        let (Some((segment, next)), None) = (entries.next(), entries.next()) else {
            return Err(refuse("it must set exactly one key"));
        };
        path.push(segment.clone());
        inner = next;
    }
    let value = read_text(&path, text);
    Ok(Layer::new("--set".into(), &path, value))
}

/// Splits at the first `=` outside quotes.
fn split_assignment(argument: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in argument.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((argument[..at].trim(), argument[at + 1..].trim())),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

/// Reads text that is not from a TOML file. What a knob takes as text needs no quotes; everything
/// else is a TOML value. Text that is neither stays text, and the knob's own check refuses it.
fn read_text(path: &[String], text: &str) -> Value {
    let is_text = find_knob(path).is_some_and(|knob| knob.kind.is_text());
    let looks_like_toml = text.starts_with(['"', '\'', '[', '{']);
    if (!is_text || looks_like_toml)
        && let Some(value) = toml_value(text)
    {
        return value;
    }
    Value::from(text)
}

fn toml_value(text: &str) -> Option<Value> {
    let mut dict: Dict = toml::from_str(&format!("value = {text}")).ok()?;
    (dict.len() == 1).then(|| dict.remove("value")).flatten()
}

/// The knob at a path, if there is one.
pub(super) fn find_knob(path: &[String]) -> Option<&'static Knob> {
    match path {
        [section, _name, key @ ..] if section == "namespaces" => find_in(NAMESPACE, key),
        key => find_in(NODE, key),
    }
}

fn find_in(table: &'static [Knob], path: &[String]) -> Option<&'static Knob> {
    table.iter().find(|knob| {
        let segments = knob.key.split('.');
        segments.clone().count() == path.len()
            && segments
                .zip(path)
                .all(|(known, given)| known == given || known == "*")
    })
}

/// One source's values and its name.
struct Layer {
    origin: String,
    dict: Dict,
}

impl Layer {
    fn new(origin: String, path: &[String], value: Value) -> Layer {
        let mut nested = value;
        for segment in path[1..].iter().rev() {
            nested = Value::from(Dict::from([(segment.clone(), nested)]));
        }
        Layer {
            origin,
            dict: Dict::from([(path[0].clone(), nested)]),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_cpu_list_is_read() {
        assert_eq!(parse_cpu_list("0-1"), Some(vec![0, 1]));
        assert_eq!(parse_cpu_list("0,2-4,9"), Some(vec![0, 2, 3, 4, 9]));
        assert_eq!(parse_cpu_list(""), None);
    }

    #[test]
    fn an_assignment_splits_at_the_first_equals_sign_outside_quotes() {
        assert_eq!(split_assignment("a.b=c=d"), Some(("a.b", "c=d")));
        assert_eq!(
            split_assignment("a.\"b=c\".d = 1"),
            Some(("a.\"b=c\".d", "1"))
        );
        assert_eq!(split_assignment("a"), None);
        assert_eq!(split_assignment("\"a=1"), None);
    }

    #[test]
    fn variables_that_kubernetes_or_the_command_line_use_are_passed_over() {
        let relevant = |name: &str| relevant_variable(&(name.into(), "x".into())).is_some();
        assert!(relevant("OMNIRELAY_LISTEN"));
        assert!(relevant("OMNIRELAY_NAMESPACES__A__SHARDS"));
        for ignored in [
            "OMNIRELAY_SERVICE_HOST",
            "OMNIRELAY_PORT",
            "OMNIRELAY_PORT_7420_TCP",
            "OMNIRELAY_ADDRESS",
            "PATH",
        ] {
            assert!(!relevant(ignored), "{ignored}");
        }
    }
}
