//! Facts, their sentences, and scenes: a handful of facts that contradict nothing, so that a question
//! about one of them has one answer. A fact's split is a hash of the fact in its language; a training
//! scene holds training facts only, whatever is asked.

use super::fill;
use super::rng::{self, Rng, Split};
use super::words::{
    self, COLOURS, DAYS, DOINGS, FOODS, JOBS, Lang, PEOPLE, PLACES, Person, THINGS, article,
};

/// What a fact says; the fields of [`Fact`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relation {
    /// Person `a` is at place `v`.
    At,
    /// Person `a` has thing `w` of colour `v`.
    Has,
    /// Person `a` likes food `v`.
    Likes,
    /// Person `a` has job `v`.
    Job,
    /// Thing `w` of colour `a` is at place `v`.
    ThingAt,
    /// Person `a` does `w` on day `v`.
    DoDay,
    /// Person `a` does `w` at minute `v`.
    DoTime,
    /// Person `a` is `v` years old.
    Age,
    /// Person `a` has `v` of food `w`.
    Count,
    /// The relative `w` of person `a` is person `v`.
    Kin,
}

/// Relations that scenes are made of.
pub const SCENIC: [Relation; 9] = [
    Relation::At,
    Relation::Has,
    Relation::Likes,
    Relation::Job,
    Relation::ThingAt,
    Relation::DoDay,
    Relation::DoTime,
    Relation::Age,
    Relation::Count,
];

/// Relatives: English, Chinese, whether female.
pub const KIN: [(&str, &str, bool); 8] = [
    ("father", "爸爸", false),
    ("mother", "妈妈", true),
    ("brother", "哥哥", false),
    ("sister", "姐姐", true),
    ("husband", "丈夫", false),
    ("wife", "妻子", true),
    ("son", "儿子", false),
    ("daughter", "女儿", true),
];

/// A fact; [`Relation`] says what the fields are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    /// What is said.
    pub relation: Relation,
    /// The subject.
    pub a: usize,
    /// A second thing, or 0.
    pub w: usize,
    /// The value.
    pub v: usize,
}

impl Fact {
    /// A fact.
    pub fn new(relation: Relation, a: usize, w: usize, v: usize) -> Self {
        Self { relation, a, w, v }
    }

    /// A random one about `a` (not for [`Relation::Kin`]).
    pub fn random(rng: &mut Rng, relation: Relation, a: usize) -> Self {
        let (a, w, v) = match relation {
            Relation::At => (a, 0, rng.below(PLACES.len())),
            Relation::Has => (a, rng.below(THINGS.len()), rng.below(COLOURS.len())),
            Relation::Likes => (a, 0, rng.below(FOODS.len())),
            Relation::Job => (a, 0, rng.below(JOBS.len())),
            Relation::ThingAt => {
                (rng.below(COLOURS.len()), rng.below(THINGS.len()), rng.below(PLACES.len()))
            }
            Relation::DoDay => (a, rng.below(DOINGS.len()), rng.below(DAYS.len())),
            Relation::DoTime => (a, rng.below(DOINGS.len()), 360 + 5 * rng.below(192)),
            Relation::Age => (a, 0, rng.between(3, 90) as usize),
            Relation::Count => (a, rng.below(FOODS.len()), rng.between(2, 60) as usize),
            Relation::Kin => unreachable!("families are built, not drawn"),
        };
        Self { relation, a, w, v }
    }

    /// The person it is about, if it is about one.
    pub fn person(&self) -> Option<Person> {
        (self.relation != Relation::ThingAt).then_some(Person(self.a))
    }

    /// A hash of the fact in `lang`.
    pub fn key(&self, lang: Lang) -> u64 {
        rng::key(&[lang as u64, self.relation as u64, self.a as u64, self.w as u64, self.v as u64])
    }

    /// Its split.
    pub fn split(&self, lang: Lang) -> Split {
        Split::of(self.key(lang))
    }

    /// Whether two facts in one scene would give a question two answers.
    pub fn conflicts(&self, other: &Fact) -> bool {
        use Relation::*;
        let person = self.person().is_some() && self.person() == other.person();
        let thing = self.w == other.w && self.v == other.v;
        match (self.relation, other.relation) {
            (Has, Has) | (DoDay, DoDay) | (DoTime, DoTime) => person || thing,
            (Has, Count) | (Count, Has) | (DoDay, DoTime) | (DoTime, DoDay) => person,
            (Count, Count) => person,
            (ThingAt, ThingAt) => self.w == other.w || self.v == other.v,
            (x, y) if x == y => person || self.v == other.v,
            _ => false,
        }
    }

