//! Causal grouped-query attention over a block-paged KV cache, for a ragged batch: each sequence has a
//! table of blocks of 64 tokens, some new query tokens, and a length.
//!
//! A key block lies transposed, `[G, D, 64]`, a value block as `[G, 64, D]`: scores are then vectors
//! over keys (see `cpu/attention.rs`). InternLM-1 caches keys before rotation and turns them by each
//! query's base; `key_rope` says so.

use super::rope::{Rope, angles, rotate, turns};
use crate::cpu::attention::{BLOCK, Blocks, Queries, SPAN, attend, finish, span};
use crate::cpu::pool::{SharedMut, par, par_each, threads};
use crate::op::{Arg, Case, Entry, Grad, Op, Outs, Work};
use crate::{DType, Spec, Tensor, View, ViewMut, apply1, quant};

/// The catalog's line.
pub(super) const ENTRY: Entry = Entry {
    name: "paged_attention",
    cases: |[a, g, d, _]| {
        let d = 2 * d;
        let case = |dtype: DType, key_rope: Option<Rope>| {
            let a = (a % 60 + 1) as u32;
            let x = [
                Arg::f32([a as usize + 2, g * 2, d]),
                Arg::of([4, g, d, BLOCK], dtype),
                Arg::of([4, g, BLOCK, d], dtype),
                Arg { spec: Spec::new([2, 2], DType::U32), ..Arg::exact([3, 1, 0, 2]) },
                Arg::exact([0, a, a + 2]),
                Arg::exact([a + 61, 9]),
                Arg::exact((0..a + 2).map(|i| 100 + i / 2)),
                Arg::f32([a as usize + 2, d]),
            ];
            Case::new(PagedAttention { scale: 0.3, key_rope }, x)
        };
        // Tokens so far into a sequence that its spans of keys are worked on apart.
        let far = (600 + a % 40) as u32;
        let blocks = (0..22).map(|i| (7 * i + 3) % 11);
        let long = [
            Arg::f32([3, g * 2, d]),
            Arg::of([11, g, d, BLOCK], DType::F16),
            Arg::of([11, g, BLOCK, d], DType::F16),
            Arg { spec: Spec::new([2, 11], DType::U32), ..Arg::exact(blocks) },
            Arg::exact([0, 2, 3]),
            Arg::exact([far, 513]),
            Arg::exact([far - 1, far, 513]),
            Arg::f32([3, d]),
        ];
        use super::rope::Scaling::Dynamic;
        let scaling = Dynamic { factor: 1.0, max_positions: 100 };
        vec![
            case(DType::F32, None),
            case(DType::F16, None),
            case(DType::BF16, None),
            case(DType::F32, Some(Rope { base: 1e4, scaling })),
            Case::new(PagedAttention { scale: 0.3, key_rope: None }, long),
        ]
    },
    bad: || {
        let x = [
            Arg::f32([1, 3, 8]),
            Arg::f32([4, 2, 8, BLOCK]),
            Arg::f32([4, 2, BLOCK, 8]),
            Arg { spec: Spec::new([1, 1], DType::U32), ..Arg::exact([0]) },
            Arg::exact([0, 1]),
            Arg::exact([1]),
            Arg::exact([1]),
            Arg::f32([1, 8]),
        ];
        vec![Case::new(PagedAttention { scale: 1.0, key_rope: None }, x)]
    },
};

/// q `[T, H, D]`, key blocks `[N, G, D, 64]`, value blocks `[N, G, 64, D]`, block table `[S, B]`,
/// cumulative query lengths `[S + 1]`, sequence lengths with the new tokens `[S]`, rope lengths `[T]`,
/// angles `[T, D]` by which q is turned first -> y `[T, H, D]`
#[derive(Debug)]
pub struct PagedAttention {
    scale: f32,
    key_rope: Option<Rope>,
}

/// Query tokens that one job handles.
const TILE: usize = 32;

/// Jobs for each thread from which on a job's spans stay together.
const JOBS: usize = 4;

struct Job {
    sequence: usize,
    tokens: std::ops::Range<usize>,
    group: usize,
}

impl PagedAttention {
    /// Jobs: tiles of query tokens with the same frequencies, times key heads.
    fn jobs(&self, ends: &[u32], lengths: &[u32], groups: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (sequence, w) in ends.windows(2).enumerate() {
            let (mut first, end) = (w[0] as usize, w[1] as usize);
            while first < end {
                let same = |&t: &usize| {
                    self.key_rope.is_none_or(|rope| rope.same(lengths[first], lengths[t]))
                };
                let last = (first..end.min(first + TILE)).take_while(same).count() + first;
                jobs.extend((0..groups).map(|group| Job { sequence, tokens: first..last, group }));
                first = last;
            }
        }
        jobs
    }
}

