//! Cutting text into words before byte-level BPE: the patterns of `tokenizer.json`, and those that a
//! GGUF file names by `tokenizer.ggml.pre`.
//!
//! The patterns of this family end in `\s+(?!\S)|\s+`, whose look-ahead would force the slow,
//! backtracking matcher. Its meaning, a run of spaces leaves its last one to the next word, is done
//! here by hand, so those patterns run on the linear-time automaton.

use fancy_regex::Regex;
use puyu_tensor::{Error, Result};

/// GPT-2's words: contractions, letters, digits, other marks, each with one space in front.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's words: digits by three, newlines kept with the marks before them.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's words: as Llama 3's, with every digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What is tried last in all of them.
const SPACES: &str = r"|\s+(?!\S)|\s+";

/// Names of GGUF's pre-tokenizers and what they are.
const NAMED: [(&[&str], &[&str]); 5] = [
    (&["gpt-2"], &[GPT2]),
    (&["smollm"], &[r"\p{N}", GPT2]),
    (&["llama-bpe", "llama3", "llama-v3"], &[LLAMA3]),
    (&["qwen2", "deepseek-r1-qwen"], &[QWEN2]),
    (&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

/// The patterns of the one that a GGUF file calls `name`, in the order they are applied.
///
/// # Errors
/// A name that is not known.
pub(crate) fn patterns_named(name: &str) -> Result<&'static [&'static str]> {
    let found = NAMED.iter().find(|(names, _)| names.contains(&name));
    found
        .map(|(_, patterns)| *patterns)
        .ok_or_else(|| Error::unsupported(format!("the pre-tokenizer `{name}` is not supported")))
}

/// One pattern, applied to every piece the one before it left.
struct Split {
    source: String,
    regex: Regex,
    /// The pattern ended in [`SPACES`], of which `regex` keeps only `\s+`.
    leaves_last_space: bool,
    /// A run of white space ending in a newline was matched by an earlier alternative, and stays whole.
    keeps_newlines: bool,
    /// The matches are thrown away, and only what is between them is kept.
    removes: bool,
}

/// A sequence of patterns.
#[derive(Default)]
pub(super) struct PreTokenizer {
    splits: Vec<Split>,
}

impl PreTokenizer {
    /// The one that a GGUF file calls `name`.
    ///
    /// # Errors
    /// A name that is not known: guessing would change the tokens of every text.
    pub fn named(name: &str) -> Result<Self> {
        let mut all = Self::default();
        for pattern in patterns_named(name)? {
            all.push(pattern, false)?;
        }
        Ok(all)
    }

    /// The name a GGUF file gives this sequence, if it has one.
    pub fn name(&self) -> Option<&'static str> {
        let (names, _) = NAMED.iter().find(|(_, patterns)| {
            self.splits.len() == patterns.len()
                && self.splits.iter().zip(*patterns).all(|(a, b)| a.source == *b && !a.removes)
        })?;
        names.first().copied()
    }

    /// Adds GPT-2's pattern.
    ///
    /// # Errors
    /// None in practice: the pattern is a constant.
    pub fn push_gpt2(&mut self) -> Result<()> {
        self.push(GPT2, false)
    }

    /// Adds one pattern; `removes` drops what it matches.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn push(&mut self, source: &str, removes: bool) -> Result<()> {
        let short = source.strip_suffix(SPACES);
        let regex = match short {
            Some(rest) => Regex::new(&format!(r"{rest}|\s+")),
            None => Regex::new(source),
        };
        let regex = regex
            .map_err(|e| Error::format(format!("the pre-tokenizer's pattern `{source}`: {e}")))?;
        self.splits.push(Split {
            source: source.to_string(),
            regex,
            leaves_last_space: short.is_some(),
            keeps_newlines: source.contains(r"\s*[\r\n]+"),
            removes,
        });
        Ok(())
    }

    /// Calls `word` with every word of `text`, in order.
    pub fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split_by(&self.splits, text, word);
    }
}

fn split_by<'t>(splits: &[Split], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((split, rest)) = splits.split_first() else { return word(text) };
    let (mut from, mut done) = (0, 0);
    // A pattern that fails at run time (it backtracks without end) leaves the rest as one word.
    while let Ok(Some(found)) = split.regex.find_from_pos(text, from) {
        let (start, mut end) = (found.start(), found.end());
        if split.leaves_last_space {
            end = split.without_last_space(text, start, end);
        }
        if end == start {
            // An empty match cuts nothing; the search goes on one character later.
            match text[start..].chars().next() {
                Some(c) => from = start + c.len_utf8(),
                None => break,
            }
            continue;
        }
        split_by(rest, &text[done..start], word);
        if !split.removes {
            split_by(rest, &text[start..end], word);
        }
        (from, done) = (end, end);
    }
    split_by(rest, &text[done..], word);
}

impl Split {
    /// The end of a match after `\s+(?!\S)`: a run of white space before a word leaves it one.
    fn without_last_space(&self, text: &str, start: usize, end: usize) -> usize {
        let run = &text[start..end];
        let Some(last) = run.chars().next_back() else { return end };
        let newline = self.keeps_newlines && matches!(last, '\r' | '\n');
        let whole = end == text.len() || newline || last.len_utf8() == run.len();
        if whole || !last.is_whitespace() || !run.chars().all(char::is_whitespace) {
            return end;
        }
        end - last.len_utf8()
    }
}
