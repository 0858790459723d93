//! Learns a vocabulary from text: byte-pair encoding as SentencePiece's trainer does it with
//! `--model_type=bpe`, for tokenizers like InternLM2's.
//!
//! Text is cut into words, the words' characters are the first symbols, and merges are counted on the
//! different words only. Counts do not depend on who counted them and ties are broken by the text of
//! a piece, so the result is the same for any number of threads.

mod merges;
mod rules;
mod words;

use std::io::BufRead;

use puyu_tensor::{Error, Result};

use super::added::{Edges, Matcher};
use super::{GgufVocab, TokenKind};
use crate::chat_template::CHATML;
use merges::Merges;
use rules::{Rules, SPACE};
use words::Words;

/// The control tokens of InternLM2, in the order in which a new vocabulary numbers them.
pub const INTERNLM2_CONTROL: [&str; 6] = [
    "<|im_start|>",
    "<|im_end|>",
    "<|action_start|>",
    "<|action_end|>",
    "<|interpreter|>",
    "<|plugin|>",
];

/// The tokens every vocabulary begins with: ids 0, 1 and 2, as in InternLM2.
const FIRST: [(&str, TokenKind); 3] =
    [("<unk>", TokenKind::Unknown), ("<s>", TokenKind::Control), ("</s>", TokenKind::Control)];

/// How a vocabulary is learned. Names are those of `spm_train`'s flags; the defaults make a vocabulary
/// like InternLM2's.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// How many tokens there will be, all counted.
    pub vocab_size: usize,
    /// The share of the text's characters that get a piece of their own; the others are rare.
    pub character_coverage: f32,
    /// Texts that are always one token, wherever they stand.
    pub user_defined_symbols: Vec<String>,
    /// Tokens that no text becomes: they begin, end and separate.
    pub control_symbols: Vec<String>,
    /// Spell characters without a piece in bytes; otherwise they are `<unk>`.
    pub byte_fallback: bool,
    /// Every digit is a token of its own.
    pub split_digits: bool,
    /// Runs of spaces may be tokens.
    pub allow_whitespace_only_pieces: bool,
    /// Text is encoded as if a space stood in front of it.
    pub add_dummy_prefix: bool,
    /// Lines of more bytes are skipped.
    pub max_sentence_length: usize,
    /// Bytes of different words that are kept in memory; the rarest are dropped beyond.
    pub max_word_bytes: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            vocab_size: 8000,
            character_coverage: 0.9995,
            user_defined_symbols: Vec::new(),
            control_symbols: INTERNLM2_CONTROL.map(String::from).to_vec(),
            byte_fallback: true,
            split_digits: true,
            allow_whitespace_only_pieces: true,
            add_dummy_prefix: false,
            max_sentence_length: 4192,
            max_word_bytes: 256 << 20,
        }
    }
}

/// What [`Trainer`] tells of its work; an error in answer stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainProgress {
    /// So many more bytes of text were counted.
    Read(u64),
    /// So many pieces of those wanted were made.
    Merged(usize, usize),
}

/// Where [`Trainer`] reports to.
pub type Report<'a> = &'a mut dyn FnMut(TrainProgress) -> Result<()>;

/// A learned vocabulary, and what there is to say of it.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The vocabulary, with InternLM2's roles and, if it has the tokens, chat template.
    pub vocab: GgufVocab,
    /// Characters with a piece of their own.
    pub characters: usize,
    /// Lines that were skipped because they were too long.
    pub skipped_lines: u64,
    /// Words no more frequent than this were left out, because there were too many; 0 for none.
    pub dropped_below: u64,
}

/// Counts words, then merges them to a vocabulary.
pub struct Trainer {
    options: TrainOptions,
    rules: Rules,
    /// The tokens that are not learned, by id.
    given: Vec<(String, TokenKind)>,
    words: Words,
}

impl Trainer {
    /// A trainer that has read nothing yet.
    ///
    /// # Errors
    /// A symbol that is empty or given twice, or a coverage outside 0.98 to 1.
    pub fn new(options: TrainOptions) -> Result<Self> {
        if !(0.98..=1.0).contains(&options.character_coverage) {
            return Err(Error::invalid(format!(
                "a character coverage of {} is not between 0.98 and 1",
                options.character_coverage
            )));
        }
        let given = given_tokens(&options)?;
        let mut specials = Matcher::default();
        for (id, (text, _)) in (0..).zip(&given) {
            specials.insert(text.replace(SPACE, " ").as_bytes(), id, Edges::default());
        }
        let rules = Rules {
            split_digits: options.split_digits,
            spaces: options.allow_whitespace_only_pieces,
        };
        let (longest, prefix) = (options.max_sentence_length, options.add_dummy_prefix);
        let words = Words::new(rules, specials, longest, prefix, options.max_word_bytes);
        Ok(Self { options, rules, given, words })
    }

    /// Counts the words of a text, line by line.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8, with the line; or what `report` answers.
    pub fn read(&mut self, text: impl BufRead, report: Report) -> Result<()> {
        self.words.read(text, &mut |bytes| report(TrainProgress::Read(bytes)))
    }

