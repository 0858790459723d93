//! The merges of byte-pair encoding: again and again the most frequent pair of neighbours becomes one
//! piece (Sennrich et al. 2016, arXiv 1508.07909).
//!
//! Every pair knows how often it stands in the text and where, so a merge costs what it changes and
//! nothing is counted twice. A pair gets its places in one go, when the later of its two sides comes
//! to be; from then on it only loses some, so an old entry of the queue is never too low.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use puyu_tensor::{Error, Result};

use super::rules::Rules;
use crate::tokenizer::hash::Map;

/// Marks a character that belongs to the symbol that begins before it.
const INSIDE: u32 = u32::MAX;
/// Marks the end of a word.
const END: u32 = u32::MAX - 1;
/// The pair of two symbols that may not be one piece.
const NO_PAIR: u32 = u32::MAX;

/// Two symbols that stand next to each other.
struct Pair {
    left: u32,
    right: u32,
    /// Occurrences in the whole text.
    count: u64,
    /// Where `left` begins in the different words, ascending; some may since have changed.
    places: Vec<u32>,
}

/// A pair in the queue. The greatest is the most frequent one; of equally frequent ones the one of
/// fewest characters, and of those the one whose bytes come first: SentencePiece's rule.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    count: u64,
    length: Reverse<u8>,
    text: Reverse<Box<str>>,
    pair: u32,
}

/// The different words of a text as symbols that merge.
pub(super) struct Merges {
    rules: Rules,
    /// By character of the words: the symbol that begins there, [`INSIDE`] or [`END`].
    symbols: Vec<u32>,
    /// By character: which word it is in.
    words: Vec<u32>,
    /// By word: how often it occurs.
    counts: Vec<u64>,
    /// By symbol: its text, and the number of its characters.
    texts: Vec<Box<str>>,
    lengths: Vec<u8>,
    pairs: Vec<Pair>,
    index: Map<(u32, u32), u32>,
    queue: BinaryHeap<Candidate>,
}

impl Merges {
    /// Nothing to merge yet; symbols are the characters `alphabet`, by number.
    pub fn new(rules: Rules, alphabet: &[char]) -> Self {
        Self {
            rules,
            symbols: vec![END],
            words: vec![0],
            counts: Vec::new(),
            texts: alphabet.iter().map(|c| c.to_string().into()).collect(),
            lengths: vec![1; alphabet.len()],
            pairs: Vec::new(),
            index: Map::default(),
            queue: BinaryHeap::new(),
        }
    }

    /// Adds a word of characters by number, which occurs `count` times.
    ///
    /// # Errors
    /// If there are more characters than can be told apart by 32 bits.
    pub fn add(&mut self, word: &[u32], count: u64) -> Result<()> {
        if word.len() < 2 {
            return Ok(());
        }
        let start = self.symbols.len();
        if start + word.len() >= END as usize {
            return Err(Error::resource(
                "the text has too many different words; train on less of it",
            ));
        }
        self.symbols.extend_from_slice(word);
        self.symbols.push(END);
        self.words.resize(self.symbols.len(), self.counts.len() as u32);
        self.counts.push(count);
        for (place, two) in (start as u32..).zip(word.windows(2)) {
            self.meet(two[0], two[1], place, count);
        }
        Ok(())
    }

