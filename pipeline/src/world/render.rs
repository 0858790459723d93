//! Problems as records of the files: plain documents, conversations, preference pairs, multiple choice
//! and free answers. The same problem looks different each time: facts as a paragraph, as lines or as a
//! list, before the question or after it, with or without words around them.

use super::problem::{Kind, Problem, Tools, Turn, dont_know};
use super::rng::Rng;
use super::words::Lang;
use super::{chat, tool};
use serde_json::{Value, json};

/// A context and a question as one message.
pub(super) fn prompt(rng: &mut Rng, problem: &Problem, question: &str) -> String {
    let (lang, context) = (problem.lang, &problem.context[..]);
    let story = problem.kind == Kind::Story;
    let question = framed(rng, lang, question);
    if context.is_empty() {
        return question;
    }
    let facts = facts(rng, problem);
    let leads: &[&str] = match (lang, story) {
        (Lang::En, false) => {
            &["", "Facts: ", "Here are some facts. ", "Read this: ", "This is what we know. "]
        }
        (Lang::Zh, false) => &["", "事实：", "下面是一些事实。", "请读：", "我们知道："],
        (Lang::En, true) => &["", "Story: ", "Here is a story. ", "Read this: "],
        (Lang::Zh, true) => &["", "故事：", "下面是一个故事。", "请读："],
    };
    let lead = if rng.chance(40) { "" } else { rng.pick(leads) };
    let lines = facts.contains('\n');
    let lead = if lines { lead.trim_end() } else { lead };
    let gap = if lines || rng.chance(40) { "\n" } else { lang.pick(" ", "") };
    let opening = if lines && !lead.is_empty() { "\n" } else { "" };
    if rng.chance(12) {
        let gap = if lines { "\n" } else { gap };
        return format!("{question}{gap}{lead}{opening}{facts}");
    }
    format!("{lead}{opening}{facts}{gap}{question}")
}

/// Facts as a paragraph, as lines, or as a list; a story is always a paragraph.
fn facts(rng: &mut Rng, problem: &Problem) -> String {
    let (lang, context) = (problem.lang, &problem.context[..]);
    let style = if problem.kind == Kind::Story || context.len() < 2 { 9 } else { rng.below(10) };
    match style {
        0 => context.join("\n"),
        1 => context.iter().map(|s| format!("- {s}")).collect::<Vec<_>>().join("\n"),
        2 => (1..).zip(context).map(|(i, s)| format!("{i}. {s}")).collect::<Vec<_>>().join("\n"),
        _ => context.join(lang.pick(" ", "")),
    }
}

/// A question with a few words around it, or without.
fn framed(rng: &mut Rng, lang: Lang, question: &str) -> String {
    if rng.chance(65) {
        return question.to_owned();
    }
    // What ends in a sentence to be repeated takes nothing after it.
    match (lang, rng.below(4)) {
        (Lang::En, 0) => format!("Question: {question}"),
        (Lang::En, 1) => format!("Here is a question. {question}"),
        (Lang::En, 2) => format!("I have a question. {question}"),
        (Lang::En, _) => format!("Please answer this. {question}"),
        (Lang::Zh, 0) => format!("问题：{question}"),
        (Lang::Zh, 1) => format!("有一个问题。{question}"),
        (Lang::Zh, 2) => format!("我想问一下。{question}"),
        (Lang::Zh, _) => format!("请回答。{question}"),
    }
}

/// A document of questions and answers, and of what is told without any.
pub(super) fn document(rng: &mut Rng, problem: &Problem) -> String {
    let lang = problem.lang;
    let mut out = facts(rng, problem);
    let styles: [(&str, &str); 4] = lang.pick(
        [("Q: ", "A: "), ("Question: ", "Reply: "), ("", ""), ("User: ", "Assistant: ")],
        [("问：", "答："), ("问题：", "回答："), ("", ""), ("用户：", "助手：")],
    );
    let (q, a) = rng.pick(&styles);
    for turn in &problem.turns {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(q);
        out.push_str(&turn.question);
        out.push('\n');
        out.push_str(a);
        out.push_str(&turn.reply(lang));
    }
    out
}

