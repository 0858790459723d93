//! The files of the world that puyu is trained on: no test fact and no test wording in training, the same
//! bytes for any number of threads, wrong answers that are wrong, and sentences that read well.

use puyu::engine::{Engine, Limits, LoadOptions, Sampling, Session, generate, greedy};
use puyu::world::{
    Card, Form, Kind, Lang, Options, Question, Split, baseline, exam, expand, score, wordings,
    write,
};
use puyu_models::chat_template::{CHATML, ChatTemplate, Message, RenderOptions};
use puyu_nn::Compute;
use puyu_tensor::DType;
use puyu_tests::world::each;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

#[test]
fn every_problem_can_be_asked_and_scored() {
    for kind in Kind::ALL {
        each(*kind, 60, |p, split| {
            assert_eq!(
                p.facts
                    .iter()
                    .filter(|f| f.split(p.lang) != Split::Train && f.split(p.lang) != split)
                    .count(),
                0,
                "{p:?}"
            );
            for turn in &p.turns {
                let accepted: Vec<String> =
                    [&turn.answer].into_iter().chain(&turn.also).cloned().collect();
                assert!(score(*kind, &accepted, &turn.reply(p.lang)), "{turn:?}");
                assert_eq!(turn.wrong.len(), 3, "{turn:?}");
                for (i, wrong) in turn.wrong.iter().enumerate() {
                    assert!(!score(*kind, &accepted, &turn.reply_with(p.lang, wrong)), "{turn:?}");
                    assert!(!turn.wrong[..i].contains(wrong), "{turn:?}");
                }
            }
        });
    }
}

/// What of a pattern is wording: every expansion with its slots emptied.
fn shapes(patterns: &[&str]) -> HashSet<String> {
    patterns.iter().flat_map(|p| expand(p)).map(|s| s.to_lowercase()).collect()
}

#[test]
fn test_wordings_are_not_in_training() {
    let mut all = 0;
    for lang in Lang::ALL {
        for form in Form::ALL {
            let [a, b, c, d, validation, test] = wordings(lang, *form);
            let train = shapes(&[a, b, c, d]);
            let (validation, test) = (shapes(&[validation]), shapes(&[test]));
            assert!(train.is_disjoint(&test), "{form:?} {lang:?}: {:?}", train.intersection(&test));
            assert!(
                train.is_disjoint(&validation),
                "{form:?} {lang:?}: {:?}",
                train.intersection(&validation)
            );
            assert!(validation.is_disjoint(&test), "{form:?} {lang:?}");
            all += train.len() + validation.len() + test.len();
        }
    }
    assert!(all > 700, "only {all} wordings");
}

fn options(out: &Path, threads: usize) -> Options {
    Options {
        seed: 5,
        bytes: 1_500_000,
        langs: Lang::ALL.to_vec(),
        kinds: Kind::ALL.to_vec(),
        questions: 840,
        threads,
        out: out.into(),
    }
}

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Sentences that must not be written, in any language.
fn check_text(lang: Lang, text: &str) {
    let lower = text.to_lowercase();
    for word in [
        "a apple",
        "a egg",
        "a orange",
        "a umbrella",
        "a onion",
        "a engine",
        "a actor",
        "a artist",
        "an red",
        "an blue",
    ] {
        assert!(!format!(" {lower}").contains(&format!(" {word}")), "{word}: {text}");
    }
    for bad in [
        "  ",
        " .",
        " ,",
        "..",
        "。。",
        "，，",
        "{",
        "}",
        "[",
        "]",
        "在在在",
        "的的",
        " 1 apples",
        " the the ",
    ] {
        assert!(!format!(" {text}").contains(bad), "{bad:?} in {text}");
    }
    if lang == Lang::Zh {
        for bad in [". ", ", ", "?", "!", ";"] {
            assert!(!text.contains(bad), "{bad:?} in {text}");
        }
        assert!(!text.contains("。 ") && !text.contains("， "), "{text}");
    }
}

#[test]
fn texts_read_well() {
    for kind in Kind::ALL {
        each(*kind, 120, |p, _| {
            for sentence in &p.context {
                check_text(p.lang, sentence);
                assert!(sentence.ends_with(p.lang.pick('.', '。')), "{sentence}");
                assert_eq!(sentence.is_ascii(), p.lang == Lang::En, "{sentence}");
            }
            for turn in &p.turns {
                check_text(p.lang, &turn.question);
                let first = turn.question.chars().next().unwrap();
                assert!(!first.is_ascii_lowercase(), "{}", turn.question);
                if turn.call.is_none() {
                    check_text(p.lang, &turn.reply(p.lang));
                }
            }
        });
    }
}

