//! One JSON record as a sample: every layout becomes a text, tokens, a conversation, or a pair. What a
//! field should be and is not is said by its name.

use super::config::Format;
use puyu_models::chat_template::Message;
use puyu_tensor::{Error, Result};
use serde_json::{Map, Value};

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A document.
    Text(String),
    /// Ids; negative ones are not learnt.
    Tokens(Vec<i64>),
    /// A conversation.
    Chat(Conversation),
    /// The preferred conversation and the other one.
    Pair(Box<[Conversation; 2]>),
}

/// Messages, and which of them are learnt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// Whether each is learnt.
    pub learnt: Vec<bool>,
    /// Descriptions of tools.
    pub tools: Option<Value>,
}

type Object = Map<String, Value>;

/// Reads the record `bytes` of `format`.
///
/// # Errors
/// If it is no JSON, or a field is missing or of another type.
pub fn parse(bytes: &[u8], format: Format) -> Result<Sample> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::format("the line is not UTF-8"))?;
    let value: Value = serde_json::from_str(text)
        .map_err(|e| Error::format(format!("broken JSON: {}", place(&e))))?;
    let Value::Object(object) = value else {
        return Err(Error::format(format!("a sample is {}, expected an object", kind(&value))));
    };
    let o = &object;
    Ok(match format {
        Format::Text | Format::Jsonl => Sample::Text(string(o, "text")?.into()),
        Format::WanjuanText => Sample::Text(string(o, "content")?.into()),
        Format::WanjuanExam => Sample::Text(exam(o)?),
        Format::Internevo => Sample::Tokens(tokens(o)?),
        Format::Alpaca => Sample::Chat(alpaca(o)?),
        Format::Openai => Sample::Chat(checked(openai(o, "messages")?, tools(o), 0)?),
        Format::Sharegpt => Sample::Chat(checked(sharegpt(o)?, tools(o), 0)?),
        Format::Xtuner => Sample::Chat(xtuner(o)?),
        Format::PreferenceOpenai => pair(o, prompt(o)?, openai_answer)?,
        Format::PreferenceSharegpt => pair(o, sharegpt(o)?, sharegpt_answer)?,
    })
}

/// serde_json's complaint without the line, which is that of the record alone.
fn place(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    format!("{what} at column {}", e.column())
}

/// What a JSON value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn field<'a>(object: &'a Object, key: &str) -> Result<&'a Value> {
    object.get(key).ok_or_else(|| {
        let keys: Vec<&str> = object.keys().map(String::as_str).take(12).collect();
        Error::format(format!("no field \"{key}\"; there are: {}", keys.join(", ")))
    })
}

fn as_text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value
        .as_str()
        .ok_or_else(|| Error::format(format!("\"{key}\" is {}, expected a text", kind(value))))
}

fn string<'a>(object: &'a Object, key: &str) -> Result<&'a str> {
    as_text(field(object, key)?, key)
}

/// A text that may be absent or null.
fn optional<'a>(object: &'a Object, key: &str) -> Result<&'a str> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(""),
        Some(value) => as_text(value, key),
    }
}

fn list<'a>(object: &'a Object, key: &str) -> Result<&'a [Value]> {
    let value = field(object, key)?;
    let wrong = || Error::format(format!("\"{key}\" is {}, expected a list", kind(value)));
    value.as_array().map(Vec::as_slice).ok_or_else(wrong)
}

/// The object that is element `i` of the list `key`.
fn element<'a>(value: &'a Value, key: &str, i: usize) -> Result<&'a Object> {
    let wrong = || Error::format(format!("{key}[{i}] is {}, expected an object", kind(value)));
    value.as_object().ok_or_else(wrong)
}

fn tools(object: &Object) -> Option<Value> {
    object.get("tools").filter(|tools| tools.is_array()).cloned()
}

