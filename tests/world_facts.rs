//! Every answer about facts, families and stories of the world that puyu is trained on, derived again from
//! what is said, by solvers that share no code with the generators.

use puyu::world::{
    Fact, Form, KIN, Kind, Lang, PLACES, Person, Problem, Relation, Rng, Split, dont_know, problem,
};
use puyu_tests::world::{days, each, numbers, stated, times};
use std::collections::BTreeMap;

/// The answers that the facts give to a question about one of them, by going through all of them.
fn answers(p: &Problem, turn_question: &str) -> Vec<String> {
    let lang = p.lang;
    let asks = |w: &str| turn_question.to_lowercase().contains(&w.to_lowercase());
    let mut found = Vec::new();
    for fact in &p.facts {
        let words = fact.words(lang);
        let word = |c: char| words.iter().find(|(n, _)| *n == c).map_or("", |(_, w)| w.as_str());
        let name = fact.person().map_or("", |x| x.name(lang));
        let place = lang.pick(format!("in the {}", word('q')), word('q').to_owned());
        let (fits, answer) = match (p.form, fact.relation) {
            (Form::Where, Relation::At) => (asks(name), place),
            (Form::WhoAt, Relation::At) => (asks(&place), name.to_owned()),
            (Form::ColourOf, Relation::Has) => {
                (asks(name) && asks(word('t')), word('c').to_owned())
            }
            (Form::WhatHas, Relation::Has) => (asks(name), word('i').to_owned()),
            (Form::WhoHas, Relation::Has) => (asks(word('i')), name.to_owned()),
            (Form::Likes, Relation::Likes) => (asks(name), word('f').to_owned()),
            (Form::WhoLikes, Relation::Likes) => (asks(word('f')), name.to_owned()),
            (Form::Job, Relation::Job) => (asks(name), word('j').to_owned()),
            (Form::WhoJob, Relation::Job) => (asks(word('j')), name.to_owned()),
            (Form::ThingWhere, Relation::ThingAt) => (asks(word('u')), place),
            (Form::WhatAt, Relation::ThingAt) => (asks(&place), word('u').to_owned()),
            (Form::DoDay, Relation::DoDay) => (asks(name), word('d').to_owned()),
            (Form::WhoDay, Relation::DoDay) => {
                (asks(word('d')) && asks(word('x')), name.to_owned())
            }
            (Form::DoTime, Relation::DoTime) => (asks(name), word('m').to_owned()),
            (Form::WhoTime, Relation::DoTime) => {
                let exact = times(turn_question) == times(word('m'));
                (exact && asks(word('x')), name.to_owned())
            }
            (Form::Age, Relation::Age) => (asks(name), word('n').to_owned()),
            (Form::WhoAge, Relation::Age) => {
                (numbers(turn_question) == [fact.v as u32], name.to_owned())
            }
            (Form::HowMany, Relation::Count) => (asks(name) && asks(word('f')), fact.v.to_string()),
            _ => (false, String::new()),
        };
        if fits {
            found.push(answer);
        }
    }
    found
}

#[test]
fn lookups_have_one_answer_and_the_unknown_none() {
    for kind in [Kind::Lookup, Kind::Unknown] {
        each(kind, 400, |p, _| {
            stated(p);
            let turn = p.last();
            let found = answers(p, &turn.question);
            if turn.answer == dont_know(p.lang) {
                assert!(found.is_empty(), "{found:?} {p:?}");
            } else {
                assert_eq!(found, std::slice::from_ref(&turn.answer), "{p:?}");
            }
        });
    }
    let half = (0..1000).filter(|i| {
        let made = problem(&mut Rng::new(3, 0, *i), Kind::Unknown, Lang::En, Split::Train);
        made.last().answer == dont_know(Lang::En)
    });
    assert!((400..600).contains(&half.count()));
}

/// What a note goes through, item by item, without its stop.
fn items(lang: Lang, note: &str) -> Vec<&str> {
    let (colon, comma) = lang.pick((": ", ", "), ("：", "、"));
    let all = note.trim_end_matches(['.', '。']).split_once(colon);
    all.map(|(_, all)| all.split(comma).collect()).unwrap_or_default()
}

