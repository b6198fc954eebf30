//! The numbers of `/metrics` as OTLP says them.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as PointValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::resource::{scope, text};
use crate::admin::{BOUNDS_US, Buckets, Family, Kind, Number, Numbers, Series, Value, seconds};

/// Counts and histograms are of all the time since the start.
const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// A request that tells these numbers.
pub(super) fn request(resource: &Resource, numbers: &Numbers) -> ExportMetricsServiceRequest {
    let metrics = numbers.families.iter();
    let metrics = metrics
        .filter(|family| !family.series.is_empty())
        .map(|family| metric(family, numbers))
        .collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

fn metric(family: &Family, numbers: &Numbers) -> Metric {
    let (name, unit) = name_and_unit(family.name);
    let points = || {
        let series = family.series.iter();
        series
            .filter_map(|series| number_point(series, numbers))
            .collect()
    };
    let data = match family.kind {
        Kind::Gauge => Data::Gauge(Gauge {
            data_points: points(),
        }),
        Kind::Counter => Data::Sum(Sum {
            data_points: points(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: family
                .series
                .iter()
                .filter_map(|series| histogram_point(series, numbers))
                .collect(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    Metric {
        name: name.into(),
        description: family.help.clone(),
        unit: unit.into(),
        data: Some(data),
        ..Metric::default()
    }
}

/// OTLP has the unit beside the name, Prometheus at its end.
fn name_and_unit(name: &'static str) -> (&'static str, &'static str) {
    if let Some(bare) = name.strip_suffix("_seconds") {
        (bare, "s")
    } else if let Some(bare) = name.strip_suffix("_bytes") {
        (bare, "By")
    } else if name.ends_with(".bytes") {
        (name, "By")
    } else {
        (name, "1")
    }
}

fn number_point(series: &Series, numbers: &Numbers) -> Option<NumberDataPoint> {
    let Value::Number(number) = series.value else {
        return None;
    };
    let value = match number {
        Number::Whole(whole) => PointValue::AsInt(i64::try_from(whole).unwrap_or(i64::MAX)),
        Number::Real(real) => PointValue::AsDouble(real),
    };
    Some(NumberDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: numbers.started.0,
        time_unix_nano: numbers.now.0,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram_point(series: &Series, numbers: &Numbers) -> Option<HistogramDataPoint> {
    let Value::Histogram(buckets) = &series.value else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: attributes(series),
        start_time_unix_nano: numbers.started.0,
        time_unix_nano: numbers.now.0,
        count: buckets.count,
        sum: Some(seconds(buckets.sum_us)),
        bucket_counts: counts(buckets),
        explicit_bounds: BOUNDS_US.map(seconds).to_vec(),
        ..HistogramDataPoint::default()
    })
}

/// How many are in each bucket alone, and behind the last bound.
fn counts(buckets: &Buckets) -> Vec<u64> {
    let mut below = 0;
    let upto = buckets.cumulative.into_iter().chain([buckets.count]);
    upto.map(|upto| {
        let alone = upto - below;
        below = upto;
        alone
    })
    .collect()
}

fn attributes(series: &Series) -> Vec<KeyValue> {
    let labels = series.labels.iter();
    labels.map(|(name, value)| text(name, &**value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_stands_beside_its_name() {
        for (name, expected) in [
            (
                "omnirelay.rpc.duration_seconds",
                ("omnirelay.rpc.duration", "s"),
            ),
            ("omnirelay.wal.used_bytes", ("omnirelay.wal.used", "By")),
            ("omnirelay.wal.bytes", ("omnirelay.wal.bytes", "By")),
            ("omnirelay.open_calls", ("omnirelay.open_calls", "1")),
        ] {
            assert_eq!(name_and_unit(name), expected);
        }
    }

    #[test]
    fn buckets_are_counted_one_by_one() {
        let mut cumulative = [3; BOUNDS_US.len()];
        cumulative[0] = 1;
        let buckets = Buckets {
            cumulative,
            count: 7,
            sum_us: 10,
        };
        let counts = counts(&buckets);
        assert_eq!(counts.len(), BOUNDS_US.len() + 1);
        assert_eq!((counts[0], counts[1], counts[2]), (1, 2, 0));
        assert_eq!(counts.last(), Some(&4));
        assert_eq!(counts.iter().sum::<u64>(), buckets.count);
    }
}