    /// Makes at most `most` pieces, none of them `taken`, and gives their texts, first merged first.
    ///
    /// # Errors
    /// What `progress`, which is told the number of pieces made, says.
    pub fn run(
        mut self,
        most: usize,
        taken: impl IntoIterator<Item = Box<str>>,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Box<str>>> {
        let alphabet = self.texts.len();
        // Two ways to one text are one piece to the encoder, so only the first way is taken.
        let mut taken: Map<Box<str>, ()> = taken.into_iter().map(|text| (text, ())).collect();
        self.enqueue(0);
        while self.texts.len() - alphabet < most {
            let Some(mut best) = self.queue.pop() else { break };
            let count = self.pairs[best.pair as usize].count;
            if count < best.count {
                best.count = count;
                if count > 0 {
                    self.queue.push(best);
                }
                continue;
            }
            if taken.insert(best.text.0.clone(), ()).is_some() {
                continue;
            }
            let first_new = self.pairs.len();
            self.merge(best);
            self.enqueue(first_new);
            let made = self.texts.len() - alphabet;
            if made.is_multiple_of(64) {
                progress(made)?;
            }
        }
        progress(self.texts.len() - alphabet)?;
        Ok(self.texts.split_off(alphabet))
    }

    /// Puts the pairs from number `first` on into the queue.
    fn enqueue(&mut self, first: usize) {
        for (pair, number) in self.pairs[first..].iter().zip(first as u32..) {
            if pair.count > 0 {
                let text = self.text_of(pair.left, pair.right);
                let length = self.lengths[pair.left as usize] + self.lengths[pair.right as usize];
                self.queue.push(Candidate {
                    count: pair.count,
                    length: Reverse(length),
                    text: Reverse(text),
                    pair: number,
                });
            }
        }
    }

    fn text_of(&self, left: u32, right: u32) -> Box<str> {
        [&*self.texts[left as usize], &self.texts[right as usize]].concat().into()
    }

    /// Replaces every occurrence of a pair by a new symbol, from left to right in each word.
    fn merge(&mut self, best: Candidate) {
        let pair = &mut self.pairs[best.pair as usize];
        let (left, right, places) = (pair.left, pair.right, std::mem::take(&mut pair.places));
        pair.count = 0;
        let new = self.texts.len() as u32;
        self.texts.push(best.text.0);
        self.lengths.push(best.length.0);
        for place in places {
            let middle = place + u32::from(self.lengths[left as usize]);
            if self.symbols[place as usize] != left || self.symbols[middle as usize] != right {
                continue;
            }
            let count = self.counts[self.words[place as usize] as usize];
            let after = middle + u32::from(self.lengths[right as usize]);
            let (before, next) = (self.before(place), self.symbols[after as usize]);
            self.symbols[place as usize] = new;
            self.symbols[middle as usize] = INSIDE;
            if let Some((start, symbol)) = before {
                self.part(symbol, left, count, best.pair);
                self.meet(symbol, new, start, count);
            }
            if next != END {
                self.part(right, next, count, best.pair);
                self.meet(new, next, place, count);
            }
        }
    }

    /// The symbol that ends before `place` in its word, and where it begins.
    fn before(&self, place: u32) -> Option<(u32, u32)> {
        let mut start = place - 1;
        while self.symbols[start as usize] == INSIDE {
            start -= 1;
        }
        let symbol = self.symbols[start as usize];
        (symbol != END).then_some((start, symbol))
    }

    /// The two symbols have come to stand together at `place`.
    fn meet(&mut self, left: u32, right: u32, place: u32, count: u64) {
        let number = match self.index.get(&(left, right)) {
            Some(&number) => number,
            None => {
                let fits = self.rules.is_piece(&self.text_of(left, right));
                let number = if fits { self.pairs.len() as u32 } else { NO_PAIR };
                if fits {
                    self.pairs.push(Pair { left, right, count: 0, places: Vec::new() });
                }
                self.index.insert((left, right), number);
                number
            }
        };
        if number != NO_PAIR {
            let pair = &mut self.pairs[number as usize];
            pair.count += count;
            pair.places.push(place);
        }
    }

    /// The two symbols no longer stand together somewhere; `merged` is the pair being merged, whose
    /// places are gone anyway.
    fn part(&mut self, left: u32, right: u32, count: u64, merged: u32) {
        if let Some(&number) = self.index.get(&(left, right))
            && number != NO_PAIR
            && number != merged
        {
            self.pairs[number as usize].count -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges by counting everything anew each time, as the paper's own program does.
    fn plain(words: &[(Vec<u32>, u64)], alphabet: &[char], most: usize) -> Vec<String> {
        let text = |x: &[String; 2]| x.concat();
        let mut words: Vec<(Vec<String>, u64)> = words
            .iter()
            .map(|(w, n)| (w.iter().map(|&c| alphabet[c as usize].to_string()).collect(), *n))
            .collect();
        let (mut made, mut dropped): (Vec<String>, Vec<[String; 2]>) = (Vec::new(), Vec::new());
        while made.len() < most {
            let mut pairs: std::collections::BTreeMap<[String; 2], u64> = Default::default();
            for (word, n) in &words {
                for two in word.windows(2).filter(|two| two.concat().len() <= 16) {
                    *pairs.entry([two[0].clone(), two[1].clone()]).or_default() += n;
                }
            }
            pairs.retain(|pair, _| !dropped.contains(pair));
            let key = |x: &[String; 2], n: u64| (Reverse(n), text(x).len(), text(x));
            let Some((best, _)) = pairs.iter().min_by_key(|(x, n)| key(x, **n)) else { break };
            if made.contains(&text(best)) {
                dropped.push(best.clone());
                continue;
            }
            made.push(text(best));
            for (word, _) in &mut words {
                let mut i = 0;
                while i + 1 < word.len() {
                    if word[i..i + 2] == best[..] {
                        word[i] = text(best);
                        word.remove(i + 1);
                    }
                    i += 1;
                }
            }
        }
        made
    }

    proptest::proptest! {
        #[test]
        fn merges_equal_counting_anew(
            words in proptest::collection::vec((proptest::collection::vec(0u32..3, 1..24), 1u64..5), 1..12),
            most in 0usize..60,
        ) {
            let alphabet = ['a', 'b', 'c'];
            let mut merges = Merges::new(Rules { split_digits: true, spaces: true }, &alphabet);
            for (word, count) in &words {
                merges.add(word, *count).unwrap();
            }
            let made = merges.run(most, [], &mut |_| Ok(())).unwrap();
            let made: Vec<String> = made.into_iter().map(String::from).collect();
            proptest::prop_assert_eq!(made, plain(&words, &alphabet, most));
        }
    }
}