    /// Learns the vocabulary.
    ///
    /// # Errors
    /// No text, or a vocabulary that is too small for what it must hold or too large for the text,
    /// with the numbers; or what `report` answers.
    pub fn train(self, report: Report) -> Result<Trained> {
        let alphabet = self.alphabet()?;
        let size = self.options.vocab_size;
        let needed = self.given.len() + alphabet.len();
        if size < needed {
            return Err(Error::invalid(format!(
                "a vocabulary of {size} is too small: {} special tokens and bytes and {} characters \
                 need {needed}; ask for more tokens or a lower character coverage",
                self.given.len(),
                alphabet.len()
            )));
        }
        let wanted = size - needed;
        let merges = self.symbols(&alphabet)?;
        let taken = self.given.iter().map(|(text, _)| text.as_str().into());
        let made = merges.run(wanted, taken, &mut |n| report(TrainProgress::Merged(n, wanted)))?;
        if made.len() < wanted {
            return Err(Error::invalid(format!(
                "a vocabulary of {size} is too large: this text makes {} tokens at most; ask for \
                 fewer or give more text",
                needed + made.len()
            )));
        }
        Ok(Trained {
            characters: alphabet.len(),
            skipped_lines: self.words.skipped,
            dropped_below: self.words.dropped_below,
            vocab: self.vocabulary(&made, &alphabet),
        })
    }

    /// The characters that get a piece, most frequent first: as many as cover the wanted share.
    fn alphabet(&self) -> Result<Vec<char>> {
        let mut counts = super::hash::Map::<char, u64>::default();
        for (word, count) in self.words.iter() {
            for c in word.chars().filter(|&c| c != '\0') {
                *counts.entry(if c == ' ' { SPACE } else { c }).or_default() += count;
            }
        }
        let total: u64 = counts.values().sum();
        if total == 0 {
            return Err(Error::invalid("there is no text to learn from: every line is empty"));
        }
        let mut counts: Vec<(char, u64)> = counts.into_iter().collect();
        counts.sort_by_key(|&(c, n)| (std::cmp::Reverse(n), c));
        let mut covered = 0;
        let enough = |covered: u64| {
            (covered as f64 / total as f64) as f32 >= self.options.character_coverage
        };
        let mut alphabet = Vec::new();
        for (c, n) in counts {
            if enough(covered) {
                break;
            }
            covered += n;
            // A tab cannot be a piece, but it is a part of the text.
            alphabet.extend((c != '\t').then_some(c));
        }
        Ok(alphabet)
    }

    /// The words in numbers of characters, cut at those outside the alphabet.
    fn symbols(&self, alphabet: &[char]) -> Result<Merges> {
        let numbers: super::hash::Map<char, u32> = alphabet.iter().copied().zip(0..).collect();
        let mut merges = Merges::new(self.rules, alphabet);
        let mut symbols = Vec::new();
        // Sorted, so that memory is laid out alike in every run.
        let mut words: Vec<(&str, u64)> = self.words.iter().collect();
        words.sort_unstable();
        for (word, count) in words {
            symbols.clear();
            for c in word.chars() {
                match numbers.get(&if c == ' ' { SPACE } else { c }) {
                    Some(&number) => symbols.push(number),
                    None => {
                        merges.add(&symbols, count)?;
                        symbols.clear();
                    }
                }
            }
            merges.add(&symbols, count)?;
        }
        Ok(merges)
    }

    /// Given tokens, learned pieces in the order of their merges, characters: the scores of the latter
    /// two count down from 0, which is the order in which they are merged again.
    fn vocabulary(self, made: &[Box<str>], alphabet: &[char]) -> GgufVocab {
        let chat = ["<|im_start|>", "<|im_end|>"].iter().all(|turn| {
            self.given.iter().any(|(text, kind)| text == turn && *kind == TokenKind::Control)
        });
        let mut vocab = GgufVocab {
            model: "llama".into(),
            pre: Some("default".into()),
            bos: Some(1),
            eos: Some(2),
            unk: Some(0),
            // As InternLM2's: what is padded is never looked at.
            pad: Some(2),
            add_bos: Some(true),
            add_eos: Some(false),
            add_space_prefix: Some(self.options.add_dummy_prefix),
            chat_template: chat.then(|| CHATML.into()),
            ..GgufVocab::default()
        };
        let mut push = |text: &str, score: f32, kind: TokenKind| {
            vocab.tokens.push(text.as_bytes().to_vec());
            vocab.scores.push(score);
            vocab.token_type.push(kind as u32);
        };
        for (text, kind) in &self.given {
            push(text, 0.0, *kind);
        }
        let characters = alphabet.iter().map(|c| c.to_string());
        let learned = made.iter().map(|text| text.to_string()).chain(characters);
        for (rank, text) in learned.enumerate() {
            push(&text, -(rank as f32), TokenKind::Normal);
        }
        vocab
    }
}

/// The tokens that are not learned: unknown, begin, end, control and user-defined ones, bytes.
fn given_tokens(options: &TrainOptions) -> Result<Vec<(String, TokenKind)>> {
    let mut given: Vec<(String, TokenKind)> =
        FIRST.iter().map(|(text, kind)| (text.to_string(), *kind)).collect();
    let control = options.control_symbols.iter().map(|text| (text, TokenKind::Control));
    let own = options.user_defined_symbols.iter().map(|text| (text, TokenKind::UserDefined));
    for (text, kind) in control.chain(own) {
        let text = text.replace(' ', "▁");
        let byte = super::draft::byte_of_name(text.as_bytes()).is_some();
        if text.is_empty() || text.contains('\0') || byte {
            return Err(Error::invalid(format!(
                "{text:?} cannot be a symbol of its own; leave it out"
            )));
        }
        if given.iter().any(|(other, _)| *other == text) {
            return Err(Error::invalid(format!(
                "the symbol {text:?} is there twice; name it once"
            )));
        }
        given.push((text, kind));
    }
    if options.byte_fallback {
        given.extend((0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte)));
    }
    Ok(given)
}
