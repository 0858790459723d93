//! Short stories: people walk, take, give and put down, each step from a simulated state, so that the
//! story hangs together and its end is known. People give only to whom they meet, and carry what they
//! took with them.

use super::facts::{self, Fact, Relation, Scene};
use super::fill;
use super::numbers::key_of;
use super::problem::{Kind, Problem, Turn, wrongs};
use super::rng::{Rng, Split};
use super::scan;
use super::wording::{self, Form};
use super::words::{self, COLOURS, Lang, PEOPLE, PLACES, Person, THINGS};

/// A thing of the story: noun and colour.
type Thing = (usize, usize);

/// What one sentence tells; people and things by their position in the story.
#[derive(Clone, Copy)]
enum Event {
    /// A person is at a place.
    At(usize, usize),
    /// A thing lies at a place.
    Lies(usize, usize),
    /// A person goes to a place.
    Goes(usize, usize),
    /// A person takes a thing.
    Takes(usize, usize),
    /// A person puts a thing down.
    Puts(usize, usize),
    /// A person gives a thing to another.
    Gives(usize, usize, usize),
}

/// What has happened, and how things stand.
struct State {
    lang: Lang,
    split: Split,
    day: usize,
    people: Vec<usize>,
    /// Where each person is.
    places: Vec<usize>,
    things: Vec<Thing>,
    /// The place of each thing, while nobody has it.
    lying: Vec<usize>,
    /// Who has each thing.
    holder: Vec<Option<usize>>,
    /// What was told, sentence by sentence after the opening.
    events: Vec<Event>,
    /// Whom the last sentence was about, for a pronoun.
    subject: Option<usize>,
    text: Vec<String>,
}

impl State {
    /// The first scene: who is where, and what lies there.
    fn new(rng: &mut Rng, lang: Lang, split: Split) -> Option<Self> {
        let n = rng.pick(&[2, 2, 3]);
        let people = rng.distinct(PEOPLE, n);
        let mut places = Vec::new();
        for person in &people {
            let place = free_place(rng, lang, split, *person, &places)?;
            places.push(place);
        }
        let things = (0..rng.pick(&[1, 1, 2]))
            .zip(rng.distinct(THINGS.len(), 2))
            .map(|(_, t)| (t, rng.below(COLOURS.len())))
            .collect::<Vec<Thing>>();
        let lying = things.iter().map(|_| rng.pick(&places)).collect();
        let holder = vec![None; things.len()];
        let day = rng.below(7);
        let (events, subject, text) = (vec![], None, vec![]);
        let mut state = State {
            lang,
            split,
            day,
            people,
            places,
            things,
            lying,
            holder,
            events,
            subject,
            text,
        };
        state.open(rng);
        Some(state)
    }

    fn open(&mut self, rng: &mut Rng) {
        let lang = self.lang;
        let opening: &[&str] = match lang {
            Lang::En => &[
                "It was {d}[| morning| evening].",
                "It was a [sunny|rainy|cold|warm|windy] {d}.",
                "This happened on {d}.",
                "One {d}, the sun was shining.",
            ],
            Lang::Zh => &[
                "那天是{d}。",
                "这是{d}的事。",
                "那是一个[晴朗|下雨|寒冷|温暖]的{d}。",
                "{d}[早上|晚上|]，天气很好。",
            ],
        };
        let pattern = rng.pick(opening);
        self.text.push(fill::filled(rng, pattern, &[('d', words::day(lang, self.day))]));
        for i in 0..self.people.len() {
            let p = words::in_place(lang, self.places[i]);
            self.say(rng, i, lang.pick("{a} was {p}.", "{a}{p}。"), &[('p', &p)]);
            self.events.push(Event::At(i, self.places[i]));
        }
        for i in 0..self.things.len() {
            let (noun, colour) = self.things[i];
            let thing = THINGS[noun].a_coloured(lang, colour);
            let p = words::in_place(lang, self.lying[i]);
            let q = words::place(lang, self.lying[i]);
            let slots = [('i', &*thing), ('p', &p), ('q', q)];
            let pattern = lang.pick("There was {i} {p}.", "{q}里有{i}。");
            self.text.push(fill::filled(rng, pattern, &slots));
            self.events.push(Event::Lies(i, self.lying[i]));
            self.subject = None;
        }
    }

