//! gRPC's server reflection: what the services and their messages are, for clients that do not
//! have the files.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use crate::rpc::Code;

/// What prost makes of `proto/grpc/reflection`; the fields are described there.
#[allow(missing_docs, unreachable_pub)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/grpc.reflection.v1.rs"));
}

pub use generated::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

static FILES: LazyLock<Files> = LazyLock::new(Files::load);

/// The files of `proto/` and those they import.
struct Files {
    files: Vec<File>,
    /// Which file has a name.
    by_name: HashMap<String, usize>,
    /// Which file defines a symbol, by its full name.
    by_symbol: HashMap<String, usize>,
    services: Vec<String>,
}

struct File {
    encoded: Bytes,
    imports: Vec<String>,
}

/// The answer to one request of the stream.
#[must_use]
pub fn answer(request: ServerReflectionRequest) -> ServerReflectionResponse {
    let files = &*FILES;
    let not_found = |what: String| {
        MessageResponse::ErrorResponse(ErrorResponse {
            error_code: Code::NotFound.grpc_number().into(),
            error_message: what,
        })
    };
    let file = |found: Option<&usize>, what: &str, name: &str| match found {
        Some(&file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
            file_descriptor_proto: files.with_imports(file),
        }),
        None => not_found(format!("no {what} `{}`", shown(name))),
    };
    let response = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => {
            let name = |name: &String| ServiceResponse { name: name.clone() };
            MessageResponse::ListServicesResponse(ListServiceResponse {
                service: files.services.iter().map(name).collect(),
            })
        }
        Some(MessageRequest::FileByFilename(name)) => file(files.by_name.get(name), "file", name),
        Some(MessageRequest::FileContainingSymbol(symbol)) => {
            file(files.by_symbol.get(symbol), "symbol", symbol)
        }
        Some(MessageRequest::FileContainingExtension(extension)) => not_found(format!(
            "`{}` has no extensions",
            shown(&extension.containing_type)
        )),
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => {
            if files.by_symbol.contains_key(name) {
                MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })
            } else {
                not_found(format!("no message `{}`", shown(name)))
            }
        }
        None => MessageResponse::ErrorResponse(ErrorResponse {
            error_code: Code::InvalidArgument.grpc_number().into(),
            error_message: "the request asks for nothing that is known here".to_owned(),
        }),
    };
    ServerReflectionResponse {
        valid_host: request.host.clone(),
        original_request: Some(request),
        message_response: Some(response),
    }
}

fn shown(name: &str) -> String {
    name.chars().take(128).collect()
}

impl Files {
    fn load() -> Self {
        let encoded = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        let set = FileDescriptorSet::decode(&encoded[..]).expect("the build has encoded it");
        let mut files = Self {
            files: Vec::new(),
            by_name: HashMap::new(),
            by_symbol: HashMap::new(),
            services: Vec::new(),
        };
        for file in set.file {
            files.add(&file);
        }
        files
    }

    fn add(&mut self, file: &FileDescriptorProto) {
        let at = self.files.len();
        self.by_name.insert(file.name().to_owned(), at);
        let package = file.package();
        for message in &file.message_type {
            self.add_message(package, message, at);
        }
        for choice in &file.enum_type {
            self.add_enum(package, choice, at);
        }
        for service in &file.service {
            let name = format!("{package}.{}", service.name());
            for method in &service.method {
                let method = format!("{name}.{}", method.name());
                self.by_symbol.insert(method, at);
            }
            self.by_symbol.insert(name.clone(), at);
            self.services.push(name);
        }
        self.files.push(File {
            encoded: file.encode_to_vec().into(),
            imports: file.dependency.clone(),
        });
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, file: usize) {
        let name = format!("{scope}.{}", message.name());
        for field in &message.field {
            let field = format!("{name}.{}", field.name());
            self.by_symbol.insert(field, file);
        }
        for nested in &message.nested_type {
            self.add_message(&name, nested, file);
        }
        for choice in &message.enum_type {
            self.add_enum(&name, choice, file);
        }
        self.by_symbol.insert(name, file);
    }

    fn add_enum(&mut self, scope: &str, choice: &EnumDescriptorProto, file: usize) {
        for value in &choice.value {
            let value = format!("{scope}.{}", value.name());
            self.by_symbol.insert(value, file);
        }
        let name = format!("{scope}.{}", choice.name());
        self.by_symbol.insert(name, file);
    }

    /// A file, then all that it needs, each once.
    fn with_imports(&self, file: usize) -> Vec<Bytes> {
        let (mut wanted, mut seen) = (vec![file], HashSet::from([file]));
        let mut out = Vec::new();
        while let Some(at) = wanted.pop() {
            out.push(self.files[at].encoded.clone());
            let imports = self.files[at].imports.iter();
            let imports = imports.filter_map(|name| self.by_name.get(name).copied());
            wanted.extend(imports.filter(|import| seen.insert(*import)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Method;
    use crate::rpc::Procedure;

    fn ask(request: MessageRequest) -> MessageResponse {
        let request = ServerReflectionRequest {
            host: "here".into(),
            message_request: Some(request),
        };
        let response = answer(request.clone());
        assert_eq!(response.valid_host, "here");
        assert_eq!(response.original_request, Some(request));
        response.message_response.expect("an answer")
    }

    #[test]
    fn every_service_is_listed_and_each_comes_with_all_it_needs() {
        let MessageResponse::ListServicesResponse(list) =
            ask(MessageRequest::ListServices(String::new()))
        else {
            panic!("no list");
        };
        let mut names: Vec<&str> = list.service.iter().map(|one| &*one.name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "omnirelay.replication.v1.Replication",
                "omnirelay.resourcelease.v1.ResourceLease",
            ]
        );
        for name in names {
            let MessageResponse::FileDescriptorResponse(files) =
                ask(MessageRequest::FileContainingSymbol(name.into()))
            else {
                panic!("no file has {name}");
            };
            let files: Vec<FileDescriptorProto> = files
                .file_descriptor_proto
                .iter()
                .map(|file| FileDescriptorProto::decode(&file[..]).expect("a descriptor"))
                .collect();
            assert!(
                files[0]
                    .service
                    .iter()
                    .any(|one| name.ends_with(one.name()))
            );
            for import in files.iter().flat_map(|file| &file.dependency) {
                assert!(files.iter().any(|file| file.name() == import), "{import}");
            }
        }
    }

    #[test]
    fn every_method_of_the_typed_service_is_a_procedure() {
        let set = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        let set = FileDescriptorSet::decode(&set[..]).expect("a set");
        let service = set.file.iter().flat_map(|file| &file.service);
        let mut service = service.filter(|one| one.name() == "ResourceLease");
        let methods = &service.next().expect("the service").method;
        assert_eq!(methods.len(), Procedure::ALL.len());
        let found = http::HeaderMap::new();
        for method in methods {
            let path = format!("/{}/{}", crate::grpc::LEASE_SERVICE, method.name());
            let head = crate::grpc::Head::parse(&path, &found).expect("it is served");
            assert!(matches!(head.method, Method::Typed(_)), "{path}");
        }
    }

    #[test]
    fn what_there_is_not_is_said_to_be_not_found() {
        for request in [
            MessageRequest::FileByFilename("none.proto".into()),
            MessageRequest::FileContainingSymbol("none.Such".into()),
            MessageRequest::AllExtensionNumbersOfType("none.Such".into()),
        ] {
            let MessageResponse::ErrorResponse(error) = ask(request) else {
                panic!("something was found");
            };
            assert_eq!(error.error_code, 5, "{}", error.error_message);
        }
    }
}
