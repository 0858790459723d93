//! The notes that answers begin with: what is sought, in one form for all wordings of a question, and then
//! the facts one by one as they stand in the text, each in the fixed words of notes and with a verdict.
//! Every word of a note follows from its neighbours and one place of the text, so a search becomes many small
//! steps, and "I don't know" is what is left when no fact fits.

use super::facts::{Fact, Relation, kin};
use super::wording::Form;
use super::words::{self, DOINGS, FOODS, JOBS, Lang, Person, THINGS};

/// What stands for the word that is sought.
pub(super) fn gap(lang: Lang) -> &'static str {
    lang.pick("?", "？")
}

/// Subject, what is said of it, and value, in the words of notes; a thing's colour stands before it.
fn parts(lang: Lang, fact: &Fact) -> [String; 3] {
    let name = || Person(fact.a).name(lang).to_owned();
    let place = || words::place(lang, fact.v).to_owned();
    let [en, zh] = match fact.relation {
        Relation::At => ["place", "地方"],
        Relation::Has => ["thing", "东西"],
        Relation::Likes => ["food", "食物"],
        Relation::Job => ["job", "工作"],
        Relation::ThingAt => ["spot", "位置"],
        Relation::DoDay | Relation::DoTime => [DOINGS[fact.w].1, DOINGS[fact.w].2],
        Relation::Age => ["age", "年龄"],
        Relation::Count => [FOODS[fact.w].kind(Lang::En), FOODS[fact.w].kind(Lang::Zh)],
        Relation::Kin => [kin(Lang::En, fact.w), kin(Lang::Zh, fact.w)],
    };
    let said = lang.pick(en, zh).to_owned();
    match fact.relation {
        Relation::At => [name(), said, place()],
        Relation::Has => [name(), said, thing(lang, fact.v, fact.w)],
        Relation::Likes => [name(), said, FOODS[fact.v].kind(lang).to_owned()],
        Relation::Job => [name(), said, lang.pick(JOBS[fact.v].0, JOBS[fact.v].1).to_owned()],
        Relation::ThingAt => [thing(lang, fact.a, fact.w), said, place()],
        Relation::DoDay => [name(), said, words::day(lang, fact.v).to_owned()],
        Relation::DoTime => [name(), said, words::time(fact.v as u32)],
        Relation::Age | Relation::Count => [name(), said, fact.v.to_string()],
        Relation::Kin => [name(), said, Person(fact.v).name(lang).to_owned()],
    }
}

/// A thing in the words of notes: "red cup".
pub(super) fn thing(lang: Lang, colour: usize, noun: usize) -> String {
    joined(lang, &[words::colour(lang, colour), THINGS[noun].bare(lang)])
}

/// Words of a note side by side.
pub(super) fn joined(lang: Lang, words: &[&str]) -> String {
    words.join(lang.pick(" ", ""))
}

/// A fact in the words of notes: "Tom place zoo".
fn noted(lang: Lang, fact: &Fact) -> String {
    joined(lang, &parts(lang, fact).each_ref().map(String::as_str))
}

/// What `form` seeks: the fact's note with a gap for the answer.
fn sought(lang: Lang, form: Form, fact: &Fact) -> String {
    use Form::*;
    let [a, said, v] = &parts(lang, fact);
    let all: [&str; 3] = match form {
        WhoAt | WhoHas | WhoLikes | WhoJob | WhoDay | WhoTime | WhoAge | WhatAt | CountPeople
        | KinWhose => [gap(lang), said, v],
        KinHow => [a, gap(lang), v],
        ColourOf => {
            let thing = joined(lang, &[gap(lang), THINGS[fact.w].bare(lang)]);
            return joined(lang, &[a, said, &thing]);
        }
        NotAt => [gap(lang), said, &joined(lang, &[lang.pick("not", "不是"), v])],
        CountColour => [words::colour(lang, fact.a), gap(lang), said],
        NotColour => [gap(lang), lang.pick("not", "不是"), words::colour(lang, fact.a)],
        _ => [a, said, gap(lang)],
    };
    joined(lang, &all)
}

