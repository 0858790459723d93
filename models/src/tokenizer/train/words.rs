//! A text as words and how often each stands in it: cut wherever no piece can reach across.
//!
//! Lines are read in batches of a fixed size, so that memory is bounded and what is dropped of too
//! many different words does not depend on the number of threads that count.

use std::io::BufRead;
use std::sync::Mutex;

use puyu_tensor::cpu::pool;
use puyu_tensor::{Error, Result};

use super::rules::{Class, Rules, class};
use crate::tokenizer::added::Matcher;
use crate::tokenizer::hash::Map;

/// Bytes of text that are counted at a time.
const BATCH: usize = 32 << 20;
/// Stands for a place where a piece ends whatever is around it.
const BARRIER: &str = "\t";

/// Words by how often they occur.
pub(super) struct Words {
    rules: Rules,
    /// Names of tokens, which are never learned.
    specials: Matcher,
    /// Lines of more bytes are skipped.
    longest_line: usize,
    /// A space stands in front of every line.
    prefix: bool,
    /// Bytes of different words that are kept.
    most: usize,
    counts: Map<Box<str>, u64>,
    /// Bytes of the words in `counts`.
    bytes: usize,
    /// Lines that were too long.
    pub skipped: u64,
    /// Words no more frequent than this were dropped for want of room.
    pub dropped_below: u64,
}

impl Words {
    /// No words yet.
    pub fn new(
        rules: Rules,
        specials: Matcher,
        longest_line: usize,
        prefix: bool,
        most: usize,
    ) -> Self {
        let counts = Map::default();
        Self {
            rules,
            specials,
            longest_line,
            prefix,
            most,
            counts,
            bytes: 0,
            skipped: 0,
            dropped_below: 0,
        }
    }

    /// Counts the words of a text. `progress` is told the bytes read since it was last called.
    ///
    /// # Errors
    /// If the text cannot be read or is not UTF-8, or `progress` says to stop.
    pub fn read(
        &mut self,
        mut text: impl BufRead,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let (mut batch, mut line, mut first_line) = (Vec::new(), 0u64, 1u64);
        loop {
            let read = self.read_line(&mut text, &mut batch)?;
            line += u64::from(read > 0);
            if batch.len() >= BATCH || read == 0 {
                self.count(&batch, first_line)?;
                progress(batch.len() as u64)?;
                batch.clear();
                first_line = line + 1;
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Appends a line to `batch`, an empty one in place of one that is too long; 0 at the end.
    fn read_line(&mut self, text: &mut impl BufRead, batch: &mut Vec<u8>) -> Result<usize> {
        let start = batch.len();
        if self.prefix {
            batch.push(b' ');
        }
        let begin = batch.len();
        let most = self.longest_line as u64 + 1;
        let read = std::io::Read::take(&mut *text, most).read_until(b'\n', batch)?;
        if batch[begin..].strip_suffix(b"\n").unwrap_or(&batch[begin..]).is_empty() {
            batch.truncate(start);
            batch.extend((read > 0).then_some(b'\n'));
        } else if read as u64 == most && !batch.ends_with(b"\n") {
            self.skipped += 1;
            batch.truncate(start);
            batch.push(b'\n');
            text.skip_until(b'\n')?;
        }
        Ok(read)
    }

    /// Counts a batch of whole lines on all threads.
    fn count(&mut self, batch: &[u8], first_line: u64) -> Result<()> {
        let text = std::str::from_utf8(batch).map_err(|error| {
            let before = &batch[..error.valid_up_to()];
            let line = first_line + before.iter().filter(|&&b| b == b'\n').count() as u64;
            let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |x| x + 1);
            let byte = before.len() - start + usize::from(!self.prefix);
            Error::format(format!(
                "line {line} is not UTF-8 at its byte {byte}; convert the file or leave the line out"
            ))
        })?;
        let parts = split(text, pool::threads());
        let counted: Vec<Mutex<Map<&str, u64>>> = parts.iter().map(|_| Mutex::default()).collect();
        pool::par(parts.len(), |i| {
            let mut words = counted[i].lock().expect("each part is counted once");
            parts[i].split('\n').for_each(|line| self.count_line(line, &mut words));
        });
        for words in counted {
            for (word, n) in words.into_inner().expect("counting does not panic") {
                match self.counts.get_mut(word) {
                    Some(count) => *count += n,
                    None => {
                        self.bytes += word.len();
                        self.counts.insert(word.into(), n);
                    }
                }
            }
        }
        self.make_room();
        Ok(())
    }

    fn count_line<'t>(&self, line: &'t str, words: &mut Map<&'t str, u64>) {
        let mut from = 0;
        while let Some((range, _)) = self.specials.find(line, from, |_, _| true) {
            self.count_text(&line[from..range.start], words);
            *words.entry(BARRIER).or_default() += 1;
            from = range.end;
        }
        self.count_text(&line[from..], words);
    }

    fn count_text<'t>(&self, text: &'t str, words: &mut Map<&'t str, u64>) {
        let (mut start, mut last) = (0, Class::Never);
        for (place, c) in text.char_indices() {
            let class = class(c);
            if !self.rules.joins(last, class) && place > 0 {
                *words.entry(&text[start..place]).or_default() += 1;
                start = place;
            }
            last = class;
        }
        if start < text.len() {
            *words.entry(&text[start..]).or_default() += 1;
        }
    }

    /// Drops the rarest words if there are too many: what is rare makes no pieces.
    fn make_room(&mut self) {
        // Single characters decide what the vocabulary spells; they are few and stay.
        let single = |word: &str| word.chars().nth(1).is_none();
        while self.bytes > self.most && self.dropped_below < 1 << 60 {
            self.dropped_below = (self.dropped_below * 2).max(1);
            let floor = self.dropped_below;
            self.counts.retain(|word, count| *count > floor || single(word));
            self.bytes = self.counts.keys().map(|word| word.len()).sum();
        }
    }

    /// Every word with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(word, &count)| (&**word, count))
    }
}

/// Cuts a text into about `count` parts of whole lines.
fn split(text: &str, count: usize) -> Vec<&str> {
    let mut parts = Vec::with_capacity(count);
    let mut rest = text;
    for left in (1..=count).rev() {
        let middle = rest.len() / left;
        let end = rest.as_bytes()[middle..].iter().position(|&b| b == b'\n');
        // A newline is a whole character, so the cut is between two.
        let (part, after) = rest.split_at(end.map_or(rest.len(), |x| middle + x));
        parts.push(part);
        rest = after;
    }
    parts
}