#[test]
fn notes_come_to_what_is_answered() {
    for kind in [Kind::Lookup, Kind::Unknown, Kind::Followup] {
        each(kind, 300, |p, _| {
            let (yes, no) = p.lang.pick((" yes", " no"), ("是", "否"));
            for turn in &p.turns {
                let items = items(p.lang, &turn.steps);
                let known = turn.answer != dont_know(p.lang);
                let Some((last, before)) = items.split_last() else {
                    assert!(p.facts.is_empty() && !known, "{p:?}");
                    continue;
                };
                assert!(before.iter().all(|item| item.ends_with(no)), "{p:?}");
                assert!(last.ends_with(if known { yes } else { no }), "{p:?}");
                let all = if known { before.len() + 1 } else { p.facts.len() };
                assert_eq!(items.len(), all, "{p:?}");
                // A thing is said with an article or a measure word in the answer.
                let named = known && !turn.answer.contains([' ', '的']);
                assert!(!named || last.contains(&turn.answer), "{p:?}");
            }
        });
    }
    each(Kind::Counting, 300, |p, _| {
        let turn = p.last();
        let said = numbers(&turn.steps);
        let counted =
            if p.form == Form::CountThings { said.len() as u32 } else { said[said.len() - 1] };
        assert_eq!(counted.to_string(), turn.answer, "{p:?}");
    });
    each(Kind::Story, 300, |p, _| {
        for turn in &p.turns {
            if turn.steps.is_empty() {
                continue;
            }
            let items = items(p.lang, &turn.steps);
            let answer = turn.answer.trim_start_matches("in the ");
            assert!(items[items.len() - 1].contains(answer), "{p:?}");
        }
    });
}

#[test]
fn followups_speak_of_one_person() {
    each(Kind::Followup, 300, |p, split| {
        stated(p);
        assert_eq!(p.turns.len(), 2);
        let asked: Vec<&Fact> = p.facts.iter().filter(|f| f.key(p.lang) == p.key).collect();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].split(p.lang), split);
        let person = asked[0].person().unwrap();
        let (first, second) = (&p.turns[0].question, &p.turns[1].question);
        if p.form == Form::And {
            assert!(second.contains(person.name(p.lang)) && !first.contains(person.name(p.lang)));
        } else {
            assert!(first.contains(person.name(p.lang)), "{p:?}");
            let pronouns = [person.he(p.lang), person.his(p.lang), person.him(p.lang)];
            assert!(pronouns.iter().any(|w| second.contains(w)), "{p:?}");
        }
    });
}

#[test]
fn families_are_right() {
    each(Kind::Kinship, 400, |p, _| {
        stated(p);
        let turn = p.last();
        let name = |i: usize| Person(i).name(p.lang);
        for fact in &p.facts {
            assert_eq!(Person(fact.v).female(), KIN[fact.w].2, "{fact:?}");
        }
        let relatives =
            |from: &str| -> Vec<&Fact> { p.facts.iter().filter(|f| name(f.a) == from).collect() };
        let word = |f: &Fact| p.lang.pick(KIN[f.w].0, KIN[f.w].1);
        match p.form {
            Form::Kin | Form::KinHow => {
                let found: Vec<&Fact> =
                    p.facts.iter().filter(|f| turn.question.contains(name(f.a))).collect();
                let answer = if p.form == Form::Kin { name(found[0].v) } else { word(found[0]) };
                assert_eq!((found.len(), turn.answer.as_str()), (1, answer), "{p:?}");
            }
            Form::KinWhose | Form::KinTurned => {
                let found: Vec<&Fact> =
                    p.facts.iter().filter(|f| turn.question.contains(name(f.v))).collect();
                assert_eq!((found.len(), turn.answer.as_str()), (1, name(found[0].a)), "{p:?}");
            }
            _ => {
                let from = p
                    .facts
                    .iter()
                    .find(|f| turn.question.contains(name(f.a)) && !relatives(name(f.v)).is_empty())
                    .unwrap();
                let on = relatives(name(from.v));
                assert_eq!((on.len(), turn.answer.as_str()), (1, name(on[0].v)), "{p:?}");
                let expected = match (p.form, p.lang) {
                    (Form::KinChain, Lang::En) => vec![word(from), word(on[0])],
                    (Form::KinChain, Lang::Zh) => vec![word(from), word(on[0])],
                    (_, Lang::En) => vec![["grandfather", "grandmother"][on[0].w]],
                    (_, Lang::Zh) => vec![[["爷爷", "奶奶"], ["外公", "外婆"]][from.w][on[0].w]],
                };
                assert!(expected.iter().all(|w| turn.question.contains(w)), "{p:?}");
            }
        }
    });
}