    /// A sentence that says it.
    pub fn sentence(&self, rng: &mut Rng, lang: Lang) -> String {
        let pattern = rng.pick(statements(lang, self.relation));
        self.filled(rng, lang, pattern)
    }

    /// `pattern` with its words.
    pub fn filled(&self, rng: &mut Rng, lang: Lang, pattern: &str) -> String {
        let words = self.words(lang);
        let slots: Vec<(char, &str)> = words.iter().map(|(c, s)| (*c, s.as_str())).collect();
        fill::filled(rng, pattern, &slots)
    }

    /// Every slot that sentences and questions about it may name.
    pub fn words(&self, lang: Lang) -> Vec<(char, String)> {
        let mut words = Vec::with_capacity(8);
        if let Some(person) = self.person() {
            words.push(('a', person.name(lang).to_owned()));
            words.push(('o', person.name(lang).to_owned()));
            words.push(('s', person.whose(lang)));
        }
        match self.relation {
            Relation::At => {
                words.push(('p', words::in_place(lang, self.v)));
                words.push(('q', words::place(lang, self.v).to_owned()));
            }
            Relation::Has => {
                let thing = &THINGS[self.w];
                words.push(('t', thing.bare(lang).to_owned()));
                words.push(('i', thing.a_coloured(lang, self.v)));
                words.push(('u', thing.the_coloured(lang, self.v)));
                words.push(('c', words::colour(lang, self.v).to_owned()));
            }
            Relation::Likes => words.push(('f', FOODS[self.v].kind(lang).to_owned())),
            Relation::Job => {
                let (en, zh) = JOBS[self.v];
                words.push(('j', lang.pick(article(en), zh.to_owned())));
            }
            Relation::ThingAt => {
                let thing = &THINGS[self.w];
                words.push(('i', thing.a_coloured(lang, self.a)));
                words.push(('u', thing.the_coloured(lang, self.a)));
                words.push(('p', words::in_place(lang, self.v)));
                words.push(('q', words::place(lang, self.v).to_owned()));
            }
            Relation::DoDay | Relation::DoTime => {
                let (bare, third, zh) = DOINGS[self.w];
                words.push(('v', lang.pick(bare, zh).to_owned()));
                words.push(('x', lang.pick(third, zh).to_owned()));
                let day = self.relation == Relation::DoDay;
                let when = if day {
                    words::day(lang, self.v).to_owned()
                } else {
                    words::time(self.v as u32)
                };
                words.push((if day { 'd' } else { 'm' }, when));
            }
            Relation::Age => words.push(('n', self.v.to_string())),
            Relation::Count => {
                let food = &FOODS[self.w];
                words.push(('c', food.count(lang, self.v as u32)));
                words.push(('f', food.kind(lang).to_owned()));
                words.push(('k', food.measure.to_owned()));
            }
            Relation::Kin => {
                words.push(('b', Person(self.v).name(lang).to_owned()));
                words.push(('r', kin(lang, self.w).to_owned()));
            }
        }
        words
    }
}

/// A relative's word.
pub fn kin(lang: Lang, i: usize) -> &'static str {
    lang.pick(KIN[i].0, KIN[i].1)
}

