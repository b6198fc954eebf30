//! What the command says and exits with when it cannot do what it was told.

mod cli_support;

use std::net::{SocketAddr, TcpListener};

use cli_support::{command, outcome, run, run_in};
use socket2::{Domain, Socket, Type};

#[test]
fn a_wrong_command_line_exits_with_2_and_says_how_to_write_it() {
    insta::assert_snapshot!(run(&["lease", "steal"]), @r"
    error[cli.usage]: unrecognized subcommand 'steal'
    help: a similar subcommand exists: 'stats'; usage: omnirelay lease [OPTIONS] <COMMAND>; add --help for the rest
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "enqueue", "--type", "t"]), @r"
    error[cli.usage]: the following required arguments were not provided:
      --id <ID>
    help: usage: omnirelay lease enqueue --type <TYPE> --id <ID>; add --help for the rest
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "take", "--wait", "10"]), @r"
    error[cli.usage]: invalid value '10' for '--wait <DURATION>': a duration is a number and a unit: 1500ms, 30s, 10m, 12h or 30d
    help: `omnirelay lease take --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "complete", "--token", "7"]), @r"
    error[cli.usage]: invalid value '7' for '--token <SEQUENCE/ATTEMPT/LEASE-ID>': a token has the form SEQUENCE/ATTEMPT/LEASE-ID, as `omnirelay lease take` prints it
    help: `omnirelay lease complete --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "enqueue", "--type", "t", "--id", "i", "--body", "a", "--body-file", "b"]), @r"
    error[cli.usage]: the argument '--body <TEXT>' cannot be used with '--body-file <FILE>'
    help: usage: omnirelay lease enqueue --type <TYPE> --id <ID> --body <TEXT>; add --help for the rest
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "enqueue", "--type", "t", "--id", "i", "--body-base64", "?"]), @r"
    error[cli.usage]: --body-base64 is not base64: Invalid symbol 63, offset 0.
    help: use standard base64 with padding
    exit 2
    ");
    insta::assert_snapshot!(run(&["request", "--service", "s", "--procedure", "a::b", "--encoding", "xml"]), @r"
    error[cli.usage]: invalid value 'xml' for '--encoding <ENCODING>'
      [possible values: json, proto, raw]
    help: `omnirelay request --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["request", "--service", "s", "--procedure", "a::b", "--url", "quic://h/"]), @r"
    error[cli.usage]: the URL quic://h/: it begins neither with https:// nor with http://
    help: write it as http://127.0.0.1:7420/yarpc/v1
    exit 2
    ");
    insta::assert_snapshot!(run(&["request", "--service", "s", "--procedure", "a::b", "--header", "novalue"]), @r"
    error[cli.usage]: invalid value 'novalue' for '--header <KEY=VALUE>': it needs the form KEY=VALUE
    help: `omnirelay request --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "complete", "--token", "7/1/abc"]), @r"
    error[cli.usage]: invalid value '7/1/abc' for '--token <SEQUENCE/ATTEMPT/LEASE-ID>': a token has the form SEQUENCE/ATTEMPT/LEASE-ID, as `omnirelay lease take` prints it; its lease id `abc` is not a UUID such as 01020304-0506-8708-890a-0b0c0d0e0f10
    help: `omnirelay lease complete --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "stats", "--address", "http://127.0.0.1:7420/yarpc/v1"]), @r"
    error[cli.usage]: invalid value 'http://127.0.0.1:7420/yarpc/v1' for '--address <ADDRESS>': an address is host:port, such as 127.0.0.1:7420 or [::1]:7420; leave out /yarpc/v1
    help: `omnirelay lease stats --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "stats", "--address", "localhost"]), @r"
    error[cli.usage]: invalid value 'localhost' for '--address <ADDRESS>': an address is host:port, such as 127.0.0.1:7420 or [::1]:7420; it names no port
    help: `omnirelay lease stats --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["introspect", "--admin-address", "::1:7421"]), @r"
    error[cli.usage]: invalid value '::1:7421' for '--admin-address <ADDRESS>': an address is host:port, such as 127.0.0.1:7420 or [::1]:7420
    help: `omnirelay introspect --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["lease", "drain", "-o", "table"]), @r"
    error[cli.usage]: invalid value 'table' for '--output <FORMAT>'
      [possible values: json]
    help: `omnirelay lease drain --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["config", "show", "-o", "jsn"]), @r"
    error[cli.usage]: invalid value 'jsn' for '--output <FORMAT>'
      [possible values: toml, table, json]
    help: a similar value exists: 'json'; `omnirelay config show --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["completions", "csh"]), @r"
    error[cli.usage]: invalid value 'csh' for '<SHELL>'
      [possible values: bash, elvish, fish, powershell, zsh]
    help: a similar value exists: 'zsh'; `omnirelay completions --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["script", "run", "s.json", "--var", "1a=b"]), @r"
    error[cli.usage]: invalid value '1a=b' for '--var <NAME=VALUE>': a name has letters, digits and _, and does not begin with a digit
    help: `omnirelay script run --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["man", "--out", "/proc/none"]), @r"
    error[cli.output]: cannot write the manual to /proc/none: No such file or directory (os error 2)
    help: name a directory that you may write to with --out
    exit 1
    ");
    insta::assert_snapshot!(run(&["servr"]), @r"
    error[cli.usage]: unrecognized subcommand 'servr'
    help: a similar subcommand exists: 'serve'; usage: omnirelay [OPTIONS] <COMMAND>; add --help for the rest
    exit 2
    ");
}

