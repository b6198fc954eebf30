use super::value::Kind;
use super::*;
use crate::node::{Durability, Watermarks};
use omnirelay_queue::{Fairness, Ordering};

fn sources() -> Sources {
    Sources {
        cpus: vec![0, 1, 2, 3],
        cpus_max: 4,
        ..Sources::default()
    }
}

fn file(dir: &tempfile::TempDir, text: &str) -> Sources {
    let path = dir.path().join("omnirelay.toml");
    std::fs::write(&path, text).unwrap();
    Sources {
        file: Some(path),
        ..sources()
    }
}

fn set(arguments: &[&str]) -> Sources {
    Sources {
        set: arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect(),
        ..sources()
    }
}

fn env(variables: &[(&str, &str)]) -> Sources {
    Sources {
        env: variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..sources()
    }
}

/// What a person would read, with the file's directory taken out.
fn refusal(sources: &Sources) -> String {
    let error = load(sources).expect_err("must be refused");
    let text = format!("error[{}]: {error}\nhelp: {}", error.code(), error.help());
    match sources.file.as_deref().and_then(|path| path.parent()) {
        Some(dir) => text.replace(&format!("{}/", dir.display()), ""),
        None => text,
    }
}

#[test]
fn without_any_source_the_contracts_defaults_hold() {
    let config = load(&sources()).unwrap();
    assert_eq!(config.listen, "127.0.0.1:7420".parse().unwrap());
    assert_eq!(config.admin_listen, "127.0.0.1:7421".parse().unwrap());
    assert_eq!(config.data_dir, PathBuf::from("./omnirelay-data"));
    assert_eq!(config.cores, [0, 1, 2, 3]);
    assert_eq!(config.driver, Driver::Auto);
    assert_eq!(config.limits.connections_max_per_core, 10_000);
    let names: Vec<_> = config.namespaces.keys().collect();
    assert_eq!(names, ["resourcelease"]);
    let namespace = &config.namespaces["resourcelease"];
    assert_eq!(namespace.lease_duration, Duration::from_secs(30));
    assert_eq!(namespace.heartbeat_interval, Duration::from_secs(10));
    assert_eq!(namespace.requeue_delay_max, Duration::from_secs(300));
    assert_eq!((namespace.max_attempts, namespace.shards), (16, 16));
    assert_eq!(
        (namespace.capacity, namespace.dedupe_entries_max),
        (10_000_000, 10_000_000)
    );
    assert_eq!(namespace.durability, Durability::Disk);
    assert_eq!(config.history_bytes, 4 << 30);
    assert_eq!(namespace.watermarks, Watermarks::of(10_000_000));
    assert_eq!(namespace.ordering, Ordering::None);
    assert_eq!(namespace.fairness, Fairness::Fifo);
    assert!(namespace.weights.is_empty());
}

#[test]
fn watermarks_are_items_or_shares_of_the_capacity() {
    let marks = |options: &[&str]| {
        let set: Vec<_> = options
            .iter()
            .map(|option| format!("namespaces.resourcelease.{option}"))
            .collect();
        let config = load(&Sources { set, ..sources() }).unwrap();
        let marks = config.namespaces["resourcelease"].watermarks;
        (marks.capacity, marks.high, marks.low)
    };
    assert_eq!(marks(&["capacity=1000"]), (1_000, 800, 600));
    assert_eq!(
        marks(&["high_watermark=70", "low_watermark=0", "capacity=70"]),
        (70, 70, 0)
    );
    assert_eq!(
        marks(&["high_watermark=90%", "low_watermark=5"]),
        (10_000_000, 9_000_000, 5)
    );
    // However small the capacity, the higher share is the higher mark.
    assert_eq!(marks(&["capacity=1"]), (1, 1, 0));
    assert_eq!(
        marks(&["capacity=3", "high_watermark=51%", "low_watermark=50%"]),
        (3, 2, 1)
    );
}