/// How a fact may be said.
pub fn statements(lang: Lang, relation: Relation) -> &'static [&'static str] {
    use Relation::*;
    match (lang, relation) {
        (Lang::En, At) => &[
            "{a} is {p}[| now].",
            "You can find {o} {p}.",
            "{p} you can find {o}.",
            "{a} is {p} [today|at the moment].",
        ],
        (Lang::En, Has) => &[
            "{a} [has|owns] {i}.",
            "{i} belongs to {o}.",
            "{s} {t} is {c}.",
            "The colour of {s} {t} is {c}.",
        ],
        (Lang::En, Likes) => &["{a} likes [|to eat ]{f}.", "{f} are what {a} likes."],
        (Lang::En, Job) => &["{a} is {j}.", "{a} works as {j}.", "{a} has a job as {j}."],
        (Lang::En, ThingAt) => {
            &["{u} is {p}[| now].", "You can find {u} {p}.", "There is {i} {p}."]
        }
        (Lang::En, DoDay) => {
            &["{a} {x} on {d}.", "On {d}, {a} {x}.", "{d} is the day when {a} {x}."]
        }
        (Lang::En, DoTime) => {
            &["{a} {x} at {m}.", "At {m}, {a} {x}.", "{m} is the time when {a} {x}."]
        }
        (Lang::En, Age) => &["{a} is {n} years old.", "{s} age is {n}.", "{a} is {n}."],
        (Lang::En, Count) => &["{a} has {c}.", "{c} belong to {o}.", "{a} owns {c}."],
        (Lang::En, Kin) => &["{b} is {s} {r}.", "{s} {r} is {b}.", "{b} is the {r} of {a}."],
        (Lang::Zh, At) => &["{a}[现在|今天|]{p}。", "可以{p}找到{a}。", "{q}里有{a}。"],
        (Lang::Zh, Has) => &[
            "{a}有{i}。",
            "{a}那里有{i}。",
            "{u}是{s}。",
            "{s}{t}是{c}的。",
            "{s}{t}的颜色是{c}。",
        ],
        (Lang::Zh, Likes) => &["{a}喜欢[吃|]{f}。", "{a}喜欢的食物是{f}。"],
        (Lang::Zh, Job) => &["{a}是{j}。", "{s}工作是{j}。", "{a}当{j}。"],
        (Lang::Zh, ThingAt) => &["{u}[现在|]{p}。", "可以{p}找到{u}。", "{q}里有{i}。"],
        (Lang::Zh, DoDay) => &["{a}{d}{v}。", "{d}，{a}{v}。", "{a}{v}是在{d}。"],
        (Lang::Zh, DoTime) => &["{a}{m}{v}。", "{m}的时候，{a}{v}。", "{a}{v}是在{m}。"],
        (Lang::Zh, Age) => &["{a}[今年|]{n}岁。", "{s}年龄是{n}岁。"],
        (Lang::Zh, Count) => &["{a}有{c}。", "{a}那里有{c}。"],
        (Lang::Zh, Kin) => &["{b}是{s}{r}。", "{s}{r}是{b}。", "{s}{r}叫{b}。"],
    }
}

/// Facts that stand together.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The facts, in the order of their sentences.
    pub facts: Vec<Fact>,
}

impl Scene {
    /// A scene of `asked` and about `others` more: half of them of the same relation, the rest about
    /// the same or other people.
    pub fn around(rng: &mut Rng, lang: Lang, split: Split, asked: Fact, others: usize) -> Self {
        let mut scene = Scene { facts: vec![asked] };
        for i in 0..others {
            let relation = if i % 2 == 0 { asked.relation } else { rng.pick(&SCENIC) };
            let person = match rng.pick(&scene.facts).person() {
                Some(person) if i % 2 == 1 && rng.chance(60) => person.0,
                _ => rng.below(PEOPLE),
            };
            scene.add(rng, lang, split, relation, person);
        }
        rng.shuffle(&mut scene.facts);
        scene
    }

    /// Adds a fact of `relation` about `person` if one is found that fits the scene and the split.
    pub fn add(
        &mut self,
        rng: &mut Rng,
        lang: Lang,
        split: Split,
        relation: Relation,
        person: usize,
    ) {
        for _ in 0..8 {
            let fact = Fact::random(rng, relation, person);
            if allowed(fact.split(lang), split) && !self.facts.iter().any(|f| f.conflicts(&fact)) {
                self.facts.push(fact);
                return;
            }
        }
    }

    /// Its sentences.
    pub fn sentences(&self, rng: &mut Rng, lang: Lang) -> Vec<String> {
        self.facts.iter().map(|f| f.sentence(rng, lang)).collect()
    }
}

/// Whether a fact of split `fact` may stand in a text of split `text`.
pub fn allowed(fact: Split, text: Split) -> bool {
    fact == Split::Train || fact == text
}

/// A random fact about somebody, of exactly `split`.
pub fn draw(rng: &mut Rng, lang: Lang, split: Split, relation: Relation) -> Fact {
    loop {
        let person = rng.below(PEOPLE);
        let fact = Fact::random(rng, relation, person);
        if fact.split(lang) == split {
            return fact;
        }
    }
}
