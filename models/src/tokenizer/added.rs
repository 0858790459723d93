//! Tokens that are found in the text as they are written: control tokens, and what a model adds.
//!
//! The leftmost match wins, and of several there the longest. Control tokens are matched only where
//! the caller says that the text is the program's own, never in what a user typed.

use std::ops::Range;

use super::hash::Map;

/// How an added token takes part of its surroundings, as in `tokenizer.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edges {
    /// White space before it belongs to it.
    pub left_strip: bool,
    /// White space after it belongs to it.
    pub right_strip: bool,
    /// It is matched only as a whole word.
    pub single_word: bool,
}

/// A set of literal strings to be found in text.
#[derive(Default)]
pub(super) struct Matcher {
    /// By first byte: the lengths of the strings, longest first.
    lengths: Vec<Vec<usize>>,
    /// The bytes that strings begin with.
    first: Vec<u8>,
    ids: Map<Box<[u8]>, u32>,
    edges: Map<u32, Edges>,
}

impl Matcher {
    /// Adds `text`; an empty or malformed one can stand in no text and is left out.
    pub fn insert(&mut self, text: &[u8], id: u32, edges: Edges) {
        let Some(&first) = text.first().filter(|_| std::str::from_utf8(text).is_ok()) else {
            return;
        };
        if self.lengths.is_empty() {
            self.lengths.resize(256, Vec::new());
        }
        if !self.first.contains(&first) {
            self.first.push(first);
        }
        let lengths = &mut self.lengths[usize::from(first)];
        if let Err(place) = lengths.binary_search_by(|x| text.len().cmp(x)) {
            lengths.insert(place, text.len());
        }
        self.ids.insert(text.into(), id);
        if edges != Edges::default() {
            self.edges.insert(id, edges);
        }
    }

    /// The first match at or after `from`: the bytes it takes, and its id. `accept` may refuse one.
    pub fn find(
        &self,
        text: &str,
        from: usize,
        accept: impl Fn(&Range<usize>, u32) -> bool,
    ) -> Option<(Range<usize>, u32)> {
        if self.lengths.is_empty() {
            return None;
        }
        let bytes = text.as_bytes();
        let mut next = from;
        while let Some(skipped) = self.first_in(&bytes[next..]) {
            let start = next + skipped;
            next = start + 1;
            for &length in &self.lengths[usize::from(bytes[start])] {
                let Some(found) = bytes.get(start..start + length) else { continue };
                let Some(&id) = self.ids.get(found) else { continue };
                let range = start..start + length;
                if accept(&range, id)
                    && let Some(range) = self.with_edges(text, from, range, id)
                {
                    return Some((range, id));
                }
            }
        }
        None
    }

    /// Where a byte stands that a string begins with.
    fn first_in(&self, bytes: &[u8]) -> Option<usize> {
        match self.first[..] {
            [a] => memchr::memchr(a, bytes),
            [a, b] => memchr::memchr2(a, b, bytes),
            [a, b, c] => memchr::memchr3(a, b, c, bytes),
            _ => bytes.iter().position(|byte| !self.lengths[usize::from(*byte)].is_empty()),
        }
    }

    fn with_edges(
        &self,
        text: &str,
        from: usize,
        mut range: Range<usize>,
        id: u32,
    ) -> Option<Range<usize>> {
        let Some(edges) = self.edges.get(&id) else { return Some(range) };
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let (before, after) = (&text[from..range.start], &text[range.end..]);
        if edges.single_word && (before.ends_with(word) || after.starts_with(word)) {
            return None;
        }
        if edges.left_strip {
            range.start = from + before.trim_end().len();
        }
        if edges.right_strip {
            range.end += after.len() - after.trim_start().len();
        }
        Some(range)
    }
}
