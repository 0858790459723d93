//! Sums, differences and small products, up to three digits, with the steps of the sum on paper: digit
//! by digit from the right, each carry said. A step needs only one-digit facts, all of which training
//! shows; which pairs of numbers are added is split by hash.

use super::numbers::key_of;
use super::problem::{Kind, Problem, Turn, wrong_numbers};
use super::rng::{Rng, Split};
use super::wording::{self, Form};
use super::words::{self, FOODS, Lang, PEOPLE, Person};

/// The names of decimal places, from the right.
fn places(lang: Lang) -> [&'static str; 4] {
    lang.pick(["ones", "tens", "hundreds", "thousands"], ["个位", "十位", "百位", "千位"])
}

/// Digits from the right, at least `n`.
fn digits(mut x: u32, n: usize) -> Vec<u32> {
    let mut all = Vec::with_capacity(n);
    while x > 0 || all.len() < n {
        all.push(x % 10);
        x /= 10;
    }
    all
}

fn carry(lang: Lang, x: u32) -> String {
    lang.pick(format!(", carry {x}"), format!("，进{x}"))
}

/// The steps of x + y: "ones 7+5=12, carry 1; tens 4+8+1=13, carry 1; hundreds 3+2+1=6."
pub(super) fn add_steps(lang: Lang, x: u32, y: u32) -> String {
    let n = digits(x.max(y), 1).len();
    let (a, b) = (digits(x, n), digits(y, n));
    let (mut over, mut steps) = (0, Vec::new());
    for i in 0..n {
        let sum = a[i] + b[i] + over;
        let plus = if over > 0 { "+1" } else { "" };
        over = sum / 10;
        let carried = if over > 0 { carry(lang, 1) } else { String::new() };
        steps.push(format!("{} {}+{}{plus}={sum}{carried}", places(lang)[i], a[i], b[i]));
    }
    joined(lang, &steps)
}

/// The steps of x - y, x not below y: "ones 12-5=7, borrow 1; tens 3-8-1 ..." with borrows paid first.
pub(super) fn subtract_steps(lang: Lang, x: u32, y: u32) -> String {
    let n = digits(x, 1).len();
    let (a, b) = (digits(x, n), digits(y, n));
    let (mut owed, mut steps) = (0, Vec::new());
    for i in 0..n {
        let minus = if owed > 0 { "-1" } else { "" };
        let short = a[i] < b[i] + owed;
        let from = if short { a[i] + 10 } else { a[i] };
        let rest = from - b[i] - owed;
        owed = u32::from(short);
        let borrowed = if short { lang.pick(", borrow 1", "，借1") } else { "" };
        steps.push(format!("{} {from}-{}{minus}={rest}{borrowed}", places(lang)[i], b[i]));
    }
    joined(lang, &steps)
}

/// The steps of x × y, y of one digit: "ones 7×6=42, carry 4; tens 4×6=24, 24+4=28."
pub(super) fn multiply_steps(lang: Lang, x: u32, y: u32) -> String {
    let a = digits(x, 1);
    let (mut over, mut steps) = (0, Vec::new());
    for (i, digit) in a.iter().enumerate() {
        let product = digit * y;
        let sum = product + over;
        let plus = if over > 0 { format!(", {product}+{over}={sum}") } else { String::new() };
        let plus = lang.pick(plus.clone(), plus.replace(", ", "，"));
        over = sum / 10;
        let last = i + 1 == a.len();
        let carried = if over > 0 && !last { carry(lang, over) } else { String::new() };
        steps.push(format!("{} {digit}×{y}={product}{plus}{carried}", places(lang)[i]));
    }
    joined(lang, &steps)
}

fn joined(lang: Lang, steps: &[String]) -> String {
    format!("{}{}", steps.join(lang.pick("; ", "；")), lang.pick(".", "。"))
}

/// A number of one, two or three digits, more often of more.
fn operand(rng: &mut Rng) -> u32 {
    match rng.below(10) {
        0 => rng.between(2, 9),
        1..=4 => rng.between(10, 99),
        _ => rng.between(100, 999),
    }
}

/// Two operands in the order of the question, and the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    /// The form without a tale: [`Form::Add`], [`Form::Subtract`] or [`Form::Multiply`].
    pub form: Form,
    pub x: u32,
    pub y: u32,
    pub result: u32,
}

