//! `plugctl check`: verdicts, exit codes and one JSON object a file.

mod kit;

use std::fs;

use kit::{Place, example, hostile};

#[test]
fn a_good_plugin_is_ok_and_unloadable() {
    let place = Place::new();
    let path = example("base64");
    let text = place.run(&["check", &path]);
    assert_eq!((text.code, text.stderr.as_str()), (Some(0), ""));
    assert!(
        text.stdout
            .starts_with(&format!("{path}: ok\n  unloadable: yes\n")),
        "{}",
        text.stdout
    );
    let report = place.run(&["check", "--json", &path]).json();
    assert_eq!(report["file"], path.as_str());
    assert_eq!(
        (&report["verdict"], &report["name"]),
        (&"ok".into(), &"base64".into())
    );
    assert_eq!(
        (&report["unloadable"], &report["because"]),
        (&true.into(), &serde_json::json!([]))
    );
    assert_eq!(report["sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn several_files_get_an_object_each_and_the_first_bad_ones_code() {
    let place = Place::new();
    let cut = place.dir.join("cut.so");
    let bytes = fs::read(example("base64")).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let text = place.dir.join("text.so");
    fs::write(&text, "no library").unwrap();
    let [cut, text] = [&cut, &text].map(|path| path.to_str().unwrap());
    let (good, abi) = (example("checksum"), hostile("wrong-abi"));
    let ended = place.run(&["--json", "check", &good, cut, text, &abi]);
    assert_eq!(ended.code, Some(5), "{}", ended.stderr);
    let reports: Vec<serde_json::Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object"))
        .collect();
    let verdicts: Vec<_> = reports
        .iter()
        .map(|report| report["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["ok", "corrupt", "refused", "refused"]);
    for (report, code) in reports.iter().skip(1).zip(["segments", "machine", "abi"]) {
        assert_eq!(report["unloadable"], false);
        let finding = &report["findings"][0];
        // A header table that lies behind the cut is found before the segments are.
        let found = finding["code"].as_str().unwrap();
        assert!(
            found == code || code == "segments" && found == "elf-header",
            "{finding}"
        );
        for key in ["severity", "structure", "expected", "found"] {
            assert!(!finding[key].as_str().unwrap().is_empty(), "{finding}");
        }
    }
    assert!(reports[1]["findings"][0]["offset"].is_u64());
    place.run(&["check", "/no/such.so"]).is(
        3,
        "",
        "plugctl: /no/such.so: No such file or directory (os error 2)\n",
    );
}

#[test]
fn rules_change_verdicts_and_reasons_are_told() {
    let place = Place::new();
    let path = place.plugin("stays", "int f(void) { return 1; }\n", &["-Wl,-z,nodelete"]);
    let path = path.to_str().unwrap();
    let text = place.run(&["check", path]);
    assert_eq!(text.code, Some(0));
    let because = "  unloadable: no, because the file is marked DF_1_NODELETE\n";
    assert!(text.stdout.contains(because), "{}", text.stdout);
    assert!(
        text.stdout
            .contains("  taint nodelete: DT_FLAGS_1: expected"),
        "{}",
        text.stdout
    );
    let strict = place.run(&["check", "--rule", "nodelete=refuse", path]);
    assert_eq!(strict.code, Some(5));
    assert!(strict.stdout.contains(": refused\n"), "{}", strict.stdout);
    assert_eq!(
        place.run(&["check", "--rule", "nothing=refuse", path]).code,
        Some(2)
    );
    assert_eq!(place.run(&["check"]).code, Some(2));
}

#[test]
fn what_a_plugin_brings_is_checked_with_it() {
    let place = Place::new();
    let visible = "-fvisibility=default";
    let core = |flags: &[&str]| {
        let flags = [&[visible, "-Wl,-soname,libcore.so"], flags].concat();
        place.plugin("core", "int core(void) { return 1; }\n", &flags)
    };
    let path = core(&["-Wl,-z,nodelete"]);
    let own = path.to_str().unwrap();
    let whole = place.plugin(
        "whole",
        "int core(void);\nint f(void) { return core(); }\n",
        &[visible, own, "-Wl,-rpath,$ORIGIN"],
    );
    let whole = whole.to_str().unwrap();
    let report = place.run(&["--json", "check", whole]).json();
    assert_eq!(report["verdict"], "foreign", "{report}");
    assert_eq!(report["unloadable"], false, "{report}");
    let because = format!("its dependency {own} is marked DF_1_NODELETE");
    assert_eq!(report["because"], serde_json::json!([because]));
    let finding = &report["findings"][0];
    let structure = format!("dependency libcore.so ({own}): DT_FLAGS_1");
    assert_eq!(
        (&finding["code"], &finding["structure"]),
        (&"nodelete".into(), &structure.into())
    );
    // The probe says the same.
    let probed = place.run(&["--json", "check", "--probe", whole]).json();
    assert_eq!(probed["probe"]["verdict"], "passed", "{probed}");
    assert_eq!(probed["probe"]["unloaded"], false, "{probed}");

    core(&["-Wl,-z,execstack"]);
    let refused = place.run(&["--json", "check", whole]);
    assert_eq!(refused.code, Some(5));
    let report: serde_json::Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(report["findings"][0]["code"], "executable-stack");
    let allow = ["--rule", "executable-stack=allow"];
    let probed = place.run(&["--json", "check", "--probe", allow[0], allow[1], whole]);
    assert_eq!(probed.json()["probe"]["verdict"], "passed");

    let bytes = fs::read(core(&[])).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let damaged = place.run(&["--json", "check", whole]);
    assert_eq!(damaged.code, Some(5));
    let report: serde_json::Value = serde_json::from_str(&damaged.stdout).unwrap();
    assert_eq!(report["verdict"], "refused", "{report}");
    let codes: Vec<_> = report["findings"].as_array().unwrap().iter().collect();
    let told = codes.iter().find(|finding| finding["code"] == "dependency");
    let found = told.expect("told")["found"].as_str().unwrap();
    assert!(
        found.starts_with(&format!("dependency libcore.so ({own}): ")),
        "{found}"
    );
}

#[test]
fn authors_are_told_what_is_missing() {
    let place = Place::new();
    let path = place.plugin(
        "author",
        "static int n;\n\
         __attribute__((constructor)) static void early_work(void) { n++; }\n\
         __attribute__((visibility(\"default\"))) int undocumented(void) { return n; }\n\
         __attribute__((visibility(\"default\"))) int untold(void) { return n; }\n\
         __attribute__((visibility(\"default\"), used, aligned(1)))\n\
         const char plug_meta_v1[] = \"name=author\\0api=1\\0version=1.0.0\\0export=untold:int(void)\\0\";\n\
         __attribute__((visibility(\"default\"))) const unsigned long plug_descriptor_v1[5] = {1};\n",
        &[],
    );
    let report = place
        .run(&["--json", "check", path.to_str().unwrap()])
        .json();
    assert_eq!(report["verdict"], "ok", "{report}");
    let findings = report["findings"].as_array().unwrap();
    let told: Vec<&str> = findings
        .iter()
        .filter(|finding| finding["code"] == "conformance")
        .map(|finding| finding["found"].as_str().unwrap())
        .collect();
    for expected in [
        "no description",
        "no license",
        "undocumented",
        "untold",
        "none",
        "early_work",
    ] {
        assert!(told.contains(&expected), "{expected}: {told:?}");
    }
}

/// What the macros export for hosts is no shortcoming of the author's.
#[test]
fn a_plugin_with_all_that_the_header_has_lacks_nothing() {
    let place = Place::new();
    let path = place.plugin(
        "whole",
        "#include \"plugin_api.h\"\n\
         PLUG_IMPORT(\"numbers\", \"^1\", uint64_t, twice, (uint64_t n), (n));\n\
         static int32_t init(const plug_host_context *ctx) { (void)ctx; return PLUG_OK; }\n\
         static void stop(void) {}\n\
         static int32_t set(const plug_host_context *ctx, plug_str value) {\n\
             (void)ctx; (void)value; return PLUG_OK;\n\
         }\n\
         static int32_t save(const plug_host_context *ctx, plug_put put, void *to) {\n\
             (void)ctx; put(to, 1, \"\", 0); return PLUG_OK;\n\
         }\n\
         static int32_t restore(const plug_host_context *ctx, uint32_t version, const void *bytes,\n\
                                size_t len) {\n\
             (void)ctx; (void)version; (void)bytes; (void)len; return PLUG_OK;\n\
         }\n\
         PLUG_PARAM_WRITABLE(level, \"uint\", \"1\", \"how hard to try\", set);\n\
         PLUG_HAND_OVER(save, restore);\n\
         PLUG_PLUGIN(\"whole\", \"1.0.0\", \"has it all\", \"MIT\", init, stop);\n\
         PLUG_EXPORT(uint64_t, quadruple, (uint64_t n)) { return twice(twice(n)); }\n",
        &[],
    );
    let report = place
        .run(&["--json", "check", path.to_str().unwrap()])
        .json();
    assert_eq!(report["verdict"], "ok", "{report}");
    assert_eq!(report["findings"], serde_json::json!([]), "{report}");
}

#[test]
fn list_and_info_tell_that_the_file_is_no_longer_what_was_loaded() {
    let place = Place::new();
    let path = place.dir.join("libbase64.so");
    let original = fs::read(example("base64")).unwrap();
    fs::write(&path, &original).unwrap();
    let host = place.serve("drifting", &[path.to_str().unwrap()]);
    let state = |expected: &str, mark: &str| {
        let info = place.run(&["info", "base64"]).stdout;
        assert!(
            info.contains(&format!("\nondisk:         {expected}\n")),
            "{info}"
        );
        let list = place.run(&["list"]).stdout;
        assert_eq!(list.contains("(file "), !mark.is_empty(), "{list}");
        assert!(list.contains(mark), "{list}");
    };
    state("same", "");
    let loaded = place.run(&["info", "-F", "sha256", "base64"]).stdout;
    let file = place
        .run(&["info", "-F", "sha256", path.to_str().unwrap()])
        .stdout;
    assert_eq!(loaded, file, "of the file, not of the edited copy");
    fs::write(&path, &original[1..]).unwrap();
    state("changed", "(file changed)");
    fs::remove_file(&path).unwrap();
    state("gone", "(file gone)");
    drop(host);
}
