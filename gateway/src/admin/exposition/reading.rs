//! A strict reader of both formats, for tests. It panics on what a scraper would refuse.

use std::collections::{BTreeMap, HashSet};

use super::Format;

/// One sample line.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::admin) struct Sample {
    pub(in crate::admin) name: String,
    pub(in crate::admin) labels: BTreeMap<String, String>,
    pub(in crate::admin) value: f64,
}

#[derive(Default)]
struct Reader {
    family: String,
    kind: String,
    families: HashSet<String>,
    samples: Vec<Sample>,
}

/// All samples of an exposition.
pub(in crate::admin) fn read(text: &str, format: Format) -> Vec<Sample> {
    assert!(text.ends_with('\n'), "the last line ends");
    let body = match format {
        Format::Text => text,
        Format::OpenMetrics => text
            .strip_suffix("# EOF\n")
            .expect("OpenMetrics ends with # EOF"),
    };
    let mut reader = Reader::default();
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            reader.begin(help.split_once(' ').expect("a help text").0);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, reader.family, "TYPE follows the HELP of its family");
            reader.kind = kind.to_owned();
        } else {
            assert!(
                !line.starts_with('#') && !line.is_empty(),
                "not a line: `{line}`"
            );
            reader.sample(line, format);
        }
    }
    check_histograms(&reader.samples);
    reader.samples
}

impl Reader {
    fn begin(&mut self, family: &str) {
        assert!(is_name(family), "not a name: `{family}`");
        assert!(
            self.families.insert(family.to_owned()),
            "{family} comes twice"
        );
        self.family = family.to_owned();
    }

    fn sample(&mut self, line: &str, format: Format) {
        let sample = sample(line);
        let suffix = sample
            .name
            .strip_prefix(&self.family)
            .expect("a sample stands in its family");
        let is_allowed = match (self.kind.as_str(), format) {
            ("counter", Format::OpenMetrics) => {
                suffix == "_total" && !self.family.ends_with("_total")
            }
            ("counter", Format::Text) => suffix.is_empty() && self.family.ends_with("_total"),
            ("gauge", _) => suffix.is_empty() && !self.family.ends_with("_total"),
            ("histogram", _) => matches!(suffix, "_bucket" | "_sum" | "_count"),
            (kind, _) => panic!("unknown type {kind}"),
        };
        assert!(
            is_allowed,
            "`{}` is no sample of a {} named `{}`",
            sample.name, self.kind, self.family
        );
        assert!(
            !self
                .samples
                .iter()
                .any(|s| s.name == sample.name && s.labels == sample.labels),
            "the same series twice: {line}"
        );
        self.samples.push(sample);
    }
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect("a name and a value");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "not a name: `{name}`");
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").expect("a label's value is quoted");
            assert!(is_name(label), "not a label: `{label}`");
            let (value, after) = unescape(after);
            assert!(
                labels.insert(label.to_owned(), value).is_none(),
                "label twice: {line}"
            );
            rest = after;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect("the labels end");
    }
    let value = rest.strip_prefix(' ').expect("one space before the value");
    let value = if value == "+Inf" {
        f64::INFINITY
    } else {
        value.parse().expect("a number")
    };
    Sample {
        name: name.to_owned(),
        labels,
        value,
    }
}

/// The text up to the closing quote, and what follows it.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().expect("something is escaped").1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                c => panic!("`\\{c}` is no escape"),
            }),
            c => value.push(c),
        }
    }
    panic!("the quote is never closed");
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_histograms(samples: &[Sample]) {
    let mut last: Option<(BTreeMap<String, String>, f64, f64)> = None;
    for sample in samples {
        if sample.name.ends_with("_bucket") {
            let mut labels = sample.labels.clone();
            let le = labels.remove("le").expect("a bucket has a bound");
            assert!(
                le == "+Inf" || le.contains('.'),
                "`{le}` is not how OpenMetrics writes a bound"
            );
            let le = if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().expect("a bound is a number")
            };
            if let Some((of, bound, count)) = &last
                && *of == labels
            {
                assert!(
                    *bound < le && *count <= sample.value,
                    "buckets go up: {sample:?}"
                );
            }
            last = Some((labels, le, sample.value));
        } else if sample.name.ends_with("_count") {
            let (labels, le, count) = last.take().expect("buckets come before the count");
            assert!(labels == sample.labels && le.is_infinite());
            assert!(
                (count - sample.value).abs() < 0.5,
                "the last bucket holds all: {sample:?}"
            );
        }
    }
}
