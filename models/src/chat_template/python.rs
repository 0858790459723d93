//! Python's methods, its JSON and its way to print containers, as far as chat templates use them.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::paid::pay;

/// Calls `method` on a string or a mapping; the template engine itself has no methods.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    arguments.iter().try_for_each(|argument| pay(state, argument))?;
    if let Some(text) = value.as_str() {
        // What a method makes is charged when it is done; its work is charged here.
        state.consume_fuel(text.len() as u64 / 64 + 1)?;
        return string_method(state, value, text, method, arguments);
    }
    state.consume_fuel(value.len().unwrap_or(0) as u64)?;
    match (value.kind(), method) {
        (ValueKind::Map, "items") => {
            let () = from_args(arguments)?;
            state.apply_filter("items", std::slice::from_ref(value))
        }
        (ValueKind::Map, "keys") => {
            let () = from_args(arguments)?;
            Ok(value.try_iter()?.collect())
        }
        (ValueKind::Map, "values") => {
            let () = from_args(arguments)?;
            let keys: Vec<Value> = value.try_iter()?.collect();
            keys.iter().map(|key| value.get_item(key)).collect()
        }
        (ValueKind::Map, "get") => {
            let (key, default): (Value, Option<Value>) = from_args(arguments)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        (ValueKind::Seq, "count") => {
            let (item,): (Value,) = from_args(arguments)?;
            pay(state, value)?;
            Ok(Value::from(value.try_iter()?.filter(|x| *x == item).count()))
        }
        (ValueKind::Seq, "index") => {
            let (item,): (Value,) = from_args(arguments)?;
            pay(state, value)?;
            let place = value.try_iter()?.position(|x| x == item);
            place.map(Value::from).ok_or_else(|| fault("the list has no such item"))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn fault(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_string())
}

fn string_method(
    state: &mut State,
    value: &Value,
    text: &str,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let none = || -> Result<(), Error> { from_args(arguments) };
    let list = |items: Vec<&str>| items.into_iter().map(Value::from).collect::<Value>();
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<String>,) = from_args(arguments)?;
            let cut = |c: char| match &set {
                Some(set) => set.contains(c),
                None => c.is_whitespace(),
            };
            let text = if method == "rstrip" { text } else { text.trim_start_matches(cut) };
            Value::from(if method == "lstrip" { text } else { text.trim_end_matches(cut) })
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<String>, Option<i64>) = from_args(arguments)?;
            let parts = match &separator {
                Some(separator) => text.matches(separator.as_str()).count(),
                None => text.split_whitespace().count(),
            };
            state.consume_fuel(parts as u64)?;
            let most = most.and_then(|x| usize::try_from(x).ok()).unwrap_or(usize::MAX - 1);
            list(match separator {
                Some(separator) if separator.is_empty() => return Err(fault("empty separator")),
                Some(separator) if method == "split" => {
                    text.splitn(most + 1, separator.as_str()).collect()
                }
                Some(separator) => {
                    let mut parts: Vec<_> = text.rsplitn(most + 1, separator.as_str()).collect();
                    parts.reverse();
                    parts
                }
                None if most == usize::MAX - 1 => text.split_whitespace().collect(),
                None => return Err(fault("split by white space takes no count")),
            })
        }
        "splitlines" => {
            none()?;
            list(text.lines().collect())
        }
        "startswith" | "endswith" => {
            let (what,): (Value,) = from_args(arguments)?;
            let test = |x: &Value| match x.as_str() {
                Some(x) if method == "startswith" => Ok(text.starts_with(x)),
                Some(x) => Ok(text.ends_with(x)),
                None => Err(fault("startswith and endswith take strings")),
            };
            let mut any = false;
            match what.kind() {
                ValueKind::Seq => {
                    for item in what.try_iter()? {
                        any |= test(&item)?;
                    }
                }
                _ => any = test(&what)?,
            }
            Value::from(any)
        }
        "removeprefix" | "removesuffix" => {
            let (what,): (String,) = from_args(arguments)?;
            let cut = match method {
                "removeprefix" => text.strip_prefix(&what),
                _ => text.strip_suffix(&what),
            };
            Value::from(cut.unwrap_or(text))
        }
        "replace" => match from_args(arguments)? {
            (from, to, None::<i64>) => state.apply_filter("replace", &[value.clone(), from, to])?,
            (from, to, Some(count)) => {
                let (from, to): (String, String) = (from.to_string(), to.to_string());
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(text.len() + 1);
                // The result is at most this long; it is paid for before it is made.
                state.consume_fuel((count as u64).saturating_mul(to.len() as u64) / 64)?;
                Value::from(text.replacen(&from, &to, count))
            }
        },
        "join" => {
            let (items,): (Value,) = from_args(arguments)?;
            state.apply_filter("join", &[items, value.clone()])?
        }
        "find" | "rfind" | "index" => {
            let (what,): (String,) = from_args(arguments)?;
            let place = if method == "rfind" { text.rfind(&what) } else { text.find(&what) };
            match place {
                Some(place) => Value::from(text[..place].chars().count()),
                None if method == "index" => return Err(fault("substring not found")),
                None => Value::from(-1),
            }
        }
        "count" => {
            let (what,): (String,) = from_args(arguments)?;
            Value::from(text.matches(&what).count())
        }
        "upper" | "lower" | "title" | "capitalize" => {
            none()?;
            state.apply_filter(method, std::slice::from_ref(value))?
        }
        "isdigit" => Value::from(all(text, char::is_numeric)),
        "isalpha" => Value::from(all(text, char::is_alphabetic)),
        "isalnum" => Value::from(all(text, char::is_alphanumeric)),
        "isspace" => Value::from(all(text, char::is_whitespace)),
        "isupper" => Value::from(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        ),
        "islower" => Value::from(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        ),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn all(text: &str, test: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(test)
}

