//! What a run writes down: a journal that survives a kill, a report that is the same page after it,
//! and event files that TensorBoard itself reads.

use puyu::train::monitor::{Record, read};
use puyu::train::{About, Monitor, StepRecord};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

fn about() -> About {
    let title = "a <small> run".into();
    About {
        title,
        config: "seed = 7".into(),
        total_steps: 40,
        parameters: 9000,
        ..About::default()
    }
}

/// A step whose numbers follow from its own; step 13 is a bad one.
fn step(step: u64) -> StepRecord {
    let bad = step == 13;
    StepRecord {
        step,
        loss: if bad { f64::NAN } else { 4.0 / step as f64 },
        lr: 1e-3,
        grad_norm: if bad { f64::INFINITY } else { 0.5 },
        tokens: 64,
        seen_tokens: 64 * step,
        counted: 60.0,
        seconds: 0.5,
        tokens_per_s: 128.0,
        flops_per_s: 1e9,
        utilisation: Some(0.25),
        skipped: bad,
        metrics: BTreeMap::from([("accuracy".into(), step as f64 / 40.0)]),
    }
}

/// Steps `from` to `to`, both included, with all that happens between them.
fn steps(monitor: &mut Monitor, from: u64, to: u64) {
    for i in from..=to {
        monitor.step(&step(i)).unwrap();
        if i.is_multiple_of(10) {
            monitor.valid(i, 3.0, 3f64.exp(), &BTreeMap::new()).unwrap();
            monitor.sample(i, "1 < 2 & ", "</p><script>\n小明").unwrap();
            monitor.event(i, "checkpoint").unwrap();
        }
    }
}

fn run(dir: &Path, resumed_at: Option<u64>, to: u64) {
    let mut monitor = Monitor::open(dir, &about(), resumed_at).unwrap();
    steps(&mut monitor, resumed_at.unwrap_or(0) + 1, to);
    monitor.finish().unwrap();
}

/// A run that was killed at step 27, in the middle of a line, and resumed at step 20.
fn killed(dir: &Path) {
    let mut monitor = Monitor::open(dir, &about(), None).unwrap();
    steps(&mut monitor, 1, 27);
    drop(monitor);
    let path = dir.join("metrics.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(b"{\"kind\":\"step\",\"step\":28,\"lo").unwrap();
    run(dir, Some(20), 40);
}

#[test]
fn a_killed_run_leaves_what_an_undisturbed_one_does() {
    let [one, two] = [0; 2].map(|_| tempfile::tempdir().unwrap());
    run(one.path(), None, 40);
    killed(two.path());
    for file in ["metrics.jsonl", "report.html"] {
        let [a, b] = [&one, &two].map(|d| std::fs::read(d.path().join(file)).unwrap());
        assert!(a == b, "{file} differs after a kill");
    }
    let records = read(&two.path().join("metrics.jsonl")).unwrap();
    let steps: Vec<u64> =
        records.iter().filter(|r| matches!(r, Record::Step(_))).map(Record::step).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>());
    assert_eq!(records.len(), 40 + 3 * 4);
    assert_eq!(records[0], Record::Step(step(1)));
    let Record::Step(bad) = &records[15] else { panic!("{:?}", records[15]) };
    assert!(bad.step == 13 && bad.skipped && bad.loss.is_nan() && bad.grad_norm.is_nan());
}

#[test]
fn a_new_run_replaces_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), None, 40);
    run(dir.path(), None, 3);
    assert_eq!(read(&dir.path().join("metrics.jsonl")).unwrap().len(), 3);
    assert_eq!(std::fs::read_dir(dir.path().join("tensorboard")).unwrap().count(), 1);
}

#[test]
fn a_line_that_is_no_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    std::fs::write(&path, "{\"kind\":\"event\",\"step\":1,\"text\":\"\"}\n{\"kind\":\"stop\"}\n")
        .unwrap();
    let error = Monitor::open(dir.path(), &about(), Some(5)).err().expect("an error").to_string();
    assert!(error.contains("metrics.jsonl: line 2 is not a record of a run"), "{error}");
}

#[test]
fn the_report_needs_nothing_else_and_escapes_what_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), None, 40);
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "the report has {outside}");
    }
    assert!(page.contains("a &lt;small&gt; run") && page.contains("1 &lt; 2 &amp; </b>"));
    assert!(
        page.contains("&lt;/p&gt;&lt;script&gt;\n小明") && page.contains("prefers-color-scheme")
    );
    assert_eq!(page.matches("<script>").count(), 1);
    let titles = ["Loss", "Learning rate", "Gradient norm", "Throughput", "accuracy"];
    assert!(titles.iter().all(|t| page.contains(&format!("<h2>{t}<small>"))));
    assert!(
        page.contains("step 40 of 40")
            && page.contains("finished")
            && page.contains("nats per token")
    );
}

/// The report of a run that has not yet done a step, or whose steps all failed, is a page too.
#[test]
fn an_empty_report_is_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut monitor = Monitor::open(dir.path(), &About::default(), None).unwrap();
    monitor.finish().unwrap();
    monitor.step(&step(13)).unwrap();
    monitor.finish().unwrap();
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(
        page.contains("Skipped steps") && !page.contains("NaN") && !page.contains("inf"),
        "{page}"
    );
}

/// What TensorBoard's own reader finds in the folder of the killed run.
const ORACLE: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'tensors': 0})
a.Reload()
loss = a.Scalars('train/loss')
print([e.step for e in loss] == list(range(1, 41)), loss[7].value, len(a.Scalars('valid/loss')))
text = a.Tensors('sample')
print([e.step for e in text], text[0].tensor_proto.string_val[0].decode())
print(sorted(a.Tags()['scalars']), a.SummaryMetadata('event').plugin_data.plugin_name)
";

#[test]
fn tensorboard_reads_a_killed_run() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path());
    let python = std::env::var("PUYU_PYTHON").unwrap_or_else(|_| "python3".into());
    let out = std::process::Command::new(&python)
        .args(["-c", ORACLE])
        .arg(dir.path().join("tensorboard"))
        .output();
    let seen = match &out {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout),
        _ => {
            eprintln!("SKIPPED: {python} has no tensorboard; PUYU_PYTHON names one that has");
            return;
        }
    };
    assert!(
        seen.starts_with("True 0.5 4\n[10, 20, 30, 40] **1 < 2 & **</p><script>\n小明\n"),
        "{seen}"
    );
    let tags = ["grad_norm", "accuracy", "speed/tgs", "speed/tflops", "valid/perplexity", "text"];
    assert!(tags.iter().all(|t| seen.contains(t)), "{seen}");
}
