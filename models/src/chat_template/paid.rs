//! Work that the template engine does without asking for fuel, done here for fuel.
//!
//! The engine bounds strings, but a list that stands twice in another list, again and again, is small
//! to build and endless to print, compare or hash; and `+` copies lists unasked. So a template is
//! compiled, and every instruction that takes values apart is replaced by a call that first pays for
//! all that is in them. One instruction stands for one, so nothing else of the program moves. Lists are
//! kept from the compiler, which would reckon with constant ones at once.

use std::collections::BTreeMap;

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

/// Values nested deeper than this are not taken apart.
const MAX_DEPTH: usize = 100;

/// Filters that look into what they are given, under the names of those that pay for it first. A
/// template cannot spell those names.
const FILTERS: [(&str, &str); 30] = [
    ("capitalize", "=capitalize"),
    ("dictsort", "=dictsort"),
    ("e", "=e"),
    ("escape", "=escape"),
    ("float", "=float"),
    ("format", "=format"),
    ("groupby", "=groupby"),
    ("indent", "=indent"),
    ("int", "=int"),
    ("join", "=join"),
    ("lines", "=lines"),
    ("lower", "=lower"),
    ("map", "=map"),
    ("max", "=max"),
    ("min", "=min"),
    ("pprint", "=pprint"),
    ("reject", "=reject"),
    ("rejectattr", "=rejectattr"),
    ("replace", "=replace"),
    ("safe", "=safe"),
    ("select", "=select"),
    ("selectattr", "=selectattr"),
    ("sort", "=sort"),
    ("split", "=split"),
    ("string", "=string"),
    ("sum", "=sum"),
    ("title", "=title"),
    ("trim", "=trim"),
    ("unique", "=unique"),
    ("upper", "=upper"),
];

/// Tests that compare, likewise.
const TESTS: [(&str, &str); 16] = [
    ("==", "=eq"),
    ("eq", "=eq"),
    ("equalto", "=eq"),
    ("!=", "=ne"),
    ("ne", "=ne"),
    ("<", "=lt"),
    ("lt", "=lt"),
    ("lessthan", "=lt"),
    ("<=", "=le"),
    ("le", "=le"),
    (">", "=gt"),
    ("gt", "=gt"),
    ("greaterthan", "=gt"),
    (">=", "=ge"),
    ("ge", "=ge"),
    ("in", "=in"),
];

/// Words after which `[` begins a list; after any other it asks for an item.
const BEFORE_LISTS: [&str; 8] = ["in", "not", "and", "or", "if", "elif", "else", "is"];

/// The same template with every list written so that it is no constant: the compiler computes with
/// constants before there is any fuel, and `[1] * 99999999` is one.
pub(super) fn without_constant_lists(source: &str, syntax: SyntaxConfig) -> String {
    let (mut out, mut copied) = (String::with_capacity(source.len()), 0);
    let (mut lists, mut item) = (Vec::new(), false);
    // What is no token is an error that compiling reports.
    for (token, span) in tokenize(source, false, syntax).map_while(Result::ok) {
        let mut insert = |place: u32, text: &str| {
            out.push_str(&source[copied..place as usize]);
            out.push_str(text);
            copied = place as usize;
        };
        match token {
            Token::BracketOpen => {
                lists.push(!item);
                if !item {
                    insert(span.start_offset, "(");
                }
            }
            Token::BracketClose if lists.pop() == Some(true) => {
                insert(span.end_offset, " | list)");
            }
            _ => {}
        }
        item = match token {
            Token::Ident(word) => !BEFORE_LISTS.contains(&word),
            Token::Str(_) | Token::String(_) => true,
            Token::BracketClose | Token::ParenClose | Token::BraceClose => true,
            _ => false,
        };
    }
    out.push_str(&source[copied..]);
    out
}

/// A compiled template.
pub(super) struct Program<'source> {
    instructions: Instructions<'source>,
    blocks: BTreeMap<&'source str, Instructions<'source>>,
}

impl<'source> Program<'source> {
    /// Compiles `source`.
    ///
    /// # Errors
    /// A template that is malformed, or that compares in a chain.
    pub fn compile(
        name: &'source str,
        source: &'source str,
        syntax: SyntaxConfig,
    ) -> Result<Self, Error> {
        let tree = parse(source, name, syntax)?;
        let mut generator = CodeGenerator::new(name, source);
        generator.compile_stmt(&tree);
        let (mut instructions, mut blocks) = generator.finish();
        for part in std::iter::once(&mut instructions).chain(blocks.values_mut()) {
            let mut place = 0;
            while let Some(instruction) = part.get_mut(place) {
                *instruction = paid(instruction)?;
                place += 1;
            }
        }
        Ok(Self { instructions, blocks })
    }

    /// Runs it.
    ///
    /// # Errors
    /// What the template raises, and running out of fuel.
    pub fn render(&self, environment: &Environment, context: Value) -> Result<String, Error> {
        let mut text = String::new();
        let mut out = make_string_output(&mut text);
        eval(environment, &self.instructions, context, &self.blocks, &mut out, AutoEscape::None)?;
        Ok(text)
    }
}