#[test]
fn negations_are_right() {
    each(Kind::Negation, 300, |p, _| {
        let turn = p.last();
        let name = |f: &Fact| Person(f.a).name(p.lang);
        let place = |f: &Fact| p.lang.pick(PLACES[f.v].0, PLACES[f.v].1);
        match p.form {
            Form::NotAt => {
                let elsewhere: Vec<&str> = p
                    .facts
                    .iter()
                    .filter(|f| !turn.question.contains(place(f)))
                    .map(name)
                    .collect();
                assert_eq!(elsewhere, [turn.answer.as_str()], "{p:?}");
            }
            Form::IsAt => {
                let here = p
                    .facts
                    .iter()
                    .find(|f| f.relation == Relation::At && turn.question.contains(name(f)))
                    .unwrap();
                let yes = turn.question.contains(place(here));
                assert_eq!(
                    turn.answer,
                    p.lang.pick(["no", "yes"], ["不是", "是"])[usize::from(yes)],
                    "{p:?}"
                );
            }
            Form::Either => {
                // Of the two places that the sentence names, the one it names twice is ruled out.
                let text = p.context.join("");
                assert!(turn.answer.ends_with(place(p.facts.last().unwrap())), "{p:?}");
                let right = place(p.facts.last().unwrap());
                let said = p.context.iter().find(|s| s.contains(right)).unwrap();
                assert_eq!(said.matches(right).count(), 1, "{text}");
            }
            _ => {
                let colours: BTreeMap<usize, usize> =
                    p.facts.iter().fold(BTreeMap::new(), |mut n, f| {
                        *n.entry(f.a).or_insert(0) += 1;
                        n
                    });
                assert_eq!(colours.len(), 2);
                let odd = p.facts.iter().find(|f| f.key(p.lang) == p.key).unwrap();
                assert_eq!(colours[&odd.a], 1);
                let bare = odd.words(p.lang).iter().find(|(c, _)| *c == 'u').unwrap().1.clone();
                assert!(
                    turn.also.contains(&bare)
                        && bare.ends_with(turn.answer.trim_start_matches("the "))
                );
            }
        }
    });
}

#[test]
fn stories_replayed_end_alike() {
    let mut asked = 0;
    for i in 0..1500 {
        let p = problem(&mut Rng::new(11, 1, i), Kind::Story, Lang::En, Split::Train);
        let (mut place, mut first, mut holder) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut lies: BTreeMap<String, String> = BTreeMap::new();
        let mut subject = String::new();
        for sentence in &p.context {
            let text = sentence.trim_end_matches('.');
            let text = ["Then ", "After that, ", "Next, ", "Later, "]
                .iter()
                .find_map(|lead| text.strip_prefix(lead))
                .unwrap_or(text);
            let words: Vec<&str> = text.split(' ').collect();
            if !matches!(words[0], "He" | "She" | "he" | "she" | "There" | "It" | "This" | "One") {
                subject = words[0].to_owned();
            }
            let last = words[words.len() - 1].to_owned();
            let thing = |from: usize| words[from..from + 2].join(" ");
            match words.get(1).copied().unwrap_or("") {
                "was" if words[0] == "There" => {
                    lies.insert(words[3..5].join(" "), last);
                }
                "was" if words[0] != "It" => {
                    place.insert(subject.clone(), last);
                }
                "went" | "walked" | "ran" => {
                    first.entry(subject.clone()).or_insert(last.clone());
                    place.insert(subject.clone(), last);
                }
                "took" => {
                    holder.insert(thing(3), subject.clone());
                }
                "picked" => {
                    holder.insert(thing(4), subject.clone());
                }
                "put" => {
                    lies.insert(thing(4), place[&subject].clone());
                    holder.remove(&thing(4));
                }
                "gave" => {
                    assert_eq!(
                        place[&subject], place[&last],
                        "given across places: {:?}",
                        p.context
                    );
                    assert_eq!(holder.insert(thing(3), last), Some(subject.clone()));
                    subject = String::new();
                }
                _ => assert!(days(Lang::En, text).len() == 1, "{text}"),
            }
        }
        let turn = p.last();
        let person = place.keys().find(|n| turn.question.contains(n.as_str()));
        let thing = lies.keys().find(|t| turn.question.contains(t.as_str()));
        let expected = match p.form {
            Form::StoryWhere => format!("in the {}", place[person.unwrap()]),
            Form::StoryFirst => format!("in the {}", first[person.unwrap()]),
            Form::StoryWho => holder[thing.unwrap()].clone(),
            Form::StoryThing => {
                let at = holder.get(thing.unwrap()).map_or(&lies[thing.unwrap()], |h| &place[h]);
                format!("in the {at}")
            }
            _ => continue,
        };
        asked += 1;
        assert_eq!(turn.answer, expected, "{:?} {}", p.context, turn.question);
    }
    assert!(asked > 800, "only {asked} stories were replayed");
}