impl Op for PagedAttention {
    fn name(&self) -> &'static str {
        "paged_attention"
    }
    fn infer(&self, x: &[Spec]) -> Outs {
        let [q, k, v, table, ends, lengths, rope_lengths, angles] = x else { panic!("8 inputs") };
        let sequences = table.shape.first().copied().unwrap_or(0);
        let kv = |s: &Spec, last: [usize; 2]| {
            s.rank() == 4 && s.shape[2..] == last && s.dtype.is_float() && s.shape[0] == k.shape[0]
        };
        let d = q.last();
        let counts = |s: &Spec, n: usize| s.dtype == DType::U32 && *s.shape == [n];
        let fits = turns(q, angles)
            && kv(k, [d, BLOCK])
            && kv(v, [BLOCK, d])
            && k.shape[1] == v.shape[1]
            && q.shape[1].is_multiple_of(k.shape[1].max(1))
            && table.rank() == 2
            && table.dtype == DType::U32
            && counts(ends, sequences + 1)
            && counts(lengths, sequences)
            && counts(rope_lengths, q.shape[0]);
        assert!(
            fits,
            "paged_attention: q {q}, key blocks {k}, value blocks {v}, table {table}, cumulative \
             {ends}, lengths {lengths}, rope lengths {rope_lengths}, angles {angles}"
        );
        Spec::f32(q.shape).into()
    }
    fn cpu(&self, x: &[View], y: &mut [ViewMut]) {
        let [_, h, d] = *x[0].spec.shape else { unreachable!("infer checked the rank") };
        let groups = x[1].spec.shape[1];
        let repeat = h / groups;
        let (q, angles) = (x[0].data::<f32>(), x[7]);
        let (table, ends) = (x[3].data::<u32>(), x[4].data::<u32>());
        let (lengths, rope_lengths) = (x[5].data::<u32>(), x[6].data::<u32>());
        let blocks_per_sequence = x[3].spec.shape[1];
        let jobs = self.jobs(ends, rope_lengths, groups);
        let out = SharedMut::new(y[0].data::<f32>());
        let at = |job: &Job, row: usize| {
            (job.tokens.start + row / repeat) * h + job.group * repeat + row % repeat
        };
        let sees = |job: &Job, row: usize| {
            let before = ends[job.sequence + 1] as usize - (job.tokens.start + row / repeat);
            lengths[job.sequence] as usize + 1 - before
        };
        let queries = |job: &Job| -> Queries {
            let rows = job.tokens.len() * repeat;
            let mut turned = vec![0.0; rows * d];
            for (row, to) in turned.chunks_exact_mut(d.max(1)).enumerate() {
                let at = at(job, row);
                rotate(&q[at * d..][..d], angles.row(at / h), 1.0, to);
            }
            turned.iter_mut().for_each(|v| *v *= self.scale);
            Queries { q: turned, d, sees: (0..rows).map(|row| sees(job, row)).collect() }
        };
        let cached = |job: &Job| Cached {
            k: x[1],
            v: x[2],
            table: &table[job.sequence * blocks_per_sequence..][..blocks_per_sequence],
            group: job.group,
            frequencies: self.key_rope.map(|r| r.frequencies(d, rope_lengths[job.tokens.start])),
        };
        let write = |job: &Job, row: usize, o: &[f32]| {
            let at = at(job, row) * d;
            // SAFETY: each job writes the rows of its own tokens and heads.
            unsafe { out.slice(at..at + d) }.copy_from_slice(o);
        };
        // A few tokens far into their sequences: each span of keys is a piece of work of its own.
        let spans = |job: &Job| sees(job, job.tokens.len() * repeat - 1).div_ceil(SPAN);
        let pieces: usize = jobs.iter().map(spans).sum();
        if jobs.len() >= JOBS * threads() || pieces == jobs.len() {
            return par(jobs.len(), |i| {
                let job = &jobs[i];
                attend(&queries(job), &cached(job), |row, o, _| write(job, row, o));
            });
        }
        let pieces = jobs.iter().flat_map(|job| (0..spans(job)).map(move |span| (job, span)));
        let mut pieces: Vec<_> = pieces.map(|(job, span)| (job, span, None)).collect();
        par_each(&mut pieces, |(job, index, state)| {
            *state = Some(span(&queries(job), *index, &cached(job)));
        });
        let mut states = pieces.into_iter().filter_map(|(.., state)| state);
        for job in &jobs {
            let all = states.by_ref().take(spans(job));
            finish(d, |row| sees(job, row), all, |row, o, _| write(job, row, o));
        }
    }
    fn work(&self, x: &[View], y: &[Spec]) -> Work {
        let [_, h, d] = *x[0].spec.shape else { return Work::default() };
        let (ends, lengths) = (x[4].data::<u32>(), x[5].data::<u32>());
        let new = ends.windows(2).map(|e| e[1].saturating_sub(e[0]) as usize);
        // The last of n new tokens sees all keys, the first n - 1 fewer.
        let seen = |(n, &all): (usize, &u32)| {
            (n * all as usize).saturating_sub(n * n.saturating_sub(1) / 2)
        };
        let pairs: usize = new.zip(lengths).map(seen).sum();
        let keys: usize = lengths.iter().map(|n| *n as usize).sum();
        let cache = 2 * keys * x[1].spec.shape[1] * d * x[1].spec.dtype.block_bytes();
        let bytes = cache + 2 * y[0].bytes();
        Work { bytes, operations: 4 * pairs * h * d, ..Work::default() }
    }
    fn grad(&self, _: &[Tensor], _: &[Tensor], _: &[Option<Tensor>]) -> Grad {
        Grad::Inputs(vec![None; 8])
    }
}