fn tokens(object: &Object) -> Result<Vec<i64>> {
    let id = |(i, value): (usize, &Value)| {
        let wrong = || Error::format(format!("tokens[{i}] is {value}, expected a token id"));
        value.as_i64().ok_or_else(wrong)
    };
    list(object, "tokens")?.iter().enumerate().map(id).collect()
}

/// A question with its options, its answer and the explanation, a line each.
fn exam(object: &Object) -> Result<String> {
    let question = string(object, "q_main")?;
    let chinese = question.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    let mut lines = vec![question.to_string()];
    for letter in 'a'..='z' {
        let option = optional(object, &format!("option_{letter}"))?;
        if !option.is_empty() {
            lines.push(format!("{}. {option}", letter.to_ascii_uppercase()));
        }
    }
    let [answer, explanation] =
        if chinese { ["答案：", "解析："] } else { ["Answer: ", "Explanation: "] };
    let standard = optional(object, "std_ans")?;
    let own = optional(object, "answer")?;
    let answers = [(answer, if standard.is_empty() { own } else { standard })];
    for (name, text) in
        answers.into_iter().chain([(explanation, optional(object, "answer_detail")?)])
    {
        if !text.is_empty() {
            lines.push(format!("{name}{text}"));
        }
    }
    Ok(lines.join("\n"))
}

/// The role that `name` means, with the names of all layouts.
fn role(name: &str) -> Result<&'static str> {
    Ok(match name {
        "system" | "developer" => "system",
        "user" | "human" => "user",
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "function_call" => "assistant",
        "tool" | "function" | "observation" => "tool",
        "environment" => "environment",
        _ => {
            return Err(Error::format(format!(
                "unknown role \"{name}\"; known are system, user (human), assistant (gpt), tool \
                 (function, observation) and environment"
            )));
        }
    })
}

/// Checks messages of which those from `first` on may be learnt.
fn checked(messages: Vec<Message>, tools: Option<Value>, first: usize) -> Result<Conversation> {
    let mut learnt = Vec::with_capacity(messages.len());
    for (i, message) in messages.iter().enumerate() {
        let speaks = message.role == "assistant";
        if speaks && message.content.is_empty() && !message.extra.contains_key("tool_calls") {
            return Err(Error::format(format!("message {}: the assistant says nothing", i + 1)));
        }
        let left_out = message.extra.get("weight").is_some_and(|w| w.as_f64() == Some(0.0));
        learnt.push(speaks && i >= first && !left_out);
    }
    if !messages.iter().skip(first).any(|m| m.role == "assistant") {
        return Err(Error::format("the assistant says nothing in this conversation"));
    }
    if !learnt.contains(&true) {
        return Err(Error::format("every answer has weight 0, so there is nothing to learn"));
    }
    Ok(Conversation { messages, learnt, tools })
}

/// Instruction and input are what the user says.
fn alpaca(object: &Object) -> Result<Conversation> {
    let mut messages = Vec::new();
    let system = optional(object, "system")?;
    if !system.is_empty() {
        messages.push(Message::new("system", system));
    }
    let [instruction, input] = [string(object, "instruction")?, optional(object, "input")?];
    let both =
        if input.is_empty() { instruction.into() } else { format!("{instruction}\n{input}") };
    messages.push(Message::new("user", both));
    messages.push(Message::new("assistant", string(object, "output")?));
    checked(messages, None, 0)
}

/// XTuner's turns; `output_with_loss` false leaves an answer out.
fn xtuner(object: &Object) -> Result<Conversation> {
    let (mut messages, mut left_out) = (Vec::new(), Vec::new());
    for (i, turn) in list(object, "conversation")?.iter().enumerate() {
        let turn = element(turn, "conversation", i)?;
        let at = |e: Error| e.context(format!("conversation[{i}]"));
        for (key, role) in [("system", "system"), ("input", "user")] {
            let text = optional(turn, key).map_err(at)?;
            if !text.is_empty() {
                messages.push(Message::new(role, text));
            }
        }
        let mut answer = Message::new("assistant", string(turn, "output").map_err(at)?);
        if turn.get("output_with_loss") == Some(&Value::Bool(false)) {
            left_out.push(messages.len());
            answer.extra.insert("weight".into(), 0.into());
        }
        messages.push(answer);
    }
    let mut conversation = checked(messages, None, 0)?;
    for i in left_out {
        conversation.messages[i].extra.clear();
    }
    Ok(conversation)
}

