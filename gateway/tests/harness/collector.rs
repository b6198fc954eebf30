//! An OpenTelemetry collector's HTTP side, which keeps what it is sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as PointValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Of its path.
    pub path: String,
    pub headers: String,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    status: u16,
    posted: Vec<Posted>,
    refused: u64,
    open: Vec<TcpStream>,
    ended: bool,
}

/// A collector on a port of its own.
pub struct Collector {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub fn start() -> Collector {
        Collector::start_on(([127, 0, 0, 1], 0).into())
    }

    pub fn start_on(address: SocketAddr) -> Collector {
        let listener = TcpListener::bind(address).expect("the collector listens");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(Mutex::new(State {
            status: 200,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.lock().expect("nobody panics with it");
                if state.ended {
                    return;
                }
                state.open.push(stream.try_clone().expect("a stream"));
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Collector {
            address,
            state,
            thread: Some(thread),
        }
    }

    /// What `telemetry.otlp_endpoint` is set to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers with this from now on.
    pub fn answer(&self, status: u16) {
        self.state.lock().expect("nobody panics with it").status = status;
    }

    /// How many requests it has answered with anything but 200.
    pub fn refused(&self) -> u64 {
        self.state.lock().expect("nobody panics with it").refused
    }

    /// What it has taken so far.
    pub fn posted(&self) -> Vec<Posted> {
        let state = self.state.lock().expect("nobody panics with it");
        state.posted.clone()
    }

    /// The sum of a counter's series, each time that it was told.
    pub fn counter(&self, name: &str) -> Vec<i64> {
        let posted = self.posted().into_iter();
        let metrics = posted
            .filter(|posted| posted.path == "/v1/metrics")
            .map(|posted| ExportMetricsServiceRequest::decode(&*posted.body).expect("OTLP"))
            .flat_map(|request| request.resource_metrics)
            .flat_map(|resource| resource.scope_metrics)
            .flat_map(|scope| scope.metrics)
            .filter(|metric| metric.name == name);
        let sum = |data| {
            let Some(Data::Sum(sum)) = data else {
                panic!("{name} is no counter");
            };
            let values = sum.data_points.into_iter().map(|point| point.value);
            let values = values.map(|value| match value {
                Some(PointValue::AsInt(value)) => value,
                other => panic!("{name} is {other:?}"),
            });
            values.sum()
        };
        metrics.map(|metric| sum(metric.data)).collect()
    }

    /// The spans that it has taken so far.
    pub fn spans(&self) -> Vec<Span> {
        let posted = self.posted().into_iter();
        posted
            .filter(|posted| posted.path == "/v1/traces")
            .map(|posted| ExportTraceServiceRequest::decode(&*posted.body).expect("OTLP"))
            .flat_map(|request| request.resource_spans)
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.ended = true;
        for stream in state.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // Wakes the thread that accepts, so that the port is free when this returns.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut stream = BufReader::new(stream);
    while let Some(posted) = receive(&mut stream) {
        let status = {
            let mut state = state.lock().expect("nobody panics with it");
            match state.status {
                200 => state.posted.push(posted),
                _ => state.refused += 1,
            }
            state.status
        };
        let answer = format!(
            "HTTP/1.1 {status} Whatever\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
        );
        if out.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn receive(stream: &mut BufReader<TcpStream>) -> Option<Posted> {
    let mut line = String::new();
    stream
        .read_line(&mut line)
        .ok()
        .filter(|bytes| *bytes > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        headers.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Posted {
        path,
        headers,
        body,
    })
}

/// A span's attribute as text.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        AnyValue::StringValue(text) => Some(text.clone()),
        AnyValue::IntValue(number) => Some(number.to_string()),
        AnyValue::DoubleValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

/// A span's attribute as a number.
pub fn number(span: &Span, key: &str) -> Option<f64> {
    attribute(span, key)?.parse().ok()
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
