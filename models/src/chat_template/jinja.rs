//! The Jinja environment in which Hugging Face chat templates run.
//!
//! It is what transformers sets up: blocks trimmed, `raise_exception`, `strftime_now`, `tojson` as
//! Python prints it, Python's methods on strings and mappings. Fuel bounds instructions and bytes; what
//! the engine does without fuel is in [`super::paid`].

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, Output, State, Value};
use puyu_tensor::{Context, Error, Result};
use serde_json::Value as Json;

use super::paid::{self, Program};
use super::{python, time};
use std::cell::Cell;

/// Longest template that is compiled, in bytes; real ones have at most about 20,000.
const MAX_SOURCE: usize = 64 << 10;
/// Work that any template may do: instructions, or 64 bytes of text each. Real ones need a few
/// hundred, and a hundred or two for each message.
const BASE_FUEL: u64 = 200_000;
/// What each message, or other item of what is rendered, adds to that.
const ITEM_FUEL: u64 = 100;
/// A template can nest a value in itself, about once for six instructions, and the engine recurses
/// to print and to drop it: the stack grows with the fuel, so that fuel always ends first.
const STACK_PER_FUEL: u64 = 256;
/// The parser recurses too, at most once for each byte of the source.
const STACK_PER_BYTE: u64 = 4 << 10;
/// The stack of what does nothing unusual, in bytes.
const BASE_STACK: u64 = 4 << 20;
/// Depth of nested blocks, macros and includes.
const MAX_DEPTH: usize = 100;
/// The variable that holds the time for `strftime_now`.
const NOW: &str = "__now";

/// The template's name in messages of the engine.
const NAME: &str = "chat_template";

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_debug(false);
    environment.set_formatter(format_value);
    environment.set_unknown_method_callback(python::call_method);
    environment.remove_global("debug");
    environment.add_function("raise_exception", |state: &mut State, message: Value| {
        let message = state.format(message)?;
        Err::<Value, _>(JinjaError::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |state: &mut State, format: String| {
        let now = state.lookup(NOW).and_then(|now| u64::try_from(now).ok());
        time::strftime(&format, now.unwrap_or_else(time::now))
    });
    environment.add_filter("tojson", to_json);
    paid::add_to(&mut environment);
    environment
}

/// The syntax of transformers' templates.
fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.expect("the standard delimiters are valid")
}

/// A template ready to run.
pub(super) struct Compiled<'s> {
    environment: Environment<'static>,
    program: Program<'s>,
    source_bytes: u64,
}

impl<'s> Compiled<'s> {
    /// Compiles `source`, as [`prepared`] gives it, for `environment`.
    pub fn new(environment: &Environment<'static>, source: &'s str) -> Result<Self> {
        let source_bytes = source.len() as u64;
        let program = with_stack(source_bytes * STACK_PER_BYTE, || {
            Program::compile(NAME, source, syntax())
                .map_err(|e| error("the chat template is malformed", &e))
        })??;
        Ok(Self { environment: environment.clone(), program, source_bytes })
    }

    /// Runs it, where there is stack enough.
    pub fn render(&mut self, context: &Json, now: Option<u64>) -> Result<String> {
        let fuel = BASE_FUEL + fuel_for(context);
        self.environment.set_fuel(Some(fuel));
        match now {
            Some(now) => self.environment.add_global(NOW, now),
            None => self.environment.remove_global(NOW),
        }
        let run = || self.program.render(&self.environment, value(context));
        let stack = fuel * STACK_PER_FUEL + self.source_bytes * STACK_PER_BYTE;
        with_stack(stack, run)?.map_err(|e| match e.kind() {
            ErrorKind::OutOfFuel => Error::invalid(
                "the chat template does more work than a conversation can need (an endless loop?)",
            ),
            _ => error("the chat template failed", &e),
        })
    }
}

