//! Where a node's telemetry leaves it, if it does.

use std::io;
use std::sync::Arc;

use super::tracer::Tracing;
use crate::admin::NodeStatus;
use crate::config::Telemetry;

/// The thread that sends telemetry, if there is somebody to send it to.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    #[cfg(feature = "otlp")]
    exporter: Option<super::otlp::Exporter>,
}

impl Outlet {
    /// Starts to send what is configured; gives what the cores need for it.
    ///
    /// # Errors
    /// If there is no thread to be had.
    #[cfg(feature = "otlp")]
    pub(crate) fn open(
        config: &Telemetry,
        status: &Arc<NodeStatus>,
    ) -> io::Result<(Outlet, Option<Arc<Tracing>>)> {
        let Some(endpoint) = &config.endpoint else {
            return Ok((Outlet::default(), None));
        };
        let tracing = Arc::new(Tracing {
            spans: Arc::default(),
            sampling: config.sampling,
        });
        let spans = Arc::clone(&tracing.spans);
        let exporter = super::otlp::Exporter::start(config, endpoint, spans, Arc::clone(status))?;
        let outlet = Outlet {
            exporter: Some(exporter),
        };
        Ok((outlet, Some(tracing)))
    }

    /// Nothing leaves: the configuration has seen to it that nothing is to.
    #[cfg(not(feature = "otlp"))]
    #[expect(clippy::unnecessary_wraps, reason = "as with OTLP")]
    pub(crate) fn open(
        _config: &Telemetry,
        _status: &Arc<NodeStatus>,
    ) -> io::Result<(Outlet, Option<Arc<Tracing>>)> {
        Ok((Outlet::default(), None))
    }

    /// Sends what is left, for a few seconds at most.
    pub(crate) fn close(self) {
        #[cfg(feature = "otlp")]
        if let Some(exporter) = self.exporter {
            exporter.stop();
        }
    }
}
