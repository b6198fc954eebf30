//! What the command says about itself.

mod cli_support;

use cli_support::run;

#[test]
fn the_command_describes_itself() {
    insta::assert_snapshot!(run(&["--help"]), @r"
    RPC gateway and durable lease mesh

    Services enqueue work about resources; workers lease, heartbeat, complete or fail it; every change
    is a record in a log that survives crashes.

    Usage: omnirelay <COMMAND>

    Commands:
      serve        Run a node until it is told to stop
      demo         Run a node with example traffic, to look around
      request      Send one RPC and print its reply
      lease        Enqueue work, take it, settle it, look at it, move it
      config       Check or show the configuration
      introspect   Show what a running node knows about itself
      replication  Read what a running node commits
      wal          Look at a data directory's logs
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    EXAMPLE:
      omnirelay demo
      omnirelay serve --data-dir /var/lib/omnirelay
      omnirelay lease take --wait 10s
    ");
    insta::assert_snapshot!(run(&["--version"]), @r"
    omnirelay 0.1.0
    ");
}

#[test]
fn serve_describes_its_options() {
    insta::assert_snapshot!(run(&["serve", "--help"]), @r#"
    Run a node until it is told to stop

    SIGTERM or Ctrl-C drains it: it stops accepting, finishes what is in flight, syncs and exits 0. A
    second one, or `drain_timeout`, ends it at once; what was acknowledged is safe either way.

    Usage: omnirelay serve [OPTIONS]

    Options:
          --config <FILE>
              TOML file with the configuration

              [env: OMNIRELAY_CONFIG]

          --listen <ADDRESS>
              Where RPC is served; port 0 picks one [default: 127.0.0.1:7420]

          --admin-listen <ADDRESS>
              Where probes, metrics and introspection are served [default: 127.0.0.1:7421]

          --data-dir <DIR>
              Directory of the logs [default: ./omnirelay-data]

          --cores <CORES>
              CPUs to run on: a count, or numbers such as 0,2 [default: all]

          --insecure
              Allow listening beyond loopback without TLS

          --set <KEY=VALUE>
              Set any key, such as namespaces.resourcelease.lease_duration=30s

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay serve --data-dir /var/lib/omnirelay --set 'namespaces."resourcelease.users".shards=8'
    "#);
    insta::assert_snapshot!(run(&["demo", "--help"]), @r"
    Run a node with example traffic, to look around

    A seeder enqueues work about tables, shards and workflows; workers take it, keep their leases with
    heartbeats, complete most of it and fail some. Ctrl-C ends it; what is left in the queue is there
    again the next time. With --roles, each process runs a part of it.

    Usage: omnirelay demo [OPTIONS]

    Options:
          --roles <ROLES>
              What this process runs, with commas between; the seeder and workers of a process without a
              dispatcher use the node at --rpc-url

              Possible values:
              - dispatcher:  The node: RPC, queues, logs, the admin endpoints
              - diagnostics: The node's pages under /demo/
              - seeder:      Puts work in
              - worker:      Does work

              [env: MESHDEMO_ROLES=]
              [default: dispatcher,diagnostics,seeder,worker]

          --rpc-url <URL>
              The node that seeder and workers use [default: this process's, else http://127.0.0.1:7420]

              [env: MESHDEMO_RPC_URL=]

          --worker-peer-id <NAME>
              Who the worker is; may be given several times [default: demo-worker-1 and demo-worker-2]

              [env: MESHDEMO_WORKER_PEER_ID=]

          --seeder-interval <DURATION>
              Between two items that the seeder puts into a namespace

              [env: MESHDEMO_SEEDER_INTERVAL=]
              [default: 200ms]

          --namespace <NAME>
              The namespaces that get work and workers

              [env: MESHDEMO_NAMESPACES=]
              [default: resourcelease,resourcelease.mesh]

          --data-dir <DIR>
              Directory of the logs

              [env: MESHDEMO_DATA_DIR=]
              [default: ./omnirelay-demo]

          --listen <ADDRESS>
              Where RPC is served; port 0 picks one

              [env: MESHDEMO_LISTEN=]
              [default: 127.0.0.1:7420]

          --admin-listen <ADDRESS>
              Where the admin endpoints are served; port 0 picks one

              [env: MESHDEMO_ADMIN_LISTEN=]
              [default: 127.0.0.1:7421]

          --insecure
              Allow listening beyond loopback without TLS

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay demo
      omnirelay demo --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0
      omnirelay demo --roles dispatcher,diagnostics
      omnirelay demo --roles worker --rpc-url http://127.0.0.1:7420 --worker-peer-id mesh-worker-a
    ");
}

#[test]
fn request_describes_its_options() {
    insta::assert_snapshot!(run(&["request", "--help"]), @r"
    Send one RPC and print its reply

    The reply's body goes to stdout as it is; with -v its head goes to stderr.

    Usage: omnirelay request [OPTIONS] --service <SERVICE> --procedure <PROCEDURE>

    Options:
          --transport <TRANSPORT>
              How the call travels

              Possible values:
              - http: HTTP/1.1 with YARPC's headers
              - grpc: gRPC, with the procedure as YARPC maps it to a path

              [default: http]

          --address <ADDRESS>
              The server, as host:port

              [env: OMNIRELAY_ADDRESS]
              [default: 127.0.0.1:7420]

          --url <URL>
              The server with the path to post to, instead of --address

          --service <SERVICE>
              The service called

          --procedure <PROCEDURE>
              The procedure called, such as resourcelease::stats

          --caller <CALLER>
              The name that calls

              [env: OMNIRELAY_CALLER]
              [default: omnirelay-cli]

          --encoding <ENCODING>
              How the body is encoded: json, proto or raw

              [default: json]

          --body <TEXT>
              The body as text

          --body-file <FILE>
              A file that holds the body; `-` reads stdin

          --body-base64 <BASE64>
              The body in base64

          --header <KEY=VALUE>
              An application header

          --shard-key <KEY>
              What decides the shard

          --ttl <DURATION>
              How long the call may take

              [default: 30s]

      -v, --verbose
              Print the reply's head on stderr

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay request --service resourcelease --procedure resourcelease::stats --body '{}'
    ");
}

#[test]
fn the_lease_commands_describe_their_options() {
    insta::assert_snapshot!(run(&["lease", "--help"]), @r#"
    Enqueue work, take it, settle it, look at it, move it

    Usage: omnirelay lease <COMMAND>

    Commands:
      enqueue       Add one item of work
      take          Take items and print the tokens that own them
      complete      Say that the work is done
      heartbeat     Keep a lease from ending
      fail          Say that the work was not done; it waits again
      drain         Take items out and print them, to be restored elsewhere
      restore       Put drained items in
      peek          Show items that wait, the next to be leased first
      dead-letters  Show items that were given up on
      redrive       Let dead letters wait again, with further attempts
      cancel        Take items out for good, leased ones too
      explain       Say where an item stands, and why nobody works on it
      stats         Count the namespace's items
      help          Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help

    EXAMPLE:
      omnirelay lease enqueue --type table --id users --body '{"op":"vacuum"}'
      omnirelay lease take --wait 10s
      omnirelay lease complete --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10
    "#);
    insta::assert_snapshot!(run(&["lease", "enqueue", "--help"]), @r#"
    Add one item of work

    Usage: omnirelay lease enqueue [OPTIONS] --type <TYPE> --id <ID>

    Options:
          --type <TYPE>
              The kind of resource the work is about

          --id <ID>
              Which resource of that kind

          --body <TEXT>
              The body as text

          --body-file <FILE>
              A file that holds the body; `-` reads stdin

          --body-base64 <BASE64>
              The body in base64

          --encoding <MEDIA-TYPE>
              What the body is

              [default: application/json]

          --partition-key <KEY>
              Group of items that belong together

          --request-id <ID>
              Makes repeating the command harmless: the same id adds the item once

          --attribute <KEY=VALUE>
              A named value kept with the item

          --delay <DURATION>
              Do not hand it out before this has passed

          --priority <N>
              0 to 255; higher goes first [default: 0]

          --max-attempts <N>
              Attempts before it becomes a dead letter [default: the namespace's]

          --ttl <DURATION>
              Forget it if nobody took it within this time

          --address <ADDRESS>
              The server, as host:port

              [env: OMNIRELAY_ADDRESS]
              [default: 127.0.0.1:7420]

      -n, --namespace <NAMESPACE>
              The namespace

              [env: OMNIRELAY_NAMESPACE]
              [default: resourcelease]

          --caller <CALLER>
              The name that calls

              [env: OMNIRELAY_CALLER]
              [default: omnirelay-cli]

          --timeout <DURATION>
              How long the call may take, besides --wait

              [default: 30s]

      -o, --output <FORMAT>
              How data is printed

              Possible values:
              - table: For people
              - json:  For programs: one JSON document a line

              [default: table]

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay lease enqueue --type table --id users --body '{"op":"vacuum"}' --request-id 2026-11-21
    "#);
    insta::assert_snapshot!(run(&["lease", "take", "--help"]), @r"
    Take items and print the tokens that own them

    Usage: omnirelay lease take [OPTIONS]

    Options:
          --peer-id <PEER>
              Who will own what is taken [default: the caller]

          --wait <DURATION>
              How long to wait for an item

              [default: 0s]

          --lease <DURATION>
              How long the lease lasts unless it is renewed [default: the namespace's]

          --max <N>
              Most items to take

              [default: 1]

          --partition-key <KEY>
              Take only items of this partition key

          --address <ADDRESS>
              The server, as host:port

              [env: OMNIRELAY_ADDRESS]
              [default: 127.0.0.1:7420]

      -n, --namespace <NAMESPACE>
              The namespace

              [env: OMNIRELAY_NAMESPACE]
              [default: resourcelease]

          --caller <CALLER>
              The name that calls

              [env: OMNIRELAY_CALLER]
              [default: omnirelay-cli]

          --timeout <DURATION>
              How long the call may take, besides --wait

              [default: 30s]

      -o, --output <FORMAT>
              How data is printed

              Possible values:
              - table: For people
              - json:  For programs: one JSON document a line

              [default: table]

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay lease take --wait 10s --max 5 --output json
    ");
    insta::assert_snapshot!(run(&["lease", "fail", "--help"]), @r"
    Say that the work was not done; it waits again

    Usage: omnirelay lease fail [OPTIONS] --token <SEQUENCE/ATTEMPT/LEASE-ID>

    Options:
          --reason <TEXT>
              Why, for people

          --code <CODE>
              Why, for programs

          --no-requeue
              Do not try again: make it a dead letter

          --delay <DURATION>
              Wait this long before the next attempt [default: the namespace's back-off]

          --token <SEQUENCE/ATTEMPT/LEASE-ID>
              The token, as `lease take` printed it

          --address <ADDRESS>
              The server, as host:port

              [env: OMNIRELAY_ADDRESS]
              [default: 127.0.0.1:7420]

      -n, --namespace <NAMESPACE>
              The namespace

              [env: OMNIRELAY_NAMESPACE]
              [default: resourcelease]

          --caller <CALLER>
              The name that calls

              [env: OMNIRELAY_CALLER]
              [default: omnirelay-cli]

          --timeout <DURATION>
              How long the call may take, besides --wait

              [default: 30s]

      -o, --output <FORMAT>
              How data is printed

              Possible values:
              - table: For people
              - json:  For programs: one JSON document a line

              [default: table]

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay lease fail --token 4097/1/01020304-0506-8708-890a-0b0c0d0e0f10 --reason 'disk full'
      --delay 1m
    ");
}

#[test]
fn the_commands_that_only_look_describe_their_options() {
    insta::assert_snapshot!(run(&["config", "--help"]), @r"
    Check or show the configuration

    Usage: omnirelay config <COMMAND>

    Commands:
      validate  Say whether a node would accept the configuration
      show      Print the effective configuration and where each value came from
      help      Print this message or the help of the given subcommand(s)

    Options:
      -h, --help  Print help

    EXAMPLE:
      omnirelay config validate --config omnirelay.toml
      omnirelay config show --explain
    ");
    insta::assert_snapshot!(run(&["config", "show", "--help"]), @r"
    Print the effective configuration and where each value came from

    Usage: omnirelay config show [OPTIONS]

    Options:
          --config <FILE>
              TOML file with the configuration

              [env: OMNIRELAY_CONFIG]

          --listen <ADDRESS>
              Where RPC is served; port 0 picks one [default: 127.0.0.1:7420]

          --admin-listen <ADDRESS>
              Where probes, metrics and introspection are served [default: 127.0.0.1:7421]

          --data-dir <DIR>
              Directory of the logs [default: ./omnirelay-data]

          --cores <CORES>
              CPUs to run on: a count, or numbers such as 0,2 [default: all]

          --insecure
              Allow listening beyond loopback without TLS

          --set <KEY=VALUE>
              Set any key, such as namespaces.resourcelease.lease_duration=30s

      -o, --output <FORMAT>
              How it is printed

              Possible values:
              - toml: A file that can be loaded again
              - json: One document with `config` and `sources`

              [default: toml]

          --explain
              Describe every key: unit, bounds, and what it costs

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay config show --explain > omnirelay.toml
    ");
    insta::assert_snapshot!(run(&["introspect", "--help"]), @r"
    Show what a running node knows about itself

    Usage: omnirelay introspect [OPTIONS]

    Options:
          --admin-address <ADMIN_ADDRESS>
              The node's admin address, as host:port

              [env: OMNIRELAY_ADMIN_ADDRESS]
              [default: 127.0.0.1:7421]

      -o, --output <FORMAT>
              How data is printed

              Possible values:
              - table: For people
              - json:  For programs: one JSON document a line

              [default: table]

      -h, --help
              Print help (see a summary with '-h')

    EXAMPLE:
      omnirelay introspect
      omnirelay introspect --output json | jq .namespaces
    ");
    insta::assert_snapshot!(run(&["completions", "--help"]), @r"
    Print a completion script for a shell

    Usage: omnirelay completions <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -h, --help  Print help

    EXAMPLE:
      omnirelay completions bash > ~/.local/share/bash-completion/completions/omnirelay
    ");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let outcome = run(&["completions", shell]);
        assert_eq!(outcome.code, Some(0), "{shell}");
        assert!(outcome.stdout.contains("omnirelay"), "{shell}");
        assert!(outcome.stderr.is_empty(), "{shell}");
    }
}
