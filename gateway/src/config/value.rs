//! Values: how each kind of knob reads its text, and how it is written back.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use figment::value::Value;

use super::telemetry::{OtlpEndpoint, OtlpHeaders, parse_attributes};

/// What a knob accepts. One check, one description of what is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An IP address and port; port 0 picks a free one.
    Address,
    /// A path of a directory; relative ones start at the working directory.
    Path,
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds, both included.
    Integer {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A size in bytes within bounds: a whole number, or text such as `"64MiB"`.
    Bytes {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A number within bounds.
    Number {
        /// Smallest allowed.
        min: f64,
        /// Largest allowed.
        max: f64,
    },
    /// A duration within bounds, as text with one unit.
    Duration {
        /// Smallest allowed.
        min: Duration,
        /// Largest allowed.
        max: Duration,
    },
    /// How full a namespace is: a number of items, or a share of its capacity such as `"80%"`.
    Fill {
        /// Most items.
        max: u64,
    },
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A log level, or a comma-separated list of `target=level`.
    LogFilter,
    /// One line of text that is not blank.
    Name,
    /// Where an OpenTelemetry collector is, or nothing.
    OtlpEndpoint,
    /// Headers for it, a secret.
    OtlpHeaders,
    /// `key=value` pairs.
    Attributes,
    /// `"all"`, a count, or a list of CPU numbers.
    Cores,
}

/// Which CPUs to run on, as written; resolved against the machine when the configuration is
/// checked as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreChoice {
    /// Every CPU that this process may use.
    All,
    /// The first so many of them.
    Count(usize),
    /// Just these.
    List(Vec<usize>),
}

/// How full a namespace is, as written; resolved against its capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// So many items.
    Items(u64),
    /// This share of the capacity.
    Percent(u8),
}

/// Stands for a secret wherever values are shown.
const NOT_SHOWN: &str = "(not shown)";

/// Text that is not shown to anybody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// What is shown instead; that there is none is no secret.
    fn shown(&self) -> &'static str {
        match self.0.is_empty() {
            true => "",
            false => NOT_SHOWN,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NOT_SHOWN)
    }
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// See [`Kind::Address`].
    Address(SocketAddr),
    /// See [`Kind::Path`], [`Kind::Choice`], [`Kind::LogFilter`], [`Kind::Name`],
    /// [`Kind::OtlpEndpoint`] and [`Kind::Attributes`].
    Text(String),
    /// See [`Kind::OtlpHeaders`].
    Secret(Secret),
    /// See [`Kind::Flag`].
    Flag(bool),
    /// See [`Kind::Integer`] and [`Kind::Bytes`].
    Integer(u64),
    /// See [`Kind::Number`].
    Number(f64),
    /// See [`Kind::Duration`].
    Duration(Duration),
    /// See [`Kind::Fill`].
    Fill(Fill),
    /// See [`Kind::Cores`].
    Cores(CoreChoice),
}

/// The longest name of anything.
const NAME_BYTES_MAX: usize = 255;

/// More CPUs than any machine has; a bound for what is read, not for what is served.
const CPUS_MAX: usize = 4096;

impl Kind {
    /// Reads a value; `None` if it is of the wrong type or out of range.
    pub fn read(self, value: &Value) -> Option<Setting> {
        match self {
            Kind::Address => value.as_str()?.parse().ok().map(Setting::Address),
            Kind::Path => {
                let path = value.as_str()?;
                (!path.trim().is_empty() && !path.contains('\0'))
                    .then(|| Setting::Text(path.to_owned()))
            }
            Kind::Flag => value.to_bool().map(Setting::Flag),
            Kind::Integer { min, max } => whole(value)
                .filter(|n| (min..=max).contains(n))
                .map(Setting::Integer),
            Kind::Bytes { min, max } => match value.as_str() {
                Some(text) => parse_bytes(text),
                None => whole(value),
            }
            .filter(|n| (min..=max).contains(n))
            .map(Setting::Integer),
            Kind::Number { min, max } => match value {
                Value::Num(_, number) => number
                    .to_f64()
                    .or_else(|| whole(value).map(|n| n as f64))
                    .filter(|n| (min..=max).contains(n))
                    .map(Setting::Number),
                _ => None,
            },
            Kind::Duration { min, max } => parse_duration(value.as_str()?)
                .filter(|d| (min..=max).contains(d))
                .map(Setting::Duration),
            Kind::Fill { max } => read_fill(value, max).map(Setting::Fill),
            Kind::Choice(words) => {
                let word = value.as_str()?;
                words
                    .contains(&word)
                    .then(|| Setting::Text(word.to_owned()))
            }
            Kind::LogFilter => {
                let filter = value.as_str()?;
                is_log_filter(filter).then(|| Setting::Text(filter.to_owned()))
            }
            Kind::Name => {
                let name = value.as_str()?.trim();
                let is_name = !name.is_empty()
                    && name.len() <= NAME_BYTES_MAX
                    && !name.contains(char::is_control);
                is_name.then(|| Setting::Text(name.to_owned()))
            }
            Kind::OtlpEndpoint => {
                let url = value.as_str()?;
                (url.is_empty() || OtlpEndpoint::parse(url).is_some())
                    .then(|| Setting::Text(url.to_owned()))
            }
            Kind::OtlpHeaders => {
                let pairs = value.as_str()?;
                OtlpHeaders::parse(pairs).map(|_| Setting::Secret(Secret(pairs.to_owned())))
            }
            Kind::Attributes => {
                let pairs = value.as_str()?;
                parse_attributes(pairs).map(|_| Setting::Text(pairs.to_owned()))
            }
            Kind::Cores => read_cores(value).map(Setting::Cores),
        }
    }