fn message(role: &str, content: impl Into<String>) -> Value {
    json!({"role": role, "content": content.into()})
}

/// The user's message of each turn, facts in the first one.
fn prompts(rng: &mut Rng, problem: &Problem) -> Vec<String> {
    let one = |(i, turn): (usize, &Turn)| match i {
        0 => prompt(rng, problem, &turn.question),
        _ => turn.question.clone(),
    };
    problem.turns.iter().enumerate().map(one).collect()
}

/// The assistant's call, and the calculator's reply to it.
fn exchange(turn: &Turn) -> Vec<Value> {
    let Some(call) = &turn.call else { return vec![] };
    let function = json!({"name": tool::CALCULATOR, "arguments": tool::arguments(call)});
    vec![
        json!({"role": "assistant", "content": "",
            "tool_calls": [{"id": "call_0", "type": "function", "function": function}]}),
        json!({"role": "tool", "name": "plugin", "tool_call_id": "call_0", "content": call.result}),
    ]
}

/// Every message up to the last turn's question, perhaps with a system message before them.
pub(super) fn opening(rng: &mut Rng, problem: &Problem) -> Vec<Value> {
    let mut messages = system(rng, problem.lang);
    messages.extend(told(rng, problem));
    messages
}

/// The system message, or none.
fn system(rng: &mut Rng, lang: Lang) -> Vec<Value> {
    chat::system(rng, lang).map(|text| message("system", text)).into_iter().collect()
}

/// What is said up to the last turn's question.
fn told(rng: &mut Rng, problem: &Problem) -> Vec<Value> {
    let lang = problem.lang;
    let mut messages: Vec<Value> = Vec::new();
    let mut prompts = prompts(rng, problem);
    // Facts may come first, in a message of their own.
    let apart = !problem.context.is_empty() && problem.kind != Kind::Story && rng.chance(8);
    if apart {
        prompts[0] = problem.turns[0].question.clone();
        let told = facts(rng, problem);
        messages.push(message("user", told));
        messages.push(message("assistant", lang.pick("OK.", "好的。")));
    }
    for (i, (turn, prompt)) in problem.turns.iter().zip(prompts).enumerate() {
        messages.push(message("user", prompt));
        if i + 1 < problem.turns.len() {
            messages.extend(exchange(turn));
            messages.push(message("assistant", turn.reply(lang)));
        }
    }
    messages
}

fn with_tools(mut record: Value, tools: Tools, lang: Lang) -> Value {
    if let Some(described) = tool::described(tools, lang) {
        record["tools"] = described;
    }
    record
}

/// A conversation for supervised fine-tuning.
pub(super) fn conversation(rng: &mut Rng, problem: &Problem) -> Value {
    let mut messages = opening(rng, problem);
    messages.extend(exchange(problem.last()));
    messages.push(message("assistant", problem.last().reply(problem.lang)));
    with_tools(json!({"messages": messages}), problem.tools, problem.lang)
}

/// Small talk as a conversation.
pub(super) fn small_talk(rng: &mut Rng, lang: Lang) -> Value {
    let mut messages = system(rng, lang);
    for (said, answer) in chat::talk(rng, lang) {
        messages.extend([message("user", said), message("assistant", answer)]);
    }
    json!({"messages": messages})
}

/// One subject after another, none with tools, perhaps with a word of small talk before or between: what was
/// told first does not answer what is asked later.
pub(super) fn subjects(rng: &mut Rng, problems: &[Problem]) -> Value {
    let lang = problems[0].lang;
    let mut messages = system(rng, lang);
    for problem in problems {
        if rng.chance(30) {
            let (said, answer) = chat::talk(rng, lang)[0];
            messages.extend([message("user", said), message("assistant", answer)]);
        }
        messages.extend(told(rng, problem));
        messages.push(message("assistant", problem.last().reply(lang)));
    }
    json!({"messages": messages})
}