/// The commands that have none below them.
fn leaves() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, path: &[String], found: &mut Vec<Vec<String>>) {
        if !command.has_subcommands() {
            found.push(path.to_vec());
        }
        for inner in command.get_subcommands() {
            walk(
                inner,
                &[path, &[inner.get_name().to_owned()]].concat(),
                found,
            );
        }
    }
    let mut found = Vec::new();
    walk(&omnirelay::cli::command(), &[], &mut found);
    found
}

#[test]
fn every_command_refuses_what_it_does_not_know_and_says_where_to_look() {
    let leaves = leaves();
    assert!(leaves.len() > 20, "{leaves:?}");
    for path in leaves {
        let words: Vec<&str> = path
            .iter()
            .map(String::as_str)
            .chain(["--colour"])
            .collect();
        let refused = run(&words);
        let name = path.join(" ");
        assert_eq!(refused.code, Some(2), "{name}: {refused}");
        assert!(refused.stdout.is_empty(), "{name}: {refused}");
        let lines: Vec<&str> = refused.stderr.lines().collect();
        let first = "error[cli.usage]: unexpected argument '--colour' found";
        assert_eq!(lines[0], first, "{name}");
        let help = format!("help: a similar argument exists: '--color'; usage: omnirelay {name} ");
        assert!(lines[1].starts_with(&help), "{refused}");
        assert_eq!(lines.len(), 2, "{refused}");
    }
}

#[test]
fn every_command_that_calls_a_server_exits_with_3_where_there_is_none() {
    let token = "--token=1/1/01020304-0506-8708-890a-0b0c0d0e0f10";
    let script = r#"{"steps": [{"type": "introspect"}]}"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.json"), script).unwrap();
    let item = include_str!("cli_support/item.json");
    std::fs::write(dir.path().join("i.json"), item).unwrap();
    let commands: [&[&str]; 21] = [
        &["request", "--service=s", "--procedure=a::b"],
        &[
            "request",
            "--service=s",
            "--procedure=a::b",
            "--transport=grpc",
        ],
        &[
            "request",
            "--service=s",
            "--procedure=a::b",
            "--transport=quic",
        ],
        &["lease", "enqueue", "--type=t", "--id=i"],
        &["lease", "take"],
        &["lease", "complete", token],
        &["lease", "heartbeat", token],
        &["lease", "fail", token],
        &["lease", "drain"],
        &["lease", "restore", "i.json"],
        &["lease", "peek"],
        &["lease", "dead-letters"],
        &["lease", "redrive", "1"],
        &["lease", "cancel", "1"],
        &["lease", "explain", "1"],
        &["lease", "stats"],
        &["introspect"],
        &["log-level", "debug"],
        &["replication", "tail", "--all"],
        &["replication", "status"],
        &["script", "run", "s.json"],
    ];
    // Whatever is not here runs on this machine alone; `cert inspect` names a server in its own way,
    // and is tried with the rest of TLS.
    let here = [
        "serve",
        "demo",
        "cert",
        "config",
        "wal",
        "man",
        "completions",
    ];
    for path in leaves() {
        let is_tried = commands
            .iter()
            .any(|command| path.iter().zip(*command).all(|(word, tried)| word == tried));
        assert!(is_tried || here.contains(&path[0].as_str()), "{path:?}");
    }
    let (_socket, address) = nobody();
    for arguments in commands {
        let refused = outcome(
            command(dir.path())
                .args(arguments)
                .env("OMNIRELAY_ADDRESS", &address)
                .env("OMNIRELAY_ADMIN_ADDRESS", &address),
        );
        assert_eq!(refused.code, Some(3), "{arguments:?}: {refused}");
        assert!(
            refused.stderr.starts_with("error[cli.unreachable]: ")
                && refused.stderr.contains("Connection refused")
                && refused.stderr.contains("start it with `omnirelay serve`"),
            "{arguments:?}: {refused}"
        );
    }
}

