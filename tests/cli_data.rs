//! The commands about data sets as a user runs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn puyu(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_puyu"));
    command.env("XDG_CONFIG_HOME", "/nonexistent").env_remove("PUYU_MODEL").stdin(Stdio::null());
    command.args(args).output().expect("puyu starts")
}

/// Standard output of a run that succeeds.
#[track_caller]
fn ok(args: &[&str]) -> String {
    let out = puyu(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "puyu {args:?}: {stderr}");
    String::from_utf8(out.stdout).expect("output is UTF-8")
}

/// Standard error of a run that fails: one error, no panic.
#[track_caller]
fn fails(args: &[&str]) -> String {
    let out = puyu(args);
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "puyu {args:?}: {stderr}");
    assert!(stderr.starts_with("error: ") && !stderr.contains("panicked"), "{stderr}");
    stderr
}

/// A tiny model's folder, whose tokenizer has ChatML's template.
fn model() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/internlm2");
    folder.to_str().expect("a path of the project").to_owned()
}

fn file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

const GOOD: &str = r#"{"instruction": "Say hi", "input": "", "output": "hello"}"#;

#[test]
fn log_dataset_marks_what_is_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a.jsonl", &format!("{GOOD}\nbroken\n{GOOD}\n"));
    let path = path.to_str().unwrap();
    let text = ok(&["log-dataset", path, "-m", &model(), "-n", "1"]);
    assert!(text.contains("--- sample 0: tokens "), "{text}");
    assert!(
        text.contains(
            "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n⟦hello<|im_end|>⟧"
        )
    );
    assert!(
        text.contains("  broken lines left out: 1\n") && text.contains("line 2: broken JSON"),
        "{text}"
    );
    let masked =
        ok(&["log-dataset", path, "-m", &model(), "--show", "masked_text", "--start", "1"]);
    assert!(
        masked.contains("--- sample 1") && masked.contains("[-100]hello<|im_end|>\n"),
        "{masked}"
    );
    let all = ok(&["log-dataset", path, "-m", &model(), "--show", "all", "-n", "1"]);
    assert!(all.contains("\n[-100, -100, ") && all.contains('⟦'), "{all}");
}

#[test]
fn check_custom_dataset_fails_where_lines_are_broken() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "a.jsonl", GOOD);
    let config = format!(
        "[model]\nfrom = {:?}\n[train]\nsteps = 5\n[data]\nseq_len = 64\n[[data.source]]\npath = {:?}\n",
        model(),
        path.to_str().unwrap()
    );
    let config = file(folder.path(), "config.toml", &config);
    let config = config.to_str().unwrap();
    let text = ok(&["check-custom-dataset", config]);
    assert!(text.contains("(alpaca, files: 1)") && text.ends_with("no line is broken\n"), "{text}");
    file(folder.path(), "a.jsonl", &format!("{GOOD}\n{{}}\n"));
    let e = fails(&["check-custom-dataset", config]);
    assert!(e.contains("broken lines: 1; mend them, or train with on_error = \"skip\""), "{e}");
    let unknown = file(folder.path(), "wrong.toml", "[data]\nseq_length = 5\n");
    let e = fails(&["check-custom-dataset", unknown.to_str().unwrap(), "-m", "bytes"]);
    assert!(e.contains("wrong.toml: unknown field `seq_length`"), "{e}");
    let none = file(folder.path(), "none.toml", "[train]\nsteps = 5\n");
    let e = fails(&["check-custom-dataset", none.to_str().unwrap(), "-m", "bytes"]);
    assert!(e.contains("none.toml: there is no [data] section"), "{e}");
    let e = fails(&["check-custom-dataset", "internlm2_5-7b-chat-qlora", "-m", "bytes"]);
    assert!(e.contains("train.jsonl"), "the data of a config that comes with puyu: {e}");
}

#[test]
fn configs_and_tables_of_python_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "internlm2_qlora.py", "model = dict()");
    let e = fails(&["log-dataset", config.to_str().unwrap()]);
    assert!(e.contains("is a Python config") && e.contains("`puyu copy-cfg` copies one"), "{e}");
    let table = file(folder.path(), "train.parquet", "PAR1....PAR1");
    let e = fails(&["check-custom-dataset", table.to_str().unwrap(), "-m", "bytes"]);
    assert!(
        e.contains("is a Parquet file") && e.contains("to_json(OUT, orient=\"records\""),
        "{e}"
    );
    let text = file(folder.path(), "a.txt", "text");
    let e = fails(&["log-dataset", text.to_str().unwrap()]);
    assert!(e.contains("no tokenizer was named; give -m/--model"), "{e}");
}

#[test]
fn formats_are_listed_and_internevo_is_written() {
    let list = ok(&["list-dataset-format"]);
    assert_eq!(list.lines().count(), 11);
    assert!(list.contains("xtuner               {\"conversation\": ["), "{list}");
    let folder = tempfile::tempdir().unwrap();
    let text = file(folder.path(), "a.txt", "ab\n\n  \u{3000}c d \n");
    let out = folder.path().join("a.bin");
    ok(&["data", "internevo", text.to_str().unwrap(), out.to_str().unwrap(), "-m", "bytes"]);
    let bin = std::fs::read_to_string(&out).unwrap();
    assert_eq!(bin, "{\"tokens\": [97, 98]}\n{\"tokens\": [99, 32, 100]}\n");
    let meta = std::fs::read(folder.path().join("a.bin.meta")).unwrap();
    assert_eq!(meta[128..], [0, 0, 0, 0, 2, 0, 0, 0, 21, 0, 0, 0, 3, 0, 0, 0]);
    // A .meta that does not fit is found when the pair is read.
    std::fs::write(&out, bin.replace("97, ", "")).unwrap();
    let e = fails(&["check-custom-dataset", out.to_str().unwrap(), "-m", "bytes"]);
    assert!(e.contains("its .meta does not fit it: line 2 begins at byte 17"), "{e}");
}
