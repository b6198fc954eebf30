//! Generates the wire messages from `proto/`: prost for protobuf, serde derives for JSON, and the
//! files' descriptors for reflection.

use std::error::Error;
use std::path::Path;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto};

const PROTOS: &[&str] = &[
    "omnirelay/resourcelease/v1/resourcelease.proto",
    "omnirelay/rpc/v1/frame.proto",
    "omnirelay/replication/v1/replication.proto",
    "grpc/health/v1/health.proto",
    "grpc/reflection/v1/reflection.proto",
];

/// Written by hand in `src/messages/results.rs`: an entry that was refused shows its error alone.
const SERIALIZED_BY_HAND: &[&str] = &["EnqueueResult"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    let descriptors = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, files.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    for file in &files.file {
        if file.package() == "omnirelay.resourcelease.v1" {
            for message in &file.message_type {
                give_json(&mut config, file.package(), message);
            }
        }
    }
    config.compile_fds(files)?;
    Ok(())
}

/// Adds what makes one message the JSON the protocol describes.
fn give_json(config: &mut prost_build::Config, package: &str, message: &DescriptorProto) {
    let path = format!(".{package}.{}", message.name());
    if !SERIALIZED_BY_HAND.contains(&message.name()) {
        config.type_attribute(&path, "#[derive(serde::Serialize)]");
    }
    config.type_attribute(&path, "#[derive(serde::Deserialize)]");
    config.type_attribute(&path, "#[serde(rename_all = \"camelCase\", default)]");
    for field in &message.field {
        config.field_attribute(
            format!("{path}.{}", field.name()),
            json_attribute(message, field),
        );
    }
}

/// The serde attribute of one field: how it is read, and when it is left out.
fn json_attribute(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    const ABSENT_OPTION: &str = "skip_serializing_if = \"Option::is_none\"";
    let json = |name: &str| format!("\"crate::messages::json::{name}\"");
    let parts = match field.r#type() {
        Type::Message if field.label() == Label::Repeated && is_map(message, field) => vec![
            "skip_serializing_if = \"std::collections::BTreeMap::is_empty\"".to_owned(),
            format!("deserialize_with = {}", json("or_default")),
        ],
        Type::Message if field.label() == Label::Repeated => {
            vec![format!("deserialize_with = {}", json("objects"))]
        }
        Type::Message if field.type_name() == ".google.protobuf.Timestamp" => vec![
            ABSENT_OPTION.to_owned(),
            format!("with = {}", json("timestamp")),
        ],
        Type::Message => vec![
            ABSENT_OPTION.to_owned(),
            format!("deserialize_with = {}", json("object")),
        ],
        Type::Uint64 if field.label() == Label::Repeated => {
            vec![format!("deserialize_with = {}", json("integers"))]
        }
        Type::Uint64 if field.proto3_optional() => vec![
            ABSENT_OPTION.to_owned(),
            format!("deserialize_with = {}", json("integer_option")),
        ],
        _ if field.proto3_optional() => vec![ABSENT_OPTION.to_owned()],
        Type::Uint64 => vec![format!("deserialize_with = {}", json("integer"))],
        Type::Bytes => vec![format!("with = {}", json("base64"))],
        _ => vec![format!("deserialize_with = {}", json("or_default"))],
    };
    format!("#[serde({})]", parts.join(", "))
}

/// Whether a repeated message field is how protobuf spells a map.
fn is_map(message: &DescriptorProto, field: &FieldDescriptorProto) -> bool {
    message.nested_type.iter().any(|nested| {
        field.type_name().ends_with(&format!(".{}", nested.name()))
            && nested
                .options
                .as_ref()
                .is_some_and(|options| options.map_entry())
    })
}