#[test]
fn where_udp_has_no_answer_the_way_over_tcp_is_named() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let call = ["request", "--service=s", "--procedure=a::b"];
    let refused = run(&[&call[..], &["--transport=quic", "--address", &address]].concat());
    let expected = format!(
        "error[cli.unreachable]: cannot reach {address}: no answer over UDP within 5 s\n\
         help: is the server running, and does UDP come through to it? start it with \
         `omnirelay serve`, name another with --address, or go over TCP with the transport http \
         or grpc\n"
    );
    assert_eq!(refused.stderr, expected);
    assert_eq!(refused.code, Some(3));
}

#[test]
fn over_quic_a_server_beyond_loopback_has_to_prove_who_it_is() {
    let call = ["request", "--service=s", "--procedure=a::b"];
    let to = |address| {
        let there = ["--transport=quic", "--address", address];
        run(&[&call[..], &there].concat())
    };
    insta::assert_snapshot!(to("192.0.2.1:7420"), @r"
    error[cli.usage]: 192.0.2.1:7420 over QUIC without --ca
    help: name the CA of the server's certificate with --ca: a file of your own, a node's <data-dir>/tls/server.crt, or the system's, as /etc/ssl/certs/ca-certificates.crt
    exit 2
    ");
    insta::assert_snapshot!(to("http://127.0.0.1:7420"), @r"
    error[cli.usage]: http://127.0.0.1:7420 over QUIC
    help: leave out http://: QUIC always speaks TLS
    exit 2
    ");
}

#[test]
fn a_command_that_is_missing_exits_with_2_and_lists_what_there_is() {
    let outcome = run(&[]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stdout.is_empty());
    assert!(
        outcome.stderr.contains("Commands:\n  serve "),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_wrong_configuration_exits_with_2_and_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bad.toml"), "[log]\nlevle = \"info\"\n").unwrap();
    insta::assert_snapshot!(run_in(dir.path(), &["config", "validate", "--config", "bad.toml"]), @r"
    error[config.unknown_key]: unknown key `log.levle` in bad.toml
    help: did you mean `log.level`?
    exit 2
    ");
    insta::assert_snapshot!(run_in(dir.path(), &["serve", "--config", "bad.toml"]), @r"
    error[config.unknown_key]: unknown key `log.levle` in bad.toml
    help: did you mean `log.level`?
    exit 2
    ");
    insta::assert_snapshot!(run_in(dir.path(), &["serve", "--listen", "0.0.0.0:7420"]), @r#"
    error[config.contradiction]: `listen = "0.0.0.0:7420"` (flag --listen) is beyond loopback and has no TLS
    help: set tls.cert and tls.key (`omnirelay cert` makes them), listen on 127.0.0.1 or [::1], or accept that anyone who reaches the port may use it: --insecure
    exit 2
    "#);
    insta::assert_snapshot!(run_in(dir.path(), &["config", "show", "--config", "absent.toml"]), @r"
    error[config.unreadable]: cannot read configuration file absent.toml: No such file or directory (os error 2)
    help: name a readable TOML file with --config, or leave it out to use the defaults
    exit 2
    ");
    insta::assert_snapshot!(
        outcome(command(dir.path()).args(["config", "validate"]).env("OMNIRELAY_LISTEN", "localhost:1")),
        @r#"
    error[config.value]: `listen = "localhost:1"` in environment variable OMNIRELAY_LISTEN is not allowed: it must be an IP address and port, such as "127.0.0.1:7420" or "[::1]:7420"
    help: change `listen`; `omnirelay config show --explain` describes every key
    exit 2
    "#
    );
    let kubernetes = outcome(
        command(dir.path())
            .args(["config", "validate"])
            .env("OMNIRELAY_SERVICE_HOST", "10.0.0.1")
            .env("OMNIRELAY_PORT", "tcp://10.0.0.1:7420"),
    );
    assert_eq!(kubernetes.to_string(), "ok\n");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing was written"
    );
}

/// A port that is bound and not listening: nobody else can take it, and nobody answers.
fn nobody() -> (Socket, String) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address.to_string())
}

#[test]
fn a_server_that_is_not_there_exits_with_3() {
    let (_socket, address) = nobody();
    let said = |arguments: &[&str]| run(arguments).to_string().replace(&address, "ADDRESS");
    insta::assert_snapshot!(said(&["lease", "stats", "--address", &address]), @r"
    error[cli.unreachable]: cannot reach ADDRESS: Connection refused (os error 111)
    help: is the server running? start it with `omnirelay serve`, or name another with --address
    exit 3
    ");
    insta::assert_snapshot!(said(&["introspect", "--admin-address", &address]), @r"
    error[cli.unreachable]: cannot reach ADDRESS: Connection refused (os error 111)
    help: is the server running? start it with `omnirelay serve`, or name another with --admin-address
    exit 3
    ");
    let url = format!("http://{address}/yarpc/v1");
    insta::assert_snapshot!(said(&["request", "--url", &url, "--service", "s", "--procedure", "a::b"]), @r"
    error[cli.unreachable]: cannot reach ADDRESS: Connection refused (os error 111)
    help: is the server running? start it with `omnirelay serve`, or name another with --url
    exit 3
    ");
}

#[test]
fn a_server_that_hangs_up_exits_with_3_and_leaves_open_whether_it_took_effect() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 16]).unwrap();
    });
    let outcome = run(&["lease", "stats", "--address", &address]);
    server.join().unwrap();
    assert_eq!(outcome.code, Some(3));
    assert!(
        outcome.stderr.starts_with("error[cli.no_reply]: "),
        "{}",
        outcome.stderr
    );
}

/// Says something to whoever connects, for as long as the process lives.
fn server_that_says(hello: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The caller may be gone already.
            let _ = std::io::Read::read(&mut stream, &mut [0; 256]);
            let _ = std::io::Write::write_all(&mut stream, hello);
        }
    });
    address
}