#[test]
fn a_world_is_the_same_for_any_number_of_threads() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let cards: Vec<Card> = folders
        .iter()
        .zip([1, 3])
        .map(|(folder, threads)| write(&options(folder.path(), threads), &mut |_| ()).unwrap())
        .collect();
    assert_eq!(cards[0], cards[1]);
    let out = folders[0].path();
    for (name, card) in &cards[0].files {
        let bytes = std::fs::read(out.join(name)).unwrap();
        assert_eq!(bytes, std::fs::read(folders[1].path().join(name)).unwrap(), "{name}");
        assert_eq!(bytes.len() as u64, card.bytes);
        use sha2::Digest;
        let hash: String =
            sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, card.sha256, "{name}");
    }
    let card: Card =
        serde_json::from_slice(&std::fs::read(out.join("card.json")).unwrap()).unwrap();
    assert_eq!(card, cards[0]);
    choices_are_balanced(&read(&out.join("choice_test.jsonl")));
    let conversations = read(&out.join("sft.jsonl"));
    calls_are_in_internlm2s_format(&conversations);
    subjects_change(&conversations);
    nothing_of_the_test_is_trained_on(out);
    let total = baseline::baselines(out).unwrap().total();
    assert!(total.questions > 700);
    assert!(total.nearest * 100 <= total.questions * 40, "{total:?}");
    assert!(total.majority * 100 <= total.questions * 20, "{total:?}");
}

/// Calls and results come out as InternLM2 has them.
fn calls_are_in_internlm2s_format(all: &[Value]) {
    let called = |r: &&Value| r["messages"].as_array().unwrap().iter().any(|m| m["role"] == "tool");
    let record = all.iter().find(called).expect("a conversation with a call");
    let messages: Vec<Message> = serde_json::from_value(record["messages"].clone()).unwrap();
    let tools = Some(record["tools"].clone());
    let options = RenderOptions { tools, ..RenderOptions::default() };
    let text = ChatTemplate::new(CHATML).unwrap().render_text(&messages, &options).unwrap();
    let call = "<|im_start|>assistant\n<|action_start|><|plugin|>\n{\"name\": \"calculator\", \
        \"parameters\": {\"expression\": \"";
    let result = "\"}}<|action_end|><|im_end|>\n<|im_start|>environment name=<|plugin|>\n";
    let offer = "<|im_start|>system name=<|plugin|>\n[{\"";
    for wanted in [offer, call, result] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
}