/// "Find", what is sought, and the items that were gone through.
pub(super) fn found(lang: Lang, sought: &str, items: &[String]) -> String {
    let (find, colon) = lang.pick(("Find ", ": "), ("找", "："));
    let colon = if items.is_empty() { "" } else { colon };
    format!("{find}{sought}{colon}{}", words::list(lang, items))
}

fn verdict(lang: Lang, yes: bool) -> &'static str {
    if yes { lang.pick("yes", "是") } else { lang.pick("no", "否") }
}

/// `item` and whether it is what is sought.
pub(super) fn judged(lang: Lang, item: &str, yes: bool) -> String {
    joined(lang, &[item, verdict(lang, yes)])
}

/// The items up to the first that fits, all if none does, each with its verdict.
pub(super) fn until(
    lang: Lang,
    sought: &str,
    items: impl Iterator<Item = (String, bool)>,
) -> String {
    let mut said = Vec::new();
    for (item, yes) in items {
        said.push(judged(lang, &item, yes));
        if yes {
            break;
        }
    }
    ended(lang, found(lang, sought, &said))
}

/// The facts up to the first that `fits`.
fn search_by(lang: Lang, sought: &str, facts: &[Fact], fits: impl Fn(&Fact) -> bool) -> String {
    until(lang, sought, facts.iter().map(|f| (noted(lang, f), fits(f))))
}

/// The search for `asked`, which `form` asks about, in `facts`: "Find Tom place ?: Anna place park no, Tom
/// place zoo yes". If it is not among them, all are gone through and none fits.
pub(super) fn search(lang: Lang, form: Form, asked: &Fact, facts: &[Fact]) -> String {
    search_by(lang, &sought(lang, form, asked), facts, |f| f == asked)
}

/// The search for the `odd` fact, which is not as `usual` is. Of things only the colour is told, where the
/// verdict stands beside it.
pub(super) fn odd(lang: Lang, form: Form, usual: &Fact, odd: &Fact, facts: &[Fact]) -> String {
    let item = |f: &Fact| match form {
        Form::NotColour => joined(lang, &[THINGS[f.w].bare(lang), words::colour(lang, f.a)]),
        _ => noted(lang, f),
    };
    until(lang, &sought(lang, form, usual), facts.iter().map(|f| (item(f), f == odd)))
}

/// Items gone through with a running number of those that fit: "Find ? place zoo: Tom place zoo yes 1, Anna
/// place park no 1".
fn tally(lang: Lang, sought: &str, items: impl Iterator<Item = (String, bool)>) -> String {
    let mut n = 0;
    let said: Vec<String> = items
        .map(|(item, yes)| {
            n += usize::from(yes);
            joined(lang, &[&judged(lang, &item, yes), &n.to_string()])
        })
        .collect();
    ended(lang, found(lang, sought, &said))
}

/// All facts, those that `fits` counted; `like` is what `form` counts.
pub(super) fn count(
    lang: Lang,
    form: Form,
    like: &Fact,
    facts: &[Fact],
    fits: impl Fn(&Fact) -> bool,
) -> String {
    tally(lang, &sought(lang, form, like), facts.iter().map(|f| (noted(lang, f), fits(f))))
}

/// How often `word` is among `all`.
pub(super) fn count_word(lang: Lang, word: &str, all: &[&str]) -> String {
    tally(lang, word, all.iter().map(|w| ((*w).to_owned(), *w == word)))
}

/// A number or a time as long as any other of its kind, so that digits of like worth stand at like places.
fn aligned(fact: &Fact) -> String {
    match fact.relation {
        Relation::DoTime => format!("{:0>5}", words::time(fact.v as u32)),
        _ => format!("{:02}", fact.v),
    }
}

