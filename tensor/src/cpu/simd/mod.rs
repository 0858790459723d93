//! Instruction sets: which one runs, chosen once, and the kernels each provides.
//!
//! An [`Isa`] value is proof that the CPU has the instructions, so the kernels behind it are safe to
//! call. Every set computes the same chains; only rounding of f32 multiply-adds differs between the
//! portable set (two roundings on x86) and the others (one).

use crate::DType;
pub use crate::cpu::panel::LANES;
use crate::cpu::panel::decode_floats;
use crate::cpu::pool::SharedMut;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_i8;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_i8;
mod convert;
mod format;
mod lines;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_i8;
mod portable;
mod versions;

pub(crate) use lines::{AHEAD, ask};
pub use lines::{Lines, prefetch};
pub(crate) use versions::versions;

/// A panel of 16 columns for a number of k.
#[derive(Clone, Copy)]
pub struct Panel<'a> {
    /// F32, F16 or BF16.
    pub dtype: DType,
    /// From the first element on.
    pub bytes: &'a [u8],
    /// Rows.
    pub k: usize,
    /// Elements from a row to the next: 16 if the rows are dense, which those of BF16 always are.
    pub step: usize,
    /// Whether an F32 stands for two BF16 of neighbouring k, whose products with the left operand's two
    /// are added together ([`Isa::dots`]).
    pub dots: bool,
    /// Bytes from what is read to what memory is asked for meanwhile, where memory is what limits.
    pub ahead: isize,
}

/// Rows of the left operand that one kernel call takes at most.
pub const TILE: usize = 8;

/// Sums of one kernel call: a row of the left operand by a panel's 16 outputs.
pub type Sums = [[f32; LANES]];

/// A product of many rows by one or two panels of floats, written where it belongs.
pub struct Strip<'a> {
    /// The left operand: element (i, k) of tile t, [`Isa::tile_rows`] rows each, lies at
    /// `t · tile + i · row + k · step`.
    pub left: &'a [f32],
    /// From a tile to the next.
    pub tile: usize,
    /// From a row to the next.
    pub row: usize,
    /// From a k to the next.
    pub step: usize,
    /// `[panel][k][16]`, from the first element to the last.
    pub panels: &'a [f32],
    /// From a panel to the next.
    pub stride: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Rows.
    pub rows: usize,
    /// Columns, at most 16 for each panel.
    pub width: usize,
    /// Whether sums start at zero, not at what the output holds.
    pub fresh: bool,
    /// As [`Panel::dots`].
    pub dots: bool,
    /// What memory is asked for meanwhile: the columns of the next strip.
    pub next: Option<Lines>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    I8mm,
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Isa(Kind);

/// Whether this CPU is Intel's.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    // `cpuid` takes microseconds in a virtual machine.
    static INTEL: OnceLock<bool> = OnceLock::new();
    *INTEL.get_or_init(|| {
        let maker = std::arch::x86_64::__cpuid(0);
        [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
    })
}

/// Whether this CPU has AVX-512's instructions for BF16.
#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