/// The four options of a problem, the right one at `position`.
fn options(problem: &Problem, position: usize) -> Vec<String> {
    let turn = problem.last();
    let mut all: Vec<String> = turn.wrong.iter().take(3).cloned().collect();
    all.insert(position, turn.answer.clone());
    all
}

/// The letters of the options.
const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A question with its options as one message.
fn choice_prompt(rng: &mut Rng, problem: &Problem, options: &[String]) -> String {
    let lang = problem.lang;
    let question = prompt(rng, problem, &problem.last().question);
    let lines: Vec<String> =
        LETTERS.iter().zip(options).map(|(l, o)| format!("{l}. {o}")).collect();
    let ask = lang.pick("Answer with a letter.", "请回答一个字母。");
    format!("{question}\n{}\n{ask}", lines.join("\n"))
}

/// A conversation in which the answer is one of four letters.
pub(super) fn choice_conversation(rng: &mut Rng, problem: &Problem) -> Value {
    let position = rng.below(4);
    let question = choice_prompt(rng, problem, &options(problem, position));
    json!({"messages": [message("user", question), message("assistant", LETTERS[position])]})
}

/// The question that counts as one text, with what was said before it.
fn question(rng: &mut Rng, problem: &Problem) -> String {
    let mut said = prompts(rng, problem);
    let before = problem.turns.iter().take(said.len() - 1);
    for (text, turn) in said.iter_mut().zip(before) {
        text.push('\n');
        text.push_str(&turn.reply(problem.lang));
    }
    said.join("\n")
}

/// A record of `choice_test.jsonl`.
pub(super) fn choice(rng: &mut Rng, problem: &Problem, id: String, position: usize) -> Value {
    let options = options(problem, position);
    let question = question(rng, problem);
    json!({
        "id": id,
        "kind": problem.kind.name(),
        "form": problem.form.name(),
        "lang": problem.lang.name(),
        "question": question,
        "A": options[0],
        "B": options[1],
        "C": options[2],
        "D": options[3],
        "answer": LETTERS[position],
    })
}

/// A preference pair: the right reply, and one that comes to something wrong. Where a calculator is
/// offered, the wrong reply guesses instead of calling it.
pub(super) fn preference(rng: &mut Rng, problem: &Problem) -> Value {
    let (lang, turn) = (problem.lang, problem.last());
    let prompt = opening(rng, problem);
    let chosen = match exchange(turn).into_iter().next() {
        Some(call) => call,
        None => message("assistant", turn.reply(lang)),
    };
    let wrong = match turn.answer == dont_know(lang) || rng.chance(85) {
        true => turn.wrong[rng.below(3)].clone(),
        false => dont_know(lang).to_owned(),
    };
    let rejected = message("assistant", turn.reply_with(lang, &wrong));
    let record = json!({"prompt": prompt, "chosen": [chosen], "rejected": [rejected]});
    with_tools(record, problem.tools, lang)
}

/// A record of `answer_test.jsonl`. Of a problem with a call, every other record asks for the call and
/// the rest, the result being given, for what is said then.
pub(super) fn free_answer(
    rng: &mut Rng,
    problem: &Problem,
    id: String,
    split: &str,
    after: bool,
) -> Value {
    let (lang, turn) = (problem.lang, problem.last());
    let mut messages = opening(rng, problem);
    let mut answers = vec![turn.answer.clone()];
    answers.extend(turn.also.iter().cloned());
    let mut form = problem.form.name();
    match &turn.call {
        Some(_) if after => {
            messages.extend(exchange(turn));
            form = "CallRead";
        }
        Some(call) => {
            answers = vec![tool::call_body(call)];
            form = "Call";
        }
        None => {}
    }
    let record = json!({
        "id": id,
        "kind": problem.kind.name(),
        "form": form,
        "lang": lang.name(),
        "split": split,
        "messages": messages,
        "answers": answers,
    });
    with_tools(record, problem.tools, lang)
}
