//! Who tells all this: the node as OTLP describes it.

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::config::Telemetry;

/// The node. `instance` tells it from others of its name, and from itself before a restart.
pub(super) fn resource(config: &Telemetry, instance: &str) -> Resource {
    let mut attributes = vec![
        text("service.name", config.service_name.clone()),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", instance),
        int("process.pid", i64::from(std::process::id())),
    ];
    for (key, value) in &config.resource_attributes {
        attributes.retain(|known| known.key != *key);
        attributes.push(text(key, value.clone()));
    }
    Resource {
        attributes,
        ..Resource::default()
    }
}

/// What in the node makes it.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: env!("CARGO_PKG_NAME").into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

pub(super) fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, any_value::Value::IntValue(value))
}

pub(super) fn real(key: &str, value: f64) -> KeyValue {
    attribute(key, any_value::Value::DoubleValue(value))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
