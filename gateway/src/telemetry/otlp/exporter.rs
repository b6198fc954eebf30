//! The thread that sends telemetry, with what it holds of it bounded.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::collector::{Collector, Refusal};
use super::complaints::Complaints;
use super::resource::resource;
use super::{metrics, traces};
use crate::admin::{NodeStatus, numbers};
use crate::config::{OtlpEndpoint, Telemetry};
use crate::telemetry::{Span, Spans};

/// How often the queue of spans is emptied. It has room for what comes meanwhile at some 30,000
/// spans a second.
const DRAIN_EVERY: Duration = Duration::from_millis(250);
/// Spans in a request. With names of ordinary length some 400 KB.
const BATCH_SPANS_MAX: usize = 512;
/// The first wait for a collector that is not there, doubled each time up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(15);
/// How long an ending node lets its last spans and metrics leave.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(3);

/// The thread.
#[derive(Debug)]
pub(crate) struct Exporter {
    end: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Starts sending what is put into `spans`, and the numbers of `status`.
    ///
    /// # Errors
    /// If there is no thread to be had. That nobody listens at the endpoint is no error.
    ///
    /// # Panics
    /// If the system gives no random numbers.
    pub(crate) fn start(
        config: &Telemetry,
        endpoint: &OtlpEndpoint,
        spans: Arc<Spans>,
        status: Arc<NodeStatus>,
    ) -> io::Result<Exporter> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Names are looked up on it.
            .max_blocking_threads(1)
            .build()?;
        let (end, ended) = watch::channel(false);
        let instance = getrandom::u64().expect("the system gives random numbers");
        let resource = resource(config, &format!("{instance:016x}"));
        let (endpoint, headers) = (endpoint.clone(), config.headers.clone());
        let every = config.metrics_interval;
        let thread = thread::Builder::new()
            .name("telemetry".into())
            .spawn(move || {
                let complaints = Rc::new(RefCell::new(Complaints::default()));
                let to_spans = SpanSender {
                    collector: Collector::new(endpoint.clone(), headers.clone()),
                    resource: resource.clone(),
                    spans: Arc::clone(&spans),
                    batch: Vec::new(),
                    complaints: Rc::clone(&complaints),
                    ended: ended.clone(),
                };
                let to_metrics = every.map(|every| MetricSender {
                    collector: Collector::new(endpoint, headers),
                    resource,
                    spans,
                    status,
                    every,
                    complaints,
                    ended,
                });
                runtime.block_on(async {
                    let metrics = async {
                        if let Some(sender) = to_metrics {
                            sender.run().await;
                        }
                    };
                    tokio::join!(to_spans.run(), metrics);
                });
                // A look-up of a name that hangs keeps nobody waiting.
                runtime.shutdown_background();
            })?;
        Ok(Exporter { end, thread })
    }

    /// Sends what is left, for a few seconds at most, and ends.
    pub(crate) fn stop(self) {
        let _ = self.end.send(true);
        if self.thread.join().is_err() {
            tracing::error!("the telemetry thread panicked");
        }
    }
}

struct SpanSender {
    collector: Collector,
    resource: Resource,
    spans: Arc<Spans>,
    /// What is being sent.
    batch: Vec<Span>,
    complaints: Rc<RefCell<Complaints>>,
    ended: watch::Receiver<bool>,
}

