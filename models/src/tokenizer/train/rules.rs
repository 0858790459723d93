//! Which neighbouring characters may stand together in a learned piece: those of one script, a digit
//! alone, white space in front only.
//!
//! The rules are those of SentencePiece's trainer with its default flags, so that both learn the same
//! pieces; scripts are those of Unicode, with Japanese syllables counted as Han.

use std::sync::LazyLock;

use unicode_script::{Script, UnicodeScript};

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '▁';
/// The longest learned piece, in characters; SentencePiece's `max_sentencepiece_length`.
pub(super) const LONGEST: usize = 16;

/// The part of the rules that can be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Every digit is a piece of its own.
    pub split_digits: bool,
    /// Runs of spaces may be pieces.
    pub spaces: bool,
}

/// What a character is to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Stands in no piece.
    Never,
    Space,
    Digit,
    /// Takes the script of what it follows: accents and their like.
    Inherited,
    Letter(Script),
}

fn classify(c: char) -> Class {
    match c {
        // Neither can be written in a SentencePiece vocabulary: NUL ends a key of its index, and the
        // tab is its trainer's own mark.
        '\0' | '\t' => Class::Never,
        ' ' | SPACE => Class::Space,
        '0'..='9' | '０'..='９' => Class::Digit,
        'ー' => Class::Letter(Script::Han),
        _ => match c.script() {
            Script::Inherited => Class::Inherited,
            Script::Hiragana | Script::Katakana => Class::Letter(Script::Han),
            script => Class::Letter(script),
        },
    }
}

/// The class of `c`. Asking Unicode's table is a binary search, so answers below U+10000 are kept.
pub(super) fn class(c: char) -> Class {
    static KNOWN: LazyLock<Vec<Class>> = LazyLock::new(|| {
        (0..0x10000).map(|c| char::from_u32(c).map_or(Class::Never, classify)).collect()
    });
    KNOWN.get(c as usize).copied().unwrap_or_else(|| classify(c))
}

impl Rules {
    /// Whether some piece may hold `b` right after `a`; where not, a text can be cut.
    pub fn joins(&self, a: Class, b: Class) -> bool {
        use Class::{Digit, Inherited, Letter, Never, Space};
        match (a, b) {
            (Never, _) | (_, Never) => false,
            (Space, Space) => self.spaces,
            (_, Space) => false,
            (Digit, _) | (_, Digit) if self.split_digits => false,
            (Space, _) | (Inherited, _) | (_, Inherited) => true,
            (Digit, Digit) => true,
            (Digit, Letter(x)) | (Letter(x), Digit) => x == Script::Common,
            (Letter(x), Letter(y)) => x == y,
        }
    }

    /// Whether `text` may be a piece.
    pub fn is_piece(&self, text: &str) -> bool {
        let blank = text.chars().all(|c| c == SPACE);
        let mut script = None;
        let mut last = None;
        for (place, c) in text.chars().enumerate() {
            let class = class(c);
            if place == LONGEST || last.is_some_and(|last| !self.joins(last, class)) {
                return false;
            }
            last = Some(class);
            let own = match class {
                Class::Never => return false,
                Class::Space if place > 0 && !blank => return false,
                Class::Space => None,
                Class::Digit => Some(Script::Common),
                Class::Inherited => script,
                Class::Letter(script) => Some(script),
            };
            // A space or an accent between two scripts keeps them apart no less.
            if own.is_some() && script.is_some() && own != script {
                return false;
            }
            script = own.or(script);
        }
        !text.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_to_one_script() {
        let rules = Rules { split_digits: true, spaces: true };
        for good in ["▁the", "▁▁▁", "林黛玉", "カーのひ字", "e\u{301}a", "▁——", "7", "，。", "▁"]
        {
            assert!(rules.is_piece(good), "{good}");
        }
        for bad in ["", "a▁", "▁▁a", "don't", "a林", "▁7", "77", "７７", "\t", "a\u{301}林"]
        {
            assert!(!rules.is_piece(bad), "{bad}");
        }
        assert!(rules.is_piece(&"a".repeat(16)) && !rules.is_piece(&"a".repeat(17)));
        let loose = Rules { split_digits: false, spaces: false };
        assert!(loose.is_piece("77") && loose.is_piece("▁7") && loose.is_piece("3.5"));
        assert!(!loose.is_piece("▁▁") && !loose.is_piece("7a"));
    }
}
