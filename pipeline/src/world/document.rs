//! Documents of the pretraining text: questions with answers, tales, facts said twice in other words or as
//! notes, echoes, and drills of what is constant (sums of one digit, which number is
//! larger, the days, counting on).

use super::facts::SCENIC;
use super::lookup;
use super::numbers::key_of;
use super::problem::Kind;
use super::render;
use super::rng::{Rng, Split};
use super::story;
use super::wording::Form;
use super::words::{self, Lang};

/// A document's text and the kinds of what is in it.
pub(super) fn document(rng: &mut Rng, lang: Lang, kinds: &[Kind]) -> (String, Vec<&'static str>) {
    let drawn = rng.below(20);
    if !kinds.iter().any(|k| tells_facts(*k)) {
        return match drawn {
            0..3 => (drill(rng, lang, kinds), vec!["drill"]),
            3 => (echo(rng, lang), vec!["echo"]),
            _ => questions(rng, lang, kinds),
        };
    }
    match drawn {
        0 => (tales(rng, lang), vec!["tale"]),
        1..5 => (paraphrase(rng, lang), vec!["paraphrase"]),
        5 => (drill(rng, lang, kinds), vec!["drill"]),
        6..12 => (echo(rng, lang), vec!["echo"]),
        _ => questions(rng, lang, kinds),
    }
}

/// Whether questions of `kind` are about facts that are told; a world without such tells none.
fn tells_facts(kind: Kind) -> bool {
    !matches!(kind, Kind::Arithmetic | Kind::Clock | Kind::Days | Kind::Instruct | Kind::Tool)
}

/// Questions of one kind or of several, with answers.
fn questions(rng: &mut Rng, lang: Lang, kinds: &[Kind]) -> (String, Vec<&'static str>) {
    let n = rng.pick(&[1, 1, 2, 3, 4, 6]);
    let mut kind = drawn_kind(rng, kinds);
    let same = rng.chance(50);
    let (mut parts, mut labels) = (Vec::new(), Vec::new());
    for _ in 0..n {
        let problem = super::problem(rng, kind, lang, Split::Train);
        labels.push(kind.name());
        parts.push(render::document(rng, &problem));
        if !same {
            kind = drawn_kind(rng, kinds);
        }
    }
    (parts.join("\n\n"), labels)
}

/// How often each kind is trained on; a tool's calls are no plain text.
pub(super) fn weight(kind: Kind) -> usize {
    match kind {
        Kind::Arithmetic => 13,
        Kind::Lookup | Kind::Clock => 10,
        Kind::Story | Kind::Sorting | Kind::Comparing => 9,
        Kind::Kinship | Kind::Counting | Kind::Instruct | Kind::Unknown | Kind::Tool => 8,
        Kind::Negation => 8,
        Kind::Followup => 6,
        Kind::Days => 5,
    }
}

/// One of `kinds` by its weight.
pub(super) fn drawn_kind(rng: &mut Rng, kinds: &[Kind]) -> Kind {
    let mut n = rng.below(kinds.iter().map(|k| weight(*k)).sum());
    for kind in kinds {
        if n < weight(*kind) {
            return *kind;
        }
        n -= weight(*kind);
    }
    unreachable!("n is below the sum of the weights")
}

fn tales(rng: &mut Rng, lang: Lang) -> String {
    let mut told = None;
    while told.is_none() {
        told = story::tale(rng, lang);
    }
    told.unwrap_or_default().join(lang.pick(" ", ""))
}

/// Facts, and each of them again in other words; or searched as the notes of answers do it.
fn paraphrase(rng: &mut Rng, lang: Lang) -> String {
    let relation = rng.pick(&SCENIC);
    let scene = story::scene(rng, lang, relation);
    let (joint, gap) = lang.pick(("In other words, ", " "), ("也就是说，", ""));
    let paired = rng.chance(50);
    let first = scene.sentences(rng, lang);
    if !paired {
        let searches = lookup::searches(rng, lang, &scene.facts);
        return format!("{}\n{}", first.join(gap), searches.join("\n"));
    }
    let mut lines = Vec::new();
    for (said, fact) in first.iter().zip(&scene.facts) {
        let mut again = fact.sentence(rng, lang);
        // A pronoun would do; the name shows that nothing else has changed. Only "The" is made small.
        if lang == Lang::En && again.starts_with("The ") {
            again.replace_range(..1, "t");
        }
        let again_starts_small =
            matches!(again.as_bytes().first(), Some(b) if !b.is_ascii_uppercase());
        let name = fact.person().map(|p| p.name(lang));
        let fits =
            lang == Lang::Zh || again_starts_small || name.is_some_and(|n| again.starts_with(n));
        lines.push(if fits && *said != again {
            format!("{said}{gap}{joint}{again}")
        } else {
            said.clone()
        });
    }
    lines.join("\n")
}

/// Words or facts three times: what comes next stands there already, and is found and copied. All that
/// answers from given facts builds on that.
fn echo(rng: &mut Rng, lang: Lang) -> String {
    let said = match rng.below(2) {
        0 => {
            let n = rng.between(3, 10) as usize;
            let all: Vec<&str> = (0..n).map(|_| words::random(rng, lang)).collect();
            words::list(lang, &all)
        }
        _ => {
            let relation = rng.pick(&SCENIC);
            let scene = story::scene(rng, lang, relation);
            let n = rng.between(1, 3) as usize;
            let all: Vec<String> = scene.sentences(rng, lang).into_iter().take(n).collect();
            all.join(lang.pick(" ", ""))
        }
    };
    vec![said; 3].join("\n")
}

/// What never changes, again and again.
fn drill(rng: &mut Rng, lang: Lang, kinds: &[Kind]) -> String {
    let n = rng.between(5, 16);
    let orders = kinds.iter().any(|k| matches!(k, Kind::Sorting | Kind::Comparing));
    match rng.below(if orders { 6 } else { 4 }) {
        0 => sums(rng, n, "+", |x, y| x + y),
        1 => sums(rng, n, "×", |x, y| x * y),
        2 => {
            let from = rng.below(7);
            let days: Vec<&str> = (from..from + n as usize).map(|d| words::day(lang, d)).collect();
            words::list(lang, &days)
        }
        3 | 4 if orders => signs(rng, lang, n),
        _ => loop {
            let x = rng.between(1, 980);
            let y = x + n - 1;
            // A run that a test asks for is no drill.
            let key = key_of(lang, Form::CountFrom, [x as usize, y as usize]);
            if Split::of(key) == Split::Train {
                let run: Vec<String> = (x..=y).map(|i| i.to_string()).collect();
                return words::list(lang, &run);
            }
        },
    }
}

/// Which of two numbers is larger, each as two digits.
fn signs(rng: &mut Rng, lang: Lang, n: u32) -> String {
    let mut lines = Vec::new();
    while lines.len() < n as usize {
        let (x, y) = (rng.between(0, 99) as usize, rng.between(0, 99) as usize);
        let key = key_of(lang, Form::Bigger, [x.min(y), x.max(y)]);
        if x != y && Split::of(key) == Split::Train {
            lines.push(format!("{x:02} {} {y:02}", if x < y { "<" } else { ">" }));
        }
    }
    lines.join("\n")
}

fn sums(rng: &mut Rng, n: u32, sign: &str, of: impl Fn(u32, u32) -> u32) -> String {
    let line = |rng: &mut Rng| {
        let (x, y) = (rng.between(0, 9), rng.between(0, 9));
        format!("{x} {sign} {y} = {}", of(x, y))
    };
    let lines: Vec<String> = (0..n).map(|_| line(rng)).collect();
    lines.join("\n")
}
