//! The model that comes with puyu, on questions whose facts, operands and wordings it has not seen.

use puyu::engine::{Engine, LoadOptions};
use puyu::hub;
use puyu::world::exam::exam;
use puyu::world::{Kind, Lang, Options, Question, write};
use puyu_models::format::{self, OpenOptions};

#[test]
fn it_answers_two_hundred_unseen_questions() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        seed: 20_261_126,
        bytes: 100_000,
        langs: Lang::ALL.to_vec(),
        kinds: Kind::ALL.to_vec(),
        questions: 200,
        threads: 2,
        out: folder.path().into(),
    };
    write(&options, &mut |_| {}).unwrap();
    let questions = Question::read(&folder.path().join("answer_test.jsonl")).unwrap();
    assert_eq!(questions.len(), 200);
    let path = hub::resolve(hub::SHIPPED).unwrap();
    assert!(path.metadata().unwrap().len() <= 4 << 20, "{}", path.display());
    // llama.cpp asks for a head of its own in this architecture.
    let file = format::open(&path, OpenOptions::default()).unwrap();
    assert!(file.source().names().contains(&"output.weight"), "{}", path.display());
    let engine = Engine::open(&path, LoadOptions::default(), &|_, _| ()).unwrap();
    let report = exam(&engine, &questions, &mut |_, _| true).unwrap();
    let right = questions.iter().map(|q| q.kind.name());
    let kinds: std::collections::BTreeSet<_> = right.collect();
    let right: usize = kinds.iter().map(|kind| report.kind(kind).right).sum();
    println!("{report}");
    assert!(right >= 160, "{right} of 200 are right\n{report}");
}