#[test]
fn a_weight_can_be_set_for_any_partition_key_from_every_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = file(
        &dir,
        "[namespaces.jobs]\nfairness = 'partition-key'\n[namespaces.jobs.weights]\n\
         gold = 5\n'tenant a.b' = 7\n'' = 2\n'größe = \"1\"' = 3\n'*' = 4\n",
    );
    all.env = vec![(
        "OMNIRELAY_NAMESPACES__JOBS__WEIGHTS__SILVER".into(),
        "9".into(),
    )];
    all.set = vec![
        "namespaces.jobs.weights.gold=1000".into(),
        "namespaces.jobs.weights.\"c.d\"=8".into(),
    ];
    let config = load(&all).unwrap();
    let weights: Vec<_> = config.namespaces["jobs"]
        .weights
        .iter()
        .map(|(key, weight)| (key.as_str(), *weight))
        .collect();
    let expected = [
        ("", 2),
        ("*", 4),
        ("c.d", 8),
        ("gold", 1_000),
        ("größe = \"1\"", 3),
        ("silver", 9),
        ("tenant a.b", 7),
    ];
    assert_eq!(weights, expected);
    let options = config.namespaces["jobs"].shard_options();
    assert_eq!(options.weights, config.namespaces["jobs"].weights);
    assert_eq!(options.fairness, Fairness::PartitionKey);
    assert_eq!(options.validate(), Ok(()));
    let shown = config
        .to_toml(false)
        .replace(&format!("{}/", dir.path().display()), "");
    let shown = shown.split("[namespaces.jobs.weights]\n").nth(1).unwrap();
    insta::assert_snapshot!(shown.split("\n\n").next().unwrap(), @r#"
    "" = 2               # omnirelay.toml
    "*" = 4              # omnirelay.toml
    "c.d" = 8            # --set
    gold = 1000          # --set
    "größe = \"1\"" = 3  # omnirelay.toml
    silver = 9           # environment variable OMNIRELAY_NAMESPACES__JOBS__WEIGHTS__SILVER
    "tenant a.b" = 7     # omnirelay.toml
    "#);
    for explain in [false, true] {
        let again = load(&file(&dir, &config.to_toml(explain))).unwrap();
        assert_eq!(again.to_json()["config"], config.to_json()["config"]);
        assert_eq!(again.namespaces, config.namespaces);
    }
    assert_eq!(
        config.to_json()["config"]["namespaces"]["jobs"]["weights"]["gold"],
        1_000
    );
}

#[test]
fn weights_that_no_queue_could_go_by_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fair = "[namespaces.jobs]\nfairness = 'partition-key'\n[namespaces.jobs.weights]\n";
    insta::assert_snapshot!(refusal(&file(&dir, &format!("{fair}\"a b\" = 1001"))), @r#"
    error[config.value]: `namespaces.jobs.weights."a b" = 1001` in omnirelay.toml is not allowed: it must be a whole number from 1 to 1000
    help: change `namespaces.jobs.weights."a b"`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.jobs.weights=3"])), @r"
    error[config.value]: `namespaces.jobs.weights = 3` in --set is not allowed: it must be a table
    help: change `namespaces.jobs.weights`; `omnirelay config show --explain` describes every key
    ");
    insta::assert_snapshot!(refusal(&set(&["namespaces.jobs.weights.gold=3"])), @r#"
    error[config.contradiction]: `namespaces.jobs.weights.gold = 3` (--set) has no effect with `namespaces.jobs.fairness = "fifo"` (default)
    help: set fairness = "partition-key", or leave the weights out
    "#);
    let long = refusal(&file(&dir, &format!("{fair}{} = 1", "k".repeat(513))));
    assert!(
        long.contains("it must be a partition key of at most 512 bytes"),
        "{long}"
    );
    let many: String = (0..=10_000).map(|n| format!("k{n} = 1\n")).collect();
    insta::assert_snapshot!(refusal(&file(&dir, &format!("{fair}{many}"))), @r"
    error[config.contradiction]: `namespaces.jobs.weights` names 10001 partition keys, at most 10000 are allowed
    help: leave out keys with the weight 1, which is the default
    ");
}

#[test]
fn a_stronger_source_wins_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = file(
        &dir,
        "listen = '127.0.0.1:1'\nadmin_listen = '127.0.0.1:2'\ndata_dir = 'file'\nlog.level = 'warn'\nlog.format = 'json'\n",
    );
    all.env = vec![
        ("OMNIRELAY_ADMIN_LISTEN".into(), "127.0.0.1:3".into()),
        ("OMNIRELAY_DATA_DIR".into(), "env".into()),
        ("OMNIRELAY_LOG__LEVEL".into(), "error".into()),
    ];
    all.flags = vec![
        Flag {
            name: "--data-dir",
            key: "data_dir",
            value: "flag".into(),
        },
        Flag {
            name: "--cores",
            key: "cores",
            value: "0,2".into(),
        },
    ];
    all.set = vec!["log.level=debug".into(), "log.level = \"trace\"".into()];
    let config = load(&all).unwrap();
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.admin_listen.port(), 3);
    assert_eq!(config.data_dir, PathBuf::from("flag"));
    assert_eq!(config.cores, [0, 2]);
    assert_eq!(
        config.log,
        Log {
            format: LogFormat::Json,
            level: "trace".into()
        }
    );
}

