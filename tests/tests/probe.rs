//! Probes: what crashes, hangs or lies does so in another process, and is refused in words.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plug_loader::checkpoint;
use plug_loader::image::{Opened, Rule};
use plug_loader::probe::{self, Probe, Report, Verdict};
use plug_loader::{
    Action, Config, Digest, Error, ErrorKind, EventKind, Loader, Matter, Params, Policy,
    Quarantine, Rules, Source, Stage,
};
use plug_tests::host::{Host, hostile, seconds, useful};
use plug_tests::isolated;
use plug_tests::standalone::{Scratch, bringing, c_plugin, library};
use plug_tests::{child, process};

fn plan() -> Probe {
    let mut plan = Probe::by(env!("CARGO_BIN_EXE_plug-probe"));
    // The machine may be busy: only what never ends is to be late.
    plan.deadline = Duration::from_secs(60);
    plan
}

/// Has a file probed without a loader in this process.
fn report(plan: &Probe, path: &Path) -> Report {
    report_under(plan, path, &Policy::default())
}

fn report_under(plan: &Probe, path: &Path, policy: &Policy) -> Report {
    let opened = Opened::open(path).expect("there");
    probe::run(plan, &opened, policy, &Params::new(), false).expect("a probe")
}

/// A C plugin with this code before `init`, and this in it.
fn plugin(scratch: &Scratch, name: &str, code: &str, init: &str) -> PathBuf {
    let source = format!(
        "#define _GNU_SOURCE
        #include \"plugin_api.h\"
        #include <errno.h>
        #include <fcntl.h>
        #include <pthread.h>
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/resource.h>
        #include <sys/stat.h>
        #include <sys/types.h>
        #include <unistd.h>
        {code}
        static int32_t init(const plug_host_context *ctx) {{ (void)ctx; {init} return PLUG_OK; }}
        #ifndef STOP
        static void stop(void) {{}}
        #endif
        PLUG_PLUGIN(\"{name}\", \"1.0.0\", \"for a test\", \"MIT\", init, stop);
        "
    );
    c_plugin(scratch, name, &source)
}

/// Finds the pipe to the host: the only one of the probe's that can be written.
const PIPE: &str = "
    __attribute__((unused)) static int is_pipe(int fd) {
        struct stat s;
        return fstat(fd, &s) == 0 && S_ISFIFO(s.st_mode);
    }
    #define EACH_PIPE(fd) for (int fd = 3; fd < 64; fd++) if (is_pipe(fd))
";

#[test]
fn probe_tells_what_it_did_and_what_was_left() {
    let good = report(&plan(), &useful("base64"));
    assert_eq!(
        (&good.verdict, &good.unloaded),
        (&Verdict::Passed, &Some(Ok(()))),
        "{good:?}"
    );
    assert_eq!(good.left, [""; 0]);
    let stages: Vec<&str> = good.times.iter().map(|(stage, _)| stage.as_str()).collect();
    for stage in [
        "stage",
        "map",
        "constructors",
        "init",
        "exit",
        "close",
        "observe",
    ] {
        assert!(stages.contains(&stage), "{stages:?}");
    }

    let scratch = Scratch::new("probe-left");
    let littering = plugin(
        &scratch,
        "litters",
        "static void *forever(void *p) { for (;;) pause(); return p; }
         static void ignore(int signal) { (void)signal; }",
        "pthread_t thread;
         pthread_create(&thread, 0, forever, 0);
         pthread_setname_np(thread, \"litter\");
         signal(SIGUSR2, ignore);
         if (open(\"/dev/zero\", O_RDONLY) < 0) { return 7; }
         if (fork() == 0) { for (;;) pause(); }",
    );
    let left = report(&plan(), &littering);
    let text = left.left.join(", ");
    for trace in [
        "1 x thread litter",
        "1 x descriptor of /dev/zero",
        "1 x child process",
    ] {
        assert!(text.contains(trace), "{trace}: {left:?}");
    }
    // That one was taken back, though the plugin stays.
    assert!(!text.contains("handler of SIGUSR2"), "{left:?}");
}

#[test]
fn what_ends_or_deceives_a_probe_is_told_in_words() {
    let scratch = Scratch::new("probe-hostile");
    let constructor = |body: &str| {
        format!("{PIPE} __attribute__((constructor)) static void built(void) {{ {body} }}")
    };
    let flood =
        "static char b[4096]; EACH_PIPE(fd) for (;;) if (write(fd, b, sizeof b) < 0) break;";
    let mut quick = plan();
    quick.deadline = Duration::from_millis(1500);
    let mut tight = plan();
    tight.processor = Duration::from_secs(1);
    let mut small = plan();
    small.memory = 1 << 30;
    for (name, plan, code, init, expected) in [
        (
            "hangs",
            &quick,
            constructor("for (;;) pause();"),
            "",
            "ended its probe in its constructors: killed after 1.5s",
        ),
        (
            "crashes",
            &plan(),
            "static int *volatile nowhere;
             PLUG_VISIBLE_ void stumble(void); void stumble(void) { *nowhere = 1; }"
                .to_owned(),
            "stumble();",
            "ended its probe in its init: SIGSEGV in stumble",
        ),
        (
            "exits",
            &plan(),
            constructor("_exit(0);"),
            "",
            "ended its probe in its constructors: it ended the process with status 0",
        ),
        (
            "exits-orderly",
            &plan(),
            String::new(),
            "exit(3);",
            "ended its probe in its init: it ended the process with status 3",
        ),
        (
            "closes",
            &plan(),
            constructor("EACH_PIPE(fd) close(fd);"),
            "",
            "ended its probe in its constructors: it ended the process with status 0",
        ),
        (
            "garbles",
            &plan(),
            constructor("EACH_PIPE(fd) if (write(fd, \"{}\\n\", 3) != 3) _exit(9);"),
            "",
            "ended its probe after it was unloaded: expected a report, found \"{}\\n\"",
        ),
        (
            "floods",
            &plan(),
            constructor(flood),
            "",
            "ended its probe in its constructors: expected a report, found more than 262144 bytes",
        ),
        (
            "raises-limits",
            &tight,
            constructor(
                "struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
                 if (setrlimit(RLIMIT_CPU, &all) == 0) _exit(1);
                 if (setrlimit(RLIMIT_AS, &all) == 0) _exit(2);
                 if (setrlimit(RLIMIT_NOFILE, &all) == 0) _exit(3);
                 if (setrlimit(RLIMIT_CORE, &all) == 0) _exit(4);
                 for (volatile int n = 0;; n++) {}",
            ),
            "",
            "ended its probe in its constructors: SIGXCPU, its processor time was over",
        ),
        (
            "hoards",
            &small,
            constructor("for (;;) { char *all = malloc(1 << 24); *(volatile char *)all = 1; }"),
            "",
            "ended its probe in its constructors: SIGSEGV in built",
        ),
        (
            "exit-crashes",
            &plan(),
            "#define STOP
             static void stop(void) { abort(); }"
                .to_owned(),
            "",
            "ended its probe in its exit: SIGABRT",
        ),
    ] {
        let path = plugin(&scratch, name, &code, init);
        let report = report(plan, &path);
        let text = report.to_string();
        // A symbol is named where the crash is in a function that has a name.
        let is_told = match expected {
            "ended its probe in its exit: SIGABRT" => text.starts_with(expected),
            _ => text == expected,
        };
        assert!(is_told, "{name}: expected {expected:?}, found {text:?}");
        assert!(report.is_fatal(), "{name}");
    }
}

#[test]
fn child_that_keeps_the_pipe_open_is_not_waited_for() {
    let scratch = Scratch::new("probe-fork");
    let path = plugin(
        &scratch,
        "forks",
        "",
        "if (fork() == 0) { for (;;) pause(); }",
    );
    let began = std::time::Instant::now();
    let report = report(&plan(), &path);
    assert_eq!(report.verdict, Verdict::Passed, "{report:?}");
    assert!(began.elapsed() < Duration::from_secs(50), "{report:?}");
    assert!(
        report.left.iter().any(|left| left == "1 x child process"),
        "{report:?}"
    );
}

#[test]
fn programs_that_are_no_probes_are_told_from_plugins_that_crash() {
    let path = useful("base64");
    let nothing = report(&Probe::by("/bin/true"), &path);
    assert_eq!(
        nothing.to_string(),
        "ended its probe at its start: expected a report, found nothing"
    );
    let opened = Opened::open(&path).unwrap();
    let plan = Probe::by("/no/such/program");
    let error = probe::run(&plan, &opened, &Policy::default(), &Params::new(), false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Probe);
    assert_eq!(
        error.to_string(),
        "probe: start /no/such/program: No such file or directory (os error 2)"
    );
}

#[test]
fn process_that_was_started_as_a_probe_is_no_host() {
    isolated!({
        let text = "this process was started as a probe; begin main with plug_loader::probe::serve, \
                    or name another program in Config::probe";
        if child::role().as_deref() == Some("asked") {
            return;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["unanswered_probe_says_so", "--exact", "--nocapture"]);
        command.env("PLUG_PROBE", "1");
        let ended = child::finish(child::start(&mut command, "asked"), Duration::from_secs(60));
        assert!(
            ended.succeeded() && ended.output.contains(text),
            "{ended:?}"
        );
    });
}

#[test]
fn unanswered_probe_says_so() {
    if child::role().as_deref() == Some("asked") {
        let error = Loader::new(Config::default()).expect_err("a probe");
        println!("{error}");
    }
}

fn host(state: Option<&Path>) -> Host {
    let mut config = Config::default();
    config.probe = Some(plan());
    config.state = state.map(Path::to_owned);
    Host::with(config)
}

fn probes(host: &Host) -> usize {
    let events = host.loader.events(0, plug_loader::Deadline::now());
    let probes = events
        .iter()
        .filter(|e| matches!(e.kind, EventKind::Probed(_)));
    probes.count()
}

#[track_caller]
fn quarantined(result: Result<plug_loader::Plugin, Error>, why: &str, path: &Path) {
    let error = result.expect_err("refused");
    let digest = Digest::of(&fs::read(path).unwrap());
    let text = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Quarantined, "{text}");
    let expected = format!(
        "in quarantine: {why}; repair it, or let it in by plugctl quarantine clear {digest}"
    );
    assert!(
        text.ends_with(&expected),
        "expected {expected:?}, found {text:?}"
    );
}

#[test]
fn same_plugin_loaded_a_hundred_times_is_probed_once() {
    isolated!({
        let host = host(None);
        let scratch = Scratch::new("probe-once");
        for n in 0..100 {
            // Another file of the same bytes, now and then.
            let path = match n % 10 {
                0 => {
                    let copy = scratch.path().join(format!("copy-{n}.so"));
                    fs::copy(useful("base64"), &copy).unwrap();
                    copy
                }
                _ => useful("base64"),
            };
            let plugin = host.load(path).expect("a good plugin");
            assert_eq!(plugin.name(), "base64");
            host.unload("base64");
        }
        assert_eq!(probes(&host), 1);
        // Also from many threads at once.
        std::thread::scope(|scope| {
            for n in 0..4 {
                let host = &host;
                scope.spawn(move || {
                    let source = Source::path(useful("wordcount")).named(format!("w{n}"));
                    host.loader
                        .load(&host.trust, source, &Params::new())
                        .expect("loads");
                });
            }
        });
        assert_eq!(probes(&host), 2);
    });
}

#[test]
fn plugin_that_crashes_its_probe_never_runs_in_the_host() {
    isolated!({
        let host = host(None);
        let before = process::footprint();
        let path = hostile("constructor-crashes");
        let why = "it ended its probe in its constructors: SIGSEGV in crash";
        quarantined(host.load(&path), why, &path);
        let error = host.load(&path).unwrap_err();
        assert_eq!(error.stage(), Some(Stage::Probe));
        assert_eq!(probes(&host), 1, "remembered");
        process::assert_footprint(&before);

        let digest = Digest::of(&fs::read(&path).unwrap());
        assert!(host.loader.pardon(&digest).unwrap());
        assert!(!host.loader.pardon(&digest).unwrap());
        quarantined(host.load(&path), why, &path);
        assert_eq!(probes(&host), 2);
    });
}

/// What a plugin of [`tallying`] leaves of each process in which its code ran.
fn processes(tally: &Path) -> usize {
    fs::read_to_string(tally)
        .unwrap_or_default()
        .lines()
        .count()
}

/// A plugin whose constructor adds a line to a file, and then does this.
fn tallying(scratch: &Scratch, name: &str, constructor: &str, init: &str) -> (PathBuf, PathBuf) {
    let tally = scratch.path().join(format!("{name}.tally"));
    let code = format!(
        "__attribute__((constructor)) static void count(void) {{
            int fd = open({tally:?}, O_WRONLY | O_CREAT | O_APPEND, 0644);
            if (fd < 0 || write(fd, \"ran\\n\", 4) != 4) {{ abort(); }}
            close(fd);
            {constructor}
        }}"
    );
    (plugin(scratch, name, &code, init), tally)
}

#[test]
fn whatever_ends_or_fails_in_the_rehearsal_is_refused_by_the_load_with_stage_and_reason() {
    isolated!({
        let scratch = Scratch::new("probe-refusals");
        let mut plan = plan();
        plan.processor = Duration::from_secs(1);
        plan.descriptors = 64;
        let mut config = Config::default();
        config.probe = Some(plan);
        let host = Host::with(config);
        let opens = "for (int n = 0; n < 100; n++) { if (open(\"/dev/null\", O_RDONLY) < 0) { return 7; } }";
        let (gone, failed) = (ErrorKind::Quarantined, ErrorKind::InitFailed);
        for (name, constructor, init, kind, why) in [
            (
                "leaves",
                "",
                "_exit(0);",
                gone,
                "it ended its probe in its init: it ended the process with status 0",
            ),
            (
                "leaves-orderly",
                "exit(5);",
                "",
                gone,
                "it ended its probe in its constructors: it ended the process with status 5",
            ),
            (
                "computes-for-ever",
                "for (volatile int n = 0;; n++) {}",
                "",
                gone,
                "it ended its probe in its constructors: SIGXCPU, its processor time was over",
            ),
            (
                "fails",
                "",
                "plug_raise(ctx, \"no such device\"); return -1;",
                failed,
                "init: init returned -1: no such device",
            ),
            (
                "needs-more",
                "",
                opens,
                failed,
                "init: init returned 7: no message given",
            ),
            (
                "ends-its-thread",
                "pthread_exit(0);",
                "",
                failed,
                "constructors: the plugin ended the loader's thread instead of returning",
            ),
        ] {
            let (path, tally) = tallying(&scratch, name, constructor, init);
            let error = host.load(&path).expect_err(name);
            let text = error.to_string();
            assert_eq!(
                (error.kind(), error.stage()),
                (kind, Some(Stage::Probe)),
                "{text}"
            );
            assert!(text.contains(why), "expected {why:?}, found {text:?}");
            assert_eq!(processes(&tally), 1, "{name} ran in the host: {text}");
        }
        // What failed in an orderly way is no outlaw: each load asks anew.
        let before = probes(&host);
        let failing = scratch.path().join("libfails.so");
        let error = host.load(&failing).expect_err("fails");
        assert_eq!(error.kind(), ErrorKind::InitFailed, "{error}");
        assert_eq!(probes(&host), before + 1);
        // Nor is one that ld.so refuses: nothing of it has run, and this process says so itself.
        let soname = "-Wl,-soname,libplug-absent.so.9";
        let source = "int absent(void);\nint absent(void) { return 1; }\n";
        let absent = library(&scratch, "absent.so", source, &[soname]);
        let source = "int absent(void);\nint f(void);\nint f(void) { return absent(); }\n";
        let needy = library(
            &scratch,
            "libneedy.so",
            source,
            &[&absent.to_string_lossy()],
        );
        let error = host.load(&needy).expect_err("needs what is not there");
        assert_eq!(
            (error.kind(), error.stage()),
            (ErrorKind::Map, Some(Stage::Map)),
            "{error}"
        );
        assert_eq!(probes(&host), before + 2);
    });
}

#[test]
fn plugin_that_hangs_in_the_rehearsal_is_refused_when_its_time_is_over() {
    isolated!({
        let scratch = Scratch::new("probe-hangs");
        let mut plan = plan();
        plan.deadline = Duration::from_secs(5);
        let mut config = Config::default();
        config.probe = Some(plan);
        let host = Host::with(config);
        let (path, tally) = tallying(&scratch, "waits", "for (;;) pause();", "");
        for n in 1..=2 {
            let error = host.load(&path).expect_err("it hangs");
            let text = error.to_string();
            assert_eq!(
                (error.kind(), error.stage()),
                (ErrorKind::Quarantined, Some(Stage::Probe)),
                "{text}"
            );
            assert!(text.contains(": killed after 5s; repair it"), "{n}: {text}");
            // A busy machine may not have come so far.
            assert!(processes(&tally) <= 1, "{n}: {text}");
        }
        assert_eq!(probes(&host), 1);
    });
}

#[test]
fn plugin_that_needs_a_service_of_the_hosts_is_let_pass_to_it() {
    #[repr(C)]
    struct Clock(u32);
    // SAFETY: the name and version are this table's alone.
    unsafe impl plug_api::abi::Interface for Clock {
        const NAME: &'static str = "test.clock";
        const MAJOR: u32 = 1;
        const MINOR: u32 = 0;
    }
    static CLOCK: Clock = Clock(7);
    isolated!({
        let scratch = Scratch::new("probe-service");
        let init = "const uint32_t *clock = plug_service(ctx, \"test.clock\", 1, 0);
                    if (!clock) { plug_raise(ctx, \"no clock\"); return -1; }
                    if (*clock != 7) { return 9; }";
        let path = plugin(&scratch, "timely", "", init);
        let report = report(&plan(), &path);
        assert_eq!(report.lacked.as_deref(), Some("test.clock"), "{report:?}");
        let text = report.to_string();
        assert!(matches!(report.verdict, Verdict::Failed(_)), "{text}");
        let expected =
            "no clock; it asked for the service test.clock, which a probe does not offer";
        assert!(text.ends_with(expected), "{text}");

        let host = host(None);
        // This host has none either, and says so by its own load.
        let error = host.load(&path).expect_err("no clock");
        assert_eq!(
            (error.kind(), error.stage()),
            (ErrorKind::InitFailed, Some(Stage::Init)),
            "{error}"
        );
        host.loader.offer(&CLOCK);
        let plugin = host.load(&path).expect("a clock");
        assert_eq!(plugin.name(), "timely");
        assert_eq!(probes(&host), 2);
    });
}

#[test]
fn parameters_and_names_reach_the_probe() {
    isolated!({
        let scratch = Scratch::new("probe-params");
        let path = plugin(
            &scratch,
            "particular",
            "",
            "plug_str value;
             plug_str key = {\"crash\", 5};
             if (ctx->param(ctx->host, key, &value)) { abort(); }",
        );
        let host = host(None);
        let params = Params::new().with("crash", "yes");
        let error = host
            .loader
            .load(&host.trust, Source::path(&path), &params)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("ended its probe in its init: SIGABRT"),
            "{error}"
        );
    });
}

#[test]
fn plugin_is_rehearsed_with_what_it_brings_from_its_folder() {
    isolated!({
        let scratch = Scratch::new("probe-brings");
        let good = bringing(&scratch, "whole", "", &[]).0;
        let report = report(&plan(), &good);
        assert_eq!(
            (&report.verdict, &report.unloaded),
            (&Verdict::Passed, &Some(Ok(()))),
            "{report:?}"
        );
        let host = host(None);
        host.load(&good).expect("a good plugin");
        let bad = bringing(&scratch, "broken", "abort();", &[]).0;
        let why = "it ended its probe in its constructors: SIGABRT";
        let error = host.load(&bad).expect_err("its library aborts");
        assert_eq!(error.kind(), ErrorKind::Quarantined, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    });
}

#[test]
fn plugin_is_rehearsed_anew_with_another_library_of_its_own() {
    isolated!({
        let scratch = Scratch::new("probe-replaced");
        let (path, core) = bringing(&scratch, "whole", "", &[]);
        let (_, bad) = bringing(&scratch, "broken", "abort();", &[]);
        let good = scratch.path().join("good");
        fs::copy(&core, &good).expect("copied");
        let host = host(None);
        for _ in 0..2 {
            host.load(&path).expect("a good plugin");
            host.unload("whole");
        }
        assert_eq!(probes(&host), 1);
        fs::rename(&bad, &core).expect("replaced");
        for _ in 0..2 {
            let error = host.load(&path).expect_err("its library aborts");
            assert_eq!(error.kind(), ErrorKind::Quarantined, "{error}");
        }
        assert_eq!(probes(&host), 2);
        // Let in, it is asked anew; repaired, it is what was known before.
        let digest = Digest::of(&fs::read(&path).expect("there"));
        assert!(host.loader.pardon(&digest).expect("no folder"));
        host.load(&path).expect_err("its library aborts");
        fs::rename(&good, &core).expect("replaced");
        host.load(&path).expect("a good plugin");
        assert_eq!(probes(&host), 4, "the pardon was for all of it");
    });
}

#[test]
fn library_that_is_replaced_before_the_rehearsal_is_not_run() {
    isolated!({
        let scratch = Scratch::new("probe-swapped");
        let (path, core) = bringing(&scratch, "whole", "", &[]);
        let ran = scratch.path().join("ran");
        let touch = format!("system(\"touch {}\");", ran.display());
        let (_, other) = bringing(&scratch, "other", &touch, &[]);
        checkpoint::set_hook(move |point| {
            if point == "load.probe" {
                fs::rename(&other, &core).expect("replaced");
            }
            checkpoint::Verdict::Pass
        });
        let host = host(None);
        let error = host.load(&path).expect_err("not rehearsed");
        let expected = "it changed since the host looked at it; load the plugin again";
        assert_eq!(error.kind(), ErrorKind::Probe, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!ran.exists());
    });
}

#[test]
fn plugin_is_rehearsed_under_the_policy_and_the_rules_of_its_load() {
    isolated!({
        let scratch = Scratch::new("probe-policy");
        let source = "int answer(void);\nint answer(void) { return 42; }\n";
        let flag = "-Wl,-z,execstack";
        let path = library(&scratch, "there/libstack.so", source, &[flag]);
        let refused = report(&plan(), &path).verdict;
        assert!(matches!(refused, Verdict::Refused(_)), "{refused:?}");
        let rules = Rules::default().with(Matter::ExecutableStack, Action::Allow);
        let folder = fs::canonicalize(scratch.path()).expect("there");
        for policy in [
            Policy::default().with(Matter::ExecutableStack, Action::Allow),
            // Where it lies counts, which the probe's copy does not tell.
            Policy::default().in_folder(folder, rules),
        ] {
            let report = report_under(&plan(), &path, &policy);
            assert_eq!(report.verdict, Verdict::Passed, "{report:?}");
        }

        // What passed is kept, and with it what became of the plugin.
        let path = library(&scratch, "libstays.so", source, &["-Wl,-z,nodelete"]);
        let state = scratch.path().join("state");
        let host = host(Some(&state));
        let source = Source::path(&path).nodelete(Rule::Neutralise);
        let loaded = host.loader.load(&host.trust, source, &Params::new());
        loaded.expect("loads");
        let kept = fs::read_dir(state.join("probed")).expect("there");
        let kept: Vec<_> = kept.map(|entry| entry.expect("there").path()).collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        let text = fs::read_to_string(&kept[0]).expect("there");
        assert!(text.contains("\nunloaded yes\n"), "{text}");
    });
}

#[test]
fn state_folder_remembers_what_crashed_a_probe_and_what_passed() {
    let scratch = Scratch::new("probe-state");
    let state = scratch.path().join("state");
    fs::create_dir_all(&state).unwrap();
    isolated_in(
        "state_folder_remembers_what_crashed_a_probe_and_what_passed",
        &state,
        |state, n| {
            let host = host(Some(state));
            let path = hostile("constructor-crashes");
            let why = "it ended its probe in its constructors: SIGSEGV in crash";
            quarantined(host.load(&path), why, &path);
            host.useful("base64");
            // The second host asks nobody.
            assert_eq!(probes(&host), if n == 0 { 2 } else { 0 });
        },
    );
    let quarantine = Quarantine::open(&state).unwrap();
    let list = quarantine.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].plugin, "constructor-crashes");
    assert_eq!(
        list[0].path,
        hostile("constructor-crashes").display().to_string()
    );
    assert!(quarantine.clear(&list[0].digest).unwrap());
}

/// Runs `body` twice, each time in a process of its own with the same folder.
fn isolated_in(test: &str, folder: &Path, body: impl FnOnce(&Path, usize)) {
    match child::role() {
        Some(role) => {
            let (n, folder) = role.split_once(' ').unwrap();
            body(Path::new(folder), n.parse().unwrap());
            std::process::exit(0);
        }
        None => {
            for n in 0..2 {
                let role = format!("{n} {}", folder.display());
                let ended = child::run(test, &role, Duration::from_secs(120));
                assert!(ended.succeeded(), "{n}: {ended:?}");
            }
        }
    }
}

#[test]
fn plugin_that_crashed_its_host_is_refused_by_the_next_one() {
    const TEST: &str = "plugin_that_crashed_its_host_is_refused_by_the_next_one";
    let with_state = |state: &str| {
        let mut config = Config::default();
        config.state = Some(state.into());
        Host::with(config)
    };
    let path = hostile("constructor-crashes");
    if let Some(role) = child::role() {
        let (what, state) = role.split_once(' ').unwrap();
        let host = with_state(state);
        match what {
            // Not probed: it dies here.
            "crash" => drop(host.load(&path)),
            _ => {
                let pid = fs::read_to_string(format!("{state}/pid")).unwrap();
                let why = format!("process {pid} ended while it was loading it");
                quarantined(host.load(&path), &why, &path);
                // Whatever has ended well is no suspect.
                host.useful("base64");
                host.hostile("init-fails").unwrap_err();
            }
        }
        std::process::exit(0);
    }
    let scratch = Scratch::new("quarantine");
    let state = scratch.path().join("state");
    fs::create_dir_all(&state).unwrap();
    let dying = child::spawn(TEST, &format!("crash {}", state.display()));
    fs::write(state.join("pid"), dying.id().to_string()).unwrap();
    let ended = child::finish(dying, Duration::from_secs(60));
    assert_eq!(ended.signal(), Some(libc::SIGSEGV), "{ended:?}");
    for _ in 0..2 {
        let ended = child::run(
            TEST,
            &format!("next {}", state.display()),
            seconds(60).remaining(),
        );
        assert!(ended.succeeded(), "{ended:?}");
    }
    let quarantine = Quarantine::open(&state).unwrap();
    assert_eq!(quarantine.list().unwrap().len(), 1);
    assert_eq!(quarantine.sweep().unwrap(), []);
}
