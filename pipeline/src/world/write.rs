//! The files of a world. Each is a stream of records numbered from 0, and a record depends on the seed,
//! the stream and its number only; threads fill chunks of records and one writer puts them in order,
//! so the bytes are the same for any number of threads and nothing but a few chunks is in memory.

use super::document::{document, drawn_kind};
use super::problem::Kind;
use super::render;
use super::rng::{Rng, Split};
use super::words::Lang;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

/// What to write.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything depends on it but the splits.
    pub seed: u64,
    /// Bytes of training text: 55 % pretraining, 38 % conversations, 7 % preference pairs; and 1 %
    /// more to measure on.
    pub bytes: u64,
    /// The languages, alike often.
    pub langs: Vec<Lang>,
    /// The kinds of question.
    pub kinds: Vec<Kind>,
    /// Records of each test file; a quarter of it is validated on.
    pub questions: usize,
    /// Threads, at least one.
    pub threads: usize,
    /// The folder, made if it is not there.
    pub out: PathBuf,
}

/// What `card.json` says about one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCard {
    /// Records.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Records by language.
    pub langs: BTreeMap<String, u64>,
    /// Problems by kind; a document may hold several.
    pub kinds: BTreeMap<String, u64>,
}

/// What `card.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// [`super::VERSION`].
    pub version: u32,
    /// The seed.
    pub seed: u64,
    /// The kinds that were asked for.
    pub kinds: Vec<String>,
    /// The files by name.
    pub files: BTreeMap<String, FileCard>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Pretrain,
    Sft,
    Pref,
    Choice,
    Test,
    Validation,
    Held,
}

/// A record as a line, its language and the kinds in it.
struct Line {
    text: String,
    lang: Lang,
    labels: Vec<&'static str>,
    /// What a test record asks, to leave out what the set has already.
    asked: String,
}

/// Records that one thread makes at a time.
const CHUNK: u64 = 256;

/// Writes every file of a world, and `card.json` last.
///
/// # Errors
/// If no language or kind is named, or the folder cannot be written to.
pub fn write(options: &Options, progress: &mut dyn FnMut(u64)) -> Result<Card> {
    if options.langs.is_empty() || options.kinds.is_empty() {
        return Err(Error::invalid("a world needs at least one language and one kind of question"));
    }
    std::fs::create_dir_all(&options.out)
        .context(format_args!("cannot make the folder {}", options.out.display()))?;
    let percent = |n: u64| Limit::Bytes(options.bytes / 100 * n);
    let questions = options.questions as u64;
    let plan = [
        ("pretrain.jsonl", Stream::Pretrain, percent(55)),
        ("sft.jsonl", Stream::Sft, percent(38)),
        ("pref.jsonl", Stream::Pref, percent(7)),
        ("validation.txt", Stream::Held, percent(1)),
        ("choice_test.jsonl", Stream::Choice, Limit::Records(questions)),
        ("answer_test.jsonl", Stream::Test, Limit::Records(questions)),
        ("answer_validation.jsonl", Stream::Validation, Limit::Records(questions.div_ceil(4))),
    ];
    let mut files = BTreeMap::new();
    for (name, stream, limit) in plan {
        files.insert(name.to_owned(), file(options, name, stream, limit, progress)?);
    }
    // As the tokenizer's flag takes them.
    let mut words = AtomicFile::create(&options.out.join("words.txt"))?;
    words.write(super::words::chinese().join(",").as_bytes())?;
    words.finish()?;
    let kinds = options.kinds.iter().map(|k| k.name().to_owned()).collect();
    let card = Card { version: super::VERSION, seed: options.seed, kinds, files };
    let mut text = serde_json::to_string_pretty(&card)
        .map_err(|e| Error::invalid(format!("card.json cannot be written: {e}")))?;
    text.push('\n');
    let mut out = AtomicFile::create(&options.out.join("card.json"))?;
    out.write(text.as_bytes())?;
    out.finish()?;
    Ok(card)
}

/// Where a file ends.
#[derive(Clone, Copy)]
enum Limit {
    Bytes(u64),
    Records(u64),
}

