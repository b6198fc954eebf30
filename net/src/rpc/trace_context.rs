//! W3C Trace Context: which trace a call belongs to.
//! <https://www.w3.org/TR/trace-context-2/>

use std::fmt;
use std::str::FromStr;

use http::header::{HeaderMap, HeaderValue};

use super::headers;

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The most bytes of a `tracestate` that are passed on. The recommendation asks for at least 512.
pub const TRACESTATE_BYTES_MAX: usize = 512;

/// A place in a trace: the trace, and the span that what follows belongs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not zero.
    pub trace_id: [u8; 16],
    /// The span; not zero.
    pub span_id: [u8; 8],
    /// Of version 00's flags, those that are set.
    pub flags: u8,
}

impl TraceContext {
    /// The flag that says that the trace is recorded.
    pub const SAMPLED: u8 = 0x01;
    /// The flag that says that the trace's id is random.
    pub const RANDOM: u8 = 0x02;

    /// Whether whoever calls records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & TraceContext::SAMPLED != 0
    }

    /// Reads the value of a `traceparent`. A later version is read as far as version 00 goes.
    /// `None` for what is none: it is to be treated as if it were not there.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<TraceContext> {
        let (head, more) = value.split_at_checked(LENGTH)?;
        let version = hex::<1>(&head[..2])?[0];
        let is_whole = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.is_empty() || more[0] == b'-',
        };
        if !is_whole || head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let context = TraceContext {
            trace_id: hex(&head[3..35])?,
            span_id: hex(&head[36..52])?,
            flags: hex::<1>(&head[53..])?[0] & (TraceContext::SAMPLED | TraceContext::RANDOM),
        };
        (context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }

    /// The context that a request's headers, or a gRPC call's metadata, carry. Two are as good as
    /// none.
    #[must_use]
    pub fn from_headers(found: &HeaderMap) -> Option<TraceContext> {
        let value = found.get(&headers::TRACEPARENT)?;
        if found.get_all(&headers::TRACEPARENT).iter().count() > 1 {
            return None;
        }
        TraceContext::parse(value.as_bytes().trim_ascii())
    }

    /// The value of a `traceparent`, or of a `traceresponse`, which has the same form.
    ///
    /// # Panics
    /// Never: hex digits and dashes are a header value.
    #[must_use]
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).expect("hex digits and dashes are a header value")
    }
}

/// What the `tracestate` of a request says, all its lines joined. `None` where it says nothing, is
/// no text, or is longer than [`TRACESTATE_BYTES_MAX`].
#[must_use]
pub fn trace_state(found: &HeaderMap) -> Option<String> {
    let mut joined = String::new();
    for value in found.get_all(&headers::TRACESTATE) {
        let text = value.to_str().ok()?.trim();
        if text.is_empty() {
            continue;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        if joined.len() + text.len() > TRACESTATE_BYTES_MAX {
            return None;
        }
        joined.push_str(text);
    }
    (!joined.is_empty()).then_some(joined)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "00-{}-{}-{:02x}",
            HexId(&self.trace_id),
            HexId(&self.span_id),
            self.flags
        )
    }
}

impl FromStr for TraceContext {
    type Err = String;

    fn from_str(text: &str) -> Result<TraceContext, String> {
        TraceContext::parse(text.trim().as_bytes()).ok_or_else(|| {
            "a traceparent is 00-TRACE-SPAN-FLAGS in lower case hex digits, 32, 16 and 2 of them, \
             such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                .into()
        })
    }
}

/// An id as hex digits.
#[derive(Debug, Clone, Copy)]
pub struct HexId<'a>(pub &'a [u8]);

impl fmt::Display for HexId<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// Reads lower-case hex digits, two for each byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parse(text: &str) -> Option<TraceContext> {
        TraceContext::parse(text.as_bytes())
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut found = HeaderMap::new();
        for (name, value) in lines {
            found.append(*name, HeaderValue::from_str(value).unwrap());
        }
        found
    }

    #[test]
    fn a_traceparent_names_trace_span_and_flags() {
        let context = parse(&format!("00-{TRACE}-{SPAN}-01")).expect("it is one");
        assert_eq!(HexId(&context.trace_id).to_string(), TRACE);
        assert_eq!(HexId(&context.span_id).to_string(), SPAN);
        assert!(context.is_sampled());
        assert!(
            !parse(&format!("00-{TRACE}-{SPAN}-00"))
                .unwrap()
                .is_sampled()
        );
    }

    /// The cases of the W3C's own test suite.
    #[test]
    fn what_is_no_traceparent_is_none() {
        let zero_trace = "0".repeat(32);
        let zero_span = "0".repeat(16);
        let refused = [
            String::new(),
            // The version.
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!(".0-{TRACE}-{SPAN}-01"),
            format!("0.-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-01"),
            // More than version 00 has.
            format!("00-{TRACE}-{SPAN}-01."),
            format!("00-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            // A later version, its further fields not told apart.
            format!("cc-{TRACE}-{SPAN}-01.what-the-future-will-not-be-like"),
            format!("cc-{TRACE}-{SPAN}-01extra"),
            // The trace.
            format!("00-{zero_trace}-{SPAN}-01"),
            format!("00-.{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            // The span.
            format!("00-{TRACE}-{zero_span}-01"),
            format!("00-{TRACE}-.{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{TRACE}-{SPAN}0-01"),
            // The flags.
            format!("00-{TRACE}-{SPAN}-.0"),
            format!("00-{TRACE}-{SPAN}-0."),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}"),
            // The dashes.
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}_{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}_01"),
        ];
        for text in refused {
            assert_eq!(parse(&text), None, "`{text}`");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for text in [
            format!("cc-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!("01-{TRACE}-{SPAN}-01-"),
        ] {
            let context = parse(&text).expect("it is one");
            assert_eq!(context.to_string(), format!("00-{TRACE}-{SPAN}-01"));
        }
    }

    #[test]
    fn flags_that_are_not_known_are_not_passed_on() {
        let context = parse(&format!("00-{TRACE}-{SPAN}-ff")).expect("it is one");
        assert_eq!(context.flags, TraceContext::SAMPLED | TraceContext::RANDOM);
    }

    #[test]
    fn two_traceparents_are_none() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let one = headers(&[("traceparent", &format!(" {text}\t"))]);
        assert!(TraceContext::from_headers(&one).is_some());
        let two = headers(&[("traceparent", &text), ("traceparent", &text)]);
        assert_eq!(TraceContext::from_headers(&two), None);
        assert_eq!(TraceContext::from_headers(&HeaderMap::new()), None);
    }

    #[test]
    fn the_lines_of_a_tracestate_are_one_list_of_bounded_length() {
        let said = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("tracestate", *line)).collect();
            trace_state(&headers(&lines))
        };
        assert_eq!(
            said(&["a=1", "", "b=2,c=3"]).as_deref(),
            Some("a=1,b=2,c=3")
        );
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["", " "]), None);
        let longest = "x".repeat(TRACESTATE_BYTES_MAX);
        assert_eq!(said(&[&longest]).as_deref(), Some(&*longest));
        assert_eq!(said(&[&longest, "y"]), None);
    }

    proptest! {
        #[test]
        fn a_context_reads_back_as_it_was_written(
            trace_id in any::<[u8; 16]>(), span_id in any::<[u8; 8]>(), flags in 0_u8..4,
        ) {
            prop_assume!(trace_id != [0; 16] && span_id != [0; 8]);
            let context = TraceContext { trace_id, span_id, flags };
            prop_assert_eq!(parse(&context.to_string()), Some(context));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::parse(&bytes);
        }
    }
}
