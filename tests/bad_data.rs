//! Broken data: each kind of it is one sentence with file and line, refused or counted as the config
//! says, and never a panic.

use proptest::prelude::*;
use puyu::data::{
    DataConfig, DataReport, Dataset, Format, MAX_RECORD, OnError, Pack, SourceConfig,
};
use puyu_models::chat_template::{CHATML, ChatTemplate};
use puyu_models::tokenizer::Tokenizer;
use std::path::Path;
use tempfile::TempDir;

fn tokenizer() -> Tokenizer {
    Tokenizer::bytes().unwrap()
}

fn open(config: &DataConfig) -> Result<(Dataset, DataReport), String> {
    let template = ChatTemplate::new(CHATML).unwrap();
    let opened = Dataset::open(config, &tokenizer(), Some(&template), &mut |_, _, _| true);
    opened.map_err(|e| e.to_string())
}

fn config(path: &Path, format: Option<Format>, on_error: OnError) -> DataConfig {
    let source = SourceConfig { path: path.into(), format, ..SourceConfig::default() };
    DataConfig { source: vec![source], on_error, ..DataConfig::default() }
}

/// Two good samples of each layout.
fn good(format: Format) -> [&'static str; 2] {
    match format {
        Format::Text => ["first line", "second line"],
        Format::Jsonl => [r#"{"text": "one"}"#, r#"{"text": "two"}"#],
        Format::WanjuanText => {
            [r#"{"id": "a", "content": "one"}"#, r#"{"id": "b", "content": "two"}"#]
        }
        Format::WanjuanExam => [
            r#"{"q_main": "1+1?", "option_a": "2", "std_ans": "A"}"#,
            r#"{"q_main": "1+2?", "option_a": "3", "std_ans": "A"}"#,
        ],
        Format::Internevo => [r#"{"tokens": [1, -2, 3]}"#, r#"{"tokens": [1, 2]}"#],
        Format::Alpaca => [
            r#"{"instruction": "say", "input": "", "output": "one"}"#,
            r#"{"instruction": "say", "input": "b", "output": "two"}"#,
        ],
        Format::Openai => [
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            r#"{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#,
        ],
        Format::Sharegpt => [
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#,
            r#"{"conversations": [{"from": "human", "value": "c"}, {"from": "gpt", "value": "d"}]}"#,
        ],
        Format::Xtuner => [
            r#"{"conversation": [{"system": "s", "input": "a", "output": "b"}]}"#,
            r#"{"conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]}"#,
        ],
        Format::PreferenceOpenai => [
            r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}"#,
            r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
        ],
        Format::PreferenceSharegpt => [
            r#"{"conversations": [{"from": "human", "value": "a"}], "chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}}"#,
            r#"{"conversations": [{"from": "human", "value": "d"}], "chosen": {"from": "gpt", "value": "e"}, "rejected": {"from": "gpt", "value": "f"}}"#,
        ],
    }
}

/// A file whose second of three lines is `bad`: refused with `message` and its line, or left out.
#[track_caller]
fn broken_line(format: Format, bad: &[u8], message: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.jsonl");
    let [first, last] = good(format).map(str::as_bytes);
    std::fs::write(&path, [first, b"\n", bad, b"\r\n", last].concat()).unwrap();
    let place = format!("{}: line 2: {message}", path.display());
    let refused = open(&config(&path, Some(format), OnError::Refuse)).unwrap_err();
    assert!(refused.starts_with(&place), "{refused}\nis not\n{place}");
    assert!(refused.ends_with("; on_error = \"skip\" leaves broken lines out and counts them"));
    let (dataset, report) = open(&config(&path, Some(format), OnError::Skip)).unwrap();
    let found = &report.sources[0].found;
    assert_eq!(found.broken, 1);
    assert!(found.complaints[0].starts_with(&place), "{}", found.complaints[0]);
    assert_eq!(dataset.samples() as u64, found.documents);
    assert!(report.to_string().contains("broken lines left out: 1"), "{report}");
}

/// Every layout but plain text, with its good samples.
fn json_formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().map(|(format, ..)| format).filter(|f| *f != Format::Text)
}

#[test]
fn good_samples_are_seen_by_their_keys() {
    let folder = TempDir::new().unwrap();
    for format in json_formats() {
        let path = folder.path().join("data.jsonl");
        for list in [false, true] {
            if list && format == Format::Internevo {
                continue;
            }
            let [a, b] = good(format);
            let text = if list { format!("[\n{a},\n{b}\n]\n") } else { format!("{a}\n\n{b}") };
            std::fs::write(&path, text).unwrap();
            let (dataset, report) = open(&config(&path, None, OnError::Refuse)).unwrap();
            assert_eq!(report.sources[0].formats, [format.name()]);
            let answers = if format.name().starts_with("preference") { 4 } else { 2 };
            assert_eq!(dataset.samples(), answers, "{}", format.name());
        }
    }
}

#[test]
fn broken_json_is_told_with_its_line() {
    for format in json_formats() {
        broken_line(
            format,
            br#"{"text": "never closed"#,
            "broken JSON: EOF while parsing a string",
        );
        broken_line(format, b"plain text", "broken JSON: expected value at column 1");
        broken_line(format, b"[1, 2]", "a sample is a list, expected an object");
        broken_line(format, b"{\"text\": \"\xff\"}", "the line is not UTF-8");
    }
}

#[test]
fn wrong_fields_are_named() {
    let absent = |key: &str| format!("no field \"{key}\"; there are: other");
    for (format, key) in [
        (Format::Jsonl, "text"),
        (Format::WanjuanText, "content"),
        (Format::WanjuanExam, "q_main"),
        (Format::Internevo, "tokens"),
        (Format::Alpaca, "instruction"),
        (Format::Openai, "messages"),
        (Format::Sharegpt, "conversations"),
        (Format::Xtuner, "conversation"),
        (Format::PreferenceOpenai, "chosen"),
        (Format::PreferenceSharegpt, "conversations"),
    ] {
        broken_line(format, br#"{"other": 1}"#, &absent(key));
    }
    for (format, line, message) in [
        (Format::Jsonl, r#"{"text": 5}"#, "\"text\" is a number, expected a text"),
        (Format::Jsonl, r#"{"text": ""}"#, "the text is empty"),
        (Format::Internevo, r#"{"tokens": [1, "2"]}"#, "tokens[1] is \"2\", expected a token id"),
        (Format::Internevo, r#"{"tokens": []}"#, "there are no tokens"),
        (
            Format::Internevo,
            r#"{"tokens": [1, -256]}"#,
            "token id -256 is outside the tokenizer's 256 tokens; the file was made with another",
        ),
        (Format::Alpaca, r#"{"instruction": "a"}"#, "no field \"output\"; there are: instruction"),
        (
            Format::Alpaca,
            r#"{"instruction": "a", "input": [], "output": "b"}"#,
            "\"input\" is a list, expected a text",
        ),
        (Format::Openai, r#"{"messages": "a"}"#, "\"messages\" is a text, expected a list"),
        (Format::Openai, r#"{"messages": ["a"]}"#, "messages[0] is a text, expected an object"),
        (
            Format::Openai,
            r#"{"messages": [{"role": "user", "content": 5}]}"#,
            "messages[0]: content is neither text nor a list of text parts",
        ),
        (
            Format::Sharegpt,
            r#"{"conversations": [{"from": "human", "text": "a"}]}"#,
            "conversations[0]: no field \"value\"; there are: from, text",
        ),
        (
            Format::Xtuner,
            r#"{"conversation": [{"input": "a"}]}"#,
            "conversation[0]: no field \"output\"; there are: input",
        ),
        (
            Format::PreferenceOpenai,
            r#"{"prompt": "a", "chosen": "b"}"#,
            "no field \"rejected\"; there are: prompt, chosen",
        ),
        (
            Format::PreferenceOpenai,
            r#"{"chosen": "b", "rejected": "c"}"#,
            "no prompt: neither a field nor what both answers begin with",
        ),
        (
            Format::PreferenceSharegpt,
            r#"{"conversations": [], "chosen": 1, "rejected": 2}"#,
            "\"chosen\" is a number, expected an object",
        ),
    ] {
        broken_line(format, line.as_bytes(), message);
    }
}

#[test]
fn unknown_roles_and_silent_assistants_are_told() {
    let known = "; known are system, user (human), assistant (gpt), tool (function, observation) and \
                 environment";
    let unknown = |place: &str| format!("{place}: unknown role \"wizard\"{known}");
    let silent = "the assistant says nothing in this conversation";
    for (format, line, message) in [
        (
            Format::Openai,
            r#"{"messages": [{"role": "wizard", "content": "a"}]}"#,
            unknown("messages[0]"),
        ),
        (
            Format::Sharegpt,
            r#"{"conversations": [{"from": "wizard", "value": "a"}]}"#,
            unknown("conversations[0]"),
        ),
        (Format::Openai, r#"{"messages": [{"role": "user", "content": "a"}]}"#, silent.into()),
        (Format::Openai, r#"{"messages": []}"#, silent.into()),
        (
            Format::Sharegpt,
            r#"{"conversations": [{"from": "human", "value": "a"}]}"#,
            silent.into(),
        ),
        (Format::Xtuner, r#"{"conversation": []}"#, silent.into()),
        (
            Format::Openai,
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}"#,
            "message 2: the assistant says nothing".into(),
        ),
        (
            Format::Xtuner,
            r#"{"conversation": [{"input": "a", "output": "b", "output_with_loss": false}]}"#,
            "every answer has weight 0, so there is nothing to learn".into(),
        ),
        (
            Format::PreferenceOpenai,
            r#"{"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}"#,
            format!("chosen: {silent}"),
        ),
    ] {
        broken_line(format, line.as_bytes(), &message);
    }
}

#[test]
fn a_huge_line_is_one_broken_line() {
    let long = "x".repeat(MAX_RECORD);
    let line = format!("{{\"text\": \"{long}\"}}");
    broken_line(
        Format::Jsonl,
        line.as_bytes(),
        "the sample is 16 MiB long, more than 16 MiB; cut it",
    );
}

#[test]
fn empty_files_are_told() {
    let folder = TempDir::new().unwrap();
    for (format, content) in [
        (Format::Text, ""),
        (Format::Jsonl, "\n \n"),
        (Format::Alpaca, "[]"),
        (Format::Openai, "\u{feff}"),
    ] {
        let path = folder.path().join("data");
        std::fs::write(&path, content).unwrap();
        let refused = open(&config(&path, Some(format), OnError::Refuse)).unwrap_err();
        let place = path.display();
        let nothing = "there is nothing in the file";
        assert_eq!(refused.split(';').next().unwrap(), format!("{place}: line 1: {nothing}"));
        let skipped = open(&config(&path, Some(format), OnError::Skip)).unwrap_err();
        let expected = format!(
            "source 1 ({place}): nothing is left to learn; 1 broken lines, the first is {place}: line 1: \
             {nothing}"
        );
        assert_eq!(skipped, expected);
    }
}

#[test]
fn texts_that_are_not_utf8_are_told_with_their_line() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.txt");
    std::fs::write(&path, b"one\ntwo \xff\nthree\n").unwrap();
    let refused = open(&config(&path, None, OnError::Refuse)).unwrap_err();
    assert!(refused.contains("data.txt: line 2: the text is not UTF-8"), "{refused}");
}

#[test]
fn a_list_without_an_end_says_where_it_breaks() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.json");
    let [a, b] = good(Format::Alpaca);
    for (text, complaint) in [
        (format!("[{a},\n{b},\n{{\"instruction\": \"no end"), "line 3: the list has no end"),
        (format!("[{a},\n{b}\n]\nmore"), "line 4: something follows the end of the list"),
        (format!("[{a},\n,{b}]"), "line 2: broken JSON: EOF while parsing a value"),
        (format!("[{a},\n{b},\n]"), "line 3: broken JSON: EOF while parsing a value"),
        (format!("[{a},\n{b}}}"), "line 2: the list has no end"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let refused = open(&config(&path, None, OnError::Refuse)).unwrap_err();
        assert!(refused.contains(complaint), "{refused}\n{text}");
        let (_, report) = open(&config(&path, None, OnError::Skip)).unwrap();
        assert_eq!(report.sources[0].found.broken, 1, "{text}");
    }
}

/// Lines end at \n, whatever else a text holds.
#[test]
fn only_newlines_end_lines() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data.jsonl");
    std::fs::write(&path, "{\"text\": \"a\u{2028}b\u{85}cd\"}\r\n{\"text\": \"e\"}\n").unwrap();
    let (dataset, _) = open(&config(&path, None, OnError::Refuse)).unwrap();
    assert_eq!(dataset.samples(), 1, "a single byte has no next one");
    let ids = dataset.sample(0).ids;
    let text: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
    assert_eq!(String::from_utf8(text).unwrap(), "a\u{2028}b\u{85}c");
}

#[test]
fn what_is_no_text_says_what_to_do() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("train.parquet");
    for (bytes, message) in [
        (
            &b"PAR1\x00\x01"[..],
            "is a Parquet file, which puyu does not read; write it as JSON lines",
        ),
        (b"ARROW1\0\0", "is an Arrow file, which puyu does not read"),
        (b"\x1f\x8b\x08", "is compressed with gzip; unpack it first (gunzip)"),
        (b"\xff\xfea\0", "is UTF-16; write it as UTF-8"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        for on_error in [OnError::Refuse, OnError::Skip] {
            let e = open(&config(&path, None, on_error)).unwrap_err();
            assert!(e.starts_with(&format!("{}: {message}", path.display())), "{e}");
        }
    }
    let path = folder.path().join("data.jsonl");
    for (line, message) in [
        (r#"{"a": 1, "b": 2}"#, "samples with the fields a, b are of no known format; `puyu list-"),
        (r#"{"img_list": [], "content": ""}"#, "the samples hold pictures (img_list)"),
        ("{", "line 1: broken JSON, and no later line says what the file holds; write `format`"),
        ("", "the file is empty"),
    ] {
        std::fs::write(&path, line).unwrap();
        let e = open(&config(&path, None, OnError::Refuse)).unwrap_err();
        assert!(e.contains(message), "{e}");
    }
}

#[test]
fn paths_that_lead_nowhere_are_told() {
    let folder = TempDir::new().unwrap();
    for (name, message) in [
        ("absent.txt", "absent.txt does not exist"),
        ("", "no file is at"),
        ("*.txt", "no file is at"),
    ] {
        let e = open(&config(&folder.path().join(name), None, OnError::Refuse)).unwrap_err();
        assert!(e.contains(message), "{e}");
    }
}

#[test]
fn contradicting_settings_are_told() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, format: Format| {
        let path = folder.path().join(name);
        std::fs::write(&path, good(format).join("\n")).unwrap();
        SourceConfig { path, ..SourceConfig::default() }
    };
    let text = write("text.jsonl", Format::Jsonl);
    let chat = write("chat.jsonl", Format::Openai);
    let pairs = write("pairs.jsonl", Format::PreferenceOpenai);
    let with = |source: &[&SourceConfig]| {
        let source = source.iter().map(|s| (*s).clone()).collect();
        DataConfig { source, ..DataConfig::default() }
    };
    let weighted = SourceConfig { weight: Some(2.0), ..text.clone() };
    let everything = SourceConfig { path: folder.path().into(), ..SourceConfig::default() };
    for (config, message) in [
        (with(&[]), "[data]: no source; add [[data.source]] with a path"),
        (
            DataConfig { seq_len: 0, ..with(&[&text]) },
            "[data]: seq_len is 0; a row needs at least 1",
        ),
        (DataConfig { max_len: Some(1), ..with(&[&text]) }, "[data]: max_len is below 2"),
        (
            with(&[&weighted, &text]),
            "[data]: 1 of 2 sources have a weight; give it for all or for none",
        ),
        (
            with(&[&SourceConfig { weight: Some(-1.0), ..text.clone() }]),
            "[data]: source 1 has weight -1, expected more than 0",
        ),
        (
            with(&[&text, &pairs]),
            "preference pairs and other samples cannot be trained on together",
        ),
        (
            DataConfig { pack: Some(Pack::Samples), ..with(&[&pairs]) },
            "a preference pair is always a row of its own; leave `pack` out",
        ),
        (
            with(&[&everything]),
            "files of a source hold different things (openai, preference_openai, j",
        ),
        (
            with(&[&SourceConfig { eos: Some(true), ..text.clone() }]),
            "eos = true, but the tokenizer has no such token",
        ),
        (
            with(&[&SourceConfig { eos: Some(false), ..chat.clone() }]),
            "bos and eos are for texts, but this is openai, which says itself where samples begin",
        ),
    ] {
        let e = open(&config).unwrap_err();
        assert!(e.contains(message), "{e}\nis not\n{message}");
    }
    let config = with(&[&chat]);
    let e = Dataset::open(&config, &tokenizer(), None, &mut |_, _, _| true).unwrap_err();
    assert!(e.to_string().contains("these are conversations, but the model has no chat template"));
    let stopped = Dataset::open(&with(&[&text]), &tokenizer(), None, &mut |_, _, _| false);
    assert!(stopped.unwrap_err().to_string().ends_with("tokenizing was stopped"));
}

proptest! {
    /// Whatever bytes a file has, it is read or refused.
    #[test]
    fn damaged_files_are_read_or_refused(
        which in 0usize..11,
        list: bool,
        named: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let format = Format::ALL[which].0;
        let [a, b] = good(format);
        let mut bytes = if list { format!("[{a},\n{b}]") } else { [a, b].join("\n") }.into_bytes();
        for (place, byte, kind) in damage {
            let i = place.index(bytes.len());
            match kind {
                0 => bytes[i] = byte,
                1 => bytes.insert(i, byte),
                _ => bytes.truncate(i + 1),
            }
        }
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, &bytes).unwrap();
        let config = config(&path, named.then_some(format), OnError::Skip);
        if let Ok((dataset, report)) = open(&config) {
            prop_assert!((0..dataset.len()).all(|i| dataset.row(i).unwrap().counted() > 0));
            prop_assert_eq!(report.sources[0].rows, dataset.len() as u64);
        }
    }
}
