//! What was found in the data: said before a run begins, so that surprises come early.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How many broken lines are told one by one.
pub const SHOWN: usize = 10;

/// What was found in all sources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DataReport {
    /// By source, in the order of the config.
    pub sources: Vec<SourceReport>,
}

/// What was found in one source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceReport {
    /// The path in the config.
    pub path: String,
    /// Names of the formats of its files.
    pub formats: Vec<&'static str>,
    /// Its files.
    pub files: usize,
    /// What the files held.
    pub found: Found,
    /// Samples that were cut to a length.
    pub truncated: u64,
    /// Tokens that were cut off them.
    pub lost: u64,
    /// Samples of which nothing to learn was left after the cut.
    pub emptied: u64,
    /// Rows that they became.
    pub rows: u64,
    /// Tokens in the rows.
    pub used: u64,
    /// Tokens that the rows could hold: rows times their length, where rows are packed.
    pub room: u64,
}

/// What a file held, before it is cut into rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Documents, conversations or answers of pairs.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Tokens that are learnt.
    pub counted: u64,
    /// Broken lines that were left out.
    pub broken: u64,
    /// The first of them: file, line and what is wrong.
    pub complaints: Vec<String>,
}

impl Found {
    /// Adds what another file held.
    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.tokens += other.tokens;
        self.counted += other.counted;
        self.broken += other.broken;
        let left = SHOWN.saturating_sub(self.complaints.len());
        self.complaints.extend(other.complaints.iter().take(left).cloned());
    }

    /// Counts a broken line.
    pub fn complain(&mut self, complaint: String) {
        self.broken += 1;
        if self.complaints.len() < SHOWN {
            self.complaints.push(complaint);
        }
    }
}

impl SourceReport {
    /// Tokens in the rows over what the rows could hold; 1 where rows are as long as their samples.
    pub fn useful(&self) -> f64 {
        if self.room == 0 { 1.0 } else { self.used as f64 / self.room as f64 }
    }
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = &self.found;
        writeln!(f, "{} ({}, files: {})", self.path, self.formats.join(", "), self.files)?;
        writeln!(
            f,
            "  samples {}, tokens {}, learnt {} ({:.1} %)",
            found.documents,
            found.tokens,
            found.counted,
            100.0 * found.counted as f64 / found.tokens.max(1) as f64
        )?;
        writeln!(f, "  rows {}, {:.1} % of their room used", self.rows, 100.0 * self.useful())?;
        if self.truncated > 0 {
            let (cut, lost) = (self.truncated, self.lost);
            write!(f, "  samples cut {cut}, tokens lost {lost}")?;
            if self.emptied > 0 {
                write!(f, ", nothing left to learn in {}", self.emptied)?;
            }
            writeln!(f)?;
        }
        if found.broken > 0 {
            writeln!(f, "  broken lines left out: {}", found.broken)?;
            for complaint in &found.complaints {
                writeln!(f, "    {complaint}")?;
            }
            let more = found.broken as usize - found.complaints.len();
            if more > 0 {
                writeln!(f, "    and {more} more")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sources.iter().try_for_each(|source| source.fmt(f))
    }
}
