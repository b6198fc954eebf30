//! `/omnirelay/control/log-level`: what is logged, and changing it for a while or for good.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::server::document;
use crate::config::parse_duration;
use crate::logging::{self, LevelError, LogLevel};

/// Bytes of a request's body.
pub(super) const BODY_BYTES_MAX: usize = 4 << 10;
/// The shortest and the longest time that a level is set for.
const TIME_MIN: Duration = Duration::from_secs(1);
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    level: String,
    /// How long; for good if absent.
    #[serde(rename = "for")]
    time: Option<String>,
}

pub(super) async fn show() -> Response {
    match logging::level() {
        Some(level) => shown(level),
        None => not_ours(),
    }
}

pub(super) async fn change(headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(level) = logging::level() else {
        return not_ours();
    };
    if !is_json(&headers) {
        let message = "a level comes as JSON, with Content-Type: application/json";
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refused(rejection.status(), &rejection.body_text()),
    };
    let (wish, time) = match read(&body) {
        Ok(wish) => wish,
        Err(message) => return refused(StatusCode::BAD_REQUEST, &message),
    };
    let done = match time {
        None => level.set(&wish.level),
        Some(time) => set_for(level, &wish.level, time),
    };
    match done {
        Ok(()) => shown(level),
        Err(error @ LevelError::NotOne(_)) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(error @ LevelError::Gone(_)) => {
            refused(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
    }
}

fn set_for(level: &'static LogLevel, wish: &str, time: Duration) -> Result<(), LevelError> {
    let passing = level.set_until(wish, Instant::now() + time)?;
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        level.revert(passing);
    });
    Ok(())
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| {
        let bare = value.to_str().unwrap_or_default().split(';').next();
        bare.is_some_and(|bare| bare.trim().eq_ignore_ascii_case("application/json"))
    })
}

fn read(body: &[u8]) -> Result<(Wish, Option<Duration>), String> {
    let wish: Wish = serde_json::from_slice(body).map_err(|error| {
        format!("it takes {{\"level\": \"info,omnirelay_wal=debug\", \"for\": \"10m\"}}: {error}")
    })?;
    let time = match &wish.time {
        None => None,
        Some(text) => {
            let time = parse_duration(text);
            let time = time.filter(|time| (TIME_MIN..=TIME_MAX).contains(time));
            Some(time.ok_or_else(|| {
                let shown: String = text.chars().take(80).collect();
                format!("`for` is `{shown}`; it is a duration from 1s to 24h, such as \"10m\"")
            })?)
        }
    };
    Ok((wish, time))
}

fn shown(level: &LogLevel) -> Response {
    let now = level.at(Instant::now());
    let mut told = json!({"level": now.level});
    if let Some((to, after)) = now.reverts {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        told["revertsTo"] = Value::from(to);
        told["revertsInMs"] = Value::from(ms);
    }
    document(StatusCode::OK, &told)
}

fn refused(code: StatusCode, message: &str) -> Response {
    document(code, &json!({"message": message}))
}

fn not_ours() -> Response {
    refused(
        StatusCode::NOT_IMPLEMENTED,
        "the log of this process was not started by the node",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_level_and_perhaps_a_time() {
        let read = |text: &str| read(text.as_bytes()).map(|(wish, time)| (wish.level, time));
        let debug = |time| Ok(("debug".to_owned(), time));
        assert_eq!(read(r#"{"level": "debug"}"#), debug(None));
        let minutes = Some(Duration::from_secs(600));
        assert_eq!(read(r#"{"level": "debug", "for": "10m"}"#), debug(minutes));
        for refused in [
            "",
            "debug",
            "{}",
            r#"{"level": 3}"#,
            r#"{"level": "debug", "until": "10m"}"#,
            r#"{"level": "debug", "for": "10"}"#,
            r#"{"level": "debug", "for": "0s"}"#,
            r#"{"level": "debug", "for": "2d"}"#,
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }
}
