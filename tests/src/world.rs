//! Problems of the world by the hundred, and how its tests read them.

use puyu::world::{DAYS, Fact, Kind, Lang, Problem, Relation, Rng, Split, problem};

/// Calls `check` with `n` problems of a kind, in every language and split.
pub fn each(kind: Kind, n: u64, check: impl Fn(&Problem, Split)) {
    for lang in Lang::ALL {
        for (s, split) in [Split::Train, Split::Validation, Split::Test].into_iter().enumerate() {
            for i in 0..n {
                let mut rng = Rng::new(7, (s * 2) as u64 + lang as u64, i);
                let made = problem(&mut rng, kind, lang, split);
                assert_eq!((made.kind, made.lang), (kind, lang));
                check(&made, split);
            }
        }
    }
}

/// The numbers that a text names.
pub fn numbers(text: &str) -> Vec<u32> {
    let all = text.split(|c: char| !c.is_ascii_digit()).filter(|s| !s.is_empty());
    all.map(|s| s.parse().unwrap()).collect()
}

/// Minutes of every time h:mm in a text.
pub fn times(text: &str) -> Vec<u32> {
    let clock = |word: &str| {
        let (h, m) = word.split_once(':')?;
        let two = m.len() == 2 && h.len() <= 2;
        two.then_some(h.parse::<u32>().ok()? * 60 + m.parse::<u32>().ok()?)
    };
    text.split(|c: char| !c.is_ascii_digit() && c != ':').filter_map(clock).collect()
}

/// The days that a text names, in order.
pub fn days(lang: Lang, text: &str) -> Vec<usize> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (i, (en, zh)) in DAYS.iter().enumerate() {
        found.extend(text.match_indices(lang.pick(*en, *zh)).map(|(at, _)| (at, i)));
    }
    found.sort_unstable();
    found.into_iter().map(|(_, day)| day).collect()
}

/// The context's sentence that says a fact, found by its words.
pub fn sentence_of<'a>(p: &'a Problem, fact: &Fact) -> Option<&'a String> {
    let words = fact.words(p.lang);
    let said = |name: char| words.iter().find(|(c, _)| *c == name).map(|(_, w)| w.clone());
    let person = fact.person().map(|p2| p2.name(p.lang).to_owned());
    // What no sentence about the fact can leave out.
    let value = match fact.relation {
        Relation::At => said('q'),
        Relation::Has => said('c'),
        Relation::Likes => said('f'),
        Relation::Job => said('j'),
        Relation::ThingAt => said('q'),
        Relation::DoDay => said('d'),
        Relation::DoTime => said('m'),
        Relation::Age => said('n'),
        Relation::Count => said('c'),
        Relation::Kin => said('b'),
    };
    let lower = |s: &str| s.to_lowercase();
    p.context.iter().find(|s| {
        let text = lower(s);
        [person.as_deref(), value.as_deref()].iter().flatten().all(|w| text.contains(&lower(w)))
    })
}

/// Every fact is said.
pub fn stated(p: &Problem) {
    for fact in &p.facts {
        assert!(sentence_of(p, fact).is_some(), "{fact:?} is not in {:?}", p.context);
    }
}
