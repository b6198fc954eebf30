"""Reads OTLP requests from files named traces-N and metrics-N, with the classes that Google's
protobuf makes of OpenTelemetry's own files, and prints each span and metric as a line of JSON."""

import json
import pathlib
import sys

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)


def attributes(pairs):
    def value(any_value):
        return getattr(any_value, any_value.WhichOneof("value"))

    return {pair.key: value(pair.value) for pair in pairs}


def spans(request):
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield {
                    "resource": attributes(resource_spans.resource.attributes),
                    "scope": scope_spans.scope.name,
                    "traceId": span.trace_id.hex(),
                    "spanId": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "traceState": span.trace_state,
                    "flags": span.flags,
                    "name": span.name,
                    "kind": span.SpanKind.Name(span.kind),
                    "started": span.start_time_unix_nano,
                    "ended": span.end_time_unix_nano,
                    "status": span.status.StatusCode.Name(span.status.code),
                    "attributes": attributes(span.attributes),
                }


def points(metric):
    data = metric.WhichOneof("data")
    for point in getattr(metric, data).data_points:
        shown = {"attributes": attributes(point.attributes)}
        shown["started"], shown["at"] = (
            point.start_time_unix_nano,
            point.time_unix_nano,
        )
        if data == "histogram":
            shown["count"], shown["sum"] = point.count, point.sum
            shown["buckets"] = list(point.bucket_counts)
            shown["bounds"] = list(point.explicit_bounds)
        else:
            shown["value"] = getattr(point, point.WhichOneof("value"))
        yield shown


def metrics(request):
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                data = metric.WhichOneof("data")
                shown = {
                    "resource": attributes(resource_metrics.resource.attributes),
                    "name": metric.name,
                    "unit": metric.unit,
                    "help": metric.description,
                    "data": data,
                    "points": list(points(metric)),
                }
                if data != "gauge":
                    inner = getattr(metric, data)
                    shown["cumulative"] = inner.aggregation_temporality == 2
                if data == "sum":
                    shown["monotonic"] = metric.sum.is_monotonic
                yield shown


def main(folder):
    for file in sorted(pathlib.Path(folder).iterdir()):
        signal = file.name.split("-")[0]
        kind, shown = {
            "traces": (ExportTraceServiceRequest, spans),
            "metrics": (ExportMetricsServiceRequest, metrics),
        }[signal]
        for line in shown(kind.FromString(file.read_bytes())):
            print(json.dumps({"signal": signal, **line}))


main(sys.argv[1])
