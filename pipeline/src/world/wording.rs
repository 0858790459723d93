//! Which questions exist, and the choice of a wording by split. Every form of question has six wordings
//! in each language: the first four are for training, the fifth is seen in validation only, the sixth in
//! the test sets only. Choices inside a wording multiply them.

use super::fill::{self, Slots};
use super::rng::{Rng, Split};
use super::words::Lang;
use super::{wording_en, wording_zh};

/// Wordings of a form of question.
pub type Wordings = [&'static str; 6];

macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A form of question: what is asked, whatever the words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Form { $($(#[$doc])* $name),* }

        impl Form {
            /// Every form.
            pub const ALL: &'static [Form] = &[$(Form::$name),*];

            /// Its name in files.
            pub fn name(self) -> &'static str {
                match self { $(Form::$name => stringify!($name)),* }
            }
        }
    };
}

forms! {
    /// Where a person is: `a` the person, `o` the same as an object.
    Where,
    /// Who is at a place: `p` in the kitchen.
    WhoAt,
    /// A thing's colour: `s` Tom's, `t` cup.
    ColourOf,
    /// What a person has.
    WhatHas,
    /// Who has a thing: `t` a red cup.
    WhoHas,
    /// What a person likes.
    Likes,
    /// Who likes a food: `f` apples.
    WhoLikes,
    /// A person's job.
    Job,
    /// Who has a job: `j` a teacher.
    WhoJob,
    /// Where a thing is: `t` the red cup.
    ThingWhere,
    /// Which thing is at a place.
    WhatAt,
    /// The day of a doing: `v` swim.
    DoDay,
    /// Who does something on a day: `x` swims, `d` Monday.
    WhoDay,
    /// The time of a doing.
    DoTime,
    /// Who does something at a time: `m` 7:30.
    WhoTime,
    /// A person's age.
    Age,
    /// Who has an age: `n` 12.
    WhoAge,
    /// How many of a food a person has: `f` apples; `k` 个.
    HowMany,
    /// One hop: `s` Tom's, `r` mother.
    Kin,
    /// The other way: `b` Mary, `r` mother.
    KinWhose,
    /// Which relation: `s` Tom's, `a` Tom, `b` Mary.
    KinHow,
    /// A relation turned round: `s` Mary's, `r` son.
    KinTurned,
    /// Two hops in one word: `r` grandmother.
    KinGrand,
    /// Two hops in two words: `r` mother, `q` brother.
    KinChain,
    /// Things of a person.
    CountThings,
    /// A word in a list: `w` apple, `l` the list.
    CountWord,
    /// People at a place.
    CountPeople,
    /// Things of a colour: `c` red.
    CountColour,
    /// Numbers ascending: `l` the list.
    SortUp,
    /// Numbers descending.
    SortDown,
    /// People by age, the oldest first.
    SortOld,
    /// People by age, the youngest first.
    SortYoung,
    /// People by time, the earliest first.
    SortTime,
    /// The larger of two numbers: `x`, `y`.
    Bigger,
    /// The smaller of two numbers.
    Smaller,
    /// The older of two people: `a`, `b`.
    Older,
    /// The younger of two people.
    Younger,
    /// Who has more: `f` apples.
    More,
    /// The first of a chain: `q` tallest, 最高.
    Most,
    /// A sum: `x`, `y`.
    Add,
    /// A difference.
    Subtract,
    /// A product.
    Multiply,
    /// A sum in a tale: also `a`, `h` he, `f` apples, `k` 个.
    TaleAdd,
    /// A difference in a tale.
    TaleSubtract,
    /// A product in a tale: `x` times `y`, `b` boxes.
    TaleMultiply,
    /// A time later: `m` 3:45, `d` 1 hour 30 minutes.
    TimeAfter,
    /// A time before.
    TimeBefore,
    /// From a time to a time: `m`, `n`.
    Duration,
    /// A day later: `n` 3 days, `d` Monday.
    DayAfter,
    /// A day before.
    DayBefore,
    /// Days between: `d`, `e`.
    DayDistance,
    /// Where a person of a story is at its end.
    StoryWhere,
    /// Where a carried thing is at its end: `t` the red cup.
    StoryThing,
    /// Who has a thing at its end.
    StoryWho,
    /// Whom a person gave a thing: `a`, `t`.
    StoryGave,
    /// Where a person went first.
    StoryFirst,
    /// The day of a story.
    StoryDay,
    /// Who is somewhere else: `p`.
    NotAt,
    /// What has another colour: `c`.
    NotColour,
    /// Yes or no: `a`, `p`.
    IsAt,
    /// One of two places, one of them denied: `t`.
    Either,
    /// The same about another person, after a question.
    And,
    /// A sentence again: `l`.
    Repeat,
    /// A word several times: `w`, `n` 3 times.
    RepeatWord,
    /// Words in capitals (English) or in quotes (Chinese): `l`.
    Mark,
    /// First letters or characters of words: `l`.
    Initials,
    /// A list from its end: `l`.
    Reverse,
    /// A word of a list by position: `n` second, `l`.
    Nth,
    /// Numbers from `x` to `y`.
    CountFrom,
}

/// The wordings of `form`.
pub fn wordings(lang: Lang, form: Form) -> Wordings {
    lang.pick(wording_en::wordings as fn(Form) -> Wordings, wording_zh::wordings)(form)
}

/// A question of `form` in a wording of `split`.
pub fn ask(rng: &mut Rng, lang: Lang, split: Split, form: Form, slots: &Slots) -> String {
    let all = wordings(lang, form);
    let pattern = match split {
        Split::Train => all[rng.below(4)],
        Split::Validation => all[4],
        Split::Test => all[5],
    };
    fill::filled(rng, pattern, slots)
}