#[test]
fn a_server_that_speaks_something_else_is_told_apart() {
    let said = |hello| {
        let address = server_that_says(hello);
        let outcome = run(&["lease", "stats", "--address", &address]);
        outcome.to_string().replace(&address, "ADDRESS")
    };
    // A TLS alert: decode error.
    insta::assert_snapshot!(said(&[21, 3, 3, 0, 2, 2, 50]), @r"
    error[cli.protocol]: ADDRESS speaks TLS only
    help: pass the CA of its certificate with --ca
    exit 3
    ");
    insta::assert_snapshot!(said(b"SSH-2.0-x\r\n"), @r"
    error[cli.protocol]: ADDRESS does not answer in HTTP: invalid HTTP version parsed
    help: name a node's port with --address: it serves HTTP, on 7420 by default
    exit 3
    ");
    insta::assert_snapshot!(said(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), @r"
    error[cli.protocol]: ADDRESS answered HTTP 404 Not Found to an RPC
    help: name a node's port with --address: it serves HTTP, on 7420 by default
    exit 3
    ");
    let status = run(&[
        "introspect",
        "--admin-address",
        &server_that_says(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"),
    ]);
    assert_eq!(status.code, Some(1));
    assert!(
        status.stderr.starts_with("error[cli.introspect]: "),
        "{status}"
    );
}

#[test]
fn a_body_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = |file: &str| {
        run_in(
            dir.path(),
            &[
                "lease",
                "enqueue",
                "--type=t",
                "--id=i",
                "--body-file",
                file,
            ],
        )
    };
    insta::assert_snapshot!(said("nowhere.json"), @r"
    error[cli.body]: cannot read nowhere.json: No such file or directory (os error 2)
    help: name a readable file with --body-file
    exit 1
    ");
    insta::assert_snapshot!(said("."), @r"
    error[cli.body]: cannot read .: Is a directory (os error 21)
    help: name a readable file with --body-file
    exit 1
    ");
}

#[test]
fn every_code_is_in_the_operations_guide() {
    let guide = include_str!("../../docs/operations.md");
    let mut found = std::collections::BTreeSet::new();
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap_or_default();
            for literal in source.split('"').skip(1) {
                let is_code = ["cli.", "config.", "serve.", "script."]
                    .iter()
                    .any(|family| literal.starts_with(family))
                    && !literal.ends_with('.')
                    && literal
                        .bytes()
                        .all(|c| c.is_ascii_lowercase() || matches!(c, b'.' | b'_'));
                if is_code {
                    found.insert(literal.to_owned());
                }
            }
        }
    }
    assert!(found.len() > 15, "{found:?}");
    let missing: Vec<_> = found
        .iter()
        .filter(|code| !guide.contains(&format!("`{code}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
