//! A server whose every answer a test makes up.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue};
use omnirelay_net::rpc::{
    Call, Error, Procedure, Reply, RequestHead, decode_call, error_response, reply_response,
    validate_call,
};

type Script = dyn FnMut(&Call) -> Result<Reply, Error> + Send;

/// A server that answers one call after the other, until its process ends.
pub(crate) struct Scripted {
    /// Where it serves RPC.
    pub(crate) address: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Scripted {
    /// Serves what `script` answers to each call that is sound.
    pub(crate) fn start(
        mut script: impl FnMut(&Call) -> Result<Reply, Error> + Send + 'static,
    ) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&calls);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&stream.expect("a connection"), &heard, &mut script);
            }
        });
        Scripted { address, calls }
    }

    /// The calls that have come since it was last asked.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().expect("no panic while it is held"))
    }
}

/// Answers the calls of one connection.
fn answer(stream: &TcpStream, heard: &Mutex<Vec<Call>>, script: &mut Script) {
    let mut reader = BufReader::new(stream);
    while let Some((head, body)) = request(&mut reader) {
        let (_, procedure) = Procedure::parse(&head.procedure).expect("a known procedure");
        let call = decode_call(procedure, head.encoding, &body.into()).expect("a sound body");
        validate_call(&call).expect("a sound call");
        let response = match script(&call) {
            Ok(reply) => reply_response(&head.service, None, head.encoding, &reply),
            Err(error) => error_response(Some(&head.service), None, &error),
        };
        heard.lock().expect("no panic while it is held").push(call);
        let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        for (name, value) in response.headers() {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend(format!("content-length: {}\r\n\r\n", response.body().len()).as_bytes());
        bytes.extend(response.body());
        if (&mut &*stream).write_all(&bytes).is_err() {
            return;
        }
    }
}

/// The next request; `None` when the client is done.
fn request(reader: &mut impl BufRead) -> Option<(RequestHead<'static>, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        let name: HeaderName = name.parse().expect("a header's name");
        headers.insert(
            name,
            HeaderValue::from_str(value).expect("a header's value"),
        );
    }
    let length = headers.get("content-length").map_or(0, |length| {
        length.to_str().expect("text").parse().expect("a number")
    });
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let head = RequestHead::parse(&headers).expect("a sound head");
    Some((head.into_owned(), body))
}