/// `source` as [`Compiled`] takes it.
///
/// # Errors
/// A template that is too long.
pub(super) fn prepared(source: &str) -> Result<String> {
    if source.len() > MAX_SOURCE {
        return Err(Error::unsupported(format!(
            "the chat template has {} bytes, more than the {MAX_SOURCE} that are run",
            source.len()
        )));
    }
    Ok(paid::without_constant_lists(source, syntax()))
}

thread_local! {
    /// The stack that this thread was made with for templates, in bytes.
    static ROOM: Cell<u64> = const { Cell::new(0) };
}

/// Runs `run` with `stack` bytes of stack more than usual: here if this thread was made for as much, else
/// on a thread of its own. Only what is used of them takes memory.
fn with_stack<T: Send>(stack: u64, run: impl FnOnce() -> T + Send) -> Result<T> {
    if stack <= ROOM.get() {
        return Ok(run());
    }
    let size = usize::try_from(BASE_STACK + stack).unwrap_or(usize::MAX);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(size);
        let run = || {
            ROOM.set(stack);
            run()
        };
        let thread = thread.spawn_scoped(scope, run).context("a thread for the chat template")?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Runs `run` on one thread with room for any usual template and conversation, so that what it renders
/// needs no thread for each.
pub(super) fn with_room<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T> {
    with_stack(2 * BASE_FUEL * STACK_PER_FUEL, run)
}

/// An error of the template engine in our words.
fn error(what: &str, e: &JinjaError) -> Error {
    let line = e.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    Error::invalid(format!("{what}: {}{line}", e.detail().unwrap_or(&e.kind().to_string())))
}

/// Contents are copied a few times on their way, so a long conversation is given more.
fn fuel_for(value: &Json) -> u64 {
    match value {
        Json::String(text) => text.len() as u64 / 8,
        Json::Array(list) => list.iter().map(|item| ITEM_FUEL + fuel_for(item)).sum(),
        Json::Object(map) => map.iter().map(|(k, v)| k.len() as u64 / 8 + fuel_for(v)).sum(),
        _ => 0,
    }
}

/// JSON as a template's value; the order of keys is kept.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(x) => Value::from(*x),
        Json::Number(x) => x
            .as_i64()
            .map(Value::from)
            .or_else(|| x.as_u64().map(Value::from))
            .unwrap_or_else(|| Value::from(x.as_f64().unwrap_or(f64::NAN))),
        Json::String(x) => Value::from(x.as_str()),
        Json::Array(x) => x.iter().map(value).collect(),
        Json::Object(x) => Value::from_pairs(x.iter().map(|(k, v)| (k.as_str(), value(v)))),
    }
}

/// Prints a value as Python would; lists and mappings item by item, so that fuel bounds it.
fn format_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), JinjaError> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return minijinja::escape_formatter(out, state, value);
    }
    let mut writer = python::Writer::new(python::Style::Repr);
    writer.write(state, value, 0)?;
    out.write_str(&writer.out).map_err(JinjaError::from)
}

/// `json.dumps(value, ensure_ascii=False)`, which is what transformers makes of the filter.
fn to_json(
    state: &mut State,
    value: &Value,
    indent: Option<Value>,
    arguments: Kwargs,
) -> Result<Value, JinjaError> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => arguments.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|x| !x.is_none()).map(usize::try_from).transpose()?;
    let sort = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    arguments.get::<Option<bool>>("ensure_ascii")?;
    let separators = match arguments.get::<Option<Value>>("separators")? {
        Some(two) => {
            Some((two.get_item_by_index(0)?.to_string(), two.get_item_by_index(1)?.to_string()))
        }
        None => None,
    };
    arguments.assert_all_used()?;
    let mut writer = python::Writer::new(python::Style::Json);
    (writer.indent, writer.sort) = (indent, sort);
    if indent.is_some() {
        writer.item = ",".into();
    }
    if let Some((item, key)) = separators {
        (writer.item, writer.key) = (item, key);
    }
    writer.write(state, value, 0)?;
    Ok(Value::from(writer.out))
}
