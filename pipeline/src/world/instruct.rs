//! Doing what is said with given words: repeat, mark, take initials, reverse, pick, count on. The words
//! are all known from training; which lists of them are worked on is split by hash.

use super::facts::{self, Relation};
use super::numbers::{key_of, wrong_orders};
use super::problem::{Kind, Problem, Turn, wrongs};
use super::rng::{Rng, Split};
use super::wording::{self, Form};
use super::words::{self, FOODS, Lang, THINGS};

/// The word of number `i`: things, then foods.
fn word(lang: Lang, i: usize) -> &'static str {
    match THINGS.get(i) {
        Some(thing) => thing.bare(lang),
        None => FOODS[i - THINGS.len()].bare(lang),
    }
}

const WORDS: usize = THINGS.len() + FOODS.len();

/// Positions in a list.
const POSITIONS: [(&str, &str); 5] = [
    ("first", "第一"),
    ("second", "第二"),
    ("third", "第三"),
    ("fourth", "第四"),
    ("last", "最后一"),
];

/// An instruction and what follows it.
pub(super) fn instruct(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form = rng.pick(&[
        Form::Repeat,
        Form::RepeatWord,
        Form::Mark,
        Form::Initials,
        Form::Reverse,
        Form::Nth,
        Form::CountFrom,
    ]);
    match form {
        Form::Repeat => return repeat(rng, lang, split),
        Form::CountFrom => return count_from(rng, lang, split),
        _ => {}
    }
    let n = match form {
        Form::RepeatWord => 1,
        Form::Reverse => rng.between(3, 5),
        Form::Nth => rng.between(4, 6),
        _ => rng.between(1, 4),
    };
    let chosen = rng.distinct(WORDS, n as usize);
    let times = rng.between(2, 6);
    let position = rng.below(POSITIONS.len());
    let extra = match form {
        Form::RepeatWord => times as usize,
        Form::Nth => position,
        _ => 0,
    };
    let key = key_of(lang, form, chosen.iter().copied().chain([extra]));
    if Split::of(key) != split {
        return None;
    }
    let all: Vec<String> = chosen.iter().map(|i| word(lang, *i).to_owned()).collect();
    let number = match form {
        Form::RepeatWord => lang.pick(format!("{times} times"), format!("{times}遍")),
        _ => lang.pick(POSITIONS[position].0, POSITIONS[position].1).to_owned(),
    };
    let list = words::list(lang, &all);
    let question =
        wording::ask(rng, lang, split, form, &[('l', &*list), ('w', &*all[0]), ('n', &*number)]);
    let done: Vec<String> = match form {
        Form::RepeatWord => vec![all[0].clone(); times as usize],
        Form::Mark => all.iter().map(|w| lang.pick(w.to_uppercase(), format!("“{w}”"))).collect(),
        Form::Initials => all.iter().map(|w| w.chars().take(1).collect()).collect(),
        Form::Reverse => all.iter().rev().cloned().collect(),
        _ => vec![all[if position == 4 { all.len() - 1 } else { position }].clone()],
    };
    let answer = words::list(lang, &done);
    let wrong = match form {
        Form::Nth => wrongs(rng, &answer, all),
        Form::Reverse => wrong_orders(rng, lang, &done),
        Form::RepeatWord => near_times(lang, &all[0], times),
        _ => other_words(rng, lang, form, &chosen, &answer),
    };
    Some(Problem::new(
        Kind::Instruct,
        form,
        lang,
        key,
        vec![],
        Turn::plain(question, answer, wrong),
    ))
}

/// The word too often or too seldom.
fn near_times(lang: Lang, word: &str, times: u32) -> Vec<String> {
    let all = [times - 1, times + 1, times + 2];
    all.iter().map(|n| words::list(lang, &vec![word; *n as usize])).collect()
}

/// The same done to lists with one word changed.
fn other_words(
    rng: &mut Rng,
    lang: Lang,
    form: Form,
    chosen: &[usize],
    right: &str,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    while found.len() < 3 {
        let mut changed = chosen.to_vec();
        changed[rng.below(chosen.len())] = rng.below(WORDS);
        let one = |i: &usize| {
            let w = word(lang, *i);
            match form {
                Form::Mark => lang.pick(w.to_uppercase(), format!("“{w}”")),
                _ => w.chars().take(1).collect(),
            }
        };
        let text = words::list(lang, &changed.iter().map(one).collect::<Vec<String>>());
        if text != right && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// A sentence of the world again.
fn repeat(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let relation = rng.pick(&[Relation::At, Relation::Has, Relation::ThingAt, Relation::DoDay]);
    let fact = facts::draw(rng, lang, split, relation);
    let sentence = fact.sentence(rng, lang);
    let question = wording::ask(rng, lang, split, Form::Repeat, &[('l', &sentence)]);
    let mut wrong: Vec<String> = Vec::new();
    while wrong.len() < 3 {
        let other = facts::draw(rng, lang, Split::Train, relation).sentence(rng, lang);
        if other != sentence && !wrong.contains(&other) {
            wrong.push(other);
        }
    }
    let turn = Turn::plain(question, sentence, wrong);
    Some(Problem::new(Kind::Instruct, Form::Repeat, lang, fact.key(lang), vec![], turn))
}

/// Numbers one after another.
fn count_from(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let high = rng.pick(&[20, 100, 100, 980]);
    let (x, n) = (rng.between(1, high), rng.between(3, 9));
    let y = x + n - 1;
    let key = key_of(lang, Form::CountFrom, [x as usize, y as usize]);
    if Split::of(key) != split {
        return None;
    }
    let (a, b) = (x.to_string(), y.to_string());
    let question = wording::ask(rng, lang, split, Form::CountFrom, &[('x', &*a), ('y', &*b)]);
    let run = |from: u32, to: u32| {
        let all: Vec<String> = (from..=to).map(|i| i.to_string()).collect();
        words::list(lang, &all)
    };
    let wrong = vec![run(x + 1, y), run(x, y + 1), run(x + 1, y + 1)];
    let turn = Turn::plain(question, run(x, y), wrong);
    Some(Problem::new(Kind::Instruct, Form::CountFrom, lang, key, vec![], turn))
}