    /// What is allowed, as a noun phrase that completes "`key` is …".
    pub fn allowed(self) -> String {
        match self {
            Kind::Address => "an IP address and port, such as \"127.0.0.1:7420\" or \"[::1]:7420\"".into(),
            Kind::Path => "a path that is not empty".into(),
            Kind::Flag => "true or false".into(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Bytes { min, max } => format!(
                "a size from {} to {}, as bytes or text such as \"64MiB\"",
                BytesText(min),
                BytesText(max)
            ),
            Kind::Number { min, max } => format!("a number from {min:?} to {max:?}"),
            Kind::Duration { min, max } => format!(
                "a duration from {} to {}, written like \"1500ms\", \"30s\", \"10m\", \"12h\" or \"30d\"",
                DurationText(min),
                DurationText(max)
            ),
            Kind::Fill { max } => {
                format!("a number of items up to {max}, or a share of the capacity such as \"80%\"")
            }
            Kind::Choice(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Kind::LogFilter => {
                "off, error, warn, info, debug or trace, or a list such as \"info,omnirelay_wal=debug\"".into()
            }
            Kind::Name => format!("text on one line, up to {NAME_BYTES_MAX} bytes"),
            Kind::OtlpEndpoint => {
                "a URL such as \"http://127.0.0.1:4318\", or \"\"".into()
            }
            Kind::OtlpHeaders => {
                "pairs such as \"authorization=Basic%20dXNlcg==,x-tenant=data\", with \
                 percent-encoding, and none of the headers that OTLP needs itself".into()
            }
            Kind::Attributes => {
                "pairs such as \"deployment.environment=prod,team=data\", with percent-encoding".into()
            }
            Kind::Cores => "\"all\", a count such as 2, or a list of CPU numbers such as \"0,2\" or \"0-3,8\"".into(),
        }
    }

    /// Whether its values must not be shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Kind::OtlpHeaders)
    }

    /// Whether the knob is written as text, so that an environment variable or flag needs no
    /// quotes around it.
    pub fn is_text(self) -> bool {
        !matches!(
            self,
            Kind::Flag | Kind::Integer { .. } | Kind::Number { .. }
        )
    }
}

impl Setting {
    /// The value as it would be written in TOML.
    pub fn to_toml(&self) -> String {
        match self {
            Setting::Address(address) => quoted(&address.to_string()),
            Setting::Text(text) => quoted(text),
            Setting::Secret(secret) => quoted(secret.shown()),
            Setting::Flag(flag) => flag.to_string(),
            Setting::Integer(number) => number.to_string(),
            Setting::Number(number) => format!("{number:?}"),
            Setting::Duration(duration) => quoted(&DurationText(*duration).to_string()),
            Setting::Fill(Fill::Items(items)) => items.to_string(),
            Setting::Fill(Fill::Percent(percent)) => quoted(&format!("{percent}%")),
            Setting::Cores(CoreChoice::All) => quoted("all"),
            Setting::Cores(CoreChoice::Count(count)) => count.to_string(),
            Setting::Cores(CoreChoice::List(list)) => format!("{list:?}"),
        }
    }