#[test]
fn a_namespace_with_dots_in_its_name_can_be_set_from_every_source() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = file(
        &dir,
        "[namespaces.\"resourcelease.users\"]\nlease_duration = \"1m\"\n",
    );
    all.env = vec![(
        "OMNIRELAY_NAMESPACES__RESOURCELEASE.USERS__CAPACITY".into(),
        "5".into(),
    )];
    all.set = vec!["namespaces.\"resourcelease.users\".shards=8".into()];
    let config = load(&all).unwrap();
    let namespace = &config.namespaces["resourcelease.users"];
    assert_eq!((namespace.capacity, namespace.shards), (5, 8));
    assert_eq!(namespace.heartbeat_interval, Duration::from_secs(20));
    assert!(config.namespaces.contains_key("resourcelease"));
}

#[test]
fn an_unknown_key_is_refused_with_the_key_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(refusal(&file(&dir, "lisen = \"127.0.0.1:1\"")), @r"
    error[config.unknown_key]: unknown key `lisen` in omnirelay.toml
    help: did you mean `listen`?
    ");
    insta::assert_snapshot!(refusal(&file(&dir, "[log]\nlevle = \"info\"")), @r"
    error[config.unknown_key]: unknown key `log.levle` in omnirelay.toml
    help: did you mean `log.level`?
    ");
    insta::assert_snapshot!(refusal(&file(&dir, "[namespaces.\"a.b\"]\nlease_durations = \"1s\"")), @r#"
    error[config.unknown_key]: unknown key `namespaces."a.b".lease_durations` in omnirelay.toml
    help: did you mean `namespaces."a.b".lease_duration`?
    "#);
    insta::assert_snapshot!(refusal(&file(&dir, "connections_max_per_core = 4096")), @r"
    error[config.unknown_key]: unknown key `connections_max_per_core` in omnirelay.toml
    help: did you mean `limits.connections_max_per_core`?
    ");
    insta::assert_snapshot!(refusal(&file(&dir, "[mesh]\njoin = \"x\"")), @r"
    error[config.unknown_key]: unknown key `mesh` in omnirelay.toml
    help: the keys here are admin_listen, cores, data_dir, drain_timeout, driver, history_bytes, insecure, limits, listen, log, namespaces, quic_listen, require_io_uring, segment_bytes, spin_us_max, telemetry, tls
    ");
    insta::assert_snapshot!(refusal(&env(&[("OMNIRELAY_DATADIR", "x")])), @r"
    error[config.unknown_key]: unknown key `datadir` in environment variable OMNIRELAY_DATADIR
    help: did you mean `data_dir`?
    ");
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.replicas=3"])), @r"
    error[config.unknown_key]: unknown key `namespaces.resourcelease.replicas` in --set
    help: the keys here are capacity, cooldown, dedupe_entries_max, dedupe_window, durability, fairness, heartbeat_interval, high_watermark, lease_duration, low_watermark, max_attempts, ordering, priority_aging, requeue_backoff, requeue_delay, requeue_delay_max, restore_window, shards, weights
    ");
}

#[test]
fn a_value_of_the_wrong_type_or_out_of_range_is_refused_with_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(refusal(&file(&dir, "listen = 7420")), @r#"
    error[config.value]: `listen = 7420` in omnirelay.toml is not allowed: it must be an IP address and port, such as "127.0.0.1:7420" or "[::1]:7420"
    help: change `listen`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&file(&dir, "log = \"debug\"")), @r#"
    error[config.value]: `log = "debug"` in omnirelay.toml is not allowed: it must be a table
    help: change `log`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&file(&dir, "[namespaces.resourcelease]\nlease_duration = \"13h\"")), @r#"
    error[config.value]: `namespaces.resourcelease.lease_duration = "13h"` in omnirelay.toml is not allowed: it must be a duration from 1s to 12h, written like "1500ms", "30s", "10m", "12h" or "30d"
    help: change `namespaces.resourcelease.lease_duration`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&file(&dir, "[namespaces.resourcelease]\nlease_duration = 30")), @r#"
    error[config.value]: `namespaces.resourcelease.lease_duration = 30` in omnirelay.toml is not allowed: it must be a duration from 1s to 12h, written like "1500ms", "30s", "10m", "12h" or "30d"
    help: change `namespaces.resourcelease.lease_duration`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&file(&dir, "[namespaces.\"a::b\"]\nshards = 1")), @r#"
    error[config.value]: `namespaces.<name> = "a::b"` in omnirelay.toml is not allowed: it must be 1 to 128 ASCII letters, digits, `.`, `-` or `_`, starting with a letter or digit
    help: change `namespaces.<name>`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.shards=0"])), @r"
    error[config.value]: `namespaces.resourcelease.shards = 0` in --set is not allowed: it must be a whole number from 1 to 4096
    help: change `namespaces.resourcelease.shards`; `omnirelay config show --explain` describes every key
    ");
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.durability=quorum"])), @r#"
    error[config.value]: `namespaces.resourcelease.durability = "quorum"` in --set is not allowed: it must be one of "memory", "disk"; quorum needs three voters, and this is a single node
    help: change `namespaces.resourcelease.durability`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&env(&[("OMNIRELAY_NAMESPACES__RESOURCELEASE__MAX_ATTEMPTS", "-1")])), @r"
    error[config.value]: `namespaces.resourcelease.max_attempts = -1` in environment variable OMNIRELAY_NAMESPACES__RESOURCELEASE__MAX_ATTEMPTS is not allowed: it must be a whole number from 1 to 65535
    help: change `namespaces.resourcelease.max_attempts`; `omnirelay config show --explain` describes every key
    ");
    insta::assert_snapshot!(refusal(&env(&[("OMNIRELAY_INSECURE", "yes")])), @r#"
    error[config.value]: `insecure = "yes"` in environment variable OMNIRELAY_INSECURE is not allowed: it must be true or false
    help: change `insecure`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&set(&["cores=3-1"])), @r#"
    error[config.value]: `cores = "3-1"` in --set is not allowed: it must be "all", a count such as 2, or a list of CPU numbers such as "0,2" or "0-3,8"
    help: change `cores`; `omnirelay config show --explain` describes every key
    "#);
}