impl Sum {
    /// Operands of `form` that a small model can work with.
    pub fn random(rng: &mut Rng, form: Form) -> Self {
        let (x, y) = match form {
            Form::Multiply => (rng.between(10, 99), rng.between(2, 9)),
            _ => (operand(rng), operand(rng)),
        };
        Self::of(form, x, y)
    }

    /// The larger operand of a difference comes first.
    pub fn of(form: Form, x: u32, y: u32) -> Self {
        let (x, y) = if form == Form::Subtract { (x.max(y), x.min(y)) } else { (x, y) };
        let result = match form {
            Form::Add => x + y,
            Form::Subtract => x - y,
            _ => x * y,
        };
        Self { form, x, y, result }
    }

    /// The operands in the order in which `question` names them, where their order is free.
    pub fn as_read(self, question: &str) -> Self {
        let number = question.split(|c: char| !c.is_ascii_digit()).find(|s| !s.is_empty());
        let first = number.and_then(|s| s.parse::<u32>().ok());
        match (self.form, first) {
            (Form::Add | Form::Multiply, Some(y)) if y == self.y => {
                Self { x: self.y, y: self.x, ..self }
            }
            _ => self,
        }
    }

    /// A hash that is the same for x + y and y + x.
    pub fn key(&self, lang: Lang) -> u64 {
        let (x, y) = (self.x.min(self.y) as usize, self.x.max(self.y) as usize);
        key_of(lang, self.form, [x, y])
    }

    /// Its split. Sums of one-digit numbers are constants that every step needs: all are for training.
    pub fn split(&self, lang: Lang) -> Split {
        if self.x < 10 && self.y < 10 { Split::Train } else { Split::of(self.key(lang)) }
    }

    /// What is to be done, then the steps on paper: "47 + 25: ones 7+5=12, carry 1; ..."
    pub fn steps(&self, lang: Lang) -> String {
        let (sign, steps) = match self.form {
            Form::Add => ("+", add_steps(lang, self.x, self.y)),
            Form::Subtract => ("-", subtract_steps(lang, self.x, self.y)),
            _ => ("×", multiply_steps(lang, self.x.max(self.y), self.x.min(self.y))),
        };
        format!("{} {sign} {}{}{steps}", self.x, self.y, lang.pick(": ", "："))
    }
}

/// Sums, differences, products, plain or in a tale.
pub(super) fn arithmetic(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let plain = rng.pick(&[Form::Add, Form::Add, Form::Subtract, Form::Subtract, Form::Multiply]);
    let sum = Sum::random(rng, plain);
    let key = sum.key(lang);
    if sum.split(lang) != split {
        return None;
    }
    let tale = rng.chance(35) && sum.x > 1 && sum.y > 1;
    let (form, question) = worded(rng, lang, split, &sum, tale);
    let sum = sum.as_read(&question);
    let wrong = wrong_numbers(rng, sum.result);
    let turn =
        Turn { steps: sum.steps(lang), ..Turn::plain(question, sum.result.to_string(), wrong) };
    Some(Problem::new(Kind::Arithmetic, form, lang, key, vec![], turn))
}

/// The question of a sum, plain or as a tale about people and food.
pub(super) fn worded(
    rng: &mut Rng,
    lang: Lang,
    split: Split,
    sum: &Sum,
    tale: bool,
) -> (Form, String) {
    let form = match (sum.form, tale) {
        (form, false) => form,
        (Form::Add, _) => Form::TaleAdd,
        (Form::Subtract, _) => Form::TaleSubtract,
        _ => Form::TaleMultiply,
    };
    // Boxes come before what is in each, so either factor may be the larger one.
    let turn = form == Form::TaleMultiply && rng.chance(60);
    let (x, y) = if turn { (sum.y, sum.x) } else { (sum.x, sum.y) };
    let people = rng.distinct(PEOPLE, 2);
    let (a, b) = (Person(people[0]), Person(people[1]));
    let food = &FOODS[rng.below(FOODS.len())];
    let day = rng.below(7);
    let (x, y) = (x.to_string(), y.to_string());
    let slots = [
        ('x', &*x),
        ('y', &*y),
        ('a', a.name(lang)),
        ('b', b.name(lang)),
        ('h', a.he(lang)),
        ('o', a.him(lang)),
        ('f', food.kind(lang)),
        ('k', food.measure),
        ('d', words::day(lang, day)),
    ];
    (form, wording::ask(rng, lang, split, form, &slots))
}