impl Isa {
    /// The set in use: the best there is, or the one named by `PUYU_CPU` if the CPU has it.
    pub fn detect() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let all = Self::available();
            let best = all[all.len() - 1];
            match std::env::var("PUYU_CPU") {
                Ok(name) => all.into_iter().find(|isa| isa.name() == name).unwrap_or(best),
                Err(_) => best,
            }
        })
    }

    /// All sets this CPU has, the portable one first, the best one last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 {
                all.push(Self(Kind::Avx2));
            }
            let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512vl");
            if avx2 && avx512 && has!("avx512dq") && has!("avx512vnni") {
                all.push(Self(Kind::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            use std::arch::is_aarch64_feature_detected as has;
            if has!("dotprod") {
                all.push(Self(Kind::Neon));
                all.extend(has!("i8mm").then_some(Self(Kind::I8mm)));
            }
        }
        all
    }

    /// Whether it has products of BF16 pairs, two products that are added to an F32, and twice as many a second as
    /// of floats. Intel's cores have half as many (Sapphire Rapids: 150 and 330 GFLOP/s).
    pub fn dots(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let dots = self.0 == Kind::Avx512 && has_bf16() && !is_intel();
        #[cfg(not(target_arch = "x86_64"))]
        let dots = false;
        dots
    }

    /// Whether training's products of BF16 take tiles of them, Intel's AMX; `PUYU_CPU=avx512` leaves them out.
    pub fn matrices(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            static CHOSEN: OnceLock<bool> = OnceLock::new();
            let chosen = || {
                let named = std::env::var("PUYU_CPU").is_ok_and(|name| name == "avx512");
                !named && is_intel() && amx::available() && has_bf16()
            };
            self.0 == Kind::Avx512 && *CHOSEN.get_or_init(chosen)
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Whether any kernel of it takes pairs of BF16.
    pub(crate) fn pairs(self) -> bool {
        self.dots() || self.matrices()
    }

    pub(crate) fn kind(self) -> Kind {
        self.0
    }

    /// The name `PUYU_CPU` takes.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => "i8mm",
        }
    }

    /// Adds to `sums[i][lane]`, k ascending, the products a(i, k) · panel(k, lane), with a(i, k) at
    /// `a[i * row + k * step]`.
    ///
    /// # Panics
    /// If there are more than [`TILE`] rows, an operand is too short, or the panel is of a block
    /// format.
    #[track_caller]
    pub fn tile(self, a: &[f32], [row, step]: [usize; 2], panel: Panel, sums: &mut Sums) {
        let Panel { dtype, bytes, k, step: panel_step, dots, .. } = panel;
        if k == 0 || sums.is_empty() {
            return;
        }
        assert!(!dots || dtype == DType::F32 && self.dots(), "tile: no products of pairs");
        if dtype == DType::BF16 && !k.is_multiple_of(2) {
            // The last k has no neighbour.
            self.tile(a, [row, step], Panel { k: k - 1, ..panel }, sums);
            let mut last = [0.0; LANES];
            decode_floats(dtype, &bytes[2 * LANES * (k - 1)..][..2 * LANES], &mut last);
            let (dtype, bytes) = (DType::F32, bytemuck::cast_slice(&last));
            let panel = Panel { dtype, bytes, k: 1, ..panel };
            return self.tile(&a[(k - 1) * step..], [row, step], panel, sums);
        }
        assert!(sums.len() <= TILE && dtype.is_float(), "tile: {} rows by {dtype}", sums.len());
        let span = ((k - 1) * panel_step + LANES) * dtype.block_bytes();
        assert!(bytes.len() >= span, "tile: panel too short");
        assert!(a.len() > (sums.len() - 1) * row + (k - 1) * step, "tile: left operand too short");
        match self.0 {
            Kind::Portable => portable::tile(a, [row, step], panel, sums),
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::tile(a, [row, step], panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::tile(a, [row, step], panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm => unsafe { neon::tile(a, [row, step], panel, sums) },
        }
    }

    /// [`Isa::tile`] for several panels, `stride` bytes apart: `sums[i * panels + p]` belongs to row i and
    /// panel p. With few rows a panel is few chains of dependent additions; several at once keep the CPU
    /// busy and the memory streaming.
    ///
    /// # Panics
    /// As [`Isa::tile`], and if `sums` is not whole rows.
    #[track_caller]
    pub fn rows(
        self,
        a: &[f32],
        at: [usize; 2],
        panel: Panel,
        [panels, stride]: [usize; 2],
        sums: &mut Sums,
    ) {
        let count = sums.len().checked_div(panels).unwrap_or(0);
        assert!(count <= TILE && count * panels == sums.len(), "rows: {} sums", sums.len());
        #[cfg(target_arch = "x86_64")]
        let done = self.several(a, at, panel, [panels, stride], sums);
        #[cfg(not(target_arch = "x86_64"))]
        let done = 0;
        for p in done..panels {
            let panel = Panel { bytes: &panel.bytes[p * stride..], ..panel };
            let mut column = [[0.0; LANES]; TILE];
            let column = &mut column[..count];
            column.iter_mut().zip(sums[p..].iter().step_by(panels)).for_each(|(c, s)| *c = *s);
            self.tile(a, at, panel, column);
            sums[p..].iter_mut().step_by(panels).zip(column).for_each(|(s, c)| *s = *c);
        }
    }

    /// The part of [`Isa::rows`] that AVX-512 does, four or two panels at a time; returns how many.
    #[cfg(target_arch = "x86_64")]
    #[track_caller]
    fn several(
        self,
        a: &[f32],
        [row, step]: [usize; 2],
        panel: Panel,
        [panels, stride]: [usize; 2],
        sums: &mut Sums,
    ) -> usize {
        let odd = panel.dtype == DType::BF16 && !panel.k.is_multiple_of(2);
        let even = panels / 2 * 2;
        if self.0 != Kind::Avx512 || panel.k == 0 || odd || even == 0 || sums.is_empty() {
            return 0;
        }
        let pairs = !panel.dots || panel.dtype == DType::F32 && self.dots();
        assert!(pairs && panel.dtype.is_float(), "rows: no such products of {}", panel.dtype);
        let rows = sums.len() / panels;
        assert!(a.len() > (rows - 1) * row + (panel.k - 1) * step, "rows: left operand too short");
        let span = ((panel.k - 1) * panel.step + LANES) * panel.dtype.block_bytes();
        assert!(panel.bytes.len() >= (even - 1) * stride + span, "rows: panels too short");
        let sizes = [rows, panels * LANES];
        // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
        unsafe { avx512::several(a, [row, step], panel, [even, stride], sums, sizes) };
        even
    }

    /// Adds to `sums[i][lane]` the product of row i of `x` (I8Row blocks, `x_row` bytes apart) and a
    /// panel of block format `dtype`: integers within a block, f32 over blocks ascending. With `ahead` memory is
    /// asked for what comes after, for a panel that no cache holds yet.
    ///
    /// # Panics
    /// If there are more than [`TILE`] rows, lengths do not fit, or `dtype` has no integer codes.
    #[track_caller]
    pub fn tile_i8(
        self,
        x: &[u8],
        x_row: usize,
        dtype: DType,
        panel: &[u8],
        ahead: bool,
        sums: &mut Sums,
    ) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = ahead;
        let whole = panel.len().is_multiple_of(LANES * dtype.block_bytes());
        assert!(dtype.has_integer_codes() && whole, "tile_i8: {} bytes of {dtype}", panel.len());
        let blocks = panel.len() / (LANES * dtype.block_bytes());
        let needed = DType::I8Row.bytes(blocks * dtype.block_len());
        if sums.is_empty() {
            return;
        }
        assert!(sums.len() <= TILE, "tile_i8: {} rows", sums.len());
        assert!(x.len() >= (sums.len() - 1) * x_row + needed, "tile_i8: left operand too short");
        match self.0 {
            Kind::Portable => portable::tile_i8(x, x_row, dtype, panel, sums),
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2_i8::tile_i8(x, x_row, dtype, panel, ahead, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512_i8::tile_i8(x, x_row, dtype, panel, ahead, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon_i8::tile_i8(x, x_row, dtype, panel, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::I8mm => unsafe { neon_i8::tile_i8mm(x, x_row, dtype, panel, sums) },
        }
    }

    /// Rows of a tile of [`Isa::strip`]: as many as leave registers for a row of the panels.
    pub fn tile_rows(self) -> usize {
        match self.0 {
            Kind::Portable => portable::STRIP_ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::STRIP_ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => avx512::STRIP_ROWS,
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm => neon::STRIP_ROWS,
        }
    }

    /// Panels that [`Isa::strip`] takes together, and the k for which they and a tile stay in the
    /// first-level cache.
    pub fn strip_panels(self) -> (usize, usize) {
        match self.0 {
            Kind::Portable => (1, 256),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => (1, 256),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => (2, 256),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm => (1, 256),
        }
    }

    /// Adds `s` to the rows of `y` that begin at `at` and are `y_row` apart, each sum one chain with k
    /// ascending.
    ///
    /// # Safety
    /// Nobody else uses these rows and columns of `y` meanwhile.
    ///
    /// # Panics
    /// If an operand is too short, or the panels are more than [`Isa::strip_panels`].
    #[track_caller]
    pub unsafe fn strip(self, s: &Strip, y: &SharedMut<f32>, at: usize, y_row: usize) {
        if s.rows == 0 || s.width == 0 {
            return;
        }
        let count = s.width.div_ceil(LANES);
        let span = (count - 1) * s.stride + s.k * LANES;
        let fits = s.panels.len() == span && count <= self.strip_panels().0;
        assert!(fits, "strip: {} columns, panels of {}", s.width, s.panels.len());
        assert!(!s.dots || self.pairs(), "strip: no products of pairs");
        let (tile, last) = ((s.rows - 1) / self.tile_rows(), (s.rows - 1) % self.tile_rows());
        let end = |tile: usize, row| tile * s.tile + row * s.row + s.k.saturating_sub(1) * s.step;
        let before = tile.checked_sub(1).map_or(0, |t| end(t, self.tile_rows() - 1));
        let enough = s.k == 0 || s.left.len() > end(tile, last).max(before);
        assert!(enough, "strip: left operand too short");
        let y = y.pointer(at..at + (s.rows - 1) * y_row + s.width);
        match self.0 {
            // SAFETY: all that is read and written lies within what was checked above, and the
            // outputs are this call's own by the caller's promise.
            Kind::Portable => unsafe { portable::strip(s, y, y_row) },
            // SAFETY: as above, and an `Isa` exists only if the CPU has the set.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::strip(s, y, y_row) },
            // SAFETY: as above, and `matrices` has looked for tiles.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 if s.dots && self.matrices() => unsafe { amx::strip(s, y, y_row) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::strip(s, y, y_row) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon | Kind::I8mm => unsafe { neon::strip(s, y, y_row) },
        }
    }

    /// Lays 16 rows side by side: `out[k * 16 + r] = rows[r][k]`.
    ///
    /// # Panics
    /// If a row is shorter than `out` needs.
    #[track_caller]
    pub fn transpose(self, rows: &[&[f32]; LANES], out: &mut [f32]) {
        let k = out.len() / LANES;
        assert!(rows.iter().all(|r| r.len() >= k), "transpose: rows shorter than {k}");
        match self.0 {
            // SAFETY: an `Isa` exists only if the CPU has the set; lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { avx512::transpose(rows, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::transpose(rows, out) },
            _ => portable::transpose(rows, 0, out),
        }
    }
}