#[test]
fn cores_are_pinned_to_the_cpus_that_are_named_and_else_to_the_first() {
    let cores = |setting: &str, cpus_max| {
        let mut sources = set(&[setting]);
        (sources.cpus, sources.cpus_max) = (vec![1, 3, 5, 7], cpus_max);
        load(&sources).unwrap().cores
    };
    assert_eq!(cores("cores=all", 4), [1, 3, 5, 7]);
    assert_eq!(cores("cores=2", 4), [1, 3]);
    assert_eq!(cores("cores=7,1", 4), [7, 1]);
    assert_eq!(cores("cores=5-5", 4), [5]);
    // A quota of CPU time bounds how many, not which.
    assert_eq!(cores("cores=all", 2), [1, 3]);
    assert_eq!(cores("cores=7,5", 2), [7, 5]);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    insta::assert_snapshot!(refusal(&set(&["listen=0.0.0.0:7420"])), @r#"
    error[config.contradiction]: `listen = "0.0.0.0:7420"` (--set) is beyond loopback and has no TLS
    help: set tls.cert and tls.key (`omnirelay cert` makes them), listen on 127.0.0.1 or [::1], or accept that anyone who reaches the port may use it: --insecure
    "#);
    insta::assert_snapshot!(refusal(&set(&["tls.cert=a.crt"])), @r#"
    error[config.contradiction]: `tls.cert = "a.crt"` (--set) needs `tls.key`, and that is not set
    help: set `tls.key`, too; `omnirelay cert` makes certificates and keys
    "#);
    insta::assert_snapshot!(refusal(&set(&["tls.client_ca=ca.crt"])), @r#"
    error[config.contradiction]: `tls.client_ca = "ca.crt"` (--set) needs `tls.cert`, and that is not set
    help: set `tls.cert`, too; `omnirelay cert` makes certificates and keys
    "#);
    insta::assert_snapshot!(refusal(&set(&["admin_listen=127.0.0.1:7420"])), @r#"
    error[config.contradiction]: `listen = "127.0.0.1:7420"` (default) is the same address as `admin_listen = "127.0.0.1:7420"` (--set)
    help: give one of them another port
    "#);
    insta::assert_snapshot!(refusal(&set(&["driver=epoll", "require_io_uring=true"])), @r#"
    error[config.contradiction]: `driver = "epoll"` (--set) contradicts `require_io_uring = true` (--set)
    help: leave one of them out
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.heartbeat_interval=30s"])), @r#"
    error[config.contradiction]: `namespaces.resourcelease.heartbeat_interval = "30s"` (--set) must be shorter than `namespaces.resourcelease.lease_duration = "30s"` (default)
    help: leave heartbeat_interval out to get a third of lease_duration
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.requeue_delay=10m"])), @r#"
    error[config.contradiction]: `namespaces.resourcelease.requeue_delay = "10m"` (--set) must not exceed `namespaces.resourcelease.requeue_delay_max = "5m"` (default)
    help: raise requeue_delay_max or lower requeue_delay
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.high_watermark=50%"])), @r#"
    error[config.contradiction]: `namespaces.resourcelease.low_watermark = "60%"` (default) must be below `namespaces.resourcelease.high_watermark = "50%"` (--set)
    help: lower low_watermark or raise high_watermark; shares are of capacity
    "#);
    insta::assert_snapshot!(refusal(&set(&["namespaces.resourcelease.high_watermark=10000001"])), @r#"
    error[config.contradiction]: `namespaces.resourcelease.high_watermark = 10000001` (--set) must not exceed `namespaces.resourcelease.capacity = 10000000` (default)
    help: lower high_watermark or raise capacity; a share such as "80%" follows it
    "#);
    insta::assert_snapshot!(refusal(&set(&["cores=5"])), @r"
    error[config.contradiction]: `cores = 5` (--set) is more than the CPUs there are
    help: this process may use 4 CPUs: [0, 1, 2, 3]
    ");
    insta::assert_snapshot!(refusal(&set(&["cores=1,9"])), @r"
    error[config.contradiction]: `cores = [1, 9]` (--set) names CPU 9, which this process may not use
    help: this process may use 4 CPUs: [0, 1, 2, 3]
    ");
    insta::assert_snapshot!(refusal(&set(&["cores=0-2,1"])), @r"
    error[config.contradiction]: `cores = [0, 1, 2, 1]` (--set) names CPU 1 twice
    help: this process may use 4 CPUs: [0, 1, 2, 3]
    ");
    let mut throttled = set(&["cores=3"]);
    throttled.cpus_max = 2;
    insta::assert_snapshot!(refusal(&throttled), @r"
    error[config.contradiction]: `cores = 3` (--set) is more than the CPUs there are
    help: this process may use 4 CPUs: [0, 1, 2, 3], and has time for 2 of them
    ");
    let namespaces: Vec<_> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| format!("namespaces.{name}.shards=4096"))
        .collect();
    insta::assert_snapshot!(refusal(&Sources { set: namespaces, ..sources() }), @r"
    error[config.contradiction]: the namespaces' shards sum to 16400, at most 16384 are allowed on a node
    help: give namespaces with little traffic fewer shards
    ");
}

#[test]
fn text_that_is_not_a_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(refusal(&file(&dir, "listen = \"127.0.0.1:1\"\ncores = = 2")), @r#"
    error[config.syntax]: omnirelay.toml cannot be read: line 2, column 9: extra `=`, expected nothing
    help: write `key = value`; durations and addresses are quoted strings, such as "30s"
    "#);
    insta::assert_snapshot!(refusal(&set(&["listen"])), @r#"
    error[config.syntax]: --set listen cannot be read: it needs the form key=value, such as log.level=debug
    help: write `key = value`; durations and addresses are quoted strings, such as "30s"
    "#);
    insta::assert_snapshot!(refusal(&set(&["a b=1"])), @r#"
    error[config.syntax]: --set a b=1 cannot be read: its key is not a dotted TOML key; quote segments with dots in them
    help: write `key = value`; durations and addresses are quoted strings, such as "30s"
    "#);
    insta::assert_snapshot!(refusal(&Sources { file: Some("absent.toml".into()), ..sources() }), @r"
    error[config.unreadable]: cannot read configuration file absent.toml: No such file or directory (os error 2)
    help: name a readable TOML file with --config, or leave it out to use the defaults
    ");
}

#[test]
fn port_0_never_overlaps_and_insecure_allows_every_address() {
    assert!(load(&set(&["listen=127.0.0.1:0", "admin_listen=127.0.0.1:0"])).is_ok());
    assert!(load(&set(&["listen=0.0.0.0:7420", "insecure=true"])).is_ok());
    assert!(load(&set(&["listen=0.0.0.0:7421", "insecure=true"])).is_err());
    assert!(load(&set(&["listen=[::]:7421", "insecure=true"])).is_err());
    assert!(load(&set(&["listen=[::1]:7421"])).is_ok());
}

#[test]
fn a_shard_gets_twice_its_even_share_but_never_more_than_the_whole() {
    let share = |capacity: u64, shards: u64| {
        let name = "namespaces.resourcelease";
        let config = load(&set(&[
            &format!("{name}.capacity={capacity}"),
            &format!("{name}.shards={shards}"),
        ]));
        config.unwrap().namespaces["resourcelease"]
            .shard_options()
            .capacity
    };
    assert_eq!(share(1_000, 10), 200);
    assert_eq!(share(1_000, 1), 1_000);
    assert_eq!(share(1, 16), 1);
}

#[test]
fn the_bounds_of_every_knob_are_within_those_of_a_shard() {
    let extremes = |pick: fn(Kind) -> Option<String>| {
        let set: Vec<_> = knob::NAMESPACE
            .iter()
            .filter(|knob| !matches!(knob.key, "heartbeat_interval" | "shards" | "weights.*"))
            .filter_map(|knob| {
                Some(format!(
                    "namespaces.resourcelease.{}={}",
                    knob.key,
                    pick(knob.kind)?
                ))
            })
            .collect();
        let config = load(&Sources { set, ..sources() }).unwrap();
        config.namespaces["resourcelease"]
            .shard_options()
            .validate()
    };
    let smallest = |kind| match kind {
        Kind::Integer { min, .. } => Some(min.to_string()),
        Kind::Number { min, .. } => Some(min.to_string()),
        Kind::Duration { min, .. } => Some(value::DurationText(min).to_string()),
        _ => None,
    };
    let largest = |kind| match kind {
        Kind::Integer { max, .. } => Some(max.to_string()),
        Kind::Number { max, .. } => Some(max.to_string()),
        Kind::Duration { max, .. } => Some(value::DurationText(max).to_string()),
        _ => None,
    };
    assert_eq!(extremes(smallest), Ok(()));
    assert_eq!(extremes(largest), Ok(()));
}

#[test]
fn what_is_shown_can_be_loaded_again_and_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let first = load(&set(&[
        "namespaces.\"a.b\".lease_duration=90s",
        "namespaces.\"a.b\".requeue_backoff=1.5",
        "cores=0,2",
        "data_dir=\"a \\\"quoted\\\" dir\"",
    ]))
    .unwrap();
    for explain in [false, true] {
        let again = load(&file(&dir, &first.to_toml(explain))).unwrap();
        assert_eq!(again.to_json()["config"], first.to_json()["config"]);
        assert_eq!(again.namespaces, first.namespaces);
    }
}

#[test]
fn the_effective_configuration_says_where_each_value_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = file(&dir, "[log]\nlevel = \"warn\"\n");
    all.env = vec![("OMNIRELAY_NAMESPACES__JOBS__SHARDS".into(), "4".into())];
    all.flags = vec![Flag {
        name: "--listen",
        key: "listen",
        value: "127.0.0.1:0".into(),
    }];
    all.set = vec!["cores=2".into()];
    let config = load(&all).unwrap();
    let shown = config
        .to_toml(false)
        .replace(&format!("{}/", dir.path().display()), "");
    insta::assert_snapshot!(shown, @r#"
    listen = "127.0.0.1:0"           # flag --listen
    admin_listen = "127.0.0.1:7421"  # default
    data_dir = "./omnirelay-data"    # default
    cores = 2                        # --set
    driver = "auto"                  # default
    require_io_uring = false         # default
    insecure = false                 # default
    drain_timeout = "30s"            # default
    segment_bytes = 67108864         # default
    history_bytes = 4294967296       # default
    spin_us_max = 0                  # default

    [log]
    format = "text"  # default
    level = "warn"   # omnirelay.toml

    [telemetry]
    otlp_endpoint = ""                           # default
    otlp_headers = ""                            # default
    traces_sampler = "parentbased_traceidratio"  # default
    traces_sample_ratio = 0.01                   # default
    metrics_interval = "1m"                      # default
    service_name = "omnirelay"                   # default
    resource_attributes = ""                     # default

    [limits]
    connections_max_per_core = 10000  # default

    [namespaces.jobs]
    lease_duration = "30s"         # default
    heartbeat_interval = "10s"     # default: a third of lease_duration
    requeue_delay = "1s"           # default
    requeue_backoff = 2.0          # default
    requeue_delay_max = "5m"       # default
    max_attempts = 16              # default
    dedupe_window = "10m"          # default
    dedupe_entries_max = 10000000  # default
    restore_window = "30d"         # default
    capacity = 10000000            # default
    high_watermark = "80%"         # default
    low_watermark = "60%"          # default
    cooldown = "1s"                # default
    shards = 4                     # environment variable OMNIRELAY_NAMESPACES__JOBS__SHARDS
    durability = "disk"            # default
    priority_aging = "30s"         # default
    ordering = "none"              # default
    fairness = "fifo"              # default

    [namespaces.resourcelease]
    lease_duration = "30s"         # default
    heartbeat_interval = "10s"     # default: a third of lease_duration
    requeue_delay = "1s"           # default
    requeue_backoff = 2.0          # default
    requeue_delay_max = "5m"       # default
    max_attempts = 16              # default
    dedupe_window = "10m"          # default
    dedupe_entries_max = 10000000  # default
    restore_window = "30d"         # default
    capacity = 10000000            # default
    high_watermark = "80%"         # default
    low_watermark = "60%"          # default
    cooldown = "1s"                # default
    shards = 16                    # default
    durability = "disk"            # default
    priority_aging = "30s"         # default
    ordering = "none"              # default
    fairness = "fifo"              # default
    "#);
    let sources = serde_json::to_string(&config.to_json()["sources"]).unwrap();
    insta::assert_snapshot!(sources.replace(&format!("{}/", dir.path().display()), ""), @r#"
    {"cores":"--set","listen":"flag --listen","log.level":"omnirelay.toml","namespaces.jobs.shards":"environment variable OMNIRELAY_NAMESPACES__JOBS__SHARDS"}
    "#);
}

proptest::proptest! {
    #[test]
    fn arbitrary_sources_never_panic(text in "\\PC{0,60}", name in "[A-Z_.]{0,20}", value in "\\PC{0,20}") {
        let _ = load(&set(&[&text]));
        let _ = load(&env(&[(&format!("OMNIRELAY_{name}"), &value)]));
    }
}

#[cfg(feature = "otlp")]
#[test]
fn opentelemetrys_variables_count_where_the_key_is_not_set() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_SERVICE_NAME", "orders"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=data,service.name=other"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "15000"),
        ("OTEL_LOGS_EXPORTER", "whatever"),
    ];
    let said = load(&env(&variables)).unwrap().telemetry;
    let endpoint = said.endpoint.as_ref().expect("it is on");
    assert_eq!(endpoint.to_string(), "http://collector:4318");
    assert_eq!(said.service_name, "orders");
    assert_eq!(
        said.resource_attributes,
        [("team".to_owned(), "data".to_owned())]
    );
    let sampling = Sampling {
        follows_caller: false,
        ratio: 0.25,
    };
    assert_eq!(said.sampling, sampling);
    assert_eq!(said.metrics_interval, Some(Duration::from_secs(15)));

    let mut stronger = env(&variables);
    stronger.set = vec![
        "telemetry.otlp_endpoint=".into(),
        "telemetry.traces_sampler=parentbased_always_on".into(),
        "telemetry.metrics_interval=0s".into(),
    ];
    let said = load(&stronger).unwrap().telemetry;
    assert_eq!(said.endpoint, None);
    let sampling = Sampling {
        follows_caller: true,
        ratio: 1.0,
    };
    assert_eq!(said.sampling, sampling);
    assert_eq!(said.metrics_interval, None);

    let silent = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let said = load(&env(&silent)).unwrap().telemetry;
    assert_eq!(said.endpoint, None, "a protocol alone asks for nothing");
    let named = env(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=orders")]);
    assert_eq!(load(&named).unwrap().telemetry.service_name, "orders");
}

#[test]
fn secrets_are_read_and_never_shown() {
    let from_env = env(&[("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20hush")]);
    let config = load(&from_env).unwrap();
    let (_, value) = &config.telemetry.headers.0[0];
    assert_eq!(value, "Bearer hush");
    let toml = config.to_toml(true);
    assert!(toml.contains("otlp_headers = \"(not shown)\""), "{toml}");
    let json = config.to_json().to_string();
    assert!(json.contains(r#""otlp_headers":"(not shown)""#), "{json}");
    for shown in [toml, json, format!("{config:?}")] {
        assert!(!shown.contains("hush"), "{shown}");
    }
    let stronger = Sources {
        set: vec!["telemetry.otlp_headers=x-key=1".into()],
        ..from_env
    };
    let headers = load(&stronger).unwrap().telemetry.headers;
    assert_eq!(headers.0.len(), 1);
    assert_eq!(headers.0[0].0, "x-key");

    insta::assert_snapshot!(refusal(&set(&["telemetry.otlp_headers=hush hush"])), @r#"
    error[config.value]: `telemetry.otlp_headers = (not shown)` in --set is not allowed: it must be pairs such as "authorization=Basic%20dXNlcg==,x-tenant=data", with percent-encoding, and none of the headers that OTLP needs itself
    help: change `telemetry.otlp_headers`; `omnirelay config show --explain` describes every key
    "#);
}

#[cfg(feature = "otlp")]
#[test]
fn telemetry_that_cannot_be_sent_is_refused_by_name() {
    let grpc = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    insta::assert_snapshot!(refusal(&env(&grpc)), @r"
    error[config.contradiction]: `grpc` (environment variable OTEL_EXPORTER_OTLP_PROTOCOL) is not spoken here: OTLP is sent as http/protobuf
    help: name a collector's HTTP port, as a rule 4318, and http/protobuf; or take OTEL_EXPORTER_OTLP_ENDPOINT out
    ");
    let secure = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318")];
    insta::assert_snapshot!(refusal(&env(&secure)), @r#"
    error[config.value]: `telemetry.otlp_endpoint = "https://collector:4318"` in environment variable OTEL_EXPORTER_OTLP_ENDPOINT is not allowed: it must be a URL such as "http://127.0.0.1:4318", or ""; nothing is sent over TLS here: name a collector or an agent on this machine, and have that send it on over https
    help: change `telemetry.otlp_endpoint`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&set(&["telemetry.metrics_interval=50ms"])), @r#"
    error[config.value]: `telemetry.metrics_interval = "50ms"` in --set is not allowed: it must be at least "100ms", or "0s" for no metrics
    help: change `telemetry.metrics_interval`; `omnirelay config show --explain` describes every key
    "#);
    insta::assert_snapshot!(refusal(&env(&[("OTEL_TRACES_SAMPLER", "xray")])), @r#"
    error[config.value]: `telemetry.traces_sampler = "xray"` in environment variable OTEL_TRACES_SAMPLER is not allowed: it must be one of "parentbased_traceidratio", "parentbased_always_on", "parentbased_always_off", "traceidratio", "always_on", "always_off"
    help: change `telemetry.traces_sampler`; `omnirelay config show --explain` describes every key
    "#);
}
