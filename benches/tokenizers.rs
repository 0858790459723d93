//! Encoding text beside SentencePiece: the same `tokenizer.model`, the same texts, one thread, in turns.
//! Prints the median megabytes per second of both and the median of the pairwise ratios. A run encodes the texts
//! several times, for the first milliseconds after a pause are those of a processor that wakes up.
//!
//! PUYU_PYTHON=python3 cargo bench --bench tokenizers -- FOLDER... TEXT...
//! PUYU_PAIRS sets the number of pairs (default 7), PUYU_LINES how many lines are encoded as one text
//! (default 1), PUYU_PASSES how many times a run encodes them (default 8). A folder holds a tokenizer.model.

use puyu_benches::{from_root, number};
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Encodes all texts for every line it reads, as many times as it says; answers with the seconds of one time and the
/// number of ids.
const PEER: &str = "
import sys, time
import sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
lines = open(sys.argv[2], encoding='utf-8', newline='\\n').read().split('\\n')
size = int(sys.argv[3])
texts = ['\\n'.join(lines[i:i + size]) for i in range(0, len(lines), size)]
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        ids = sum(len(model.encode(text)) for text in texts)
    print((time.perf_counter() - start) / int(line), ids, flush=True)
";

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds and number of ids of encoding `texts` once, in a run of `passes`.
fn ours(tokenizer: &Tokenizer, texts: &[String], passes: usize) -> (f64, usize) {
    let start = Instant::now();
    let plain = EncodeOptions::default();
    let mut ids = 0;
    for _ in 0..passes {
        ids = texts.iter().map(|text| tokenizer.encode(text, plain).len()).sum();
    }
    (start.elapsed().as_secs_f64() / passes as f64, ids)
}

/// One row: `pairs` runs of each, in turns, of so many passes, with so many lines in a text.
fn row(python: &str, folder: &Path, path: &Path, [pairs, passes, size]: [usize; 3]) {
    let text = std::fs::read_to_string(path).expect("a text file");
    let lines: Vec<&str> = text.split('\n').collect();
    let texts: Vec<String> = lines.chunks(size).map(|lines| lines.join("\n")).collect();
    let tokenizer = Tokenizer::load(folder).expect("a tokenizer");
    let model = folder.join("tokenizer.model");
    let mut peer = Command::new(python)
        .args(["-c", PEER])
        .args([&model, path])
        .arg(size.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("PUYU_PYTHON starts");
    let mut ask = peer.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(peer.stdout.take().expect("a pipe")).lines();
    let mut runs = Vec::new();
    for _ in 0..pairs {
        let (own, ids) = ours(&tokenizer, &texts, passes);
        writeln!(ask, "{passes}").expect("SentencePiece runs");
        let answer = answers.next().expect("SentencePiece answers").expect("a line");
        let (seconds, count) = answer.split_once(' ').expect("two numbers");
        assert_eq!(count.parse(), Ok(ids), "numbers of ids");
        runs.push((own, seconds.parse::<f64>().expect("seconds"), ids));
    }
    drop(ask);
    peer.wait().expect("SentencePiece ends");
    let size = text.len() as f64 / 1e6;
    println!(
        "| {} | {} | {} | {:.2} | {:.1} | {:.1} | {:.2} |",
        folder.display(),
        path.display(),
        tokenizer.vocab_size(),
        text.len() as f64 / runs[0].2 as f64,
        median(runs.iter().map(|r| size / r.0).collect()),
        median(runs.iter().map(|r| size / r.1).collect()),
        median(runs.iter().map(|r| r.1 / r.0).collect()),
    );
}

/// Seconds for a word of a megabyte, and how many times as long one of two takes: one letter that merges
/// with itself, and letters in no order.
fn long_words(folder: &Path, pairs: usize) {
    let tokenizer = Tokenizer::load(folder).expect("a tokenizer");
    let mut state = 1u32;
    let mut letter = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'a' + (state >> 24) as u8 % 26)
    };
    let letters: String = (0..2_000_000).map(|_| letter()).collect();
    for (name, text) in [("one letter", "a".repeat(2_000_000)), ("any letters", letters)] {
        let (half, whole) = ([text[..1_000_000].to_owned()], [text]);
        let runs: Vec<[f64; 2]> =
            (0..pairs).map(|_| [&half, &whole].map(|t| ours(&tokenizer, t, 1).0)).collect();
        println!(
            "{}, {name}: a word of 1 MB in {:.3} s, one of 2 MB takes {:.2} times as long",
            folder.display(),
            median(runs.iter().map(|r| r[0]).collect()),
            median(runs.iter().map(|r| r[1] / r[0]).collect()),
        );
    }
}

fn main() {
    let arguments = std::env::args_os().skip(1);
    let arguments = arguments.filter(|a| !a.as_encoded_bytes().starts_with(b"-")).map(from_root);
    let (folders, texts): (Vec<_>, Vec<_>) = arguments.partition(|path| path.is_dir());
    let (Ok(python), false) = (std::env::var("PUYU_PYTHON"), folders.is_empty()) else {
        eprintln!(
            "SKIPPED: set PUYU_PYTHON to a Python with sentencepiece and name folders and texts"
        );
        return;
    };
    let (pairs, size) = (number("PUYU_PAIRS", 7), number("PUYU_LINES", 1).max(1));
    let passes = number("PUYU_PASSES", 8).max(1);
    println!(
        "| tokenizer | text | tokens | bytes/token | puyu MB/s | SentencePiece MB/s | ratio |"
    );
    println!("|---|---|---|---|---|---|---|");
    for folder in &folders {
        for text in &texts {
            row(&python, folder, text, [pairs, passes, size]);
        }
    }
    for folder in &folders {
        long_words(folder, pairs);
    }
    println!(
        "one thread, {size} lines a text, {passes} passes a run, medians of {pairs} interleaved pairs"
    );
}
