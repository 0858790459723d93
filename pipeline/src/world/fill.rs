//! The grammar's engine: a pattern is text with slots `{a}` and choices `[one|two|three]`. Choices do not
//! nest but may hold slots, so one line of a wording list stands for many sentences.

use super::rng::Rng;

/// The value of each slot, by its letter.
pub type Slots<'a> = [(char, &'a str)];

/// Appends `pattern` to `out` with its slots filled and its choices made, the first letter a capital.
///
/// # Panics
/// If the pattern names a slot that is not given: a bug in a wording list, found by its tests.
pub fn fill(out: &mut String, rng: &mut Rng, pattern: &str, slots: &Slots) {
    let start = out.len();
    append(out, rng, pattern, slots);
    if let Some(small) = out.as_bytes().get(start).filter(|b| b.is_ascii_lowercase()) {
        let capital = small.to_ascii_uppercase() as char;
        out.replace_range(start..=start, capital.encode_utf8(&mut [0; 4]));
    }
}

/// [`fill`] as a new text.
pub fn filled(rng: &mut Rng, pattern: &str, slots: &Slots) -> String {
    let mut out = String::with_capacity(pattern.len() + 32);
    fill(&mut out, rng, pattern, slots);
    out
}

fn append(out: &mut String, rng: &mut Rng, mut pattern: &str, slots: &Slots) {
    while let Some(at) = pattern.find(['{', '[']) {
        out.push_str(&pattern[..at]);
        let close = if pattern.as_bytes()[at] == b'{' { '}' } else { ']' };
        let length = pattern[at..].find(close).expect("a pattern closes what it opens");
        let inside = &pattern[at + 1..at + length];
        if close == '}' {
            let letter = inside.chars().next();
            let slot = slots.iter().find(|(name, _)| Some(*name) == letter);
            out.push_str(slot.unwrap_or_else(|| panic!("no slot for {{{inside}}}")).1);
        } else {
            let n = inside.bytes().filter(|b| *b == b'|').count() + 1;
            let chosen = inside.split('|').nth(rng.below(n)).expect("it was counted");
            append(out, rng, chosen, slots);
        }
        pattern = &pattern[at + length + 1..];
    }
    out.push_str(pattern);
}

/// Every text that the choices of `pattern` allow, slots left as they are.
pub fn expand(pattern: &str) -> Vec<String> {
    let Some(at) = pattern.find('[') else { return vec![pattern.to_owned()] };
    let length = pattern[at..].find(']').expect("a pattern closes what it opens");
    let rests = expand(&pattern[at + length + 1..]);
    let choices = pattern[at + 1..at + length].split('|');
    let each = |choice| rests.iter().map(move |rest| format!("{}{choice}{rest}", &pattern[..at]));
    choices.flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_choices() {
        let mut rng = Rng::new(1, 0, 0);
        assert_eq!(
            filled(&mut rng, "{a} is {b}.", &[('a', "the cup"), ('b', "red")]),
            "The cup is red."
        );
        let both = expand("[x|y] {a}[.|!]");
        assert_eq!(both, ["x {a}.", "x {a}!", "y {a}.", "y {a}!"]);
        let text = filled(&mut rng, "[x|y] {a}[.|!]", &[('a', "q")]);
        assert!(both.iter().any(|t| t.replace("{a}", "q").eq_ignore_ascii_case(&text)), "{text}");
    }
}
