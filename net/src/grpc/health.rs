//! gRPC's health checking protocol.

use super::head::{HEALTH_SERVICE, LEASE_SERVICE, REFLECTION_SERVICES, REPLICATION_SERVICE};
use crate::rpc::Error;

/// What prost makes of `proto/grpc/health`; the fields are described there.
#[allow(missing_docs, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

pub use generated::health_check_response::ServingStatus;
pub use generated::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

/// The services whose health can be asked for; the empty one stands for the whole server.
const SERVICES: [&str; 5] = [
    "",
    LEASE_SERVICE,
    REPLICATION_SERVICE,
    HEALTH_SERVICE,
    REFLECTION_SERVICES[0],
];

/// Whether there is such a service.
#[must_use]
pub fn is_service(service: &str) -> bool {
    SERVICES.contains(&service)
}

/// The answer to `Check`. All services are as well as the server is.
///
/// # Errors
/// `rpc.service.unknown`.
pub fn check(service: &str, server: ServingStatus) -> Result<HealthCheckResponse, Error> {
    if !is_service(service) {
        let shown: String = service.chars().take(128).collect();
        return Err(Error::service_unknown(format!("no service `{shown}` here")));
    }
    Ok(response(server))
}

/// The answer to `List`.
#[must_use]
pub fn list(server: ServingStatus) -> HealthListResponse {
    let statuses = SERVICES.map(|service| (service.to_owned(), response(server)));
    HealthListResponse {
        statuses: statuses.into(),
    }
}

/// A status as a message.
#[must_use]
pub fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
