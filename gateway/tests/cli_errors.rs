//! What the command says and exits with when it cannot do what it was told.

mod cli_support;

use std::net::{SocketAddr, TcpListener};

use cli_support::{command, outcome, run, run_in};
use socket2::{Domain, Socket, Type};

#[test]
fn a_wrong_command_line_exits_with_2_and_says_how_to_write_it() {
    insta::assert_snapshot!(run(&["lease", "steal"]), @r"
    error[cli.usage]: unrecognized subcommand 'steal'
      tip: a similar subcommand exists: 'stats'
    help: usage: omnirelay lease <COMMAND>; add --help for the rest
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
    error[cli.usage]: invalid value 'xml' for '--encoding <ENCODING>': encoding `xml` is not supported; use json, proto or raw
    help: `omnirelay request --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["request", "--service", "s", "--procedure", "a::b", "--url", "https://h/"]), @r"
    error[cli.usage]: --url https://h/: only http:// is supported
    help: write it as http://127.0.0.1:7420/yarpc/v1
    exit 2
    ");
    insta::assert_snapshot!(run(&["request", "--service", "s", "--procedure", "a::b", "--header", "novalue"]), @r"
    error[cli.usage]: invalid value 'novalue' for '--header <KEY=VALUE>': it needs the form KEY=VALUE
    help: `omnirelay request --help` lists what it takes
    exit 2
    ");
    insta::assert_snapshot!(run(&["servr"]), @r"
    error[cli.usage]: unrecognized subcommand 'servr'
      tip: a similar subcommand exists: 'serve'
    help: usage: omnirelay <COMMAND>; add --help for the rest
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
    help: listen on 127.0.0.1 or [::1], or accept that anyone who reaches the port may use it: --insecure
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

#[test]
fn a_server_that_is_not_there_exits_with_3() {
    // Bound and not listening: nobody else can take the port, and nobody answers.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let address = socket
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
        .to_string();
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
    help: is the server running? start it with `omnirelay serve`, or name another with --address
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
