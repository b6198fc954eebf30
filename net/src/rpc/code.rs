//! The status of a call: one set of codes, in the words of YARPC, gRPC and HTTP.

use std::fmt;

use http::StatusCode;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// It succeeded.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// It failed and nobody said how.
    Unknown = 2,
    /// The request is wrong whatever the server's state.
    InvalidArgument = 3,
    /// The deadline passed first.
    DeadlineExceeded = 4,
    /// What was named does not exist.
    NotFound = 5,
    /// What was to be made exists.
    AlreadyExists = 6,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// A limit was reached.
    ResourceExhausted = 8,
    /// The server's state does not allow it now.
    FailedPrecondition = 9,
    /// It lost against something that happened at the same time.
    Aborted = 10,
    /// It reached past what there is.
    OutOfRange = 11,
    /// There is no such procedure here.
    Unimplemented = 12,
    /// The server is at fault.
    Internal = 13,
    /// Not here, not now: try again.
    Unavailable = 14,
    /// What was stored is lost.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, in the order of its gRPC number.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// YARPC's name, in kebab case: `Rpc-Error-Code`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// gRPC's name, in upper snake case: `status` of an error body.
    #[must_use]
    pub fn grpc_name(self) -> &'static str {
        self.row().1
    }

    /// gRPC's number: `grpc-status`.
    #[must_use]
    pub fn grpc_number(self) -> u8 {
        self as u8
    }

    /// The HTTP status YARPC gives the code.
    ///
    /// # Panics
    /// Never: the table holds valid statuses, which a test walks.
    #[must_use]
    pub fn http_status(self) -> StatusCode {
        StatusCode::from_u16(self.row().2).expect("the table holds valid statuses")
    }

    /// The code that [`Code::name`] names.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.name() == name)
    }

    /// The code that [`Code::grpc_name`] names.
    #[must_use]
    pub fn from_grpc_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.grpc_name() == name)
    }

    /// The code that [`Code::grpc_number`] numbers.
    #[must_use]
    pub fn from_grpc_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The likeliest code behind an HTTP status that came without one, say from a proxy.
    #[must_use]
    pub fn from_http_status(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Ok,
            400 | 413 | 415 | 431 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            405 | 501 => Self::Unimplemented,
            409 => Self::Aborted,
            429 => Self::ResourceExhausted,
            499 => Self::Cancelled,
            502 | 503 => Self::Unavailable,
            504 => Self::DeadlineExceeded,
            _ => Self::Unknown,
        }
    }

    /// YARPC's name, gRPC's name, HTTP status.
    fn row(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::Ok => ("ok", "OK", 200),
            Self::Cancelled => ("cancelled", "CANCELLED", 499),
            Self::Unknown => ("unknown", "UNKNOWN", 500),
            Self::InvalidArgument => ("invalid-argument", "INVALID_ARGUMENT", 400),
            Self::DeadlineExceeded => ("deadline-exceeded", "DEADLINE_EXCEEDED", 504),
            Self::NotFound => ("not-found", "NOT_FOUND", 404),
            Self::AlreadyExists => ("already-exists", "ALREADY_EXISTS", 409),
            Self::PermissionDenied => ("permission-denied", "PERMISSION_DENIED", 403),
            Self::ResourceExhausted => ("resource-exhausted", "RESOURCE_EXHAUSTED", 429),
            Self::FailedPrecondition => ("failed-precondition", "FAILED_PRECONDITION", 400),
            Self::Aborted => ("aborted", "ABORTED", 409),
            Self::OutOfRange => ("out-of-range", "OUT_OF_RANGE", 400),
            Self::Unimplemented => ("unimplemented", "UNIMPLEMENTED", 501),
            Self::Internal => ("internal", "INTERNAL", 500),
            Self::Unavailable => ("unavailable", "UNAVAILABLE", 503),
            Self::DataLoss => ("data-loss", "DATA_LOSS", 500),
            Self::Unauthenticated => ("unauthenticated", "UNAUTHENTICATED", 401),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_statuses_of_yarpc_and_grpc() {
        let table: Vec<String> = Code::ALL
            .into_iter()
            .map(|code| {
                let status = code.http_status().as_u16();
                format!(
                    "{} {} {} {status}",
                    code.grpc_number(),
                    code.name(),
                    code.grpc_name()
                )
            })
            .collect();
        let expected = [
            "0 ok OK 200",
            "1 cancelled CANCELLED 499",
            "2 unknown UNKNOWN 500",
            "3 invalid-argument INVALID_ARGUMENT 400",
            "4 deadline-exceeded DEADLINE_EXCEEDED 504",
            "5 not-found NOT_FOUND 404",
            "6 already-exists ALREADY_EXISTS 409",
            "7 permission-denied PERMISSION_DENIED 403",
            "8 resource-exhausted RESOURCE_EXHAUSTED 429",
            "9 failed-precondition FAILED_PRECONDITION 400",
            "10 aborted ABORTED 409",
            "11 out-of-range OUT_OF_RANGE 400",
            "12 unimplemented UNIMPLEMENTED 501",
            "13 internal INTERNAL 500",
            "14 unavailable UNAVAILABLE 503",
            "15 data-loss DATA_LOSS 500",
            "16 unauthenticated UNAUTHENTICATED 401",
        ];
        assert_eq!(table, expected);
    }

    #[test]
    fn each_name_and_number_leads_back_to_its_code() {
        for code in Code::ALL {
            assert_eq!(Code::from_name(code.name()), Some(code));
            assert_eq!(Code::from_grpc_name(code.grpc_name()), Some(code));
            assert_eq!(Code::from_grpc_number(code.grpc_number()), Some(code));
        }
        assert_eq!(Code::from_name("teapot"), None);
        assert_eq!(Code::from_grpc_number(17), None);
    }
}