impl SpanSender {
    async fn run(mut self) {
        let mut ended = self.ended.clone();
        let sending = async {
            loop {
                sleep(DRAIN_EVERY).await;
                self.send_all().await;
            }
        };
        tokio::select! {
            () = sending => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
        let flushed = timeout(FLUSH_TIME_MAX, self.flush()).await;
        let mut left = self.batch.len();
        while self.spans.pop().is_some() {
            left += 1;
        }
        if flushed.is_err() || left > 0 {
            self.spans.count_dropped(left as u64);
            tracing::warn!(
                spans = left,
                "the collector did not take the last spans in time"
            );
        }
    }

    /// Sends what is there, however long it takes; what comes meanwhile waits in the queue.
    async fn send_all(&mut self) {
        let mut wait = RETRY_FIRST;
        while self.take_batch() {
            match self.send().await {
                Ok(()) => wait = RETRY_FIRST,
                Err(asked) => {
                    sleep(asked.unwrap_or(wait)).await;
                    wait = (wait * 2).min(RETRY_LAST);
                }
            }
        }
    }

    /// Sends what is there, and gives up when the collector does not take it.
    async fn flush(&mut self) {
        while self.take_batch() {
            if self.send().await.is_err() {
                return;
            }
        }
    }

    /// Fills the batch, if it is not one that is to be tried again; false if there is nothing.
    fn take_batch(&mut self) -> bool {
        if self.batch.is_empty() {
            let waiting = std::iter::from_fn(|| self.spans.pop().map(|span| *span));
            self.batch.extend(waiting.take(BATCH_SPANS_MAX));
        }
        !self.batch.is_empty()
    }

    /// Sends the batch. It is gone unless it is to be tried again, after the time given if the
    /// collector asked for one.
    async fn send(&mut self) -> Result<(), Option<Duration>> {
        let request = traces::request(&self.resource, &self.batch);
        let message = Bytes::from(request.encode_to_vec());
        let posted: Result<ExportTraceServiceResponse, _> =
            self.collector.post("traces", message).await;
        let count = self.batch.len() as u64;
        match posted {
            Ok(answer) => {
                let rejected = answer.partial_success.map_or(0, |part| {
                    u64::try_from(part.rejected_spans).unwrap_or(0).min(count)
                });
                self.batch.clear();
                self.spans.count_sent(count - rejected);
                self.spans.count_dropped(rejected);
                tell_success(&self.complaints);
                Ok(())
            }
            Err(refusal) => {
                self.spans.count_failure();
                tell_failure(&self.complaints, "spans", &refusal);
                match refusal {
                    Refusal::NotNow { retry_after, .. } => Err(retry_after),
                    Refusal::Never(_) => {
                        self.batch.clear();
                        self.spans.count_dropped(count);
                        Ok(())
                    }
                }
            }
        }
    }
}

fn tell_success(complaints: &RefCell<Complaints>) {
    if complaints.borrow_mut().succeed() {
        tracing::info!("the collector takes telemetry again");
    }
}

fn tell_failure(complaints: &RefCell<Complaints>, what: &str, refusal: &Refusal) {
    let failures = complaints.borrow_mut().fail(Instant::now());
    if let Some(failures) = failures {
        tracing::warn!(error = %refusal, failures, "the collector does not take {what}");
    }
}

struct MetricSender {
    collector: Collector,
    resource: Resource,
    /// Counts what fails.
    spans: Arc<Spans>,
    status: Arc<NodeStatus>,
    every: Duration,
    complaints: Rc<RefCell<Complaints>>,
    ended: watch::Receiver<bool>,
}

impl MetricSender {
    async fn run(mut self) {
        let mut ended = self.ended.clone();
        let sending = async {
            let mut ticks = interval(self.every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first is at once.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                self.send().await;
            }
        };
        tokio::select! {
            () = sending => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
        // Whatever was counted since the last time.
        if timeout(FLUSH_TIME_MAX, self.send()).await.is_err() {
            self.spans.count_failure();
            tracing::warn!("the collector did not take the last metrics in time");
        }
    }

    /// Numbers that are not taken are not kept: the next ones say all that they said.
    async fn send(&mut self) {
        let numbers = numbers(&self.status).await;
        let request = metrics::request(&self.resource, &numbers);
        let message = Bytes::from(request.encode_to_vec());
        let posted: Result<ExportMetricsServiceResponse, _> =
            self.collector.post("metrics", message).await;
        match posted {
            Ok(_) => tell_success(&self.complaints),
            Err(refusal) => {
                self.spans.count_failure();
                tell_failure(&self.complaints, "metrics", &refusal);
            }
        }
    }
}