/// A fact with its value first, "07 Tom": who is next in an order is seen where the name stands.
fn valued(lang: Lang, fact: &Fact) -> String {
    format!("{} {}", aligned(fact), Person(fact.a).name(lang))
}

/// Both that are `asked` about are searched for, then stand side by side, then the one that is `right`:
/// "Find Ida age ?: Ida age 7 yes. Find Tom age ?: Ida age 7 no, Tom age 12 yes. 07 Ida, 12 Tom; older 12 Tom".
pub(super) fn compare(
    lang: Lang,
    form: Form,
    right: &Fact,
    asked: [&Fact; 2],
    facts: &[Fact],
) -> String {
    let single = if form == Form::More { Form::HowMany } else { Form::Age };
    let [first, second] = asked.map(|f| search(lang, single, f, facts));
    let more = match form {
        Form::More => lang.pick("more", "更多"),
        Form::Younger => lang.pick("younger", "更小"),
        _ => lang.pick("older", "更大"),
    };
    let both = words::list(lang, &asked.map(|f| valued(lang, f)));
    let last = format!("{both}{}{more} {}", semicolon(lang), valued(lang, right));
    [first, second, ended(lang, last)].join(lang.pick(" ", ""))
}

/// The facts put in order one after another, each into those before it: "Up: 12 Tom; 07 Ida, 12 Tom". Where
/// numbers alone are sorted, no names.
pub(super) fn sort(lang: Lang, facts: &[Fact], sorted: &[Fact], numbers: bool) -> String {
    let rises = sorted.first().map(|f| f.v) < sorted.last().map(|f| f.v);
    let order = if rises {
        lang.pick("Up: ", "从小到大：")
    } else {
        lang.pick("Down: ", "从大到小：")
    };
    let item = |f: &Fact| if numbers { aligned(f) } else { valued(lang, f) };
    let rounds: Vec<String> = (1..=facts.len())
        .map(|n| {
            let so_far = sorted.iter().filter(|f| facts[..n].contains(f));
            words::list(lang, &so_far.map(item).collect::<Vec<_>>())
        })
        .collect();
    ended(lang, format!("{order}{}", rounds.join(semicolon(lang))))
}

/// The search for who is the `relation` of `name`, which `told` says in one way or the other: "Find Kate
/// father ?: Tom son Max no, Leo daughter Kate yes".
pub(super) fn relative(
    lang: Lang,
    name: &str,
    relation: &str,
    told: &Fact,
    facts: &[Fact],
) -> String {
    search_by(lang, &joined(lang, &[name, relation, gap(lang)]), facts, |f| f == told)
}

/// Who is which relative of whom, hop by hop: "Find Eric mother ?: Tom son Max no, Eric mother Ida yes.
/// Find Ida brother ?: ...". A grandparent is sought through a parent, whichever is told of.
pub(super) fn hops(lang: Lang, line: &[Fact], facts: &[Fact], grand: bool) -> String {
    let hop = |(i, fact): (usize, &Fact)| {
        let parent = lang == Lang::En && grand && i == 0;
        let said = if parent { "parent" } else { kin(lang, fact.w) };
        relative(lang, Person(fact.a).name(lang), said, fact, facts)
    };
    let all: Vec<String> = line.iter().enumerate().map(hop).collect();
    all.join(lang.pick(" ", ""))
}

/// The search for `asked`, and the place that a question names: "..., Tom place zoo yes. hall."
pub(super) fn check(lang: Lang, asked: &Fact, facts: &[Fact], place: usize) -> String {
    let searched = search(lang, Form::Where, asked, facts);
    let named = words::place(lang, place).to_owned();
    joined(lang, &[&searched, &ended(lang, named)])
}

/// A note with its stop.
pub(super) fn ended(lang: Lang, note: String) -> String {
    note + lang.pick(".", "。")
}

fn semicolon(lang: Lang) -> &'static str {
    lang.pick("; ", "；")
}
