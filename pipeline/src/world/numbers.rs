//! Counting, sorting and comparing. What is counted is listed with running numbers before the count is
//! said, so that a small model counts instead of guessing; what is sorted or compared are numbers,
//! ages, times and amounts.

use super::facts::{self, Fact, Relation, Scene};
use super::fill;
use super::problem::{Kind, Problem, Turn, wrong_numbers, wrongs};
use super::rng::{self, Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{self, COLOURS, FOODS, Lang, PEOPLE, PLACES, Person, THINGS};

/// A hash of what is asked, in a language.
pub(super) fn key_of(lang: Lang, form: Form, operands: impl IntoIterator<Item = usize>) -> u64 {
    let parts: Vec<u64> = [lang as u64, 1000 + form as u64]
        .into_iter()
        .chain(operands.into_iter().map(|x| x as u64))
        .collect();
    rng::key(&parts)
}

/// How many.
pub(super) fn counting(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    match rng.below(4) {
        0 => count_things(rng, lang, split),
        1 => count_word(rng, lang, split),
        2 => count_people(rng, lang, split),
        _ => count_colour(rng, lang, split),
    }
}

/// A counting problem from what was counted.
fn counted(
    rng: &mut Rng,
    lang: Lang,
    (form, key): (Form, u64),
    context: Vec<String>,
    question: String,
    (steps, answer): (String, usize),
) -> Problem {
    let wrong = wrong_numbers(rng, answer as u32);
    let turn = Turn { steps, ..Turn::plain(question, answer.to_string(), wrong) };
    Problem::new(Kind::Counting, form, lang, key, context, turn)
}

/// The things of one person among others.
fn count_things(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let people = rng.distinct(PEOPLE, 2);
    let numbers = [rng.between(1, 8) as usize, rng.between(1, 5) as usize];
    let mut context = Vec::new();
    let mut own: Vec<usize> = Vec::new();
    for (person, n) in people.iter().zip(numbers) {
        let things = rng.distinct(THINGS.len(), n);
        let all: Vec<String> = things.iter().map(|t| THINGS[*t].a(lang)).collect();
        let name = Person(*person).name(lang);
        let has = words::and(lang, &all);
        context.push(lang.pick(format!("{name} has {has}."), format!("{name}有{has}。")));
        if own.is_empty() {
            own = things;
        }
    }
    let named = (1..).zip(&own).map(|(n, t)| (n.to_string(), THINGS[*t].bare(lang)));
    let items: Vec<String> = named.map(|(n, t)| scan::joined(lang, &[t, &n])).collect();
    let key = key_of(lang, Form::CountThings, own);
    if Split::of(key) != split {
        return None;
    }
    rng.shuffle(&mut context);
    let person = Person(people[0]);
    let slots = [('a', person.name(lang)), ('s', &*person.whose(lang))];
    let question = wording::ask(rng, lang, split, Form::CountThings, &slots);
    let said = lang.pick("thing", "东西");
    let sought = scan::joined(lang, &[person.name(lang), said, scan::gap(lang)]);
    let count = (scan::ended(lang, scan::found(lang, &sought, &items)), items.len());
    Some(counted(rng, lang, (Form::CountThings, key), context, question, count))
}

/// A word in a list of words.
fn count_word(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let kinds = rng.distinct(FOODS.len(), 3);
    let n = rng.between(3, 9) as usize;
    let all: Vec<usize> = (0..n).map(|_| rng.pick(&kinds)).collect();
    let word = FOODS[kinds[0]].bare(lang);
    let times = all.iter().filter(|k| **k == kinds[0]).count();
    let key = key_of(lang, Form::CountWord, all.iter().copied());
    if times == 0 || Split::of(key) != split {
        return None;
    }
    let names: Vec<&str> = all.iter().map(|k| FOODS[*k].bare(lang)).collect();
    let list = words::list(lang, &names);
    let slots = [('w', word), ('l', &*list)];
    let question = wording::ask(rng, lang, split, Form::CountWord, &slots);
    let steps = scan::count_word(lang, word, &names);
    Some(counted(rng, lang, (Form::CountWord, key), vec![], question, (steps, times)))
}

/// The people at one of two or three places.
fn count_people(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let places = rng.distinct(PLACES.len(), 3);
    let n = rng.between(3, 8) as usize;
    let mut facts: Vec<Fact> = Vec::new();
    for person in rng.distinct(PEOPLE, n) {
        let v = places[rng.pick(&[0, 0, 0, 1, 1, 2])];
        let fact = Fact::new(Relation::At, person, 0, v);
        if facts::allowed(fact.split(lang), split) {
            facts.push(fact);
        }
    }
    let there: Vec<usize> = facts.iter().filter(|f| f.v == places[0]).map(|f| f.a).collect();
    let key = key_of(lang, Form::CountPeople, there.iter().copied());
    if there.is_empty() || Split::of(key) != split {
        return None;
    }
    let p = words::in_place(lang, places[0]);
    let question = wording::ask(rng, lang, split, Form::CountPeople, &[('p', &p)]);
    let context = Scene { facts: facts.clone() }.sentences(rng, lang);
    let here = Fact::new(Relation::At, there[0], 0, places[0]);
    let steps = scan::count(lang, Form::CountPeople, &here, &facts, |f| f.v == places[0]);
    let form = (Form::CountPeople, key);
    let count = (steps, there.len());
    Some(Problem { facts, ..counted(rng, lang, form, context, question, count) })
}

/// The things of one colour.
fn count_colour(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let colours = rng.distinct(COLOURS.len(), 3);
    let n = rng.between(3, 7) as usize;
    let mut scene = Scene::default();
    for w in rng.distinct(THINGS.len(), n) {
        let a = colours[rng.pick(&[0, 0, 1, 2])];
        let fact = Fact { a, w, ..Fact::random(rng, Relation::ThingAt, 0) };
        let fits = scene.facts.iter().all(|f| !f.conflicts(&fact));
        if fits && facts::allowed(fact.split(lang), split) {
            scene.facts.push(fact);
        }
    }
    let facts = scene.facts.clone();
    let those: Vec<usize> = facts.iter().filter(|f| f.a == colours[0]).map(|f| f.w).collect();
    let key = key_of(lang, Form::CountColour, those.iter().copied());
    if those.is_empty() || Split::of(key) != split {
        return None;
    }
    let c = words::colour(lang, colours[0]);
    let question = wording::ask(rng, lang, split, Form::CountColour, &[('c', c)]);
    let context = scene.sentences(rng, lang);
    let one = Fact { a: colours[0], ..facts[0] };
    let steps = scan::count(lang, Form::CountColour, &one, &facts, |f| f.a == colours[0]);
    let form = (Form::CountColour, key);
    let count = (steps, those.len());
    Some(Problem { facts, ..counted(rng, lang, form, context, question, count) })
}

/// Numbers, or people by age or time, in order.
pub(super) fn sorting(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form =
        rng.pick(&[Form::SortUp, Form::SortDown, Form::SortOld, Form::SortYoung, Form::SortTime]);
    let n = rng.pick(&[3, 3, 4]);
    let numbers = matches!(form, Form::SortUp | Form::SortDown);
    let mut facts: Vec<Fact> = Vec::new();
    let relation = if form == Form::SortTime { Relation::DoTime } else { Relation::Age };
    let doing = rng.below(words::DOINGS.len());
    while facts.len() < n {
        let person = rng.below(PEOPLE);
        let fact = Fact::random(rng, relation, person);
        let fact = if form == Form::SortTime { Fact { w: doing, ..fact } } else { fact };
        let new = facts.iter().all(|f| f.a != fact.a && f.v != fact.v);
        if new && (numbers || facts::allowed(fact.split(lang), split)) {
            facts.push(fact);
        }
    }
    let mut sorted = facts.clone();
    sorted.sort_by_key(|f| f.v);
    if matches!(form, Form::SortDown | Form::SortOld) {
        sorted.reverse();
    }
    let operands = sorted.iter().flat_map(|f| [if numbers { 0 } else { f.a }, f.v]);
    let key = key_of(lang, if numbers { Form::SortUp } else { form }, operands.clone());
    let same = if form == Form::SortDown {
        key_of(lang, Form::SortUp, sorted.iter().rev().flat_map(|f| [0, f.v]))
    } else {
        key
    };
    if Split::of(same) != split {
        return None;
    }
    let word = |f: &Fact| if numbers { f.v.to_string() } else { Person(f.a).name(lang).to_owned() };
    let shown: Vec<String> = facts.iter().map(word).collect();
    let ordered: Vec<String> = sorted.iter().map(word).collect();
    let list = words::list(lang, &shown);
    let question = wording::ask(rng, lang, split, form, &[('l', &list)]);
    let answer = words::list(lang, &ordered);
    let wrong = wrong_orders(rng, lang, &ordered);
    let context = match numbers {
        true => vec![],
        false => Scene { facts: facts.clone() }.sentences(rng, lang),
    };
    let mut problem = Problem::new(
        Kind::Sorting,
        form,
        lang,
        same,
        context,
        Turn::plain(question, answer, wrong),
    );
    problem.turns[0].steps = scan::sort(lang, &facts, &sorted, numbers);
    if !numbers {
        problem.facts = facts;
    }
    Some(problem)
}

/// Three other orders of a list of at least three.
pub(super) fn wrong_orders(rng: &mut Rng, lang: Lang, right: &[String]) -> Vec<String> {
    let answer = words::list(lang, right);
    let mut found: Vec<String> = Vec::new();
    let mut order = right.to_vec();
    while found.len() < 3 {
        rng.shuffle(&mut order);
        let text = words::list(lang, &order);
        if text != answer && !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// Adjectives of a chain: comparative and superlative in English, plain in Chinese, and the opposite's
/// superlative.
const CHAINS: [[&str; 6]; 4] = [
    ["taller", "tallest", "高", "shorter", "shortest", "矮"],
    ["heavier", "heaviest", "重", "lighter", "lightest", "轻"],
    ["faster", "fastest", "快", "slower", "slowest", "慢"],
    ["stronger", "strongest", "强", "weaker", "weakest", "弱"],
];

/// Which of two or more.
pub(super) fn comparing(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    match rng.below(7) {
        0 | 1 => chain(rng, lang, split),
        2 => compare_numbers(rng, lang, split),
        3 => compare_people(rng, lang, split, Form::Older),
        4 => compare_people(rng, lang, split, Form::Younger),
        _ => compare_people(rng, lang, split, Form::More),
    }
}

/// Two numbers of like length.
fn compare_numbers(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let high = rng.pick(&[99, 999, 999]);
    let (x, y) = (rng.between(high / 10, high), rng.between(high / 10, high));
    let form = rng.pick(&[Form::Bigger, Form::Smaller]);
    let key = key_of(lang, Form::Bigger, [x.min(y) as usize, x.max(y) as usize]);
    if x == y || Split::of(key) != split {
        return None;
    }
    let (a, b) = (x.to_string(), y.to_string());
    let question = wording::ask(rng, lang, split, form, &[('x', &a), ('y', &b)]);
    let larger = if x > y { &a } else { &b };
    let smaller = if x > y { &b } else { &a };
    let (right, other) = if form == Form::Bigger { (larger, smaller) } else { (smaller, larger) };
    let mut near = wrong_numbers(rng, x.max(y));
    near.retain(|n| n != right && n != other);
    let mut wrong = vec![other.clone()];
    wrong.extend(near);
    while wrong.len() < 3 {
        wrong.push((x + y + wrong.len() as u32).to_string());
    }
    wrong.truncate(3);
    Some(Problem::new(
        Kind::Comparing,
        form,
        lang,
        key,
        vec![],
        Turn::plain(question, right, wrong),
    ))
}

/// Two people by age or by how many they have, others beside them.
fn compare_people(rng: &mut Rng, lang: Lang, split: Split, form: Form) -> Option<Problem> {
    let relation = if form == Form::More { Relation::Count } else { Relation::Age };
    let mut asked = facts::draw(rng, lang, split, relation);
    let food = asked.w;
    let mut facts: Vec<Fact> = vec![asked];
    let n = rng.between(2, 5) as usize;
    for _ in 0..40 {
        let person = rng.below(PEOPLE);
        let fact = Fact { w: food, ..Fact::random(rng, relation, person) };
        let new = facts.iter().all(|f| f.a != fact.a && f.v != fact.v);
        if new && facts.len() < n && facts::allowed(fact.split(lang), split) {
            facts.push(fact);
        }
    }
    let mut other = *facts.get(1)?;
    let key = asked.key(lang);
    rng.shuffle(&mut facts);
    if rng.chance(50) {
        (asked, other) = (other, asked);
    }
    let larger = if asked.v > other.v { asked } else { other };
    let smaller = if asked.v > other.v { other } else { asked };
    let right = if form == Form::Younger { smaller } else { larger };
    let name = |f: Fact| Person(f.a).name(lang);
    let slots = [('a', name(asked)), ('b', name(other)), ('f', FOODS[food].kind(lang))];
    let question = wording::ask(rng, lang, split, form, &slots);
    let first = if right == asked { other } else { asked };
    let mut wrong = vec![name(first).to_owned()];
    while wrong.len() < 3 {
        let more = Person(rng.below(PEOPLE)).name(lang).to_owned();
        if more != name(right) && !wrong.contains(&more) {
            wrong.push(more);
        }
    }
    let context = Scene { facts: facts.clone() }.sentences(rng, lang);
    let steps = scan::compare(lang, form, &right, [&asked, &other], &facts);
    let turn = Turn { steps, ..Turn::plain(question, name(right), wrong) };
    let mut problem = Problem::new(Kind::Comparing, form, lang, key, context, turn);
    problem.facts = facts;
    Some(problem)
}

/// A is taller than B, B is taller than C: who is the tallest, or the shortest?
fn chain(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let adjective = rng.below(CHAINS.len());
    let [more, most, zh, less, least, zh_less] = CHAINS[adjective];
    let n = rng.pick(&[3, 3, 4]);
    let people = rng.distinct(PEOPLE, n);
    let key = key_of(lang, Form::Most, people.iter().copied().chain([adjective]));
    if Split::of(key) != split {
        return None;
    }
    let names: Vec<String> = people.iter().map(|p| Person(*p).name(lang).to_owned()).collect();
    let mut said: Vec<(String, String)> = Vec::new();
    for pair in names.windows(2) {
        let turned = rng.chance(30);
        let (a, b) = if turned { (&pair[1], &pair[0]) } else { (&pair[0], &pair[1]) };
        let word = if turned { lang.pick(less, zh_less) } else { lang.pick(more, zh) };
        let pattern = lang.pick("{a} is {m} than {b}.", "{a}比{b}{m}。");
        let sentence = fill::filled(rng, pattern, &[('a', a), ('b', b), ('m', word)]);
        said.push((sentence, format!("{} > {}", pair[0], pair[1])));
    }
    rng.shuffle(&mut said);
    let top = rng.chance(50);
    let superlative = match lang {
        Lang::En => (if top { most } else { least }).to_owned(),
        Lang::Zh => format!("最{}", if top { zh } else { zh_less }),
    };
    let question = wording::ask(rng, lang, split, Form::Most, &[('q', &superlative)]);
    let answer = if top { &names[0] } else { &names[n - 1] };
    let mut wrong = wrongs(rng, answer, names.clone());
    while wrong.len() < 3 {
        let more = Person(rng.below(PEOPLE)).name(lang).to_owned();
        if more != *answer && !wrong.contains(&more) {
            wrong.push(more);
        }
    }
    let (context, signs): (Vec<String>, Vec<String>) = said.into_iter().unzip();
    let (comma, stop) = lang.pick((", ", ". "), ("，", "。"));
    let order = lang.pick("Order: ", "顺序：");
    let end = if top { lang.pick("first", "第一") } else { lang.pick("last", "最后") };
    let end = scan::joined(lang, &[&superlative, end]);
    let line = names.join(" > ");
    let steps = format!("{order}{}{stop}{line}{comma}{end}{stop}", signs.join(comma));
    let steps = steps.trim_end().to_owned();
    let turn = Turn { steps, ..Turn::plain(question, answer, wrong) };
    Some(Problem::new(Kind::Comparing, Form::Most, lang, key, context, turn))
}
