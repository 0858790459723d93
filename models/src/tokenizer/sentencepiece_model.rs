//! Reads `tokenizer.model`, the protobuf file of SentencePiece, as far as BPE needs it.
//!
//! Only the wire format's four field kinds are read, by slicing: nothing is allocated that the file
//! does not hold, and no message is nested deeper than the two levels written out here.

use puyu_tensor::{Context, Error, Result};

use super::TokenKind;

/// What a SentencePiece BPE model file says.
pub(super) struct ModelFile {
    /// Text, score and kind of every piece, by id.
    pub pieces: Vec<(Box<[u8]>, f32, TokenKind)>,
    /// Unknown characters are spelled in byte pieces.
    pub byte_fallback: bool,
    /// A space is put in front of the text.
    pub add_dummy_prefix: bool,
}

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Walks the fields of one message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self
                .0
                .split_first()
                .ok_or_else(|| Error::format("the file ends inside a number"))?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::format("a number is longer than 64 bits"))
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Error::format("a field is longer than the file"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value, `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Number(0)
            }
            2 => {
                let length = self.varint()?;
                Field::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32(u32::from_le_bytes(bytes.try_into().expect("4 bytes were taken")))
            }
            kind => return Err(Error::format(format!("wire type {kind} is unknown"))),
        };
        Ok(Some((key >> 3, field)))
    }
}

/// Parses a model file.
///
/// # Errors
/// Bytes that are no such file; a model that is not BPE, or that normalizes its text in a way the
/// InternLM and Llama families do not.
pub(super) fn parse(bytes: &[u8]) -> Result<ModelFile> {
    // The defaults are those of sentencepiece_model.proto.
    let mut model = ModelFile { pieces: Vec::new(), byte_fallback: false, add_dummy_prefix: true };
    let mut model_type = 1;
    let (mut suffix, mut extra_spaces, mut escape, mut charsmap) = (false, true, true, false);
    let mut fields = Fields(bytes);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(message)) => {
                let id = model.pieces.len();
                model.pieces.push(piece(message).context(format_args!("piece {id}"))?);
            }
            (2, Field::Bytes(message)) => {
                let mut trainer = Fields(message);
                while let Some((number, field)) = trainer.next().context("trainer_spec")? {
                    match (number, field) {
                        (3, Field::Number(x)) => model_type = x,
                        (24, Field::Number(x)) => suffix = x != 0,
                        (35, Field::Number(x)) => model.byte_fallback = x != 0,
                        _ => {}
                    }
                }
            }
            (3, Field::Bytes(message)) => {
                let mut normalizer = Fields(message);
                while let Some((number, field)) = normalizer.next().context("normalizer_spec")? {
                    match (number, field) {
                        (2, Field::Bytes(x)) => charsmap = !x.is_empty(),
                        (3, Field::Number(x)) => model.add_dummy_prefix = x != 0,
                        (4, Field::Number(x)) => extra_spaces = x != 0,
                        (5, Field::Number(x)) => escape = x != 0,
                        _ => {}
                    }
                }
            }
            (1..=3, _) => {
                return Err(Error::format(format!("field {number} is not a message")));
            }
            _ => {}
        }
    }
    if model.pieces.is_empty() {
        return Err(Error::format("no pieces: this is not a SentencePiece model"));
    }
    let refuse = |what: &str| Err(Error::unsupported(format!("this SentencePiece model {what}")));
    match model_type {
        2 => {}
        1 => return refuse("is a unigram model, only BPE is supported"),
        _ => return refuse("is a word or character model, only BPE is supported"),
    }
    if charsmap {
        return refuse("normalizes its text by a character map, only `identity` is supported");
    }
    if suffix {
        return refuse("treats white space as a suffix, which is not supported");
    }
    if extra_spaces {
        return refuse("removes extra white space, which is not supported");
    }
    if !escape {
        return refuse("does not escape white space, which is not supported");
    }
    Ok(model)
}

fn piece(message: &[u8]) -> Result<(Box<[u8]>, f32, TokenKind)> {
    let (mut text, mut score, mut kind) = (None, 0.0, TokenKind::Normal);
    let mut fields = Fields(message);
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(x)) => text = Some(x),
            (2, Field::Fixed32(x)) => score = f32::from_bits(x),
            (3, Field::Number(x)) => kind = TokenKind::from_number(x)?,
            (1..=3, _) => return Err(Error::format(format!("field {number} has the wrong type"))),
            _ => {}
        }
    }
    let text = text.filter(|x| !x.is_empty()).ok_or_else(|| Error::format("has no text"))?;
    if score.is_nan() {
        return Err(Error::format("its score is not a number"));
    }
    Ok((text.into(), score, kind))
}
