//! The dashboard's files, as they are in the program.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

/// The page brings all it needs and talks to this server only; nothing in it can be run but what
/// is in the program.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
pub(super) async fn html(headers: HeaderMap) -> Response {
    let html = include_str!("page.html");
    respond(&headers, "text/html; charset=utf-8", html)
}

/// `GET /page.css`.
pub(super) async fn css(headers: HeaderMap) -> Response {
    let css = include_str!("page.css");
    respond(&headers, "text/css; charset=utf-8", css)
}

/// `GET /page.js`.
pub(super) async fn js(headers: HeaderMap) -> Response {
    let js = include_str!("page.js");
    respond(&headers, "text/javascript; charset=utf-8", js)
}

/// The file, or that what the browser has is still right.
fn respond(headers: &HeaderMap, content_type: &'static str, text: &'static str) -> Response {
    let tag = tag(text);
    let is_known = headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        let tags = value.to_str().unwrap_or("").split(',').map(str::trim);
        let mut tags = tags.map(|one| one.strip_prefix("W/").unwrap_or(one));
        tags.any(|one| one == tag || one == "*")
    });
    let common = [
        (ETAG, tag.as_str()),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, content_type)], text).into_response()
}

/// Says what is in a file: another version of the program may bring another.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}
