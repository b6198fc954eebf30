use std::time::Duration;

use super::reading::read;
use super::*;
use crate::cores::latency_histogram;

fn written(format: Format) -> String {
    let mut out = Families::default();
    let requests = out.family(
        "t.requests",
        Kind::Counter,
        "Calls \"so far\", with a \\ and a\nbreak.",
    );
    requests.sample(&[("name", "a\"b\\c\nd"), ("core", "0")], 3_u64);
    out.single("t_ratio", Kind::Gauge, "A share.", 0.25);
    out.single("t_up", Kind::Gauge, "Whether.", true);
    let mut latency = latency_histogram();
    for duration in [
        Duration::from_micros(40),
        Duration::from_micros(300),
        Duration::from_secs(59),
    ] {
        latency
            .record(u64::try_from(duration.as_micros()).unwrap())
            .unwrap();
    }
    out.family("t_seconds", Kind::Histogram, "Times.")
        .histogram(&[("core", "0")], &Buckets::of(&latency));
    render(format, &out)
}

const BUCKETS: &str = r#"t_seconds_bucket{core="0",le="0.00005"} 1
t_seconds_bucket{core="0",le="0.0001"} 1
t_seconds_bucket{core="0",le="0.00025"} 1
t_seconds_bucket{core="0",le="0.0005"} 2
t_seconds_bucket{core="0",le="0.001"} 2
t_seconds_bucket{core="0",le="0.0025"} 2
t_seconds_bucket{core="0",le="0.005"} 2
t_seconds_bucket{core="0",le="0.01"} 2
t_seconds_bucket{core="0",le="0.025"} 2
t_seconds_bucket{core="0",le="0.05"} 2
t_seconds_bucket{core="0",le="0.1"} 2
t_seconds_bucket{core="0",le="0.25"} 2
t_seconds_bucket{core="0",le="0.5"} 2
t_seconds_bucket{core="0",le="1.0"} 2
t_seconds_bucket{core="0",le="2.5"} 2
t_seconds_bucket{core="0",le="5.0"} 2
t_seconds_bucket{core="0",le="10.0"} 2
t_seconds_bucket{core="0",le="30.0"} 2
t_seconds_bucket{core="0",le="+Inf"} 3
"#;

#[test]
fn prometheus_text_names_a_counter_with_its_suffix() {
    let head = r#"# HELP t_requests_total Calls "so far", with a \\ and a\nbreak.
# TYPE t_requests_total counter
t_requests_total{name="a\"b\\c\nd",core="0"} 3
# HELP t_ratio A share.
# TYPE t_ratio gauge
t_ratio 0.25
# HELP t_up Whether.
# TYPE t_up gauge
t_up 1
# HELP t_seconds Times.
# TYPE t_seconds histogram
"#;
    let text = written(Format::Text);
    let rest = text.strip_prefix(head).unwrap_or_else(|| panic!("{text}"));
    let rest = rest
        .strip_prefix(BUCKETS)
        .unwrap_or_else(|| panic!("{rest}"));
    let (sum, count) = rest.split_once('\n').unwrap();
    let sum: f64 = sum
        .strip_prefix("t_seconds_sum{core=\"0\"} ")
        .unwrap()
        .parse()
        .unwrap();
    assert!((sum - 59.0).abs() < 0.6, "{sum}");
    assert_eq!(count, "t_seconds_count{core=\"0\"} 3\n");
}

#[test]
fn openmetrics_names_a_counters_family_without_its_suffix_and_ends_with_eof() {
    let text = written(Format::OpenMetrics);
    let head = r#"# HELP t_requests Calls \"so far\", with a \\ and a\nbreak.
# TYPE t_requests counter
t_requests_total{name="a\"b\\c\nd",core="0"} 3
"#;
    assert!(text.starts_with(head), "{text}");
    assert!(
        text.ends_with("t_seconds_count{core=\"0\"} 3\n# EOF\n"),
        "{text}"
    );
}

#[test]
fn labels_read_back_as_they_were_given() {
    for format in [Format::Text, Format::OpenMetrics] {
        let samples = read(&written(format), format);
        assert_eq!(samples[0].labels["name"], "a\"b\\c\nd");
        assert_eq!(samples.len(), 3 + BOUNDS_US.len() + 3);
    }
}

#[test]
fn openmetrics_is_for_those_who_ask_for_it() {
    let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                      application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for accept in [
        prometheus,
        "application/openmetrics-text",
        "Application/OpenMetrics-Text; version=\"1.0.0\"",
    ] {
        assert_eq!(Format::accepted_by(accept), Format::OpenMetrics, "{accept}");
    }
    for accept in [
        "",
        "*/*",
        "text/plain",
        "text/html,application/xhtml+xml",
        "application/openmetrics-text;q=0",
        "application/openmetrics-text;q=0.2,text/plain;q=0.9",
        "application/openmetrics-text;version=0.0.1",
        "application/openmetrics-text;q=nonsense",
        ";;;,,=,q=",
    ] {
        assert_eq!(Format::accepted_by(accept), Format::Text, "{accept}");
    }
}