    /// A sentence about person `i`, by name or by pronoun.
    fn say(&mut self, rng: &mut Rng, i: usize, pattern: &str, more: &[(char, &str)]) {
        let person = Person(self.people[i]);
        let pronoun = self.subject == Some(i) && rng.chance(50);
        let a = if pronoun { person.he(self.lang) } else { person.name(self.lang) };
        let mut slots = vec![('a', a)];
        slots.extend(more);
        let then = rng.chance(25) && self.text.len() > 4;
        let lead = match (then, self.lang) {
            (false, _) => "",
            (true, Lang::En) => rng.pick(&["Then ", "After that, ", "Next, ", "Later, "]),
            (true, Lang::Zh) => rng.pick(&["然后，", "之后，", "接着，", "后来，"]),
        };
        self.text.push(fill::filled(rng, &format!("{lead}{pattern}"), &slots));
        self.subject = Some(i);
    }

    /// Person `i` goes to a place, a random one if none is said.
    fn go(&mut self, rng: &mut Rng, i: usize, to: Option<usize>) -> Option<()> {
        let here = [self.places[i]];
        let person = self.people[i];
        let to = match to {
            Some(to) => to,
            None => free_place(rng, self.lang, self.split, person, &here)?,
        };
        let fact = Fact::new(Relation::At, person, 0, to);
        if !facts::allowed(fact.split(self.lang), self.split) {
            return None;
        }
        self.places[i] = to;
        self.events.push(Event::Goes(i, to));
        let p = words::to_place(self.lang, to);
        let pattern = self.lang.pick("{a} [went|walked|ran] {p}.", "{a}[去了|走到了|跑到了]{p}。");
        self.say(rng, i, pattern, &[('p', &p)]);
        Some(())
    }

    /// One more event; nothing happens if what was drawn cannot be.
    fn step(&mut self, rng: &mut Rng) -> Option<()> {
        let i = rng.below(self.people.len());
        let t = rng.below(self.things.len());
        let (noun, colour) = self.things[t];
        let the = THINGS[noun].the_coloured(self.lang, colour);
        let has = Fact::new(Relation::Has, self.people[i], noun, colour).split(self.lang);
        let may_have = facts::allowed(has, self.split);
        match (self.holder[t], rng.below(10)) {
            (_, 0..3) => self.go(rng, i, None)?,
            (None, _) if self.lying[t] == self.places[i] && may_have => {
                self.holder[t] = Some(i);
                self.events.push(Event::Takes(i, t));
                let pattern =
                    self.lang.pick("{a} [took|picked up] {t}.", "{a}[拿起了|拿走了]{t}。");
                self.say(rng, i, pattern, &[('t', &the)]);
            }
            (None, _) => self.go(rng, i, Some(self.lying[t]).filter(|p| *p != self.places[i]))?,
            (Some(holder), 3..6) if holder == i => self.go(rng, i, None)?,
            (Some(holder), 6) if holder == i => {
                self.holder[t] = None;
                self.lying[t] = self.places[i];
                self.events.push(Event::Puts(i, t));
                let pattern = self.lang.pick("{a} put down {t} there.", "{a}把{t}放下了。");
                self.say(rng, i, pattern, &[('t', &the)]);
            }
            (Some(holder), _) if holder != i && may_have => {
                if self.places[i] != self.places[holder] {
                    self.go(rng, i, Some(self.places[holder]))?;
                }
                self.holder[t] = Some(i);
                self.events.push(Event::Gives(holder, t, i));
                let b = Person(self.people[i]).name(self.lang);
                let pattern = self.lang.pick("{a} gave {t} to {b}.", "{a}把{t}给了{b}。");
                // The sentence before may be about the taker: the giver is named.
                self.subject = None;
                self.say(rng, holder, pattern, &[('t', &the), ('b', b)]);
                self.subject = None;
            }
            _ => return None,
        }
        Some(())
    }

