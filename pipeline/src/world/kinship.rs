//! Families: one hop, the same hop read the other way, and two hops through a person between. Every
//! person stands in one family line only, so no question has two answers.

use super::facts::{self, Fact, KIN, Relation, Scene, kin};
use super::problem::{Kind, Problem, Turn, wrongs};
use super::rng::{Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{Lang, PEOPLE, Person};

const HUSBAND: usize = 4;
const WIFE: usize = 5;

/// Whether somebody like `a` can have the relative `w`.
fn can_have(a: Person, w: usize) -> bool {
    match w {
        HUSBAND => a.female(),
        WIFE => !a.female(),
        _ => true,
    }
}

/// A relative of `a` whom nobody in `used` is, of a relation below `relations`.
fn relative(
    rng: &mut Rng,
    lang: Lang,
    fits: impl Fn(Split) -> bool,
    a: usize,
    relations: usize,
    used: &[usize],
) -> Option<Fact> {
    for _ in 0..40 {
        let (w, v) = (rng.below(relations), rng.below(PEOPLE));
        let fact = Fact::new(Relation::Kin, a, w, v);
        let new = v != a && !used.contains(&v);
        let sexes = KIN[w].2 == Person(v).female() && can_have(Person(a), w);
        if new && sexes && fits(fact.split(lang)) {
            return Some(fact);
        }
    }
    None
}

/// What `a` is to the one who is `a`'s relative `w`.
pub(super) fn turned(lang: Lang, a: Person, w: usize) -> &'static str {
    let [male, female] = match w {
        0 | 1 => [kin(lang, 6), kin(lang, 7)],
        2 | 3 => lang.pick(["brother", "sister"], ["弟弟", "妹妹"]),
        HUSBAND | WIFE => [kin(lang, HUSBAND), kin(lang, WIFE)],
        _ => [kin(lang, 0), kin(lang, 1)],
    };
    if a.female() { female } else { male }
}

/// The word for a parent's parent.
pub(super) fn grand(lang: Lang, first: usize, second: usize) -> &'static str {
    match lang {
        Lang::En => ["grandfather", "grandmother"][second],
        Lang::Zh => [["爷爷", "奶奶"], ["外公", "外婆"]][first][second],
    }
}

/// A question about a family.
pub(super) fn kinship(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form = rng.pick(&[
        Form::Kin,
        Form::KinWhose,
        Form::KinHow,
        Form::KinTurned,
        Form::KinGrand,
        Form::KinGrand,
        Form::KinChain,
        Form::KinChain,
    ]);
    let two = matches!(form, Form::KinGrand | Form::KinChain);
    let relations = if form == Form::KinGrand { 2 } else { KIN.len() };
    let mut line = Vec::new();
    let a = rng.below(PEOPLE);
    if two {
        line.push(relative(rng, lang, |s| facts::allowed(s, split), a, relations, &[])?);
    }
    let b = line.first().map_or(a, |f: &Fact| f.v);
    line.push(relative(rng, lang, |s| s == split, b, relations, &[a, b])?);
    let asked = *line.last()?;
    // Of "Tom's brother's brother" Tom himself might be meant.
    if two && turned(lang, Person(a), line[0].w) == kin(lang, asked.w) {
        return None;
    }
    let facts = with_others(rng, lang, split, &line);
    let context = Scene { facts: facts.clone() }.sentences(rng, lang);
    let turn = turn(rng, lang, split, form, &line, &facts);
    let mut problem = Problem::new(Kind::Kinship, form, lang, asked.key(lang), context, turn);
    problem.facts = facts;
    Some(problem)
}

/// The line and some pairs of other people, in random order.
fn with_others(rng: &mut Rng, lang: Lang, split: Split, line: &[Fact]) -> Vec<Fact> {
    let mut facts = line.to_vec();
    let mut used: Vec<usize> = line.iter().flat_map(|f| [f.a, f.v]).collect();
    for _ in 0..rng.between(0, 4) {
        let a = rng.below(PEOPLE);
        if used.contains(&a) {
            continue;
        }
        let other = relative(rng, lang, |s| facts::allowed(s, split), a, KIN.len(), &used);
        if let Some(fact) = other {
            used.extend([a, fact.v]);
            facts.push(fact);
        }
    }
    rng.shuffle(&mut facts);
    facts
}

fn turn(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    form: Form,
    line: &[Fact],
    facts: &[Fact],
) -> Turn {
    let first = line[0];
    let last = *line.last().expect("a line has a fact");
    let (from, to) = (Person(first.a), Person(last.v));
    let whose = match form {
        Form::KinTurned => to.whose(lang),
        _ => from.whose(lang),
    };
    let relation = match form {
        Form::KinTurned => turned(lang, from, first.w),
        Form::KinGrand => grand(lang, first.w, last.w),
        _ => kin(lang, first.w),
    };
    let a = if form == Form::KinTurned { to } else { from };
    let slots = [
        ('a', a.name(lang)),
        ('s', &*whose),
        ('b', to.name(lang)),
        ('r', relation),
        ('q', kin(lang, last.w)),
    ];
    let question = wording::ask(rng, lang, split, form, &slots);
    let answer = match form {
        Form::KinWhose | Form::KinTurned => from.name(lang),
        Form::KinHow => relation,
        _ => to.name(lang),
    };
    let near: Vec<String> = if form == Form::KinHow {
        KIN.iter().map(|k| lang.pick(k.0, k.1).to_owned()).collect()
    } else {
        let spoken = facts.iter().flat_map(|f| [f.a, f.v]);
        let asked = if form == Form::KinWhose || form == Form::KinTurned { to } else { from };
        spoken.filter(|p| Person(*p) != asked).map(|p| Person(p).name(lang).to_owned()).collect()
    };
    let mut wrong = wrongs(rng, answer, near);
    while wrong.len() < 3 {
        let name = Person(rng.below(PEOPLE)).name(lang).to_owned();
        if name != answer && !wrong.contains(&name) {
            wrong.push(name);
        }
    }
    let steps = match form {
        Form::KinGrand | Form::KinChain => scan::hops(lang, line, facts, form == Form::KinGrand),
        Form::KinTurned => scan::relative(lang, a.name(lang), relation, &first, facts),
        _ => scan::search(lang, form, &first, facts),
    };
    Turn { steps, ..Turn::plain(question, answer, wrong) }
}
