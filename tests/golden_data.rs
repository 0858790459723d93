//! Real data: InternEvo's golden bytes, and every file of the training data read, packed and counted.
//! The folder is `PUYU_TRAIN_DATA`, by default `data/train` under `PUYU_SHARED`; any folder of that
//! layout will do.

use puyu::data::{
    DataConfig, DataReport, Dataset, Format, OnError, Pack, SourceConfig, Split, internevo,
};
use puyu_models::chat_template::{CHATML, ChatTemplate, INTERNLM1};
use puyu_models::tokenizer::Tokenizer;
use puyu_tests::shared;
use std::path::{Path, PathBuf};

/// The folder of training data, if it is there.
fn data(what: &str) -> Option<PathBuf> {
    let folder = match std::env::var_os("PUYU_TRAIN_DATA") {
        Some(folder) => Path::new(&folder).join(what),
        None => return shared(&format!("data/train/{what}")),
    };
    if !folder.exists() {
        eprintln!("SKIPPED: {} does not exist", folder.display());
        return None;
    }
    Some(folder)
}

fn tokenizer(name: &str) -> Option<Tokenizer> {
    Some(Tokenizer::load(&shared("tokenizers")?.join(name)).unwrap())
}

/// Every `.bin` under a folder, with the file it was made from.
fn bins(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let files = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let ends =
            |ending: &'static str| move |p: &PathBuf| p.extension().is_some_and(|e| e == ending);
        let (Some(bin), Some(from)) =
            (files().find(ends("bin")), files().find(|p| ends("txt")(p) || ends("json")(p)))
        else {
            continue;
        };
        found.push((bin, from));
    }
    found
}

fn meta(bin: &Path) -> PathBuf {
    bin.with_file_name(bin.file_name().unwrap().to_str().unwrap().to_owned() + ".meta")
}

#[test]
fn golden_train_data_internevo_is_written_byte_for_byte() {
    let (Some(folder), Some(tokenizer)) = (data("internevo"), tokenizer("internlm1")) else {
        return;
    };
    let template = ChatTemplate::new(INTERNLM1).unwrap();
    let out = tempfile::tempdir().unwrap();
    let bins = bins(&folder);
    assert!(!bins.is_empty(), "no .bin under {}", folder.display());
    for (bin, from) in bins {
        let source = SourceConfig { path: from, split: Split::Line, ..SourceConfig::default() };
        let ours = out.path().join("ours.bin");
        let all = &mut |_: &str, _, _| true;
        let written =
            internevo::write(&source, &tokenizer, Some(&template), OnError::Refuse, &ours, all);
        let written = written.unwrap();
        for (a, b) in [(&ours, &bin), (&meta(&ours), &meta(&bin))] {
            assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{}", b.display());
        }
        let source = SourceConfig { path: bin, ..SourceConfig::default() };
        let config =
            DataConfig { source: vec![source], pack: Some(Pack::None), ..DataConfig::default() };
        let (dataset, report) = Dataset::open(&config, &tokenizer, None, all).unwrap();
        let found = &report.sources[0].found;
        assert_eq!((found.documents, found.tokens), (written.samples as u64, written.tokens));
        // Read and written again, it is the same file.
        internevo::write(&config.source[0], &tokenizer, None, OnError::Refuse, &ours, all).unwrap();
        let again = std::fs::read(&ours).unwrap();
        assert!(again == std::fs::read(&config.source[0].path).unwrap());
        let text = String::from_utf8(again).unwrap();
        let first: Vec<i64> = text.lines().next().unwrap()["{\"tokens\": [".len()..]
            .split(&[',', ' ', ']', '}'][..])
            .filter_map(|n| n.parse().ok())
            .collect();
        let row = dataset.sample(0);
        let learnt = row.targets.iter().filter(|t| **t != puyu::data::IGNORE).count();
        assert_eq!(learnt, first[1..].iter().filter(|id| **id >= 0).count());
        assert!(row.ids.iter().zip(&first).all(|(a, b)| u64::from(*a) == b.unsigned_abs()));
    }
}

/// Opens all files of a folder as one data set with InternLM2's tokenizer.
fn open(what: &str, pack: Option<Pack>, format: Option<Format>) -> Option<(Dataset, DataReport)> {
    let (path, tokenizer) = (data(what)?, tokenizer("internlm2")?);
    let template = ChatTemplate::new(CHATML).unwrap();
    let files = if path.is_dir() {
        let entries = std::fs::read_dir(&path).unwrap();
        entries.map(|entry| entry.unwrap().path()).filter(|p| p.is_file()).collect()
    } else {
        vec![path]
    };
    let source = |path| SourceConfig { path, format, ..SourceConfig::default() };
    let config = DataConfig {
        source: files.into_iter().map(source).collect(),
        pack,
        ..DataConfig::default()
    };
    Some(Dataset::open(&config, &tokenizer, Some(&template), &mut |_, _, _| true).unwrap())
}

/// At 2k at least 97 % of a row is tokens, and every sample that is not too long is there whole.
#[test]
fn golden_train_data_conversations_fill_their_rows() {
    let Some((dataset, report)) = open("sft", None, None) else { return };
    let sum = |f: fn(&puyu::data::SourceReport) -> u64| report.sources.iter().map(f).sum::<u64>();
    let useful = sum(|s| s.used) as f64 / sum(|s| s.room) as f64;
    eprintln!("{report}{:.2} % useful at 2048", 100.0 * useful);
    assert!(useful >= 0.97, "{useful}");
    assert_eq!(sum(|s| s.found.broken), 0);
    let samples = sum(|s| s.found.documents) - sum(|s| s.emptied);
    assert_eq!(samples, dataset.samples() as u64);
    let mut used = 0;
    for i in 0..dataset.len() {
        let row = dataset.row(i).unwrap();
        assert!(row.tokens() <= 2048 && row.counted() > 0);
        used += row.tokens() as u64;
    }
    assert_eq!(used, dataset.tokens());
}

#[test]
fn golden_train_data_every_kind_of_file_is_read() {
    for (what, pack) in
        [("wanjuan/text_zh.jsonl", None), ("wanjuan/exam_zh.jsonl", Some(Pack::Samples))]
    {
        let Some((dataset, report)) = open(what, pack, None) else { return };
        assert_eq!(report.sources[0].found.broken, 0, "{report}");
        assert!(!dataset.is_empty());
    }
    let wanjuan = Some(Format::WanjuanText);
    let Some((pictures, _)) = open("wanjuan/image_text_zh.jsonl", None, wanjuan) else { return };
    assert!(!pictures.is_empty());
    let Some((pairs, report)) = open("pref", None, None) else { return };
    assert_eq!(pairs.samples(), 2 * pairs.len(), "{report}");
    for i in (0..pairs.len()).step_by(97) {
        let row = pairs.row(i).unwrap();
        let [chosen, rejected] = [0, 1].map(|side| {
            let from = side * row.lengths[0];
            &row.targets[from..from + row.lengths[side]]
        });
        let prompt = chosen.iter().take_while(|t| **t == puyu::data::IGNORE).count();
        assert!(prompt > 0 && rejected[..prompt].iter().all(|t| *t == puyu::data::IGNORE), "{i}");
        assert!(row.counted() > 0);
    }
}