    /// Thing `t` in the words of notes: "red cup".
    fn thing(&self, t: usize) -> String {
        let (noun, colour) = self.things[t];
        scan::thing(self.lang, colour, noun)
    }

    /// An event in the words of notes: "Anna goes park", "Tom gives red cup Anna".
    fn told(&self, event: Event) -> String {
        let lang = self.lang;
        let name = |i: usize| Person(self.people[i]).name(lang);
        let place = |v: usize| words::place(lang, v);
        match event {
            Event::At(i, v) => scan::joined(lang, &[name(i), lang.pick("place", "地方"), place(v)]),
            Event::Lies(t, v) => {
                scan::joined(lang, &[&self.thing(t), lang.pick("spot", "位置"), place(v)])
            }
            Event::Goes(i, v) => scan::joined(lang, &[name(i), lang.pick("goes", "去"), place(v)]),
            Event::Takes(i, t) => {
                scan::joined(lang, &[name(i), lang.pick("takes", "拿"), &self.thing(t)])
            }
            Event::Puts(i, t) => {
                scan::joined(lang, &[name(i), lang.pick("puts", "放"), &self.thing(t)])
            }
            Event::Gives(i, t, j) => {
                let gives = lang.pick("gives", "给");
                scan::joined(lang, &[name(i), gives, &self.thing(t), name(j)])
            }
        }
    }

    /// All events, each with whether it changes what is followed, and how that is then.
    fn followed(&self, sought: &str, mut now: impl FnMut(Event) -> String) -> String {
        let mut last = scan::gap(self.lang).to_owned();
        let item = |event: &Event| {
            let then = now(*event);
            let yes = then != last;
            last.clone_from(&then);
            scan::joined(self.lang, &[&scan::judged(self.lang, &self.told(*event), yes), &then])
        };
        let items: Vec<String> = self.events.iter().map(item).collect();
        scan::ended(self.lang, scan::found(self.lang, sought, &items))
    }

    /// Where person `i` is after each event.
    fn way(&self, i: usize) -> String {
        let lang = self.lang;
        let mut place = scan::gap(lang);
        let name = Person(self.people[i]).name(lang);
        let sought = scan::joined(lang, &[name, lang.pick("place", "地方"), scan::gap(lang)]);
        self.followed(&sought, |event| {
            match event {
                Event::At(who, v) | Event::Goes(who, v) if who == i => {
                    place = words::place(lang, v)
                }
                _ => {}
            }
            place.to_owned()
        })
    }

    /// Who has thing `t` after each event, and where it is: "Anna hall"; or the place alone.
    fn travels(&self, t: usize) -> String {
        let lang = self.lang;
        let (mut holder, mut place) = (None, scan::gap(lang));
        let sought = format!("{}{}", self.thing(t), lang.pick(" spot ?", "位置？"));
        self.followed(&sought, |event| {
            match event {
                Event::Lies(what, v) if what == t => place = words::place(lang, v),
                Event::Goes(i, v) if holder == Some(i) => place = words::place(lang, v),
                Event::Takes(i, what) | Event::Gives(_, what, i) if what == t => holder = Some(i),
                Event::Puts(_, what) if what == t => holder = None,
                _ => {}
            }
            match holder {
                Some(i) => scan::joined(lang, &[Person(self.people[i]).name(lang), place]),
                None => place.to_owned(),
            }
        })
    }

    /// The events up to the one that `fits`.
    fn until(&self, sought: &str, fits: impl Fn(Event) -> bool) -> String {
        let items = self.events.iter().map(|e| (self.told(*e), fits(*e)));
        scan::until(self.lang, sought, items)
    }

    /// Where thing `t` is.
    fn place_of(&self, t: usize) -> usize {
        self.holder[t].map_or(self.lying[t], |i| self.places[i])
    }
}

