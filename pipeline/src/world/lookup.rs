//! Questions about one given fact: forward (where is Tom), inverse (who is in the kitchen), those that
//! the facts do not answer, and those that lean on an earlier question. Half of what `unknown` asks is
//! answered by its facts, so that saying "I don't know" always, or never, is worth half.

use super::facts::{self, Fact, Relation, Scene};
use super::problem::{Kind, Problem, Turn, dont_know, wrong_numbers, wrongs};
use super::rng::{Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{self, FOODS, JOBS, Lang, PEOPLE, Person, THINGS};

/// The relations that questions are about, and the questions of each. Who does something at a time is asked
/// twice as often: four digits are to be compared, and one that differs makes another answer.
const ASKED: [(Relation, &[Form]); 9] = [
    (Relation::At, &[Form::Where, Form::WhoAt]),
    (Relation::Has, &[Form::ColourOf, Form::WhatHas, Form::WhoHas]),
    (Relation::Likes, &[Form::Likes, Form::WhoLikes]),
    (Relation::Job, &[Form::Job, Form::WhoJob]),
    (Relation::ThingAt, &[Form::ThingWhere, Form::WhatAt]),
    (Relation::DoDay, &[Form::DoDay, Form::WhoDay]),
    (Relation::DoTime, &[Form::DoTime, Form::WhoTime, Form::WhoTime]),
    (Relation::Age, &[Form::Age, Form::WhoAge]),
    (Relation::Count, &[Form::HowMany]),
];

/// Whether the answer is the fact's person.
fn inverse(form: Form) -> bool {
    use Form::*;
    matches!(form, WhoAt | WhoHas | WhoLikes | WhoJob | WhoDay | WhoTime | WhoAge)
}

/// The question of `form` about `fact`, with a pronoun for its person if `pronoun`.
pub(super) fn question(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    form: Form,
    fact: &Fact,
    pronoun: bool,
) -> String {
    let words = fact.words(lang);
    let word = |c| words.iter().find(|(name, _)| *name == c).map_or("", |(_, w)| w.as_str());
    let mut slots: Vec<(char, &str)> = Vec::with_capacity(words.len() + 4);
    match form {
        Form::WhoHas => slots.push(('t', word('i'))),
        Form::ThingWhere => slots.push(('t', word('u'))),
        _ => {}
    }
    if let Some(person) = fact.person().filter(|_| pronoun) {
        slots.push(('a', person.he(lang)));
        slots.push(('s', person.his(lang)));
        slots.push(('o', person.him(lang)));
    }
    slots.extend(words.iter().map(|(c, w)| (*c, w.as_str())));
    wording::ask(rng, lang, split, form, &slots)
}

/// The answer to `form` about `fact`: the canonical one, then others.
pub(super) fn answer(lang: Lang, form: Form, fact: &Fact) -> (String, Vec<String>) {
    let place = |v| match lang {
        Lang::En => (words::in_place(lang, v), vec![]),
        Lang::Zh => (words::place(lang, v).to_owned(), vec![words::in_place(lang, v)]),
    };
    let alone = |s: &str| (s.to_owned(), vec![]);
    match form {
        _ if inverse(form) => alone(Person(fact.a).name(lang)),
        Form::Where | Form::ThingWhere => place(fact.v),
        Form::ColourOf => match lang {
            Lang::En => alone(words::colour(lang, fact.v)),
            Lang::Zh => (
                words::colour(lang, fact.v).to_owned(),
                vec![format!("{}的", words::colour(lang, fact.v))],
            ),
        },
        Form::WhatHas => {
            let also = lang.pick(vec![], vec![THINGS[fact.w].the_coloured(lang, fact.v)]);
            (THINGS[fact.w].a_coloured(lang, fact.v), also)
        }
        Form::WhatAt => {
            let also = lang.pick(vec![], vec![THINGS[fact.w].a_coloured(lang, fact.a)]);
            (THINGS[fact.w].the_coloured(lang, fact.a), also)
        }
        Form::Likes => alone(FOODS[fact.v].kind(lang)),
        Form::Job => (lang.pick(words::article(JOBS[fact.v].0), JOBS[fact.v].1.to_owned()), vec![]),
        Form::DoDay => alone(words::day(lang, fact.v)),
        Form::DoTime => alone(&words::time(fact.v as u32)),
        Form::Age => {
            let long = lang.pick(format!("{} years old", fact.v), format!("{}岁", fact.v));
            (fact.v.to_string(), vec![long])
        }
        Form::HowMany => (fact.v.to_string(), vec![FOODS[fact.w].count(lang, fact.v as u32)]),
        other => unreachable!("{other:?} is not about one fact"),
    }
}

/// Searches for some of `facts`, as the notes of answers have them, one in four for what is not among them.
pub(super) fn searches(rng: &mut Rng, lang: Lang, facts: &[Fact]) -> Vec<String> {
    let n = rng.between(1, 4) as usize;
    let mut said = Vec::with_capacity(n);
    for i in rng.distinct(facts.len(), n.min(facts.len())) {
        let Some(form) = any_form(rng, facts[i].relation) else { continue };
        let mut asked = facts[i];
        if rng.chance(25) {
            let person = rng.below(PEOPLE);
            asked = Fact::random(rng, asked.relation, person);
            let train = facts::allowed(asked.split(lang), Split::Train);
            if !train || facts.iter().any(|f| f.conflicts(&asked)) {
                continue;
            }
        }
        said.push(scan::search(lang, form, &asked, facts));
    }
    said
}

/// Three wrong answers: those of other facts in the scene first, then others of the same form.
pub(super) fn wrong_answers(
    rng: &mut Rng,
    lang: Lang,
    form: Form,
    fact: &Fact,
    scene: &[Fact],
) -> Vec<String> {
    let (right, also) = answer(lang, form, fact);
    let mut near: Vec<String> = Vec::new();
    let people = scene.iter().filter_map(Fact::person).map(|p| p.name(lang).to_owned());
    if inverse(form) {
        near.extend(people);
    } else {
        let same = scene.iter().filter(|f| f.relation == fact.relation);
        near.extend(same.map(|f| answer(lang, form, f).0));
    }
    if matches!(form, Form::Age | Form::HowMany) {
        near.extend(wrong_numbers(rng, fact.v as u32));
    }
    let mut wrong = wrongs(rng, &right, near);
    while wrong.len() < 3 {
        let person = rng.below(PEOPLE);
        let another = Fact::random(rng, fact.relation, person);
        let candidate = answer(lang, form, &another).0;
        if candidate != right && !also.contains(&candidate) && !wrong.contains(&candidate) {
            wrong.push(candidate);
        }
    }
    wrong
}

/// The turn that asks `form` about `fact` in `scene`.
pub(super) fn turn(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    form: Form,
    fact: &Fact,
    scene: &[Fact],
    pronoun: bool,
) -> Turn {
    let question = question(rng, lang, split, form, fact, pronoun);
    let (right, also) = answer(lang, form, fact);
    let wrong = wrong_answers(rng, lang, form, fact, scene);
    let steps = scan::search(lang, form, fact, scene);
    Turn { also, steps, ..Turn::plain(question, right, wrong) }
}

/// The turn that asks `form` about `fact`, of which `scene` says nothing.
fn unanswered(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    form: Form,
    fact: &Fact,
    scene: &[Fact],
) -> Turn {
    let question = question(rng, lang, split, form, fact, false);
    let wrong = wrong_answers(rng, lang, form, fact, scene);
    let steps = scan::search(lang, form, fact, scene);
    Turn { steps, ..Turn::plain(question, dont_know(lang), wrong) }
}

/// More questions about a training scene, before the one that counts: more is learnt from a prompt.
fn more_turns(rng: &mut Rng, lang: Lang, split: Split, scene: &[Fact], most: usize) -> Vec<Turn> {
    if split != Split::Train || rng.chance(25) {
        return vec![];
    }
    let mut turns = Vec::new();
    for i in rng.distinct(scene.len(), most.min(scene.len())) {
        let fact = scene[i];
        let Some(form) = any_form(rng, fact.relation) else { continue };
        turns.push(turn(rng, lang, split, form, &fact, scene, false));
    }
    turns
}

/// How many more facts stand beside the one asked about: 1 to 5, few and many less often than some.
pub(super) fn others(rng: &mut Rng) -> usize {
    1 + rng.below(3) + rng.below(3)
}

/// A relation and a form of question about it, every form as often as it is listed.
fn drawn_form(rng: &mut Rng) -> (Relation, Form) {
    let mut n = rng.below(ASKED.iter().map(|(_, forms)| forms.len()).sum());
    for (relation, forms) in ASKED {
        if let Some(form) = forms.get(n) {
            return (relation, *form);
        }
        n -= forms.len();
    }
    unreachable!("n is below their number")
}

/// A form of question about `relation`, if any is asked.
fn any_form(rng: &mut Rng, relation: Relation) -> Option<Form> {
    let (_, forms) = ASKED.iter().find(|(r, _)| *r == relation)?;
    Some(rng.pick(forms))
}

/// A fact of the scene is asked for.
pub(super) fn lookup(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let (relation, form) = drawn_form(rng);
    let fact = facts::draw(rng, lang, split, relation);
    let n = others(rng);
    let scene = Scene::around(rng, lang, split, fact, n);
    let most = rng.between(1, 4) as usize;
    let mut turns = more_turns(rng, lang, split, &scene.facts, most);
    turns.push(turn(rng, lang, split, form, &fact, &scene.facts, false));
    let context = scene.sentences(rng, lang);
    let (kind, form, key) = (Kind::Lookup, form, fact.key(lang));
    Some(Problem::of_turns(kind, form, lang, key, scene.facts, context, turns))
}

/// A fact is asked for that stands there or does not.
pub(super) fn unknown(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let (relation, form) = drawn_form(rng);
    let fact = facts::draw(rng, lang, split, relation);
    let n = others(rng);
    let mut scene = Scene::around(rng, lang, split, fact, n);
    let counts = if rng.chance(50) {
        scene.facts.retain(|f| *f != fact);
        // What is asked about is still spoken of, half the time: its name alone tells nothing.
        let person = fact.person().filter(|_| rng.chance(50));
        if let Some(person) = person {
            let relation = rng.pick(&[Relation::At, Relation::Likes, Relation::Job, Relation::Age]);
            if relation != fact.relation && scene.facts.iter().all(|f| f.person() != Some(person)) {
                scene.add(rng, lang, split, relation, person.0);
            }
        }
        unanswered(rng, lang, split, form, &fact, &scene.facts)
    } else {
        let mut turn = turn(rng, lang, split, form, &fact, &scene.facts, false);
        turn.wrong[2] = dont_know(lang).to_owned();
        turn
    };
    let most = rng.between(1, 2) as usize;
    let mut turns = more_turns(rng, lang, split, &scene.facts, most);
    turns.push(counts);
    let context = scene.sentences(rng, lang);
    let (kind, form, key) = (Kind::Unknown, form, fact.key(lang));
    Some(Problem::of_turns(kind, form, lang, key, scene.facts, context, turns))
}

/// A question about a person, then one that says only he, she, or another name.
pub(super) fn followup(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let (relation, form) = drawn_form(rng);
    let fact = facts::draw(rng, lang, split, relation);
    let person = fact.person()?;
    let ellipsis = rng.chance(40);
    let n = others(rng);
    let mut scene = Scene::around(rng, lang, split, fact, n);
    let first = if ellipsis {
        // The same question about somebody else came before.
        scene.facts.iter().copied().find(|f| f.relation == relation && *f != fact)?
    } else {
        let about = rng.pick(&[Relation::At, Relation::Likes, Relation::Job, Relation::Age]);
        scene.add(rng, lang, split, about, person.0);
        rng.shuffle(&mut scene.facts);
        let own = |f: &Fact| f.person() == Some(person) && f.relation != relation;
        scene.facts.iter().copied().find(own)?
    };
    if inverse(form) || (ellipsis && !as_short(form)) {
        return None;
    }
    let opening =
        if ellipsis { form } else { ASKED.iter().find(|(r, _)| *r == first.relation)?.1[0] };
    let mut turns = vec![turn(rng, lang, split, opening, &first, &scene.facts, false)];
    let mut second = turn(rng, lang, split, form, &fact, &scene.facts, true);
    if ellipsis {
        second.question = wording::ask(rng, lang, split, Form::And, &[('a', person.name(lang))]);
    }
    turns.push(second);
    let context = scene.sentences(rng, lang);
    let (kind, form, key) =
        (Kind::Followup, if ellipsis { Form::And } else { form }, fact.key(lang));
    Some(Problem::of_turns(kind, form, lang, key, scene.facts, context, turns))
}

/// Whether "And Anna?" can stand for the question: it names nothing but the person.
fn as_short(form: Form) -> bool {
    matches!(form, Form::Where | Form::WhatHas | Form::Likes | Form::Job | Form::Age)
}
