//! InternEvo's tokenized files: `.bin` is a JSON object with `tokens` a line, `.bin.meta` a NumPy array
//! of where each line begins and how many tokens it has. Written byte for byte as InternEvo's tools do
//! (InternLM/InternEvo: tools/tokenizer.py, tools/alpaca_tokenizer.py), so that either can go on.

use super::build::{Build, Progress};
use super::config::{Kind, OnError, SourceConfig};
use super::encode::Encoder;
use super::files::files_of;
use super::tokens::NO_LOSS;
use puyu_models::chat_template::ChatTemplate;
use puyu_models::format::atomic::AtomicFile;
use puyu_models::tokenizer::{EncodeOptions, Tokenizer};
use puyu_tensor::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// InternLM-1's vocabulary, for which InternEvo's tool for Alpaca data is written.
pub const INTERNLM1_TOKENS: usize = 103_168;
/// InternLM-1's ends of what a user and the model say, and its newline.
const END_OF_HUMAN: u32 = 103_167;
const END_OF_ASSISTANT: u32 = 103_166;
const NEWLINE: u32 = 13;
/// Tokens of a sample before its end, at most.
const MOST: usize = 2047;

/// Writes a `.bin` and its `.meta`, which appear when both are whole.
pub struct InternevoWriter {
    bin: AtomicFile,
    meta_path: PathBuf,
    /// Offset and number of tokens of each line.
    meta: Vec<[i32; 2]>,
}

impl InternevoWriter {
    /// Begins `path`.
    ///
    /// # Errors
    /// If its folder does not exist or cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { bin: AtomicFile::create(path)?, meta_path: meta_of(path), meta: Vec::new() })
    }

    /// Appends a sample: token ids, negated where they are not learnt.
    ///
    /// # Errors
    /// If the disk is full, or the file grows beyond the 2 GiB that its offsets can name.
    pub fn push(&mut self, ids: &[i64]) -> Result<()> {
        let too_long = |_| {
            Error::invalid(
                "a .bin of InternEvo ends at 2 GiB, since its offsets have 32 bits; write several",
            )
        };
        let offset = i32::try_from(self.bin.written()).map_err(too_long)?;
        self.meta.push([offset, i32::try_from(ids.len()).map_err(too_long)?]);
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        self.bin.write(format!("{{\"tokens\": [{}]}}\n", ids.join(", ")).as_bytes())
    }

    /// Ends both files; gives the numbers of samples and of tokens.
    ///
    /// # Errors
    /// If the disk is full or fails.
    pub fn finish(self) -> Result<(usize, u64)> {
        let mut meta = AtomicFile::create(&self.meta_path)?;
        meta.write(&npy_header(self.meta.len()))?;
        for number in self.meta.iter().flatten() {
            meta.write(&number.to_le_bytes())?;
        }
        self.bin.finish()?;
        meta.finish()?;
        let tokens = self.meta.iter().map(|[_, n]| *n as u64).sum();
        Ok((self.meta.len(), tokens))
    }
}

/// The `.meta` beside a `.bin`.
fn meta_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".meta");
    name.into()
}

/// How NumPy begins a file (format 1.0) with an int32 array `[rows, 2]`: padded to a multiple of 64.
fn npy_header(rows: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<i4', 'fortran_order': False, 'shape': ({rows}, 2), }}");
    const BEFORE: usize = 10;
    let length = (BEFORE + text.len() + 1).next_multiple_of(64) - BEFORE;
    text.push_str(&" ".repeat(length - 1 - text.len()));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(text.bytes());
    header
}

/// Checks the `.meta` beside the `.bin` file `path` with content `bytes`, if there is one.
///
/// # Errors
/// If it does not say where the lines begin.
pub fn check_meta(path: &Path, bytes: &[u8]) -> Result<()> {
    let Ok(meta) = std::fs::read(meta_of(path)) else { return Ok(()) };
    let broken = |what: String| {
        Error::format(format!(
            "its .meta does not fit it: {what}; write both again, or delete the .meta"
        ))
    };
    let header = meta.get(8..10).map_or(0, |b| 10 + usize::from(u16::from_le_bytes([b[0], b[1]])));
    let lines = bytes.split_inclusive(|b| *b == b'\n').scan(0, |at, line| {
        let offset = *at;
        *at += line.len() as u64;
        Some(offset)
    });
    let starts: Vec<u64> = lines.collect();
    let expected = npy_header(starts.len());
    if !meta.starts_with(b"\x93NUMPY") || meta.get(..header) != Some(&expected[..]) {
        return Err(broken(format!("it is no int32 array of {} rows and 2 columns", starts.len())));
    }
    for (i, (row, start)) in meta[header..].chunks(8).zip(&starts).enumerate() {
        let offset = row.get(..4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        if offset.map(i64::from) != Some(*start as i64) {
            return Err(broken(format!("line {} begins at byte {start}, not {offset:?}", i + 1)));
        }
    }
    Ok(())
}

/// Token words as InternEvo writes them: negated where they are not learnt. The first token of a
/// document is never a target, and stays as it is.
pub fn signed(words: &[u32]) -> Vec<i64> {
    let sign = |(i, w): (usize, &u32)| {
        let id = i64::from(w & !NO_LOSS);
        if w & NO_LOSS != 0 && i > 0 { -id } else { id }
    };
    words.iter().enumerate().map(sign).collect()
}

/// An Alpaca sample for InternLM-1 by the rule of InternEvo's tools/alpaca_tokenizer.py.
pub fn alpaca(tokenizer: &Tokenizer, asked: &str, answer: &str) -> Vec<i64> {
    let plain = |text: &str| tokenizer.encode(text, EncodeOptions::default());
    let mut given = plain(&format!("<|User|>:{asked}"));
    given.extend([END_OF_HUMAN, NEWLINE]);
    given.extend(plain("<|Bot|>:"));
    let mut said = plain(answer);
    said.extend([END_OF_ASSISTANT, NEWLINE]);
    let mut ids: Vec<i64> = tokenizer.bos().into_iter().map(i64::from).collect();
    ids.extend(given.into_iter().map(|id| -i64::from(id)));
    ids.extend(said.into_iter().map(i64::from));
    ids.truncate(MOST);
    ids.extend(tokenizer.eos().map(i64::from));
    ids
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Samples.
    pub samples: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Broken lines that were left out.
    pub broken: u64,
}

/// Tokenizes `source` into the `.bin` file `out` and its `.meta`. Texts become samples a line each,
/// with beginning and end; Alpaca samples for InternLM-1 follow InternEvo's tool, other conversations
/// the chat template.
///
/// # Errors
/// As [`super::Dataset::open`]; also if a file cannot be written.
pub fn write(
    source: &SourceConfig,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    on_error: OnError,
    out: &Path,
    progress: Progress,
) -> Result<Written> {
    let encoder = Encoder::new(source, tokenizer, template)?.for_internevo();
    let build = Build { source, encoder: &encoder, on_error, cache: None };
    let mut writer = InternevoWriter::create(out)?;
    let mut broken = 0;
    for file in files_of(&source.path)? {
        let (tokens, format) = build.tokens(&file, progress)?;
        if format.kind() == Kind::Preference {
            return Err(Error::unsupported(format!(
                "{}: InternEvo has no layout for preference pairs",
                file.display()
            )));
        }
        broken += tokens.found.broken;
        for i in 0..tokens.documents() {
            let words: Vec<u32> = tokens.words(tokens.document(i)).collect();
            writer.push(&signed(&words))?;
        }
    }
    let (samples, tokens) = writer.finish()?;
    Ok(Written { samples, tokens, broken })
}
