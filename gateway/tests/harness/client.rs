//! A blocking HTTP/1.1 client that shows every byte of the protocol to the test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::BOUND;

/// One request, sent as it is.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A call of the default namespace with a JSON body.
    pub fn call(operation: &str, body: &Value) -> Request {
        Request::procedure(
            &format!("resourcelease::{operation}"),
            "json",
            body.to_string(),
        )
    }

    /// A call of any procedure.
    pub fn procedure(procedure: &str, encoding: &str, body: impl Into<Vec<u8>>) -> Request {
        let headers = [
            ("Rpc-Caller", "tests"),
            ("Rpc-Service", "queue"),
            ("Rpc-Procedure", procedure),
            ("Rpc-Encoding", encoding),
        ];
        Request {
            method: "POST".into(),
            path: "/yarpc/v1".into(),
            headers: headers
                .map(|(name, value)| (name.into(), value.into()))
                .into(),
            body: body.into(),
        }
    }

    pub fn get(path: &str) -> Request {
        Request {
            method: "GET".into(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// With a header in place of any of its name.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Request {
        self = self.without(name);
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Without a header.
    pub fn without(mut self, name: &str) -> Request {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self
    }

    pub fn method(mut self, method: &str) -> Request {
        self.method = method.into();
        self
    }

    pub fn path(mut self, path: &str) -> Request {
        self.path = path.into();
        self
    }

    /// The head as it goes over the wire; the body's length is announced unless a header does.
    pub fn head(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            head.extend(format!("{name}: {value}\r\n").bytes());
        }
        let framed = |(name, _): &(String, String)| {
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        };
        if !self.headers.iter().any(framed) {
            head.extend(format!("content-length: {}\r\n", self.body.len()).bytes());
        }
        head.extend(b"\r\n");
        head
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("no JSON ({error}): {}", String::from_utf8_lossy(&self.body))
        })
    }

    /// The body of a success.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("rpc-status"), Some("success"));
        self.json()
    }

    /// The stable code of an error.
    pub fn code(&self) -> String {
        assert_ne!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()["code"]
            .as_str()
            .expect("an error has a code")
            .to_owned()
    }

    /// Whether the server will close the connection.
    pub fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A kept-alive connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        Connection::try_open(address).expect("the node accepts connections")
    }

    pub fn try_open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        Ok(Connection {
            stream: BufReader::new(stream),
        })
    }

    /// A call of the default namespace with a JSON body, and its answer.
    pub fn call(&mut self, operation: &str, body: Value) -> Reply {
        self.request(&Request::call(operation, &body))
    }

    /// The same, for a caller that expects the node to go away.
    pub fn try_call(&mut self, operation: &str, body: &Value) -> io::Result<Reply> {
        let request = Request::call(operation, body);
        self.send(&request)?;
        self.receive()
    }

    pub fn request(&mut self, request: &Request) -> Reply {
        self.send(request).expect("the request is taken");
        self.receive().expect("the request is answered")
    }

    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut bytes = request.head();
        bytes.extend(&request.body);
        self.send_bytes(&bytes)
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer. [`io::ErrorKind::UnexpectedEof`] if the server closes instead.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let line = self.line()?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .ok_or_else(malformed)?;
        let mut reply = Reply {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(malformed)?;
            reply.headers.push((name.into(), value.trim().into()));
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = self.chunks()?;
            return Ok(reply);
        }
        let length = reply
            .header("content-length")
            .map_or(Ok(0), str::parse)
            .map_err(|_| malformed())?;
        reply.body = vec![0; length];
        self.stream.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line()?, 16);
            let size = size.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// No more will be sent; answers can still come.
    pub fn finish_sending(&self) {
        self.stream
            .get_ref()
            .shutdown(Shutdown::Write)
            .expect("the socket is open");
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.pop_if(|last| *last == b'\r');
        String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}
