//! The effective configuration, written out with where each value came from.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Config;
use super::knob::{Knob, NAMESPACE};
use super::tree::{Entry, segment};

/// Columns of a documentation comment.
const COMMENT_COLUMNS: usize = 96;

impl Config {
    /// The effective configuration as TOML that can be loaded again. Each key carries a comment
    /// that says where its value came from; `explain` adds what the key means and what it allows.
    pub fn to_toml(&self, explain: bool) -> String {
        let mut out = String::new();
        let (top, sections): (Vec<_>, Vec<_>) = self
            .settings
            .node
            .iter()
            .partition(|entry| !entry.knob.key.contains('.'));
        write_entries(&mut out, &top, explain);
        for name in ["log", "telemetry", "limits"] {
            let inner: Vec<_> = sections
                .iter()
                .copied()
                .filter(|entry| entry.knob.key.split('.').next() == Some(name))
                .collect();
            let _ = writeln!(out, "\n[{name}]");
            write_entries(&mut out, &inner, explain);
        }
        for (name, section) in &self.settings.namespaces {
            let name = segment(name);
            let (options, weights): (Vec<_>, Vec<_>) = section
                .iter()
                .partition(|entry| !entry.knob.key.contains('.'));
            let _ = writeln!(out, "\n[namespaces.{name}]");
            write_entries(&mut out, &options, explain);
            write_weights(&mut out, &name, &weights, explain);
        }
        out
    }

    /// The effective configuration as one JSON document: `config` nested as in the file, and
    /// `sources` with the origin of every key that is not a default, by its dotted path.
    pub fn to_json(&self) -> Value {
        let mut config = Map::new();
        let mut sources = Map::new();
        for entry in &self.settings.node {
            insert(&mut config, entry.knob.key, entry.setting.to_json());
        }
        let mut namespaces = Map::new();
        for (name, section) in &self.settings.namespaces {
            let mut options = Map::new();
            for entry in section {
                match entry.knob.key.strip_suffix(".*") {
                    None => insert(&mut options, entry.knob.key, entry.setting.to_json()),
                    Some(table) => {
                        let named = options.entry(table).or_insert_with(|| Map::new().into());
                        let named = named.as_object_mut().expect("it was just made");
                        named.insert(entry.name.clone(), entry.setting.to_json());
                    }
                }
            }
            namespaces.insert(name.clone(), Value::Object(options));
        }
        config.insert("namespaces".into(), Value::Object(namespaces));
        for entry in self
            .settings
            .node
            .iter()
            .chain(self.settings.namespaces.values().flatten())
        {
            if !entry.is_default {
                sources.insert(entry.path.clone(), Value::from(entry.origin.clone()));
            }
        }
        json!({ "config": config, "sources": sources })
    }
}

/// The weights of a namespace, or with `explain` at least where they would stand.
fn write_weights(out: &mut String, namespace: &str, weights: &[&Entry], explain: bool) {
    if weights.is_empty() && !explain {
        return;
    }
    let _ = writeln!(out, "\n[namespaces.{namespace}.weights]");
    if explain {
        let knob = NAMESPACE.iter().find(|knob| knob.key == "weights.*");
        write_explanation(out, knob.expect("the table has it"));
    }
    write_entries(out, weights, false);
}

fn write_entries(out: &mut String, entries: &[&Entry], explain: bool) {
    let lines: Vec<_> = entries
        .iter()
        .map(|entry| format!("{} = {}", segment(&entry.name), entry.setting.to_toml()))
        .collect();
    let width = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or_default();
    for (entry, line) in entries.iter().zip(&lines) {
        if explain {
            write_explanation(out, entry.knob);
        }
        let _ = writeln!(out, "{line:width$}  # {}", entry.origin.replace('\n', " "));
    }
}

fn write_explanation(out: &mut String, knob: &Knob) {
    let text = format!("{} Allowed: {}.", knob.doc, knob.kind.allowed());
    write_comment(out, &text);
}

fn write_comment(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COMMENT_COLUMNS {
            let _ = writeln!(out, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

fn insert(map: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            map.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = map
                .entry(section)
                .or_insert_with(|| Value::Object(Map::new()));
            insert(
                inner.as_object_mut().expect("a section is a table"),
                rest,
                value,
            );
        }
    }
}
