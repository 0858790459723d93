//! A file's bytes as records, each with its line: JSON lines, the elements of a JSON list, or pieces of
//! text. A line ends at `\n` only, for texts hold U+2028 and U+0085; nothing is parsed here, so that a
//! broken record costs only itself.

use super::config::Split;
use puyu_tensor::Error;
use std::ops::Range;

/// Most bytes of a line or list element: millions of characters, and a bound for the memory it takes.
pub const MAX_RECORD: usize = 16 << 20;

/// Long texts are encoded in pieces of at most so many bytes, cut at the ends of lines: they can then
/// be shared by threads, and are cut alike on any number of them.
pub const PIECE: usize = 64 << 10;

/// How a file is cut into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A record a line.
    Lines,
    /// The elements of one JSON list.
    List,
    /// Documents of plain text.
    Text(Split),
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its first line, from 1.
    pub line: u64,
    /// Its bytes.
    pub bytes: Range<usize>,
    /// It begins a document.
    pub first: bool,
    /// It ends a document.
    pub last: bool,
}

/// Cuts a file into records; a broken one is its line and what is wrong.
pub struct Records<'a> {
    bytes: &'a [u8],
    layout: Layout,
    /// Where the next record is looked for, and the line there.
    at: usize,
    line: u64,
    /// What is left of a document whose pieces are being given out.
    rest: Range<usize>,
    /// A list's bracket was seen, or its end.
    opened: bool,
    closed: bool,
}

/// A record, or the line of a broken one with the complaint.
pub type Item = std::result::Result<Record, (u64, Error)>;

impl<'a> Records<'a> {
    /// The records of `bytes`.
    pub fn new(bytes: &'a [u8], layout: Layout) -> Self {
        let bom: &[u8] = &[0xef, 0xbb, 0xbf];
        let at = if bytes.starts_with(bom) { bom.len() } else { 0 };
        Self { bytes, layout, at, line: 1, rest: 0..0, opened: false, closed: false }
    }

    /// Bytes that were gone through.
    pub fn position(&self) -> usize {
        if self.rest.is_empty() { self.at } else { self.rest.start }
    }

    /// The next line without its end, and where the one after it begins.
    fn line_at(&self, from: usize) -> (Range<usize>, usize) {
        let found = self.bytes[from..].iter().position(|b| *b == b'\n');
        let end = found.map_or(self.bytes.len(), |i| from + i);
        let next = found.map_or(end, |_| end + 1);
        let text = &self.bytes[from..end];
        (from..end - usize::from(text.ends_with(b"\r")), next)
    }

    /// The next line that is not blank.
    fn next_line(&mut self) -> Option<Item> {
        while self.at < self.bytes.len() {
            let (range, next) = self.line_at(self.at);
            let line = self.line;
            self.at = next;
            self.line += 1;
            if !self.bytes[range.clone()].trim_ascii().is_empty() {
                return Some(bounded(line, range));
            }
        }
        None
    }

    /// Goes over white space, counting lines.
    fn skip_space(&mut self) {
        while let Some(b) = self.bytes.get(self.at).filter(|b| b.is_ascii_whitespace()) {
            self.line += u64::from(*b == b'\n');
            self.at += 1;
        }
    }

    /// The next element of a JSON list.
    fn next_element(&mut self) -> Option<Item> {
        if self.closed {
            return None;
        }
        self.skip_space();
        if !self.opened {
            self.opened = true;
            self.at += 1;
            self.skip_space();
            if self.bytes.get(self.at) == Some(&b']') {
                return self.end_list();
            }
        }
        let (line, start) = (self.line, self.at);
        let Some(end) = self.element_end() else {
            self.closed = true;
            self.at = self.bytes.len();
            let what = "the list has no end: a bracket or a quotation mark is missing from here on";
            return Some(Err((line, Error::format(what))));
        };
        let text = self.bytes[start..end].trim_ascii_end();
        let item = bounded(line, start..start + text.len());
        self.at = end + 1;
        if self.bytes[end] == b']' {
            self.at = end;
            if let Some(error) = self.end_list() {
                return Some(item.and(error));
            }
        }
        Some(item)
    }

    /// Goes over the closing bracket; a complaint if anything follows.
    fn end_list(&mut self) -> Option<Item> {
        self.closed = true;
        self.at += 1;
        self.skip_space();
        let more = self.at < self.bytes.len();
        self.at = self.bytes.len();
        more.then(|| Err((self.line, Error::format("something follows the end of the list"))))
    }

