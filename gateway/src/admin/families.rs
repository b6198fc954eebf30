//! The numbers that a node tells of itself, as data: what `/metrics` writes as text, and what is
//! pushed over OTLP, are the same families.

use super::latency::Buckets;

/// What a family's numbers mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Number {
        Number::Whole(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Real(value)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Number {
        Number::Whole(u64::from(value))
    }
}

/// A name and its value.
pub(super) type Label<'a> = (&'static str, &'a str);

/// What one series of a family holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A counter's or a gauge's.
    Number(Number),
    /// Of durations.
    Histogram(Box<Buckets>),
}

/// One series of a family.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) value: Value,
}

/// Series of one meaning, told apart by their labels.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Family {
    /// Dotted, without the `_total` that Prometheus gives a counter. The unit, where there is one,
    /// ends it: `_seconds` or `_bytes`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) help: String,
    pub(crate) series: Vec<Series>,
}

impl Family {
    /// Adds a counter's or a gauge's value.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Into<Number>) {
        self.push(labels, Value::Number(value.into()));
    }

    /// Adds a histogram of durations.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], buckets: &Buckets) {
        self.push(labels, Value::Histogram(Box::new(buckets.clone())));
    }

    fn push(&mut self, labels: &[Label<'_>], value: Value) {
        let labels = labels.iter();
        self.series.push(Series {
            labels: labels.map(|(name, text)| (*name, (*text).into())).collect(),
            value,
        });
    }
}

/// All families, in the order they are shown.
#[derive(Debug, Default)]
pub(crate) struct Families(Vec<Family>);

impl Families {
    /// Begins a family, whose series follow; once only for each name.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Family {
        self.0.push(Family {
            name,
            kind,
            help: help.into(),
            series: Vec::new(),
        });
        self.0.last_mut().expect("just pushed")
    }

    /// A family of one series without labels.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Into<Number>,
    ) {
        self.family(name, kind, help).sample(&[], value);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.iter()
    }
}