/// A sequence's keys and values of one head.
struct Cached<'a> {
    k: View<'a>,
    v: View<'a>,
    /// Block ids.
    table: &'a [u32],
    group: usize,
    /// Of keys that are rotated as they are read.
    frequencies: Option<Vec<f32>>,
}

impl Blocks for Cached<'_> {
    fn fill(&self, index: usize, k: &mut [f32], v: &mut [f32]) {
        let at = self.table[index] as usize * self.k.spec.shape[1] + self.group;
        decode(&self.k, at, k);
        decode(&self.v, at, v);
        if let Some(frequencies) = &self.frequencies {
            rotate_block(k, frequencies, (index * BLOCK) as u32);
        }
    }

    fn in_place(&self, index: usize) -> Option<(DType, [&[u8]; 2])> {
        let dtype = self.k.spec.dtype;
        let readable = matches!(dtype, DType::F32 | DType::F16) && self.v.spec.dtype == dtype;
        if !readable || self.frequencies.is_some() {
            return None;
        }
        let at = self.table[index] as usize * self.k.spec.shape[1] + self.group;
        let bytes = dtype.bytes(BLOCK * self.v.spec.last());
        Some((dtype, [self.k, self.v].map(|view| &view.bytes[at * bytes..(at + 1) * bytes])))
    }
}

/// The values of one head's block, as f32.
fn decode(x: &View, index: usize, out: &mut [f32]) {
    let bytes = x.spec.dtype.bytes(out.len());
    quant::decode_row(x.spec.dtype, &x.bytes[index * bytes..(index + 1) * bytes], out);
}

/// Turns the keys of a block `[D][64]` whose first token has position `first`.
fn rotate_block(k: &mut [f32], frequencies: &[f32], first: u32) {
    let half = frequencies.len();
    let (low, high) = k.split_at_mut(half * BLOCK);
    let mut turn = vec![0.0; 2 * half];
    for i in 0..BLOCK {
        angles(frequencies, first + i as u32, &mut turn);
        let (cos, sin) = turn.split_at(half);
        for j in 0..half {
            let (a, b) = (&mut low[j * BLOCK + i], &mut high[j * BLOCK + i]);
            (*a, *b) = (*a * cos[j] - *b * sin[j], *b * cos[j] + *a * sin[j]);
        }
    }
}

/// The inputs of [`Tensor::paged_attention`] that belong to the step, not to a layer.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// Block ids by sequence, `[S, B]`.
    pub table: &'a Tensor,
    /// Cumulative query lengths, `[S + 1]`.
    pub cumulative: &'a Tensor,
    /// Sequence lengths, new tokens included, `[S]`.
    pub lengths: &'a Tensor,
    /// The length each query's rope base is derived from, `[T]`.
    pub rope_lengths: &'a Tensor,
    /// The angles by which queries are turned, `[T, D]` ([`Rope::angles`]).
    pub angles: &'a Tensor,
}

impl Tensor {
    /// Causal attention of new tokens `self [T, H, D]`, before rotation, over cached key blocks `[N, G, D, 64]` and value
    /// blocks `[N, G, 64, D]`. `key_rope`: the cache holds keys before rotation.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[track_caller]
    #[must_use]
    pub fn paged_attention(
        &self,
        k: &Self,
        v: &Self,
        pages: Pages,
        scale: f32,
        key_rope: Option<Rope>,
    ) -> Self {
        let Pages { table, cumulative, lengths, rope_lengths, angles } = pages;
        let x = [self, k, v, table, cumulative, lengths, rope_lengths, angles];
        apply1(PagedAttention { scale, key_rope }, &x)
    }
}