/// OpenAI's messages in the list `key`.
fn openai(object: &Object, key: &str) -> Result<Vec<Message>> {
    let one = |(i, value): (usize, &Value)| {
        let object = element(value, key, i)?;
        let at = |e: Error| e.context(format!("{key}[{i}]"));
        let name = role(string(object, "role").map_err(at)?).map_err(at)?;
        let wrong = |e: serde_json::Error| at(Error::format(e.to_string()));
        let mut message: Message = serde_json::from_value(value.clone()).map_err(wrong)?;
        message.role = name.into();
        Ok(message)
    };
    list(object, key)?.iter().enumerate().map(one).collect()
}

/// One of ShareGPT's turns.
fn sharegpt_turn(object: &Object) -> Result<Message> {
    Ok(Message::new(role(string(object, "from")?)?, string(object, "value")?))
}

/// ShareGPT's turns, and the system message that may stand beside them.
fn sharegpt(object: &Object) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let system = optional(object, "system")?;
    if !system.is_empty() {
        messages.push(Message::new("system", system));
    }
    for (i, value) in list(object, "conversations")?.iter().enumerate() {
        let turn = element(value, "conversations", i)?;
        messages.push(sharegpt_turn(turn).map_err(|e| e.context(format!("conversations[{i}]")))?);
    }
    Ok(messages)
}

/// What comes before both answers: messages, one text of a user, or nothing where the answers hold it.
fn prompt(object: &Object) -> Result<Vec<Message>> {
    match object.get("prompt") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Message::new("user", text)]),
        Some(_) => openai(object, "prompt"),
    }
}

fn openai_answer(object: &Object, key: &str) -> Result<Vec<Message>> {
    match field(object, key)? {
        Value::String(text) => Ok(vec![Message::new("assistant", text)]),
        Value::Object(_) => {
            let alone =
                Map::from_iter([(key.to_string(), Value::Array(vec![object[key].clone()]))]);
            openai(&alone, key)
        }
        _ => openai(object, key),
    }
}

fn sharegpt_answer(object: &Object, key: &str) -> Result<Vec<Message>> {
    match field(object, key)? {
        Value::String(text) => Ok(vec![Message::new("assistant", text)]),
        value => {
            let answer = value.as_object().ok_or_else(|| {
                Error::format(format!("\"{key}\" is {}, expected an object", kind(value)))
            })?;
            Ok(vec![sharegpt_turn(answer).map_err(|e| e.context(key))?])
        }
    }
}

/// Two conversations that begin alike; only what differs is learnt.
fn pair(
    object: &Object,
    prompt: Vec<Message>,
    answer: fn(&Object, &str) -> Result<Vec<Message>>,
) -> Result<Sample> {
    let chosen = answer(object, "chosen")?;
    let rejected = answer(object, "rejected")?;
    let alike = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    let shared = if prompt.is_empty() { alike } else { 0 };
    if prompt.is_empty() && shared == 0 {
        return Err(Error::format("no prompt: neither a field nor what both answers begin with"));
    }
    let side = |answer: Vec<Message>, key: &str| {
        let first = prompt.len() + shared;
        let messages = [&prompt[..], &answer].concat();
        checked(messages, tools(object), first).map_err(|e| e.context(key))
    };
    Ok(Sample::Pair(Box::new([side(chosen, "chosen")?, side(rejected, "rejected")?])))
}