/// Some conversations hold a sum and then a search, which are two subjects; the sum is not searched for.
fn subjects_change(all: &[Value]) {
    let replies = |r: &Value| -> Vec<String> {
        let messages = r["messages"].as_array().unwrap().iter();
        let said = messages.filter(|m| m["role"] == "assistant");
        said.map(|m| m["content"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let sum = |reply: &String| reply.contains(" = ") || reply.contains(" + ");
    let search = |reply: &String| reply.starts_with("Find ") || reply.starts_with('找');
    let both = all.iter().map(replies).filter(|r| r.iter().any(sum) && r.iter().any(search));
    let both: Vec<_> = both.collect();
    assert!(!both.is_empty());
    assert!(both.iter().flatten().all(|reply| !(sum(reply) && search(reply))), "{both:?}");
}

fn choices_are_balanced(all: &[Value]) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in all {
        *counts.entry(record["answer"].as_str().unwrap()).or_insert(0) += 1;
        let options: HashSet<&str> =
            ["A", "B", "C", "D"].iter().filter_map(|l| record[*l].as_str()).collect();
        assert_eq!(options.len(), 4, "{record}");
    }
    assert!(counts.len() == 4 && counts.values().all(|n| (190..230).contains(n)), "{counts:?}");
}

/// No question of a test set, whatever its layout, is a training text.
fn nothing_of_the_test_is_trained_on(out: &Path) {
    let content = |m: &Value| m["content"].as_str().unwrap_or_default().to_owned();
    let trained: HashSet<String> = read(&out.join("sft.jsonl"))
        .iter()
        .flat_map(|r| r["messages"].as_array().unwrap().iter().map(content).collect::<Vec<_>>())
        .collect();
    let documents = std::fs::read_to_string(out.join("pretrain.jsonl")).unwrap();
    for record in read(&out.join("answer_test.jsonl")) {
        let messages = record["messages"].as_array().unwrap();
        let asked = messages.iter().rev().find(|m| m["role"] == "user").unwrap();
        let asked = content(asked);
        assert!(!trained.contains(&asked), "{asked}");
        assert!(!documents.contains(&asked), "{asked}");
        assert_eq!(record["split"], "test");
    }
}

#[test]
fn what_cannot_be_written_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = Options { kinds: vec![], ..options(folder.path(), 1) };
    let error = write(&nothing, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("at least one language and one kind"), "{error}");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = write(&options(&file, 1), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot make the folder"), "{error}");
    std::fs::write(folder.path().join("sft.jsonl"), "{\"messages\": []}\nnot json\n").unwrap();
    let error = baseline::baselines(folder.path()).unwrap_err();
    assert!(error.to_string().contains("sft.jsonl:2"), "{error}");
}

/// An exam counts what `score` says, and knows calls and "I don't know" apart.
#[test]
fn an_exam_counts_answers_by_kind() {
    let question = |kind: Kind, lang: &str, accepted: &str, tools: bool| Question {
        id: "1".into(),
        kind,
        form: "Where".into(),
        lang: lang.into(),
        messages: vec![Message::new("user", "?")],
        tools: tools.then(|| Value::Array(vec![])),
        accepted: vec![accepted.into()],
    };
    let call = r#"{"name": "calculator", "parameters": {"expression": "1 + 2"}}"#;
    let calls = format!("<|action_start|><|plugin|>\n{call}<|action_end|>");
    let mut report = exam::Report::default();
    for (kind, lang, accepted, tools, said, right) in [
        (Kind::Lookup, "en", "in the hall", false, "The hall.", true),
        (Kind::Lookup, "zh", "厨房", false, "我不知道。", false),
        (Kind::Unknown, "en", "I don't know.", false, "I don't know.", true),
        (Kind::Unknown, "en", "I don't know.", false, "in the zoo", false),
        (Kind::Tool, "en", call, true, &calls, true),
        (Kind::Tool, "zh", call, true, "3", false),
        (Kind::Tool, "zh", "3", true, "3", true),
        (Kind::Tool, "zh", "3", true, &calls, false),
    ] {
        let answer = report.add(&question(kind, lang, accepted, tools), said.to_owned());
        assert_eq!(answer.right, right, "{said} for {accepted}");
    }
    let count = |right, of| exam::Count { right, of };
    assert_eq!(report.kind("lookup"), count(1, 2));
    assert_eq!(report.kind("tool"), count(2, 4));
    assert_eq!((report.unknown_said, report.unknown_asked), (count(1, 2), count(1, 2)));
    assert_eq!((report.calls, report.no_calls), (count(1, 2), count(1, 2)));
    assert!((report.mean() - 0.5).abs() < 1e-12);
    let shown = report.to_string();
    assert!(shown.contains("| lookup | 2 | 100.0 % | 0.0 % | 50.0 % |"), "{shown}");
}

/// Sequences decoded together, in and out of turn, are those decoded alone, to the bit.
#[test]
fn answers_given_together_are_those_given_alone() {
    let options = LoadOptions { compute: Compute::Exact, cache: DType::F32, ..Default::default() };
    let model = puyu_tests::fixtures().join("internlm2");
    let engine = Engine::open(&model, options, &|_, _| ()).unwrap();
    let prompt = |i: u32| (0..1 + i % 7).map(|k| 20 + (i * 31 + k * 17) % 200).collect();
    let prompts: Vec<Vec<u32>> = (0..20).map(prompt).collect();
    let mut together = vec![None; prompts.len()];
    greedy(&engine, &prompts, 12, &mut |i, ids| {
        together[i] = Some(ids.to_vec());
        true
    })
    .unwrap();
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    for (ids, found) in prompts.iter().zip(&together) {
        let mut session = Session::new(&engine, 64).unwrap();
        let limits = Limits { max_tokens: 12, ..Limits::default() };
        let alone = generate(&mut session, ids, &sampling, &limits, &mut |_| true).unwrap();
        let ends = |id: &&u32| !engine.generation.eos.contains(id);
        let alone: Vec<u32> = alone.ids.iter().take_while(ends).copied().collect();
        assert_eq!(found.as_ref(), Some(&alone));
    }
    assert!(greedy(&engine, &[vec![]], 4, &mut |_, _| true).is_err());
    assert!(greedy(&engine, &prompts, 4, &mut |_, _| false).is_err());
}

#[test]
fn an_exam_over_a_broken_file_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q.jsonl");
    std::fs::write(&path, "{\"id\": \"1\"}\n").unwrap();
    let error = Question::read(&path).unwrap_err().to_string();
    assert!(error.contains("q.jsonl:1 is not a record of a world"), "{error}");
}