    /// The value as JSON; durations stay text, as in TOML.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Setting::Flag(flag) => (*flag).into(),
            Setting::Integer(number) => (*number).into(),
            Setting::Number(number) => (*number).into(),
            Setting::Address(address) => address.to_string().into(),
            Setting::Text(text) => text.clone().into(),
            Setting::Secret(secret) => secret.shown().into(),
            Setting::Duration(duration) => DurationText(*duration).to_string().into(),
            Setting::Fill(Fill::Items(items)) => (*items).into(),
            Setting::Fill(Fill::Percent(percent)) => format!("{percent}%").into(),
            Setting::Cores(CoreChoice::All) => "all".into(),
            Setting::Cores(CoreChoice::Count(count)) => (*count).into(),
            Setting::Cores(CoreChoice::List(list)) => list.clone().into(),
        }
    }
}

/// A string as TOML writes it, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A value for a message about its key.
pub(crate) fn render_for(kind: Kind, value: &Value) -> String {
    match kind.is_secret() {
        true => NOT_SHOWN.to_owned(),
        false => render(value),
    }
}

/// A value as a person wrote it, shortened, for an error message.
pub(crate) fn render(value: &Value) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let text = match value {
        Value::String(_, text) => quoted(text),
        Value::Char(_, c) => quoted(&c.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => match (number.to_i128(), number.to_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(float)) => format!("{float:?}"),
            (None, None) => number
                .to_u128()
                .map_or_else(String::new, |whole| whole.to_string()),
        },
        Value::Empty(..) => String::new(),
        Value::Dict(_, dict) => {
            let inner: Vec<_> = dict
                .iter()
                .map(|(key, value)| format!("{key} = {}", render(value)))
                .collect();
            format!("{{ {} }}", inner.join(", "))
        }
        Value::Array(_, items) => {
            let inner: Vec<_> = items.iter().map(render).collect();
            format!("[{}]", inner.join(", "))
        }
    };
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn whole(value: &Value) -> Option<u64> {
    let Value::Num(_, number) = value else {
        return None;
    };
    match (number.to_u128(), number.to_i128()) {
        (Some(n), _) => u64::try_from(n).ok(),
        (None, Some(n)) => u64::try_from(n).ok(),
        (None, None) => None,
    }
}

/// Text may also be a bare number: that is what an environment variable holds.
fn read_fill(value: &Value, items_max: u64) -> Option<Fill> {
    let items = match value.as_str() {
        None => whole(value),
        Some(text) => match text.strip_suffix('%') {
            Some(percent) => {
                let percent = digits(percent)?.try_into().ok();
                return percent.filter(|&p| p <= 100).map(Fill::Percent);
            }
            None => digits(text),
        },
    };
    items.filter(|&items| items <= items_max).map(Fill::Items)
}

/// A whole number without a sign.
fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn read_cores(value: &Value) -> Option<CoreChoice> {
    let mut cpus = Vec::new();
    match value {
        Value::Num(..) => return count_of_cores(whole(value)?),
        Value::String(_, text) if text.trim() == "all" => return Some(CoreChoice::All),
        Value::String(_, text) if !text.contains([',', '-']) => {
            return count_of_cores(digits(text.trim())?);
        }
        Value::String(_, text) => {
            for part in text.split(',') {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                let (first, last) = (digits(first.trim())?, digits(last.trim())?);
                // Bounded before it is walked through.
                if first > last || last >= CPUS_MAX as u64 {
                    return None;
                }
                cpus.extend(first..=last);
            }
        }
        Value::Array(_, items) => {
            for item in items {
                cpus.push(whole(item).filter(|cpu| *cpu < CPUS_MAX as u64)?);
            }
        }
        _ => return None,
    }
    let cpus: Vec<usize> = cpus.iter().flat_map(|&cpu| usize::try_from(cpu)).collect();
    (1..=CPUS_MAX)
        .contains(&cpus.len())
        .then_some(CoreChoice::List(cpus))
}

fn count_of_cores(count: u64) -> Option<CoreChoice> {
    let count = usize::try_from(count).ok()?;
    (1..=CPUS_MAX)
        .contains(&count)
        .then_some(CoreChoice::Count(count))
}

pub(crate) fn is_log_filter(filter: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    const TARGET_CHARS: fn(char) -> bool = |c| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    filter
        .split(',')
        .all(|directive| match directive.trim().split_once('=') {
            None => LEVELS.contains(&directive.trim()),
            Some((target, level)) => {
                !target.is_empty() && target.chars().all(TARGET_CHARS) && LEVELS.contains(&level)
            }
        })
}

