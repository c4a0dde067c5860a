//! The control socket: every method, every error, streams, and what a host can rely on.

use std::env;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use plug_loader::control::messages::{
    DESCRIPTION, DescribeReply, EventsReply, ListReply, NotFound, SymbolsReply, UnloadReply,
};
use plug_loader::control::{Options, Server};
use plug_loader::{Config, ErrorKind, State, SymbolReader};
use plug_tests::host::{Host, hostile, useful};
use plug_tests::standalone::{Scratch, c_plugin};
use plug_tests::varlink::{Client, error_of, message, own, parameters_of};
use plug_tests::{isolated, process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A host with its control socket in a folder of its own.
struct Served {
    host: Host,
    server: Server,
    _scratch: Scratch,
}

impl Served {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let scratch = Scratch::new("control");
        let host = Host::with(config);
        let mut options = Options::default();
        options.socket = Some(scratch.path().join("host.sock"));
        options.name = Some("tested".to_owned());
        options.max_file = 64 << 20;
        let server = host.loader.serve_control(&host.trust, options);
        Self {
            server: server.expect("a server"),
            host,
            _scratch: scratch,
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.server.path())
    }
}

fn load(client: &mut Client, path: &Path, name: Option<&str>, params: &Value) -> Value {
    let file = File::open(path).expect("the plugin");
    let parameters = json!({"file": 0, "path": path, "name": name, "params": params});
    let bytes = message(&own("Load"), &parameters, &json!({}));
    client.raw_with(&bytes, &[file.as_fd()]).expect("sent");
    client.reply().expect("a reply")
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A worker in a call that lasts until [`Stuck::release`].
struct Stuck(thread::JoinHandle<()>);

static RELEASED: AtomicU32 = AtomicU32::new(0);

impl Stuck {
    fn new(host: &Host) -> Self {
        let plugin = host.hostile("never-returns").expect("loads");
        let function = plugin
            .function::<unsafe extern "C" fn(*const u32) -> u64>("never_returns")
            .expect("exported");
        let loader = host.loader.clone();
        let thread = thread::spawn(move || {
            let worker = loader.worker("io-3").expect("worker");
            // SAFETY: the flag outlives the call.
            let naps = unsafe { function.call_on(&worker, (RELEASED.as_ptr().cast_const(),)) };
            naps.expect("returned");
        });
        until("the worker is inside", || {
            !host.loader.holders(&plugin).is_empty()
        });
        Self(thread)
    }

    fn release(self) {
        RELEASED.store(1, Ordering::Release);
        self.0.join().expect("no panic");
    }
}

#[test]
fn introspection_answers_as_varlink_says() {
    isolated!({
        let served = Served::new();
        let mut client = served.client();
        let mut service = |method: &str, parameters: Value| {
            let method = format!("org.varlink.service.{method}");
            client.send(&method, &parameters, &json!({}));
            client.reply().expect("a reply")
        };
        assert_eq!(
            parameters_of(&service("GetInfo", json!({}))),
            json!({
                "vendor": "Plug",
                "product": "tested",
                "version": env!("CARGO_PKG_VERSION"),
                "url": "",
                "interfaces": ["org.varlink.service", "dev.plug.Host"],
            })
        );
        let described = service(
            "GetInterfaceDescription",
            json!({"interface": "dev.plug.Host"}),
        );
        assert_eq!(
            parameters_of(&described),
            json!({"description": DESCRIPTION})
        );
        let described = service(
            "GetInterfaceDescription",
            json!({"interface": "org.varlink.service"}),
        );
        let text = parameters_of(&described)["description"].to_string();
        assert!(text.contains("interface org.varlink.service"), "{text}");
        let unknown = service("GetInterfaceDescription", json!({"interface": "a.b"}));
        assert_eq!(
            error_of(&unknown),
            (
                "org.varlink.service.InterfaceNotFound".to_owned(),
                json!({"interface": "a.b"})
            )
        );
    });
}

#[test]
fn wrong_calls_get_the_errors_of_the_specification() {
    isolated!({
        let served = Served::new();
        let mut client = served.client();
        for (method, parameters, error, named) in [
            (
                "a.b.C",
                json!({}),
                "InterfaceNotFound",
                json!({"interface": "a.b"}),
            ),
            (
                "dev.plug.Host.Nothing",
                json!({}),
                "MethodNotFound",
                json!({"method": "dev.plug.Host.Nothing"}),
            ),
            (
                "nodot",
                json!({}),
                "InvalidParameter",
                json!({"parameter": "method"}),
            ),
            (
                "dev.plug.Host.List",
                json!({"x": 1}),
                "InvalidParameter",
                json!({"parameter": "x"}),
            ),
            (
                "dev.plug.Host.Info",
                json!({"name": 1}),
                "InvalidParameter",
                json!({"parameter": "name"}),
            ),
            (
                "dev.plug.Host.Info",
                json!({}),
                "InvalidParameter",
                json!({"parameter": "name"}),
            ),
            (
                "dev.plug.Host.Unload",
                json!({"name": "a", "wait_micros": -1}),
                "InvalidParameter",
                json!({"parameter": "wait_micros"}),
            ),
            (
                "dev.plug.Host.Unload",
                json!({"name": "a", "wait_micros": 3_600_000_001_u64}),
                "InvalidParameter",
                json!({"parameter": "wait_micros"}),
            ),
            (
                "dev.plug.Host.Resolve",
                json!({"addresses": ["0xfg"]}),
                "InvalidParameter",
                json!({"parameter": "addresses"}),
            ),
            (
                "dev.plug.Host.Events",
                json!({"after": "0"}),
                "InvalidParameter",
                json!({"parameter": "after"}),
            ),
        ] {
            client.send(method, &parameters, &json!({}));
            let expected = (format!("org.varlink.service.{error}"), named);
            assert_eq!(error_of(&client.reply().expect("a reply")), expected);
        }
        client.send("dev.plug.Host.List", &json!({}), &json!({"upgrade": true}));
        let (error, _) = error_of(&client.reply().expect("a reply"));
        assert_eq!(error, "org.varlink.service.MethodNotImplemented");
        for method in ["Info", "Symbols"] {
            assert_eq!(
                client.fail(method, &json!({"name": "nobody"})),
                (
                    "dev.plug.Host.NotFound".to_owned(),
                    json!({"name": "nobody"})
                )
            );
        }
        assert_eq!(
            client.fail("Unload", &json!({"name": "nobody", "wait_micros": 0})),
            (
                "dev.plug.Host.NotFound".to_owned(),
                json!({"name": "nobody"})
            )
        );
        let nothing = json!({"file": 0, "path": "x", "params": []});
        assert_eq!(
            client.fail("Load", &nothing),
            ("dev.plug.Host.NoDescriptor".to_owned(), json!({}))
        );
        let nothing = json!({"name": "a", "file": 0, "path": "x", "params": [], "wait_micros": 0});
        assert_eq!(
            client.fail("Replace", &nothing),
            ("dev.plug.Host.NoDescriptor".to_owned(), json!({}))
        );
    });
}

#[test]
fn looks_agree_with_the_loader() {
    isolated!({
        let served = Served::new();
        let loader = &served.host.loader;
        let plugin = served.host.useful("checksum");
        served.host.useful("base64");
        let _worker = loader.worker("io-1").expect("a worker");
        let pin = plugin.pin().expect("live");
        let mut client = served.client();

        let described: DescribeReply =
            serde_json::from_value(client.call("Describe", &json!({}))).expect("as declared");
        assert_eq!(described.name, "tested");
        assert_eq!(described.pid, std::process::id());
        assert_eq!(described.membarrier, loader.capabilities().membarrier);
        assert_eq!((described.workers, described.plugins), (1, 2));

        let list: ListReply =
            serde_json::from_value(client.call("List", &json!({}))).expect("as declared");
        assert_eq!(list.plugins.len(), 2);
        let row = &list.plugins[0];
        let (start, end) = plugin.range();
        assert_eq!(
            (row.name.as_str(), row.state.as_str()),
            ("checksum", "Live")
        );
        assert_eq!(row.version, plugin.version());
        assert_eq!(
            (row.refs, row.users.as_slice()),
            (1, ["pins".to_owned()].as_slice())
        );
        assert_eq!(row.base, format!("{start:#x}"));
        assert_eq!(row.size as usize, end - start);
        assert_eq!(row.generation, plugin.generation());
        assert_eq!(row.interfaces, plugin.interfaces().collect::<Vec<_>>());
        assert!(!row.build_id.is_empty());
        drop(pin);

        let info = client.call("Info", &json!({"name": "checksum"}));
        assert_eq!(info["filename"], json!(useful("checksum")));
        let name = json!({"key": "name", "value": "checksum"});
        assert!(info["fields"].as_array().expect("fields").contains(&name));
        assert_eq!(
            info["stages"].as_array().expect("stages").len(),
            plugin.load_times().len()
        );
        assert_eq!(info["plugin"]["refs"], 0);

        let symbols: SymbolsReply =
            serde_json::from_value(client.call("Symbols", &json!({"name": "checksum"})))
                .expect("as declared");
        let of_loader: Vec<_> = plugin
            .symbol_table()
            .into_iter()
            .map(|row| (row.name, format!("{:#x}", row.address)))
            .collect();
        let of_socket: Vec<_> = symbols
            .symbols
            .iter()
            .map(|symbol| (symbol.name.clone(), symbol.address.clone()))
            .collect();
        assert_eq!(of_socket, of_loader);

        let (name, address) = plugin.symbols().swap_remove(0);
        let asked = json!({"addresses": [format!("{:#x}", address), "1"]});
        let resolved = client.call("Resolve", &asked);
        let found = SymbolReader::new().resolve(address).expect("inside");
        assert_eq!(
            resolved["resolved"][0],
            json!({
                "address": format!("{address:#x}"),
                "plugin": "checksum",
                "version": plugin.version(),
                "symbol": String::from_utf8_lossy(&name),
                "offset": found.offset,
                "generation": plugin.generation(),
                "state": "Live",
            })
        );
        assert_eq!(resolved["resolved"][1]["plugin"], "");

        let workers = client.call("Workers", &json!({}));
        assert_eq!(workers["workers"][0]["thread"], "io-1");
        assert_eq!(workers["workers"][0]["inside"], json!([]));

        served.host.unload("checksum");
        let history = client.call("History", &json!({}));
        let departed = &history["departed"][0];
        assert_eq!(departed["name"], "checksum");
        assert_eq!(departed["base"], format!("{start:#x}"));
        assert_eq!(departed["generation"], plugin.generation());

        // Nobody's any more, but that load's.
        let now = client.call("Resolve", &asked);
        assert_eq!(now["resolved"][0]["plugin"], "");
        let load = json!({"addresses": [format!("{address:#x}")], "at": plugin.generation()});
        let late = &client.call("Resolve", &load)["resolved"][0];
        assert_eq!(late["plugin"], "checksum");
        assert_eq!(late["symbol"], resolved["resolved"][0]["symbol"]);
        assert_eq!(late["offset"], found.offset);
        assert_eq!(late["state"], "Unloaded");
        assert!(late["left_micros"].as_u64().is_some());

        let events = client.call("Events", &json!({"after": 0}));
        let kinds: Vec<_> = events["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| event["kind"].as_str().expect("a word"))
            .collect();
        assert_eq!(
            kinds,
            ["coming", "live", "coming", "live", "going", "unloaded"]
        );
        let all = events["events"].as_array().expect("events");
        for event in all {
            assert_ne!(event["generation"], 0);
            let stages = event["stages"].as_array().expect("stages");
            assert!(
                stages.iter().all(|stage| stage["micros"].is_u64()),
                "{event}"
            );
            assert!(!stages.is_empty(), "{event}");
        }
    });
}

#[test]
fn load_takes_the_descriptor_it_names() {
    isolated!({
        let served = Served::new();
        // The loader keeps its folder open from the first load on.
        served.host.useful("checksum");
        served.host.unload("checksum");
        let before = process::descriptors();
        let mut client = served.client();
        let params = json!([{"key": "wrap", "value": "76"}]);
        let reply = parameters_of(&load(
            &mut client,
            &useful("base64"),
            Some("second"),
            &params,
        ));
        assert_eq!(reply["plugin"]["name"], "second");
        assert_eq!(reply["plugin"]["state"], "Live");
        let stages = reply["stages"].as_array().expect("stages");
        assert_eq!(stages.last().expect("some")["name"], "activate");
        let plugin = served.host.loader.plugin("second").expect("loaded");
        assert_eq!(plugin.state(), State::Live);
        assert_eq!(Path::new(plugin.origin()), useful("base64"));

        // The second of two descriptors.
        let null = File::open("/dev/null").expect("null");
        let file = File::open(useful("checksum")).expect("the plugin");
        let parameters = json!({"file": 1, "path": "x", "params": []});
        let bytes = message(&own("Load"), &parameters, &json!({}));
        client
            .raw_with(&bytes, &[null.as_fd(), file.as_fd()])
            .expect("sent");
        let reply = parameters_of(&client.reply().expect("a reply"));
        assert_eq!(reply["plugin"]["name"], "checksum");

        let refused = |reply: &Value, stage: &str, kind: &str| {
            let (error, parameters) = error_of(reply);
            assert_eq!(error, "dev.plug.Host.Refused");
            assert_eq!(
                (&parameters["stage"], &parameters["kind"]),
                (&json!(stage), &json!(kind))
            );
            parameters["message"].as_str().expect("text").to_owned()
        };
        let none = json!([]);
        let again = load(&mut client, &useful("checksum"), None, &none);
        refused(&again, "claim", "already_loaded");
        let wrong = load(&mut client, &hostile("wrong-abi"), None, &none);
        let text = refused(&wrong, "metadata", "incompatible");
        assert!(text.contains("wrong-abi"), "{text}");
        assert_eq!(text.matches("expected").count(), 1, "{text}");
        let folder = load(&mut client, Path::new("/"), None, &none);
        let text = refused(&folder, "open", "open");
        assert_eq!(text.matches("regular").count(), 1, "{text}");
        let named = load(&mut client, &useful("wordcount"), Some("a/b"), &none);
        refused(&named, "open", "incompatible");
        let failed = load(&mut client, &hostile("init-fails"), None, &none);
        refused(&failed, "init", "init_failed");
        let scratch = Scratch::new("large");
        let large = scratch.write("large.so", "");
        let sparse = File::options().write(true).open(&large).expect("file");
        sparse.set_len(1 << 40).expect("sparse");
        let text = refused(&load(&mut client, &large, None, &none), "open", "open");
        assert!(text.contains("expected at most 67108864 bytes"), "{text}");

        for name in ["second", "checksum"] {
            let gone = client.call("Unload", &json!({"name": name, "wait_micros": 1_000_000}));
            let gone: UnloadReply = serde_json::from_value(gone).expect("as declared");
            assert_eq!(
                (gone.verdict.as_str(), gone.name.as_str()),
                ("unloaded", name)
            );
            assert!(!gone.stages.is_empty());
        }
        drop((null, client, file, sparse));
        until("descriptors are closed", || {
            process::descriptors() <= before
        });
    });
}

#[test]
fn unload_tells_who_is_waited_for_and_who_stood_in_the_way() {
    isolated!({
        let served = Served::new();
        let stuck = Stuck::new(&served.host);
        let mut client = served.client();
        let parameters = json!({"name": "never_returns", "wait_micros": 3_500_000});
        client.send(&own("Unload"), &parameters, &json!({"more": true}));
        let mut other = served.client();
        let mut waiting = 0;
        let refused = loop {
            let reply = client.reply().expect("a reply");
            if reply["continues"] != true {
                break error_of(&reply);
            }
            let reply: UnloadReply =
                serde_json::from_value(parameters_of(&reply)).expect("as declared");
            assert_eq!(reply.verdict, "waiting");
            assert_eq!(reply.holders.len(), 1);
            assert_eq!(reply.holders[0].thread, "io-3");
            assert_eq!(reply.holders[0].function, "never_returns");
            waiting += 1;
            // Nobody else is held up meanwhile.
            let began = Instant::now();
            let list = other.call("List", &json!({}));
            assert_eq!(list["plugins"][0]["state"], "Going");
            assert_eq!(list["plugins"][0]["users"], json!(["io-3"]));
            assert!(
                began.elapsed() < Duration::from_secs(1),
                "{:?}",
                began.elapsed()
            );
        };
        assert!((2..=3).contains(&waiting), "{waiting} times");
        assert_eq!(refused.0, "dev.plug.Host.Refused");
        assert_eq!(
            (&refused.1["stage"], &refused.1["kind"]),
            (&json!("drain"), &json!("deadline"))
        );
        let holder = &refused.1["holders"][0];
        assert_eq!(
            (&holder["kind"], &holder["thread"]),
            (&json!("call"), &json!("io-3"))
        );
        assert!(
            holder["micros"].as_u64().expect("a number") >= 2_000_000,
            "{holder}"
        );
        let text = refused.1["message"].as_str().expect("text");
        assert!(text.contains("worker io-3 (tid "), "{text}");
        stuck.release();
        let gone = client.call(
            "Unload",
            &json!({"name": "never-returns", "wait_micros": 0}),
        );
        assert_eq!(gone["verdict"], "unloaded");
    });
}

#[test]
fn client_that_goes_loses_only_the_answer() {
    isolated!({
        let served = Served::new();
        let stuck = Stuck::new(&served.host);
        let plugin = served.host.loader.plugin("never-returns").expect("live");
        let mut client = served.client();
        let parameters = json!({"name": "never-returns", "wait_micros": 700_000});
        client.send(&own("Unload"), &parameters, &json!({"more": true}));
        until("the unload has begun", || plugin.state() == State::Going);
        drop(client);
        until("the unload gave up", || plugin.state() == State::Live);
        // Half a load, too: the plugin is there afterwards.
        let mut client = served.client();
        let file = File::open(hostile("constructor-slow")).expect("the plugin");
        let parameters = json!({"file": 0, "path": "x", "params": []});
        let bytes = message(&own("Load"), &parameters, &json!({}));
        client.raw_with(&bytes, &[file.as_fd()]).expect("sent");
        until("the load has begun", || {
            served.host.loader.plugin("constructor-slow").is_some()
        });
        drop(client);
        let began = Instant::now();
        served.client().call("Describe", &json!({}));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        until("it is live", || {
            let plugin = served.host.loader.plugin("constructor-slow");
            plugin.is_some_and(|plugin| plugin.state() == State::Live)
        });
        stuck.release();
    });
}

#[test]
fn events_come_as_they_happen_without_end() {
    isolated!({
        let served = Served::new();
        let mut client = served.client();
        client.send(&own("Events"), &json!({"after": 0}), &json!({"more": true}));
        let mut seen: Vec<(u64, String, String)> = Vec::new();
        let mut await_kind = |kind: &str| {
            while !seen.iter().any(|(_, _, seen)| seen == kind) {
                let reply = client.reply().expect("a reply");
                assert_eq!(reply["continues"], true);
                let events: EventsReply =
                    serde_json::from_value(parameters_of(&reply)).expect("as declared");
                assert!(!events.events.is_empty());
                let events = events.events.into_iter();
                seen.extend(events.map(|e| (e.sequence, e.plugin, e.kind)));
            }
            seen.clone()
        };
        served.host.useful("wordcount");
        await_kind("live");
        served.host.hostile("init-fails").expect_err("it does");
        await_kind("failed");
        served.host.unload("wordcount");
        let seen = await_kind("unloaded");
        let numbers: Vec<u64> = seen.iter().map(|(sequence, ..)| *sequence).collect();
        assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>());
        // The stream does not end by itself, and outlives a second of silence.
        thread::sleep(Duration::from_millis(1100));
        served.host.useful("base64");
        let reply = client.reply().expect("a reply");
        assert_eq!(reply["parameters"]["events"][0]["plugin"], "base64");
    });
}

#[test]
fn a_guard_is_asked_by_the_socket_and_may_veto() {
    isolated!({
        let mut config = Config::default();
        config.subscriber_patience = Duration::from_secs(60);
        let served = Served::with(config);
        let (mut guard, mut other) = (served.client(), served.client());
        let named = json!({"name": "door"});
        let (error, _) = other.fail("Guard", &named);
        assert_eq!(error, "org.varlink.service.ExpectedMore");
        // Of a load that never is.
        let early = json!({"guard": "door", "generation": 1_000_000});
        let (error, _) = other.fail("Vote", &early);
        assert_eq!(error, "dev.plug.Host.NotFound");
        guard.send(&own("Guard"), &named, &json!({"more": true}));
        // Asked for until it is there: its connection is another one.
        loop {
            other.send(&own("Vote"), &early, &json!({}));
            if other.reply().expect("a reply").get("error").is_none() {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let mut taken = served.client();
        taken.send(&own("Guard"), &named, &json!({"more": true}));
        let (error, parameters) = error_of(&taken.reply().expect("a reply"));
        assert_eq!(
            (&*error, &parameters["kind"]),
            ("dev.plug.Host.Refused", &json!("busy"))
        );
        thread::scope(|scope| {
            for (veto, ends) in [(None, true), (Some("not today"), false)] {
                let load = scope.spawn(|| served.host.load(useful("checksum")));
                let coming = loop {
                    let reply = guard.reply().expect("a reply");
                    let events = reply["parameters"]["events"].as_array().expect("events");
                    let coming = events.iter().find(|event| event["kind"] == "coming");
                    if let Some(coming) = coming {
                        break coming.clone();
                    }
                };
                assert_eq!(coming["plugin"], "checksum");
                let mut vote = json!({"guard": "door", "generation": coming["generation"]});
                if let Some(veto) = veto {
                    vote["veto"] = json!(veto);
                }
                assert_eq!(other.call("Vote", &vote), json!({}));
                let loaded = load.join().expect("no panic");
                assert_eq!(loaded.is_ok(), ends, "{loaded:?}");
                if let Err(error) = loaded {
                    assert_eq!(error.kind(), ErrorKind::Vetoed);
                    let why = "vetoed by the subscriber door: not today";
                    assert!(error.to_string().contains(why), "{error}");
                } else {
                    served.host.unload("checksum");
                }
            }
            // A guard that goes without a word has nothing against it.
            let load = scope.spawn(|| served.host.load(useful("base64")));
            while served.host.loader.plugin("base64").is_none() {
                thread::sleep(Duration::from_millis(1));
            }
            drop(guard);
            load.join()
                .expect("no panic")
                .expect("nobody is against it");
        });
        let (error, _) = other.fail("Vote", &early);
        assert_eq!(error, "dev.plug.Host.NotFound");
    });
}

#[test]
fn long_lists_come_in_replies_below_64_kib() {
    isolated!({
        let scratch = Scratch::new("many");
        let functions: String = (0..20_000)
            .map(|n| format!("int a_function_with_a_name_{n:05}(void) {{ return {n}; }}\n"))
            .collect();
        let source = scratch.write("many.c", &functions);
        let library = scratch.path().join("many.so");
        let status = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O0", "-o"])
            .args([&library, &source])
            .status();
        assert!(status.expect("gcc").success());
        let served = Served::new();
        let plugin = served.host.load(&library).expect("loads");
        let mut client = served.client();
        let name = json!({"name": plugin.name()});
        assert_eq!(
            client.fail("Symbols", &name),
            ("org.varlink.service.ExpectedMore".to_owned(), json!({}))
        );
        client.send(&own("Symbols"), &name, &json!({"more": true}));
        let mut symbols = Vec::new();
        loop {
            let bytes = client.reply_bytes().expect("a reply");
            assert!(bytes.len() < 64 * 1024, "{} bytes", bytes.len());
            let reply: Value = serde_json::from_slice(&bytes).expect("JSON");
            let rows: SymbolsReply =
                serde_json::from_value(parameters_of(&reply)).expect("as declared");
            symbols.extend(rows.symbols.into_iter().map(|symbol| symbol.name));
            if reply["continues"] != true {
                break;
            }
        }
        let expected: Vec<_> = plugin
            .symbol_table()
            .into_iter()
            .map(|row| row.name)
            .collect();
        assert!(symbols.len() >= 20_000);
        assert_eq!(symbols, expected);
        // Short ones come in one, whoever asks how.
        assert_eq!(client.more("List", &json!({})).len(), 1);
    });
}

#[test]
fn pipelined_and_oneway_calls_are_answered_in_order() {
    isolated!({
        let served = Served::new();
        let mut client = served.client();
        let mut bytes = Vec::new();
        for n in 0..50 {
            let oneway = json!({"oneway": n % 2 == 1});
            let parameters = json!({"addresses": [format!("{n:#x}")]});
            bytes.extend(message(&own("Resolve"), &parameters, &oneway));
        }
        bytes.extend(message(
            &own("Unload"),
            &json!({"name": "nobody", "wait_micros": 0}),
            &json!({"oneway": true}),
        ));
        bytes.extend(message(&own("Describe"), &json!({}), &json!({})));
        client.raw(&bytes).expect("sent");
        // Nothing more is coming from us; the answers still do.
        client
            .socket
            .shutdown(std::net::Shutdown::Write)
            .expect("half closed");
        for n in (0..50).step_by(2) {
            let reply = parameters_of(&client.reply().expect("a reply"));
            assert_eq!(reply["resolved"][0]["address"], format!("{n:#x}"));
        }
        assert_eq!(
            parameters_of(&client.reply().expect("a reply"))["name"],
            "tested"
        );
        assert!(client.reply().is_none(), "and then the host closes");

        // A load that nobody wants to hear of, from a client that is gone at once.
        let mut client = served.client();
        let file = File::open(useful("checksum")).expect("the plugin");
        let parameters = json!({"file": 0, "path": "x", "params": []});
        let bytes = message(&own("Load"), &parameters, &json!({"oneway": true}));
        let mut before = message(&own("Describe"), &json!({}), &json!({"oneway": true}));
        before.extend(message(&own("List"), &json!({}), &json!({"oneway": true})));
        client.raw(&before).expect("sent");
        client.raw_with(&bytes, &[file.as_fd()]).expect("sent");
        drop(client);
        until("it is loaded", || {
            served.host.loader.plugin("checksum").is_some()
        });
    });
}

#[test]
fn socket_lies_in_a_private_folder_and_leaves_with_the_server() {
    isolated!({
        let scratch = Scratch::new("runtime");
        // SAFETY: the process has no other thread that reads the environment.
        unsafe { env::set_var("XDG_RUNTIME_DIR", scratch.path()) };
        let folder = scratch.path().join("plug");
        assert_eq!(plug_loader::control::directories()[0], folder);
        fs::create_dir(&folder).expect("folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("mode");
        // Left by a dead host; by one in another namespace of processes; by nobody.
        let dead = folder.join("dead.4194999.sock");
        drop(UnixListener::bind(&dead).expect("bound"));
        let elsewhere = folder.join("elsewhere.4194999.sock");
        let _listener = UnixListener::bind(&elsewhere).expect("bound");
        let other = folder.join("other.sock");
        drop(UnixListener::bind(&other).expect("bound"));

        let host = Host::new();
        let threads = process::threads();
        let descriptors = process::descriptors();
        let serve = |change: &dyn Fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            host.loader.serve_control(&host.trust, options)
        };
        let server = serve(&|_| ()).expect("a server");
        let pid = std::process::id();
        let file = env::current_exe().expect("own binary");
        let name = file
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert_eq!(server.path(), folder.join(format!("{name}.{pid}.sock")));
        assert_eq!(fs::metadata(&folder).expect("there").mode() & 0o7777, 0o700);
        assert_eq!(
            fs::metadata(server.path()).expect("there").mode() & 0o7777,
            0o600
        );
        assert!(!dead.exists() && elsewhere.exists() && other.exists());
        assert_eq!(process::threads(), threads + 1);
        Client::connect(server.path()).call("Describe", &json!({}));

        let refused = |result: Result<Server, plug_loader::Error>| {
            let error = result.expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Control);
            format!("{error:#}")
        };
        let text = refused(serve(&|_| ()));
        assert!(text.contains("something is there"), "{text}");
        let text = refused(serve(&|options| options.name = Some("a/b".to_owned())));
        assert!(text.contains("found \"a/b\""), "{text}");
        let long = scratch.path().join("x".repeat(108));
        let text = refused(serve(&|options| options.socket = Some(long.clone())));
        assert!(text.contains("expected at most 107 bytes"), "{text}");
        let nowhere = PathBuf::from("/nowhere/a.sock");
        let text = refused(serve(&|options| options.socket = Some(nowhere.clone())));
        assert!(text.contains("No such file"), "{text}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("mode");
        let text = refused(serve(&|options| options.name = Some("second".to_owned())));
        assert!(text.contains("expected mode 0700, found 0750"), "{text}");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("mode");

        // A second one under another name, with a client and a stream that its end must not wait for.
        let second = serve(&|options| options.name = Some("second".to_owned())).expect("one more");
        let mut client = Client::connect(second.path());
        client.send(&own("Events"), &json!({"after": 0}), &json!({"more": true}));
        let path = second.path().to_owned();
        let began = Instant::now();
        drop(second);
        assert!(began.elapsed() < Duration::from_secs(2));
        assert!(!path.exists());
        assert!(client.reply().is_none());
        drop(client);
        let path = server.path().to_owned();
        drop(server);
        assert!(!path.exists());
        assert!(UnixStream::connect(&path).is_err());
        assert_eq!(process::threads(), threads);
        assert_eq!(process::descriptors(), descriptors);
        // What came after the servers wakes nobody, and harms nobody.
        host.useful("checksum");

        // One left at the very path by a process that had our number.
        drop(UnixListener::bind(&path).expect("bound"));
        drop(serve(&|_| ()).expect("a server"));
    });
}

#[test]
fn native_plugin_reports_its_parameters_and_build() {
    isolated!({
        let scratch = Scratch::new("control-c");
        let source = "#include \"plugin_api.h\"\n\
            static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
            static void stop(void) {}\n\
            PLUG_PLUGIN(\"tiny\", \"3.2.1\", \"says little\", \"MIT\", init, stop);\n";
        let library = c_plugin(&scratch, "tiny", source);
        let served = Served::new();
        let mut client = served.client();
        parameters_of(&load(&mut client, &library, None, &json!([])));
        let info = client.call("Info", &json!({"name": "tiny"}));
        assert_eq!(info["plugin"]["version"], "3.2.1");
        let fields = info["fields"].as_array().expect("fields");
        let description = json!({"key": "description", "value": "says little"});
        assert!(fields.contains(&description), "{fields:?}");
    });
}

/// What zlink, a client and server library that is not ours, makes of the socket.
mod zlink_client {
    use super::*;
    use zlink::Call;

    #[derive(Debug, Serialize)]
    #[serde(tag = "method", content = "parameters")]
    enum Method<'a> {
        #[serde(rename = "dev.plug.Host.Describe")]
        Describe,
        #[serde(rename = "dev.plug.Host.Info")]
        Info { name: &'a str },
        #[serde(rename = "dev.plug.Host.Load")]
        Load {
            file: u32,
            path: &'a Path,
            params: [u8; 0],
        },
        #[serde(rename = "dev.plug.Host.Events")]
        Events { after: u64 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "error", content = "parameters")]
    enum Failure {
        #[serde(rename = "dev.plug.Host.NotFound")]
        NotFound(NotFound),
    }

    #[derive(Debug, Deserialize)]
    struct Loaded {
        plugin: plug_loader::control::messages::PluginRow,
    }

    #[test]
    fn call_error_descriptor_and_stream_work_with_zlink() {
        isolated!({
            let served = Served::new();
            block_on(async {
                let mut client = zlink::smol::unix::connect(served.server.path())
                    .await
                    .expect("connects");
                let call = Call::new(Method::Describe);
                let (reply, _) = client
                    .call_method::<_, DescribeReply, Failure>(&call, Vec::new())
                    .await
                    .expect("a reply");
                let reply = reply
                    .expect("no error")
                    .into_parameters()
                    .expect("parameters");
                assert_eq!(reply.pid, std::process::id());

                let call = Call::new(Method::Info { name: "nobody" });
                let (reply, _) = client
                    .call_method::<_, Value, Failure>(&call, Vec::new())
                    .await
                    .expect("a reply");
                let Failure::NotFound(who) = reply.expect_err("an error");
                assert_eq!(who.name, "nobody");

                let path = useful("checksum");
                let file = File::open(&path).expect("the plugin");
                let call = Call::new(Method::Load {
                    file: 0,
                    path: &path,
                    params: [],
                });
                let (reply, _) = client
                    .call_method::<_, Loaded, Failure>(&call, vec![file.into()])
                    .await
                    .expect("a reply");
                let loaded = reply
                    .expect("no error")
                    .into_parameters()
                    .expect("parameters");
                assert_eq!(loaded.plugin.name, "checksum");

                let call = Call::new(Method::Events { after: 0 }).set_more(true);
                client.send_call(&call, Vec::new()).await.expect("sent");
                let mut seen = 0;
                while seen < 4 {
                    if seen == 2 {
                        served.host.unload("checksum");
                    }
                    let (reply, _) = client
                        .receive_reply::<EventsReply, Failure>()
                        .await
                        .expect("a reply");
                    let reply = reply.expect("no error");
                    assert_eq!(reply.continues(), Some(true));
                    seen += reply.into_parameters().expect("parameters").events.len();
                }
            });
        });
    }
}
