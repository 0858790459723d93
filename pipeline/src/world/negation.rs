//! What is not so: who is somewhere else, which thing has another colour, which of two places is left,
//! yes or no. Answers are mostly names of the scene, so that guessing pays little.

use super::facts::{self, Fact, Relation, Scene};
use super::fill;
use super::lookup::{answer, others, wrong_answers};
use super::problem::{Kind, Problem, Turn, dont_know, wrongs};
use super::rng::{Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{self, COLOURS, Lang, PEOPLE, PLACES, Person, THINGS};

/// Somebody is not at a place, or something has not a colour, or one of two places is ruled out.
pub(super) fn negation(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    match rng.below(5) {
        0 | 1 => not_at(rng, lang, split),
        2 => not_colour(rng, lang, split),
        3 => either(rng, lang, split),
        _ => is_at(rng, lang, split),
    }
}

/// All but one are at one place.
fn not_at(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let odd = facts::draw(rng, lang, split, Relation::At);
    let place = (odd.v + 1 + rng.below(PLACES.len() - 1)) % PLACES.len();
    let mut all = vec![odd];
    let n = rng.between(2, 4) as usize;
    for person in rng.distinct(PEOPLE, 12) {
        let fact = Fact::new(Relation::At, person, 0, place);
        if all.len() <= n && person != odd.a && facts::allowed(fact.split(lang), split) {
            all.push(fact);
        }
    }
    rng.shuffle(&mut all);
    let p = words::in_place(lang, place);
    let question = wording::ask(rng, lang, split, Form::NotAt, &[('p', &p)]);
    let names: Vec<String> = all.iter().map(|f| Person(f.a).name(lang).to_owned()).collect();
    let usual = Fact::new(Relation::At, odd.a, 0, place);
    let steps = scan::odd(lang, Form::NotAt, &usual, &odd, &all);
    let answer = Person(odd.a).name(lang).to_owned();
    let mut problem = negated(rng, lang, Form::NotAt, odd, all, question, answer, names)?;
    problem.turns[0].steps = steps;
    Some(problem)
}

/// All but one thing have one colour.
fn not_colour(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let odd = facts::draw(rng, lang, split, Relation::ThingAt);
    let colour = (odd.a + 1 + rng.below(COLOURS.len() - 1)) % COLOURS.len();
    let mut scene = Scene { facts: vec![odd] };
    let n = rng.between(2, 4) as usize;
    while scene.facts.len() <= n {
        let fact = Fact { a: colour, ..Fact::random(rng, Relation::ThingAt, 0) };
        let fits = scene.facts.iter().all(|f| !f.conflicts(&fact));
        if fits && facts::allowed(fact.split(lang), split) {
            scene.facts.push(fact);
        }
    }
    rng.shuffle(&mut scene.facts);
    let c = words::colour(lang, colour);
    let question = wording::ask(rng, lang, split, Form::NotColour, &[('c', c)]);
    let the = |f: &Fact| format!("{}{}", lang.pick("the ", ""), THINGS[f.w].bare(lang));
    let names = scene.facts.iter().map(the).collect();
    let also = vec![THINGS[odd.w].the_coloured(lang, odd.a)];
    let facts = scene.facts;
    let usual = Fact { a: colour, ..odd };
    let steps = scan::odd(lang, Form::NotColour, &usual, &odd, &facts);
    let mut problem = negated(rng, lang, Form::NotColour, odd, facts, question, the(&odd), names)?;
    problem.turns[0].also = also;
    problem.turns[0].steps = steps;
    Some(problem)
}

/// Yes or no about a person's place.
fn is_at(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let fact = facts::draw(rng, lang, split, Relation::At);
    let n = others(rng);
    let scene = Scene::around(rng, lang, split, fact, n);
    let yes = rng.chance(50);
    let elsewhere = (fact.v + 1 + rng.below(PLACES.len() - 1)) % PLACES.len();
    let p = words::in_place(lang, if yes { fact.v } else { elsewhere });
    let name = Person(fact.a).name(lang);
    let slots = [('a', name), ('o', name), ('p', &*p)];
    let question = wording::ask(rng, lang, split, Form::IsAt, &slots);
    let words = lang.pick(["yes", "no"], ["是", "不是"]);
    let answer = words[!yes as usize].to_owned();
    let names = vec![words[yes as usize].to_owned(), dont_know(lang).to_owned(), name.to_owned()];
    let steps = scan::check(lang, &fact, &scene.facts, if yes { fact.v } else { elsewhere });
    let mut problem = negated(rng, lang, Form::IsAt, fact, scene.facts, question, answer, names)?;
    problem.turns[0].also = lang.pick(vec![], vec![["在", "不在"][!yes as usize].to_owned()]);
    problem.turns[0].steps = steps;
    Some(problem)
}

/// A thing is at one of two places, and not at the first or not at the second.
fn either(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let fact = facts::draw(rng, lang, split, Relation::ThingAt);
    let n = rng.below(3);
    let mut scene = Scene::around(rng, lang, split, fact, n);
    let other = (fact.v + 1 + rng.below(PLACES.len() - 1)) % PLACES.len();
    let thing = THINGS[fact.w].the_coloured(lang, fact.a);
    let [here, there] = [fact.v, other].map(|v| words::in_place(lang, v));
    let (x, y) = if rng.chance(50) { (&here, &there) } else { (&there, &here) };
    let patterns: &[&str] = match lang {
        Lang::En => {
            &["{t} is {x} or {y}. It is not {n}.", "{t} is either {x} or {y}, but not {n}."]
        }
        Lang::Zh => &["{t}{x}或者{y}，不{n}。", "{t}不是{x}就是{y}。{t}不{n}。"],
    };
    let slots = [('t', &*thing), ('x', x), ('y', y), ('n', &*there)];
    let pattern = rng.pick(patterns);
    let said = fill::filled(rng, pattern, &slots);
    let question = wording::ask(rng, lang, split, Form::Either, &[('t', &thing)]);
    let (right, also) = answer(lang, Form::ThingWhere, &fact);
    let wrong = wrong_answers(rng, lang, Form::ThingWhere, &fact, &scene.facts);
    // Both places as they were said, then the one that is denied.
    let pattern = lang.pick("{t}: {x} or {y}, not {n}.", "{t}：{x}或者{y}，不{n}。");
    let steps = fill::filled(rng, pattern, &slots);
    let turn = Turn { also, steps, ..Turn::plain(question, right, wrong) };
    let key = fact.key(lang);
    scene.facts.retain(|f| *f != fact);
    let mut context = scene.sentences(rng, lang);
    context.insert(rng.below(context.len() + 1), said);
    scene.facts.push(fact);
    let mut problem = Problem::new(Kind::Negation, Form::Either, lang, key, context, turn);
    problem.facts = scene.facts;
    Some(problem)
}

/// The problem of a negation whose facts are stated one by one.
#[allow(clippy::too_many_arguments, reason = "its parts are those of a problem")]
fn negated(
    rng: &mut Rng,
    lang: Lang,
    form: Form,
    asked: Fact,
    facts: Vec<Fact>,
    question: String,
    answer: String,
    names: Vec<String>,
) -> Option<Problem> {
    let mut wrong = wrongs(rng, &answer, names);
    while wrong.len() < 3 {
        let person = rng.below(PEOPLE);
        let fact = Fact::random(rng, asked.relation, person);
        let more = match fact.person() {
            Some(person) => person.name(lang).to_owned(),
            None => format!("{}{}", lang.pick("the ", ""), THINGS[fact.w].bare(lang)),
        };
        if more != answer && !wrong.contains(&more) {
            wrong.push(more);
        }
    }
    let context = Scene { facts: facts.clone() }.sentences(rng, lang);
    let turn = Turn::plain(question, answer, wrong);
    let mut problem = Problem::new(Kind::Negation, form, lang, asked.key(lang), context, turn);
    problem.facts = facts;
    Some(problem)
}