/// Two ways in which Python writes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `json.dumps(value, ensure_ascii=False)`.
    Json,
    /// `repr(value)`.
    Repr,
}

/// Writes a value, paying fuel for every item.
pub(super) struct Writer {
    style: Style,
    /// Spaces per level, or everything on one line.
    pub indent: Option<usize>,
    pub sort: bool,
    /// Between items, and between key and value.
    pub item: String,
    pub key: String,
    pub out: String,
}

/// Values nested deeper than this are not written.
const MAX_DEPTH: usize = 100;

impl Writer {
    /// A writer on one line, with Python's separators.
    pub fn new(style: Style) -> Self {
        let (item, key) = (", ".into(), ": ".into());
        Self { style, indent: None, sort: false, item, key, out: String::new() }
    }

    /// Appends `value`.
    ///
    /// # Errors
    /// A value that JSON has no form for, one nested too deeply, or work beyond the fuel.
    pub fn write(&mut self, state: &State, value: &Value, depth: usize) -> Result<(), Error> {
        state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(fault("the value to print is nested too deeply"));
        }
        let json = self.style == Style::Json;
        match value.kind() {
            ValueKind::None if json => self.out.push_str("null"),
            ValueKind::Bool if json => {
                self.out.push_str(if value.is_true() { "true" } else { "false" });
            }
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.out.push_str(&value.to_string());
            }
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                state.consume_fuel(text.len() as u64 / 16)?;
                self.string(text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item));
                self.list(state, ('[', ']'), items, depth)?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort {
                    keys.sort();
                }
                let mut items = Vec::with_capacity(keys.len());
                for key in keys {
                    let item = value.get_item(&key)?;
                    items.push((Some(key.to_string()), item));
                }
                self.list(state, ('{', '}'), items.into_iter(), depth)?;
            }
            kind => return Err(fault(&format!("a value of the kind {kind} cannot be written"))),
        }
        Ok(())
    }

    fn list(
        &mut self,
        state: &State,
        (open, close): (char, char),
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut any = false;
        for (key, item) in items {
            if any {
                self.out.push_str(&self.item.clone());
            }
            any = true;
            self.line(depth + 1);
            if let Some(key) = key {
                self.string(&key);
                self.out.push_str(&self.key.clone());
            }
            self.write(state, &item, depth + 1)?;
        }
        if any {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent.min(16) * depth));
        }
    }

    fn string(&mut self, text: &str) {
        // Python prefers single quotes, unless the text has one and no double one.
        let json = self.style == Style::Json;
        let quote = if json || (text.contains('\'') && !text.contains('"')) { '"' } else { '\'' };
        self.out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' if json => self.out.push_str("\\b"),
                '\u{c}' if json => self.out.push_str("\\f"),
                '\0'..='\u{1f}' if json => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                '\0'..='\u{1f}' => self.out.push_str(&format!("\\x{:02x}", c as u32)),
                _ if c == quote => self.out.extend(['\\', c]),
                _ => self.out.push(c),
            }
        }
        self.out.push(quote);
    }
}
