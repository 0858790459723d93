//! How samples become rows. A sample of n tokens gives n - 1 inputs, for its last token is only ever a
//! target; a row counts inputs. Samples are pieces of documents, so a row is a list of pieces, and
//! attention never crosses from one to the next.

use std::collections::BTreeMap;
use std::ops::Range;

/// The rows of a source, as numbers of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Every row is full: samples follow each other, cut where a row ends.
    Cut {
        /// Ends of the samples, in inputs, ascending.
        ends: Vec<u64>,
        /// Inputs of a row.
        seq_len: usize,
    },
    /// Whole samples: those of row i are `samples[starts[i]..starts[i + 1]]`.
    Whole {
        /// Numbers of samples.
        samples: Vec<u32>,
        /// Where rows start, and the end.
        starts: Vec<u32>,
    },
}

/// A piece of a sample in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The number of the sample.
    pub sample: usize,
    /// Which of its inputs.
    pub inputs: Range<u64>,
}

impl Rows {
    /// Rows of exactly `seq_len` inputs, but for the last.
    pub fn cut(lengths: impl Iterator<Item = u64>, seq_len: usize) -> Self {
        let mut total = 0;
        let add = |length| {
            total += length;
            total
        };
        Rows::Cut { ends: lengths.map(add).collect(), seq_len }
    }

    /// `group` samples to a row, in order.
    pub fn groups(samples: usize, group: usize) -> Self {
        let starts = (0..=samples / group).map(|i| (i * group) as u32).collect();
        Rows::Whole { samples: (0..samples as u32).collect(), starts }
    }

    /// Whole samples of these lengths in rows of at most `seq_len`: the longest first, each where it
    /// leaves the least room (best fit decreasing: Johnson, 1973). Rows come in the order of their
    /// first samples.
    ///
    /// # Panics
    /// If a sample is longer than a row.
    pub fn best_fit(lengths: &[u64], seq_len: usize) -> Self {
        let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
        order.sort_by_key(|i| std::cmp::Reverse(lengths[*i as usize]));
        let mut rows: Vec<Vec<u32>> = Vec::new();
        let mut by_room: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for i in order {
            let length = lengths[i as usize];
            let room = seq_len as u64;
            assert!(length <= room, "a sample of {length} in rows of {seq_len}");
            let tightest = by_room.range(length..).next().map(|(room, _)| *room);
            let (row, room) = match tightest {
                Some(room) => (take(&mut by_room, room), room),
                None => {
                    rows.push(Vec::new());
                    (rows.len() - 1, room)
                }
            };
            rows[row].push(i);
            by_room.entry(room - length).or_default().push(row);
        }
        rows.iter_mut().for_each(|row| row.sort_unstable());
        rows.sort_by_key(|row| row[0]);
        let mut starts = vec![0];
        let mut samples = Vec::with_capacity(lengths.len());
        for row in rows {
            samples.extend(row);
            starts.push(samples.len() as u32);
        }
        Rows::Whole { samples, starts }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            Rows::Cut { ends, seq_len } => {
                ends.last().map_or(0, |end| end.div_ceil(*seq_len as u64) as usize)
            }
            Rows::Whole { starts, .. } => starts.len() - 1,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces of row `i`; `length` gives the inputs of a sample.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize, length: impl Fn(usize) -> u64) -> Vec<Piece> {
        assert!(i < self.len(), "row {i} of {}", self.len());
        match self {
            Rows::Whole { samples, starts } => {
                let row = &samples[starts[i] as usize..starts[i + 1] as usize];
                let whole = |s: &u32| Piece { sample: *s as usize, inputs: 0..length(*s as usize) };
                row.iter().map(whole).collect()
            }
            Rows::Cut { ends, seq_len } => {
                let mut at = (i * seq_len) as u64;
                let stop = ends.last().map_or(0, |end| (at + *seq_len as u64).min(*end));
                let mut sample = ends.partition_point(|end| *end <= at);
                let mut pieces = Vec::new();
                while at < stop {
                    let start = ends[sample] - length(sample);
                    let end = ends[sample].min(stop);
                    pieces.push(Piece { sample, inputs: at - start..end - start });
                    at = end;
                    sample += 1;
                }
                pieces
            }
        }
    }
}

/// Takes one of the rows with this room.
fn take(by_room: &mut BTreeMap<u64, Vec<usize>>, room: u64) -> usize {
    let rows = by_room.get_mut(&room).expect("the room was just found");
    let row = rows.pop().expect("a room without rows is removed");
    if rows.is_empty() {
        by_room.remove(&room);
    }
    row
}