    /// Where the element at hand ends: at the comma or bracket after it. Counts lines on the way.
    fn element_end(&mut self) -> Option<usize> {
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        for i in self.at..self.bytes.len() {
            let b = self.bytes[i];
            self.line += u64::from(b == b'\n');
            if quoted {
                (quoted, escaped) = match b {
                    _ if escaped => (true, false),
                    b'\\' => (true, true),
                    b'"' => (false, false),
                    _ => (true, false),
                };
                continue;
            }
            match b {
                b'"' => quoted = true,
                b'[' | b'{' => depth += 1,
                b',' | b']' if depth == 0 => return Some(i),
                b']' | b'}' => depth = depth.checked_sub(1)?,
                _ => {}
            }
        }
        None
    }

    /// The next document of a text: its range.
    fn next_document(&mut self, split: Split) -> Option<(u64, Range<usize>)> {
        if split == Split::File {
            let whole = self.at..self.bytes.len();
            self.at = self.bytes.len();
            return (!whole.is_empty()).then_some((1, whole));
        }
        let (line, mut range) = self.text_line()?;
        if split == Split::Line {
            let text = String::from_utf8_lossy(&self.bytes[range.clone()]);
            // Where it is no UTF-8, lengths do not fit, and the line is refused as it is.
            if let std::borrow::Cow::Borrowed(text) = text {
                range.start += text.len() - text.trim_start().len();
                range.end = range.start + text.trim().len();
            }
            return Some((line, range));
        }
        while self.at < self.bytes.len() {
            let (more, next) = self.line_at(self.at);
            self.line += 1;
            self.at = next;
            if blank(&self.bytes[more.clone()]) {
                break;
            }
            range.end = more.end;
        }
        Some((line, range))
    }

    /// The next line that is not blank, whatever its length.
    fn text_line(&mut self) -> Option<(u64, Range<usize>)> {
        while self.at < self.bytes.len() {
            let (range, next) = self.line_at(self.at);
            self.at = next;
            self.line += 1;
            if !blank(&self.bytes[range.clone()]) {
                return Some((self.line - 1, range));
            }
        }
        None
    }

    /// The next piece of a text.
    fn next_piece(&mut self, split: Split) -> Option<Item> {
        let first = self.rest.is_empty();
        if first {
            let (line, range) = self.next_document(split)?;
            if let Err(e) = std::str::from_utf8(&self.bytes[range.clone()]) {
                let lines = &self.bytes[range.start..range.start + e.valid_up_to()];
                let line = line + lines.iter().filter(|b| **b == b'\n').count() as u64;
                return Some(Err((line, Error::format("the text is not UTF-8"))));
            }
            self.rest = range;
            return Some(Ok(self.cut(line, true)));
        }
        Some(Ok(self.cut(self.line, false)))
    }

    fn cut(&mut self, line: u64, first: bool) -> Record {
        let text = &self.bytes[self.rest.clone()];
        let end = self.rest.start + piece(text);
        let bytes = self.rest.start..end;
        self.rest.start = end;
        Record { line, bytes, first, last: self.rest.is_empty() }
    }
}

/// How many of the first bytes of UTF-8 `text` are one piece: up to the end of a line if there is one.
fn piece(text: &[u8]) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let ends_line = |w: &[u8]| w[0] == b'\n' && w[1] != b'\n';
    if let Some(i) = text[..=PIECE].windows(2).rposition(ends_line) {
        return i + 1;
    }
    // A byte 10xxxxxx continues a character.
    (0..=PIECE).rev().find(|&i| text[i] & 0xc0 != 0x80).unwrap_or(PIECE)
}

/// Whether a line of text shows nothing; Chinese texts indent with U+3000.
fn blank(line: &[u8]) -> bool {
    std::str::from_utf8(line).is_ok_and(|text| text.trim().is_empty())
}

fn bounded(line: u64, bytes: Range<usize>) -> Item {
    if bytes.len() > MAX_RECORD {
        let size = bytes.len() >> 20;
        let most = MAX_RECORD >> 20;
        let what =
            format!("the sample is {size} MiB long, more than {most} MiB; cut it into several");
        return Err((line, Error::format(what)));
    }
    Ok(Record { line, bytes, first: true, last: true })
}

impl Iterator for Records<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        match self.layout {
            Layout::Lines => self.next_line(),
            Layout::List => self.next_element(),
            Layout::Text(split) => self.next_piece(split),
        }
    }
}
