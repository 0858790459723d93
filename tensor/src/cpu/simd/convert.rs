//! Conversions between numbers of different kinds, as each instruction set has them.

use super::{Isa, Kind, LANES, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx2_i8, avx512_bf16, avx512_i8};
#[cfg(target_arch = "aarch64")]
use super::{neon, neon_i8};
use crate::DType;
use crate::quant::i8_row;
use half::bf16;

impl Isa {
    /// Rounds to BF16, two elements that follow each other to one pair.
    ///
    /// # Panics
    /// If `x` has not two elements for each pair, or no kernel takes pairs ([`Isa::pairs`]).
    #[track_caller]
    pub(crate) fn pair_up(self, x: &[f32], to: &mut [u32]) {
        assert!(x.len() == 2 * to.len(), "pair_up: {} elements", x.len());
        assert!(self.pairs(), "pair_up: no products of pairs");
        // SAFETY: an `Isa` exists only if the CPU has the set, `pairs` has looked for BF16; lengths were checked above.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            avx512_bf16::pair_up(x, to)
        };
    }

    /// Rounds to BF16, two rows that follow each other to one of pairs: `to[p][i][c]` is elements (2i, j) and
    /// (2i + 1, j) with j = p·W + c, of rows that are `step` apart.
    ///
    /// # Panics
    /// If a row is not there, a panel has more than 16 columns, or no kernel takes pairs ([`Isa::pairs`]).
    #[track_caller]
    pub(crate) fn pair_rows<const P: usize, const W: usize>(
        self,
        x: &[f32],
        step: usize,
        mut to: [&mut [[u32; W]]; P],
    ) {
        if self.has_rows(x.len(), step, &to) {
            // SAFETY: an `Isa` exists only if the CPU has the set; all that is read and written was checked.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                avx512_bf16::pair_rows(x, step, &mut to)
            };
        }
    }

    /// [`Isa::pair_rows`] of what is BF16.
    ///
    /// # Panics
    /// As there.
    #[track_caller]
    pub(crate) fn pair_rows_bf16<const P: usize, const W: usize>(
        self,
        x: &[bf16],
        step: usize,
        mut to: [&mut [[u32; W]]; P],
    ) {
        if self.has_rows(x.len(), step, &to) {
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                avx512_bf16::pair_rows_bf16(x, step, &mut to)
            };
        }
    }

    /// Whether there is a row for [`Isa::pair_rows`]; all are there then.
    #[track_caller]
    fn has_rows<const P: usize, const W: usize>(
        self,
        len: usize,
        step: usize,
        to: &[&mut [[u32; W]]; P],
    ) -> bool {
        let rows = to.first().map_or(0, |to| 2 * to.len());
        let Some(last) = rows.checked_sub(1) else { return false };
        assert!(len >= last * step + P * W, "pair_rows: {len} elements for {rows} rows");
        let same = to.iter().all(|p| 2 * p.len() == rows);
        assert!(W <= LANES && same && self.pairs(), "pair_rows: no products of such pairs");
        true
    }

    /// Decodes a panel of a block format to 16 f32 for each k, with the rounding of
    /// [`crate::quant::decode_row`].
    ///
    /// # Panics
    /// If lengths do not fit or `dtype` is no block format.
    #[track_caller]
    pub fn decode_panel(self, dtype: DType, panel: &[u8], out: &mut [f32]) {
        assert!(
            dtype.is_block() && panel.len() == out.len() / dtype.block_len() * dtype.block_bytes()
        );
        assert!(
            out.len().is_multiple_of(LANES * dtype.block_len()),
            "decode_panel: lengths differ"
        );
        match self.0 {
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if dtype.has_integer_codes() => unsafe {
                avx512_i8::decode_panel(dtype, panel, out)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 if dtype.has_integer_codes() => unsafe {
                avx2_i8::decode_panel(dtype, panel, out)
            },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm if dtype.has_integer_codes() => unsafe {
                neon_i8::decode_panel(dtype, panel, out)
            },
            _ => portable::decode_panel(dtype, panel, out),
        }
    }

    /// Decodes as many halves as `out` has elements.
    ///
    /// # Panics
    /// If there are fewer.
    #[track_caller]
    pub fn decode_halves(self, bytes: &[u8], out: &mut [f32]) {
        assert!(bytes.len() >= 2 * out.len(), "decode_halves: {} bytes", bytes.len());
        let done = match self.0 {
            Kind::Portable => 0,
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => unsafe { avx2::decode_halves(bytes, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm => unsafe { neon::decode_halves(bytes, out) },
        };
        portable::decode_halves(&bytes[2 * done..], &mut out[done..]);
    }

    /// Rounds `x` to halves, to nearest even.
    ///
    /// # Panics
    /// If `out` has no room for as many.
    #[track_caller]
    pub fn encode_halves(self, x: &[f32], out: &mut [u8]) {
        assert!(out.len() >= 2 * x.len(), "encode_halves: {} bytes", out.len());
        let done = match self.0 {
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => unsafe { avx2::encode_halves(x, out) },
            _ => 0,
        };
        portable::encode_halves(&x[done..], &mut out[2 * done..]);
    }

    /// Rounds activations to I8Row blocks.
    pub(crate) fn encode_i8(self, x: &[[f32; 32]], blocks: &mut [[u8; 48]]) {
        match self.0 {
            // SAFETY: an `Isa` exists only if the CPU has the set.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 | Kind::Avx512 => unsafe { avx2_i8::encode_i8(x, blocks) },
            _ => x.iter().zip(blocks).for_each(|(x, b)| i8_row::encode(x, b)),
        }
    }
}