/// What stands in the place of `instruction`.
fn paid<'source>(instruction: &Instruction<'source>) -> Result<Instruction<'source>, Error> {
    use Instruction as I;
    let renamed = |list: &[(&'static str, &'static str)], name: &'source str| -> &'source str {
        list.iter().find(|(own, _)| *own == name).map_or(name, |(_, paid)| paid)
    };
    let call = |name: &'static str| Ok(I::CallFunction(name, Some(2)));
    match instruction {
        I::Add => call("+"),
        I::StringConcat => call("~"),
        I::Eq => call("=="),
        I::Ne => call("!="),
        I::Lt => call("<"),
        I::Lte => call("<="),
        I::Gt => call(">"),
        I::Gte => call(">="),
        I::In => call("=in"),
        I::GetItem => call("[]"),
        I::BuildMap(count) => {
            let values = u16::try_from(count * 2)
                .map_err(|_| fault("a mapping is written with more than 32767 entries"))?;
            Ok(I::CallFunction("{}", Some(values)))
        }
        I::CompareAndPreserve(_) => {
            Err(fault("comparisons in a chain (a < b < c) are not supported"))
        }
        I::CallMethod("changed", _) => Err(fault("loop.changed() is not supported")),
        I::ApplyFilter(name, count, slot) => {
            Ok(I::ApplyFilter(renamed(&FILTERS, name), *count, *slot))
        }
        I::PerformTest(name, count, slot) => {
            Ok(I::PerformTest(renamed(&TESTS, name), *count, *slot))
        }
        other => Ok(other.clone()),
    }
}

fn fault(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

fn holds(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Pays for everything in `value`, as often as it stands there.
///
/// # Errors
/// If the fuel is used up, or the value is nested too deeply (or in itself).
pub(super) fn pay(state: &State, value: &Value) -> Result<(), Error> {
    fn walk(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
        if let Some(text) = value.as_str() {
            return state.consume_fuel(text.len() as u64 / 64);
        }
        if !holds(value) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(fault("a value is nested too deeply"));
        }
        let map = value.kind() == ValueKind::Map;
        for item in value.try_iter()? {
            state.consume_fuel(1)?;
            walk(state, &item, depth + 1)?;
            if map {
                walk(state, &value.get_item(&item)?, depth + 1)?;
            }
        }
        Ok(())
    }
    walk(state, value, 0)
}

/// Pays for comparing two values: one that holds nothing is compared at once.
fn pay_both(state: &State, a: &Value, b: &Value) -> Result<(), Error> {
    if holds(a) && holds(b) {
        pay(state, a)?;
        pay(state, b)?;
    }
    Ok(())
}

fn add(state: &mut State, a: Value, b: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        state.consume_fuel((a.len() + b.len()) as u64 / 64)?;
        return Ok(Value::from([a, b].concat()));
    }
    let list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if list(&a) && list(&b) {
        let (Some(left), Some(right)) = (a.len(), b.len()) else {
            return Err(fault("only lists of a known length can be added"));
        };
        // The engine charges for the new list when it is there; this keeps one from being too large.
        state.consume_fuel((left.saturating_add(right)) as u64 / 16)?;
        return Ok(a.try_iter()?.chain(b.try_iter()?).collect());
    }
    let whole = |value: &Value| i128::try_from(value.clone()).ok().filter(|_| value.is_integer());
    if let (Some(a), Some(b)) = (whole(&a), whole(&b)) {
        return a.checked_add(b).map(Value::from).ok_or_else(|| fault("a sum is too large"));
    }
    match (f64::try_from(a.clone()), f64::try_from(b.clone())) {
        (Ok(a), Ok(b)) => Ok(Value::from(a + b)),
        _ => Err(fault(&format!("{} and {} cannot be added", a.kind(), b.kind()))),
    }
}

fn concat(state: &mut State, a: Value, b: Value) -> Result<Value, Error> {
    let mut text = String::new();
    for value in [a, b] {
        let own;
        let part = match value.as_str() {
            Some(part) => part,
            None => {
                own = state.format(value)?;
                &own
            }
        };
        state.consume_fuel(part.len() as u64 / 64)?;
        text.push_str(part);
    }
    Ok(Value::from(text))
}

fn get_item(state: &mut State, value: Value, key: Value) -> Result<Value, Error> {
    pay(state, &key)?;
    if value.kind() == ValueKind::Iterable {
        // It can only be counted through.
        state.consume_fuel(value.len().unwrap_or(0) as u64 / 2)?;
    }
    value.get_item(&key)
}

fn mapping(state: &mut State, items: Rest<Value>) -> Result<Value, Error> {
    let mut pairs = Vec::with_capacity(items.len() / 2);
    for pair in items.chunks_exact(2) {
        pay(state, &pair[0])?;
        pairs.push((pair[0].clone(), pair[1].clone()));
    }
    Ok(Value::from_pairs(pairs))
}

fn contains(state: &mut State, item: Value, container: Value) -> Result<Value, Error> {
    pay_both(state, &item, &container)?;
    Ok(Value::from(state.perform_test("in", &[item, container])?))
}

/// Adds what [`Program::compile`] calls.
pub(super) fn add_to(environment: &mut Environment) {
    environment.add_function("+", add);
    environment.add_function("~", concat);
    environment.add_function("[]", get_item);
    environment.add_function("{}", mapping);
    environment.add_function("=in", contains);
    macro_rules! comparison {
        ($($name:literal $operator:tt),*) => {
            $(environment.add_function($name, |state: &mut State, a: Value, b: Value| {
                pay_both(state, &a, &b).map(|()| a $operator b)
            });)*
        };
    }
    comparison!("==" ==, "!=" !=, "<" <, "<=" <=, ">" >, ">=" >=);
    for (name, paid) in FILTERS {
        environment.add_filter(paid, move |state: &mut State, values: Rest<ValueOrKwargs>| {
            let values = values.into_values();
            values.iter().try_for_each(|value| pay(state, value))?;
            state.apply_filter(name, &values)
        });
    }
    for (name, paid) in TESTS {
        environment.add_test(paid, move |state: &mut State, values: Rest<ValueOrKwargs>| {
            let values = values.into_values();
            values.iter().try_for_each(|value| pay(state, value))?;
            state.perform_test(name, &values)
        });
    }
}
