//! A small closed world in English and Chinese to train on: people, places, things, numbers, days. From a
//! seed it writes training texts and test questions whose facts, operands and wordings training never
//! shows. `problem.rs` says what a question is, a file per theme makes them, `render.rs` turns them into
//! records and `write.rs` into files. docs/world.md describes it.

mod arithmetic;
mod chat;
mod clock;
mod document;
mod facts;
mod fill;
mod instruct;
mod kinship;
mod lookup;
mod negation;
mod numbers;
mod problem;
mod question;
mod render;
mod rng;
mod scan;
mod score;
mod story;
mod tool;
mod wording;
mod wording_en;
mod wording_en_numbers;
mod wording_zh;
mod wording_zh_numbers;
mod words;
mod write;

pub mod baseline;
pub mod exam;

pub use facts::{Fact, KIN, Relation, statements};
pub use fill::expand;
pub use problem::{Call, Kind, Maker, Problem, Tools, Turn, dont_know, mark};
pub use question::Question;
pub use rng::{Rng, Split};
pub use score::{normalized, score};
pub use tool::{CALCULATOR, call_body};
pub use wording::{Form, Wordings, wordings};
pub use words::{DAYS, FOODS, Lang, Noun, PLACES, Person, THINGS};
pub use write::{Card, FileCard, Options, write};

/// Changes with everything that changes the bytes of a seed.
pub const VERSION: u32 = 8;

/// A problem of `kind` in `lang` whose facts or operands are of `split`, in a wording of that split.
pub fn problem(rng: &mut Rng, kind: Kind, lang: Lang, split: Split) -> Problem {
    let maker: Maker = match kind {
        Kind::Lookup => lookup::lookup,
        Kind::Kinship => kinship::kinship,
        Kind::Counting => numbers::counting,
        Kind::Sorting => numbers::sorting,
        Kind::Comparing => numbers::comparing,
        Kind::Arithmetic => arithmetic::arithmetic,
        Kind::Clock => clock::clock,
        Kind::Days => clock::days,
        Kind::Story => story::story,
        Kind::Negation => negation::negation,
        Kind::Followup => lookup::followup,
        Kind::Instruct => instruct::instruct,
        Kind::Unknown => lookup::unknown,
        Kind::Tool => tool::tool,
    };
    loop {
        if let Some(problem) = maker(rng, lang, split) {
            return problem;
        }
    }
}
