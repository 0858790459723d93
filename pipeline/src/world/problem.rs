//! A problem: facts, and questions about them with their answers. Every file is a rendering of
//! problems, so what is asked and what is right is decided once.

use super::facts::Fact;
use super::rng::{Rng, Split};
use super::wording::Form;
use super::words::Lang;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal),* $(,)?) => {
        /// A kind of question, the unit of what is reported.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[$doc])* $name),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// Its name in files and flags.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$name => $text),* }
            }
        }
    };
}

kinds! {
    /// A fact that is given.
    Lookup = "lookup",
    /// One and two hops in a family.
    Kinship = "kinship",
    /// How many.
    Counting = "counting",
    /// Numbers and people in order.
    Sorting = "sorting",
    /// Which of two or more.
    Comparing = "comparing",
    /// Sums, differences, products.
    Arithmetic = "arithmetic",
    /// Times of day and durations.
    Clock = "clock",
    /// Days of the week.
    Days = "days",
    /// A story's state at its end.
    Story = "story",
    /// What is not so.
    Negation = "negation",
    /// A second question that leans on the first.
    Followup = "followup",
    /// Doing what is said with given words.
    Instruct = "instruct",
    /// Lookups of which half cannot be answered.
    Unknown = "unknown",
    /// A calculator that is offered, and one that is not.
    Tool = "tool",
}

impl Kind {
    /// The kind of a name.
    pub fn of(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|k| k.name() == name)
    }
}

/// A question and its answer.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// What the user says.
    pub question: String,
    /// How the answer is found, or nothing.
    pub steps: String,
    /// The answer in its canonical form.
    pub answer: String,
    /// Other forms that are right too.
    pub also: Vec<String>,
    /// At least three answers of the same form that are wrong.
    pub wrong: Vec<String>,
    /// The calculator's call that must come first.
    pub call: Option<Call>,
}

/// A call of the calculator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What to compute: 347 + 285.
    pub expression: String,
    /// What the calculator says.
    pub result: String,
}

/// The answer where the facts say nothing.
pub fn dont_know(lang: Lang) -> &'static str {
    lang.pick("I don't know.", "我不知道。")
}

/// What stands before an answer that follows steps.
pub fn mark(lang: Lang) -> &'static str {
    lang.pick("Answer: ", "答案：")
}

impl Turn {
    /// A turn without steps.
    pub fn plain(question: String, answer: impl Into<String>, wrong: Vec<String>) -> Self {
        Self { question, answer: answer.into(), wrong, ..Self::default() }
    }

    /// What the assistant says when `answer` is what it comes to.
    pub fn reply_with(&self, lang: Lang, answer: &str) -> String {
        match self.steps.as_str() {
            "" => answer.to_owned(),
            steps => format!("{steps}{}{}{answer}", lang.pick(" ", ""), mark(lang)),
        }
    }

    /// What the assistant says.
    pub fn reply(&self, lang: Lang) -> String {
        self.reply_with(lang, &self.answer)
    }
}

/// Which tools a conversation offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tools {
    /// None: no system message speaks of any.
    None,
    /// The calculator.
    Calculator,
    /// Another one, which cannot compute.
    Weather,
    /// Both.
    Both,
}

/// Facts, questions and answers.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its kind.
    pub kind: Kind,
    /// The form of its last question.
    pub form: Form,
    /// Its language.
    pub lang: Lang,
    /// A hash of what is asked, which decides its split.
    pub key: u64,
    /// The facts that `context` states, for solvers.
    pub facts: Vec<Fact>,
    /// The facts as sentences.
    pub context: Vec<String>,
    /// One question or more; the last one is the one that counts.
    pub turns: Vec<Turn>,
    /// What is offered.
    pub tools: Tools,
}

impl Problem {
    /// A problem of one turn without tools.
    pub fn new(
        kind: Kind,
        form: Form,
        lang: Lang,
        key: u64,
        context: Vec<String>,
        turn: Turn,
    ) -> Self {
        Self::of_turns(kind, form, lang, key, vec![], context, vec![turn])
    }

    /// A problem of several turns about `facts`, without tools.
    pub fn of_turns(
        kind: Kind,
        form: Form,
        lang: Lang,
        key: u64,
        facts: Vec<Fact>,
        context: Vec<String>,
        turns: Vec<Turn>,
    ) -> Self {
        Self { kind, form, lang, key, facts, context, turns, tools: Tools::None }
    }

    /// The turn that counts.
    ///
    /// # Panics
    /// If there is none, which no generator makes.
    pub fn last(&self) -> &Turn {
        self.turns.last().expect("a problem has a question")
    }
}

/// Makes problems of one kind; nothing if what was drawn does not fit, and another draw is due.
pub type Maker = fn(&mut Rng, Lang, Split) -> Option<Problem>;

/// Three of `candidates` that differ from `answer` and from each other, in random order.
pub fn wrongs(rng: &mut Rng, answer: &str, mut candidates: Vec<String>) -> Vec<String> {
    rng.shuffle(&mut candidates);
    let mut found: Vec<String> = Vec::with_capacity(3);
    for candidate in candidates {
        if candidate != answer && !found.contains(&candidate) && found.len() < 3 {
            found.push(candidate);
        }
    }
    found
}

/// Three numbers near `answer`, not negative, as text.
pub fn wrong_numbers(rng: &mut Rng, answer: u32) -> Vec<String> {
    let near = [1, 2, 3, 9, 10, 11, 20, 100];
    let up = near.iter().map(|d| answer + d);
    let far = if answer < 20 { 3 } else { near.len() };
    let down = near[..far].iter().filter_map(|d| answer.checked_sub(*d));
    let all = if answer < 20 {
        up.take(3).chain(down).collect()
    } else {
        up.chain(down).collect::<Vec<_>>()
    };
    wrongs(rng, &answer.to_string(), all.iter().map(u32::to_string).collect())
}