fn file(
    options: &Options,
    name: &str,
    stream: Stream,
    limit: Limit,
    progress: &mut dyn FnMut(u64),
) -> Result<FileCard> {
    let mut out = AtomicFile::create(&options.out.join(name))?;
    let mut hash = Sha256::new();
    let (mut records, mut langs, mut kinds) = (0, BTreeMap::new(), BTreeMap::new());
    let mut seen = HashSet::new();
    let done = |records: u64, bytes: u64| match limit {
        Limit::Bytes(n) => bytes >= n,
        Limit::Records(n) => records >= n,
    };
    // A narrow choice of kinds may not have so many questions: then the file is shorter.
    let most = match limit {
        Limit::Bytes(_) => u64::MAX,
        Limit::Records(n) => n.saturating_mul(30),
    };
    let mut next = 0;
    while !done(records, out.written()) && next < most {
        for line in chunks(options, stream, next) {
            if done(records, out.written()) {
                break;
            }
            if matches!(limit, Limit::Records(_)) && !seen.insert(line.asked) {
                continue;
            }
            out.write(line.text.as_bytes())?;
            hash.update(line.text.as_bytes());
            records += 1;
            *langs.entry(line.lang.name().to_owned()).or_insert(0) += 1;
            for label in line.labels {
                *kinds.entry(label.to_owned()).or_insert(0) += 1;
            }
        }
        next += CHUNK * options.threads.max(1) as u64;
        progress(out.written());
    }
    let bytes = out.written();
    out.finish()?;
    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(FileCard { records, bytes, sha256, langs, kinds })
}

/// A chunk for each thread, from record `next` on.
fn chunks(options: &Options, stream: Stream, next: u64) -> Vec<Line> {
    let chunk = |c: u64| -> Vec<Line> {
        let from = next + c * CHUNK;
        (from..from + CHUNK).map(|i| line(options, stream, i)).collect()
    };
    let others = options.threads.max(1) as u64 - 1;
    std::thread::scope(|scope| {
        let rest: Vec<_> = (1..=others).map(|c| scope.spawn(move || chunk(c))).collect();
        let mut all = chunk(0);
        for thread in rest {
            all.extend(thread.join().expect("a thread that writes records does not panic"));
        }
        all
    })
}

/// Record `i` of a stream.
fn line(options: &Options, stream: Stream, i: u64) -> Line {
    let mut rng = Rng::new(options.seed, stream as u64, i);
    let rng = &mut rng;
    let test = matches!(stream, Stream::Choice | Stream::Test | Stream::Validation);
    // Test sets take languages and kinds in turn, so that each has its share.
    let turn = i as usize;
    let round = turn / options.kinds.len();
    let lang = match test {
        true => options.langs[round % options.langs.len()],
        false => rng.pick(&options.langs),
    };
    let kind = match test {
        true => options.kinds[turn % options.kinds.len()],
        false => drawn_kind(rng, &options.kinds),
    };
    let split = match stream {
        Stream::Choice | Stream::Test => Split::Test,
        Stream::Validation => Split::Validation,
        _ => Split::Train,
    };
    let id = |what: &str| format!("world-{}-{what}-{i}", options.seed);
    let (value, labels) = match stream {
        Stream::Pretrain | Stream::Held => {
            let plain: Vec<Kind> =
                options.kinds.iter().copied().filter(|k| *k != Kind::Tool).collect();
            let kinds = if plain.is_empty() { &[Kind::Arithmetic][..] } else { &plain };
            let (content, labels) = document(rng, lang, kinds);
            (json!({"id": id("text"), "content": content}), labels)
        }
        Stream::Sft if rng.chance(3) => (render::small_talk(rng, lang), vec!["talk"]),
        _ => {
            let problem = super::problem(rng, kind, lang, split);
            let plain = problem.turns.len() == 1 && problem.kind != Kind::Tool;
            let value = match stream {
                Stream::Sft if plain && problem.kind != Kind::Story && rng.chance(8) => {
                    // The other subject is tried until one without a tool or a tale comes.
                    let more = [drawn_kind(rng, &options.kinds), drawn_kind(rng, &options.kinds)];
                    let fits = |k: &Kind| !matches!(k, Kind::Story | Kind::Tool);
                    let other = more.into_iter().filter(fits).take(1);
                    let mut all = vec![problem.clone()];
                    all.extend(other.map(|k| super::problem(rng, k, lang, split)));
                    render::subjects(rng, &all)
                }
                Stream::Sft if plain && rng.chance(4) => render::choice_conversation(rng, &problem),
                Stream::Sft => render::conversation(rng, &problem),
                Stream::Pref => render::preference(rng, &problem),
                Stream::Choice => {
                    // Each position as often as the others, in every kind and language.
                    let position = (round / options.langs.len() + turn) % 4;
                    render::choice(rng, &problem, id("choice"), position)
                }
                _ => render::free_answer(
                    rng,
                    &problem,
                    id(split.name()),
                    split.name(),
                    round % 4 > 1,
                ),
            };
            (value, vec![problem.kind.name()])
        }
    };
    let asked = if test { asked(&value) } else { String::new() };
    let text = match (stream, value["content"].as_str()) {
        (Stream::Held, Some(content)) => format!("{content}\n\n"),
        _ => format!("{value}\n"),
    };
    Line { text, lang, labels, asked }
}

/// What a test record asks: its question or its messages.
fn asked(value: &Value) -> String {
    let texts = value["messages"].as_array().into_iter().flatten().map(|m| &m["content"]);
    let all: Vec<&str> = texts.chain([&value["question"]]).filter_map(Value::as_str).collect();
    all.join("\n")
}
