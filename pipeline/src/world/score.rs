//! Whether an output is right. Exact match after a normalization that forgives what carries no meaning:
//! steps before the answer's mark, capitals, a final stop, articles and prepositions before a noun, the
//! kind of comma. Instructions are about form, so their capitals and quotes count.

use super::problem::Kind;
use super::tool::CALCULATOR;
use serde_json::Value;

/// What opens InternLM2's call of a tool.
pub(super) const CALL: &str = "<|action_start|>";

/// Whether `output` says one of `accepted`, for a question of `kind`.
///
/// Where a call of the calculator is accepted, a call with the same expression is right, the operands
/// of `+` and `*` in either order; elsewhere no call is.
pub fn score(kind: Kind, accepted: &[String], output: &str) -> bool {
    if accepted.iter().any(|a| a.starts_with('{')) {
        let wanted = accepted.iter().filter_map(|a| call(a)).collect::<Vec<_>>();
        return call(output).is_some_and(|found| wanted.contains(&found));
    }
    if output.contains(CALL) {
        return false;
    }
    let said = normalized(kind, output);
    accepted.iter().any(|a| normalized(kind, a) == said)
}

/// The text that is compared: what follows the last "Answer:" or "答案：", its first line, without what
/// carries no meaning.
pub fn normalized(kind: Kind, text: &str) -> String {
    let after = ["Answer:", "答案：", "答案:"];
    let start =
        after.iter().filter_map(|m| text.rfind(m).map(|at| at + m.len())).max().unwrap_or(0);
    let line = text[start..].trim().lines().next().unwrap_or_default();
    let line = line.replace('’', "'").replace(['、', '，'], ",").replace("do not", "don't");
    let mut line: String = line.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches(['.', '。', '!', '！', ' ']);
    if kind == Kind::Instruct {
        return line.to_owned();
    }
    let mut rest = line.to_lowercase();
    for lead in ["in ", "on ", "at ", "the ", "a ", "an ", "在"] {
        if let Some(after) = rest.strip_prefix(lead).filter(|after| !after.is_empty()) {
            rest = after.to_owned();
        }
    }
    if rest == "不知道" { "我不知道".to_owned() } else { rest }
}

/// The expression of a call in `text`, without spaces, the smaller operand first where order is free.
fn call(text: &str) -> Option<String> {
    let body = &text[text.find('{')?..];
    let value = serde_json::Deserializer::from_str(body).into_iter::<Value>().next()?.ok()?;
    if value["name"] != CALCULATOR {
        return None;
    }
    let arguments = value.get("parameters").or_else(|| value.get("arguments"))?;
    let expression: String = arguments["expression"].as_str()?.split_whitespace().collect();
    for sign in ['+', '*'] {
        if let Some((x, y)) = expression.split_once(sign) {
            let (x, y) = if (x.len(), x) <= (y.len(), y) { (x, y) } else { (y, x) };
            return Some(format!("{x}{sign}{y}"));
        }
    }
    Some(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(kind: Kind, accepted: &str, output: &str) -> bool {
        score(kind, &[accepted.to_owned()], output)
    }

    #[test]
    fn form_is_forgiven_and_meaning_is_not() {
        assert!(right(Kind::Lookup, "in the kitchen", "The kitchen."));
        assert!(right(Kind::Lookup, "厨房", "在厨房。"));
        assert!(!right(Kind::Lookup, "in the kitchen", "in the garden"));
        assert!(right(Kind::Arithmetic, "12", "ones 5+7=12. Answer: 12"));
        assert!(!right(Kind::Arithmetic, "12", "ones 5+7=12. Answer: 13"));
        assert!(right(Kind::Sorting, "1、2、3", "1，2，3"));
        assert!(right(Kind::Unknown, "I don't know.", "i do not know"));
        assert!(right(Kind::Unknown, "我不知道。", "不知道"));
        assert!(!right(Kind::Unknown, "I don't know.", ""));
        assert!(right(Kind::Instruct, "CUP, BOX", "CUP, BOX"));
        assert!(!right(Kind::Instruct, "CUP, BOX", "cup, box"));
        assert!(!right(Kind::Negation, "不是", "是"));
    }

    #[test]
    fn a_call_is_compared_as_a_call() {
        let wanted = r#"{"name": "calculator", "parameters": {"expression": "347 + 28"}}"#;
        let said = |e: &str| {
            format!(
                "<|action_start|><|plugin|>\n{{\"name\": \"calculator\", \"parameters\": {{\"expression\": \"{e}\"}}}}<|action_end|>"
            )
        };
        assert!(right(Kind::Tool, wanted, &said("28+347")));
        assert!(!right(Kind::Tool, wanted, &said("28 - 347")));
        assert!(!right(Kind::Tool, wanted, "375"));
        assert!(!right(Kind::Tool, "375", &said("28+347")));
    }
}