/// A place where `person` may be in this split, and where `taken` are not.
fn free_place(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    person: usize,
    taken: &[usize],
) -> Option<usize> {
    for _ in 0..20 {
        let place = rng.below(PLACES.len());
        let fact = Fact::new(Relation::At, person, 0, place);
        if !taken.contains(&place) && facts::allowed(fact.split(lang), split) {
            return Some(place);
        }
    }
    None
}

/// A story with its questions.
pub(super) fn story(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let mut state = State::new(rng, lang, split)?;
    let length = rng.between(3, 7);
    for _ in 0..length {
        // What cannot be is left out: the story is a sentence shorter.
        let _ = state.step(rng);
    }
    let mut asked = Vec::new();
    let many = if split == Split::Train { rng.between(1, 2) } else { 1 };
    for _ in 0..8 {
        let next = question(rng, &state);
        if let Some((form, key, turn)) = next {
            let new = asked.iter().all(|(_, k, _): &(Form, u64, Turn)| *k != key);
            if new && Split::of(key) == split && asked.len() < many as usize {
                asked.push((form, key, turn));
            }
        }
    }
    let (form, key) = asked.last().map(|(form, key, _)| (*form, *key))?;
    let facts = end(&state);
    let turns = asked.into_iter().map(|(_, _, turn)| turn).collect();
    let context = state.text;
    Some(Problem::of_turns(Kind::Story, form, lang, key, facts, context, turns))
}

/// A story's sentences, for reading only.
pub(super) fn tale(rng: &mut Rng, lang: Lang) -> Option<Vec<String>> {
    let mut state = State::new(rng, lang, Split::Train)?;
    for _ in 0..rng.between(5, 14) {
        let _ = state.step(rng);
    }
    Some(state.text)
}

/// Where everybody is and what everybody has at the end.
fn end(state: &State) -> Vec<Fact> {
    let people = state.people.iter().zip(&state.places);
    let mut facts: Vec<Fact> = people.map(|(a, v)| Fact::new(Relation::At, *a, 0, *v)).collect();
    for ((noun, colour), holder) in state.things.iter().zip(&state.holder) {
        if let Some(i) = holder {
            facts.push(Fact::new(Relation::Has, state.people[*i], *noun, *colour));
        }
    }
    facts
}