/// Reads `1500ms`, `30s`, `10m`, `12h` or `30d`: a whole number and one unit, nothing else.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

/// Reads `512B`, `64KiB`, `64MiB`, `1GiB` or `1TiB`: a whole number and one unit, nothing else.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "B" | "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Writes a duration of whole milliseconds in the largest unit that is exact.
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [
            (86_400_000, "d"),
            (3_600_000, "h"),
            (60_000, "m"),
            (1_000, "s"),
        ];
        match units
            .iter()
            .find(|(unit, _)| ms != 0 && ms.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", ms / unit),
            None if ms == 0 => f.write_str("0s"),
            None => write!(f, "{ms}ms"),
        }
    }
}

/// Writes a size in the largest unit that is exact.
struct BytesText(u64);

impl fmt::Display for BytesText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1u64 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        match units
            .iter()
            .find(|(unit, _)| self.0 != 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_one_number_and_one_unit() {
        assert_eq!(parse_duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(
            parse_duration("30d"),
            Some(Duration::from_secs(30 * 86_400))
        );
        for refused in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "1S",
            "1h30m",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert_eq!(parse_duration(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_log_filter_is_a_level_or_targets_with_levels() {
        for allowed in [
            "info",
            "off",
            "info,omnirelay_wal=debug",
            "omnirelay::node=trace, warn",
        ] {
            assert!(is_log_filter(allowed), "{allowed}");
        }
        for refused in [
            "",
            "verbose",
            "info,",
            "omnirelay",
            "=debug",
            "a=loud",
            "a b=info",
        ] {
            assert!(!is_log_filter(refused), "{refused}");
        }
    }

    #[test]
    fn cores_are_all_a_count_or_a_list() {
        let read = |value: Value| read_cores(&value);
        assert_eq!(read("all".into()), Some(CoreChoice::All));
        assert_eq!(read(2.into()), Some(CoreChoice::Count(2)));
        assert_eq!(read("3".into()), Some(CoreChoice::Count(3)));
        assert_eq!(read("0,2".into()), Some(CoreChoice::List(vec![0, 2])));
        assert_eq!(read(vec![1, 3].into()), Some(CoreChoice::List(vec![1, 3])));
        assert_eq!(read("2,0".into()), Some(CoreChoice::List(vec![2, 0])));
        let ranges = vec![8, 0, 1, 2, 3];
        assert_eq!(read("8, 0-3".into()), Some(CoreChoice::List(ranges)));
        assert_eq!(read("2-2".into()), Some(CoreChoice::List(vec![2])));
        assert_eq!(read(vec![2].into()), Some(CoreChoice::List(vec![2])));
        for refused in [
            "",
            "0",
            "0,",
            ",",
            "-1",
            "1-",
            "3-1",
            "1-2-3",
            "two",
            "+1",
            "+1,2",
            "99999",
            "0-4096",
            "0-18446744073709551615",
        ] {
            assert_eq!(read(refused.into()), None, "{refused}");
        }
    }

    #[test]
    fn a_fill_is_a_number_of_items_or_a_share_of_the_capacity() {
        let read = |value: Value| read_fill(&value, 1_000);
        assert_eq!(read("80%".into()), Some(Fill::Percent(80)));
        assert_eq!(read("0%".into()), Some(Fill::Percent(0)));
        assert_eq!(read(1_000.into()), Some(Fill::Items(1_000)));
        assert_eq!(read("1000".into()), Some(Fill::Items(1_000)));
        for refused in [
            "", "%", "101%", "256%", "8.5%", "-1%", "+1%", "80 %", "1001", "-1", "full",
        ] {
            assert_eq!(read(refused.into()), None, "{refused}");
        }
        assert_eq!(read(1_001.into()), None);
        assert_eq!(read(0.8.into()), None);
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(ms in 0u64..=2_592_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&DurationText(duration).to_string()), Some(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes in any::<u64>()) {
            prop_assert_eq!(parse_bytes(&BytesText(bytes).to_string()), Some(bytes));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let value = Value::from(text.as_str());
            for kind in [Kind::Address, Kind::Path, Kind::LogFilter, Kind::Cores,
                         Kind::Fill { max: u64::MAX },
                         Kind::Bytes { min: 0, max: u64::MAX },
                         Kind::Duration { min: Duration::ZERO, max: Duration::MAX }] {
                let _ = kind.read(&value);
            }
            let _ = render(&value);
        }
    }
}
