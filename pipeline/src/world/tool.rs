//! The calculator. Where it is offered, arithmetic is handed to it; where none is offered, or only a tool
//! that cannot compute, the steps are done by hand; and a question that needs no computing is answered
//! at once, whatever is offered.

use super::arithmetic::{Sum, worded};
use super::lookup;
use super::problem::{Call, Kind, Problem, Tools, Turn, wrong_numbers};
use super::rng::{Rng, Split};
use super::wording::Form;
use super::words::Lang;
use serde_json::{Value, json};

/// Something to compute, or not, with a tool offered, or not.
pub(super) fn tool(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    match rng.below(20) {
        0..10 => called(rng, lang, split),
        10..15 => by_hand(rng, lang, split),
        _ => not_needed(rng, lang, split),
    }
}

/// Operands of up to four digits, which nobody should do by hand.
fn large(rng: &mut Rng) -> u32 {
    match rng.below(4) {
        0 => rng.between(10, 99),
        1 => rng.between(1000, 9999),
        _ => rng.between(100, 999),
    }
}

fn called(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let form = rng.pick(&[Form::Add, Form::Subtract, Form::Multiply]);
    let (x, y) = (large(rng), if form == Form::Multiply { rng.between(2, 99) } else { large(rng) });
    let sum = Sum::of(form, x, y);
    let key = sum.key(lang);
    if Split::of(key) != split {
        return None;
    }
    let tale = rng.chance(35);
    let (form, question) = worded(rng, lang, split, &sum, tale);
    let sum = sum.as_read(&question);
    let sign = match sum.form {
        Form::Add => "+",
        Form::Subtract => "-",
        _ => "*",
    };
    let expression = format!("{} {sign} {}", sum.x, sum.y);
    let result = sum.result.to_string();
    let wrong = wrong_numbers(rng, sum.result);
    let call = Some(Call { expression, result: result.clone() });
    let turn = Turn { call, ..Turn::plain(question, result, wrong) };
    let mut problem = Problem::new(Kind::Tool, form, lang, key, vec![], turn);
    problem.tools = rng.pick(&[Tools::Calculator, Tools::Calculator, Tools::Both]);
    Some(problem)
}

fn by_hand(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let mut problem = super::arithmetic::arithmetic(rng, lang, split)?;
    problem.kind = Kind::Tool;
    problem.tools = rng.pick(&[Tools::None, Tools::Weather]);
    Some(problem)
}

fn not_needed(rng: &mut Rng, lang: Lang, split: Split) -> Option<Problem> {
    let mut problem = lookup::lookup(rng, lang, split)?;
    problem.kind = Kind::Tool;
    problem.tools = rng.pick(&[Tools::Calculator, Tools::Both]);
    Some(problem)
}

/// The name by which the calculator is called.
pub const CALCULATOR: &str = "calculator";

/// The tools on offer, as InternLM2 is told of them; nothing if there are none.
pub fn described(tools: Tools, lang: Lang) -> Option<Value> {
    let function = |name: &str, text: &str, argument: &str| {
        json!({
            "name": name,
            "description": text,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string"}},
                "required": [argument],
            },
        })
    };
    let calculator = || {
        function(CALCULATOR, lang.pick("Computes an expression.", "计算一个算式。"), "expression")
    };
    let weather = || function("weather", lang.pick("Tells the weather.", "查询天气。"), "place");
    Some(Value::Array(match tools {
        Tools::None => return None,
        Tools::Calculator => vec![calculator()],
        Tools::Weather => vec![weather()],
        Tools::Both => vec![weather(), calculator()],
    }))
}

/// The call's body as InternLM2 writes it between `<|plugin|>` and `<|action_end|>`.
pub fn call_body(call: &Call) -> String {
    format!("{{\"name\": \"{CALCULATOR}\", \"parameters\": {}}}", arguments(call))
}

/// The call's arguments, JSON as text, as OpenAI's interface has them.
pub fn arguments(call: &Call) -> String {
    format!("{{\"expression\": \"{}\"}}", call.expression)
}