/// A question that the story answers, with the hash of what it asks.
fn question(rng: &mut Rng, state: &State) -> Option<(Form, u64, Turn)> {
    let lang = state.lang;
    let (i, t) = (rng.below(state.people.len()), rng.below(state.things.len()));
    let (noun, colour) = state.things[t];
    let the = THINGS[noun].the_coloured(lang, colour);
    let person = Person(state.people[i]);
    let form = rng.pick(&[
        Form::StoryWhere,
        Form::StoryWhere,
        Form::StoryThing,
        Form::StoryThing,
        Form::StoryWho,
        Form::StoryGave,
        Form::StoryFirst,
        Form::StoryDay,
    ]);
    let ask = |rng: &mut Rng, person: Person| {
        let name = person.name(lang);
        wording::ask(rng, lang, state.split, form, &[('a', name), ('o', name), ('t', &the)])
    };
    Some(match form {
        Form::StoryWhere => {
            let place = state.places[i];
            let key = Fact::new(Relation::At, person.0, 0, place).key(lang);
            let question = ask(rng, person);
            let turn = place_turn(rng, state, question, place);
            (form, key, Turn { steps: state.way(i), ..turn })
        }
        Form::StoryFirst => {
            let went = |event: Event| match event {
                Event::Goes(who, to) if who == i => Some(to),
                _ => None,
            };
            let place = state.events.iter().find_map(|e| went(*e))?;
            let key = Fact::new(Relation::At, person.0, 0, place).key(lang);
            let question = ask(rng, person);
            let turn = place_turn(rng, state, question, place);
            let goes = [person.name(lang), lang.pick("goes", "去"), scan::gap(lang)];
            let steps = state.until(&scan::joined(lang, &goes), |e| went(e).is_some());
            (form, key, Turn { steps, ..turn })
        }
        Form::StoryThing => {
            let place = state.place_of(t);
            let key = Fact::new(Relation::ThingAt, colour, noun, place).key(lang);
            let question = ask(rng, person);
            let turn = place_turn(rng, state, question, place);
            (form, key, Turn { steps: state.travels(t), ..turn })
        }
        Form::StoryWho => {
            let holder = Person(state.people[state.holder[t]?]);
            let key = Fact::new(Relation::Has, holder.0, noun, colour).key(lang);
            let question = ask(rng, person);
            let turn = person_turn(rng, state, question, holder);
            (form, key, Turn { steps: state.travels(t), ..turn })
        }
        Form::StoryGave => {
            let (giver, taker) = state.events.iter().rev().find_map(|e| match *e {
                Event::Gives(giver, what, taker) if what == t => Some((giver, taker)),
                _ => None,
            })?;
            let gave = |e: Event| matches!(e, Event::Gives(i, what, _) if i == giver && what == t);
            // Given twice by the same hand, the question would have two answers.
            if state.events.iter().filter(|e| gave(**e)).count() > 1 {
                return None;
            }
            let (from, to) = (Person(state.people[giver]), Person(state.people[taker]));
            let key = Fact::new(Relation::Has, to.0, noun, colour).key(lang);
            let question = ask(rng, from);
            let turn = person_turn(rng, state, question, to);
            let gives = lang.pick("gives", "给");
            let sought = [from.name(lang), gives, &state.thing(t), scan::gap(lang)];
            let steps = state.until(&scan::joined(lang, &sought), gave);
            (form, key, Turn { steps, ..turn })
        }
        _ => {
            let d = words::day(lang, state.day);
            let question = wording::ask(rng, lang, state.split, form, &[]);
            let other = (0..7).map(|d| words::day(lang, d).to_owned()).collect();
            let wrong = wrongs(rng, d, other);
            let key = key_of(lang, form, [state.day, state.people[0], state.people[1]]);
            (form, key, Turn::plain(question, d, wrong))
        }
    })
}

fn place_turn(rng: &mut Rng, state: &State, question: String, place: usize) -> Turn {
    let lang = state.lang;
    let text = |v: usize| match lang {
        Lang::En => words::in_place(lang, v),
        Lang::Zh => words::place(lang, v).to_owned(),
    };
    let seen = state.events.iter().filter_map(|e| match e {
        Event::At(_, v) | Event::Lies(_, v) | Event::Goes(_, v) => Some(*v),
        _ => None,
    });
    let near = state.places.iter().copied().chain(seen).map(text).collect();
    let mut wrong = wrongs(rng, &text(place), near);
    while wrong.len() < 3 {
        let more = text(rng.below(PLACES.len()));
        if more != text(place) && !wrong.contains(&more) {
            wrong.push(more);
        }
    }
    let also = lang.pick(vec![], vec![words::in_place(lang, place)]);
    Turn { also, ..Turn::plain(question, text(place), wrong) }
}

fn person_turn(rng: &mut Rng, state: &State, question: String, right: Person) -> Turn {
    let name = |p: usize| Person(p).name(state.lang).to_owned();
    let near = state.people.iter().map(|p| name(*p)).collect();
    let mut wrong = wrongs(rng, right.name(state.lang), near);
    while wrong.len() < 3 {
        let more = name(rng.below(PEOPLE));
        if more != right.name(state.lang) && !wrong.contains(&more) {
            wrong.push(more);
        }
    }
    Turn::plain(question, right.name(state.lang), wrong)
}

/// Facts of a scene that is told without a question.
pub(super) fn scene(rng: &mut Rng, lang: Lang, relation: Relation) -> Scene {
    let fact = facts::draw(rng, lang, Split::Train, relation);
    let n = rng.between(3, 9) as usize;
    Scene::around(rng, lang, Split::Train, fact, n)
}
