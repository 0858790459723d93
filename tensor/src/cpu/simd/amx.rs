//! Intel's AMX: a register holds 16 rows of 64 bytes, and one instruction multiplies 16 rows of 16 pairs of BF16 by 16
//! pairs of 16 columns. Rust has no stable functions for it yet, so its instructions are written out.
//!
//! Sums of even and of odd elements are added up apart within 16 pairs, so the bits are not those of `vdpbf16ps`: only
//! training uses it, whose products of BF16 are all made here then.

use super::{LANES, Strip};
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Rows of a tile, and pairs of one of its rows.
const SIDE: usize = 16;

/// Pairs of a strip at most.
const LONGEST: usize = 256;

/// A tile's worth of floats, or of pairs.
type Square = [[f32; SIDE]; SIDE];

/// What `ldtilecfg` reads: every register is used whole.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        row_bytes[register] = (4 * SIDE) as u16;
        rows[register] = SIDE as u8;
        register += 1;
    }
    Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

/// Whether the CPU has tiles of BF16, and the system lets this process use them.
pub fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // Intel's manual, volume 2A, CPUID: leaf 7 has AMX-BF16 and AMX-TILE as bits 22 and 24 of edx; leaf 1 says
        // in bit 27 of ecx that the system saves extended registers, and so that XGETBV may be asked for them.
        const NEEDED: u32 = 1 << 22 | 1 << 24;
        let has_leaf = __cpuid(0).eax >= 7;
        has_leaf
            && __cpuid_count(7, 0).edx & NEEDED == NEEDED
            && __cpuid(1).ecx >> 27 & 1 == 1
            && saved()
            && allowed()
    })
}

/// Whether the system saves tiles and their configuration, bits 17 and 18 of XCR0.
fn saved() -> bool {
    let low: u32;
    // SAFETY: the CPU was asked for XGETBV, which reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack)) };
    low >> 17 & 3 == 3
}

/// Asks Linux for the larger state of threads: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn allowed() -> bool {
    const ARCH_PRCTL: isize = 158;
    let mut answer = ARCH_PRCTL;
    // SAFETY: this call changes nothing but what the process may use.
    unsafe {
        asm!(
            "syscall",
            inout("rax") answer,
            in("rdi") 0x1023,
            in("rsi") 18,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Others have not been tried.
#[cfg(not(target_os = "linux"))]
fn allowed() -> bool {
    false
}

/// See [`super::Isa::strip`]: of pairs whose rows lie along k.
///
/// # Safety
/// [`available`], lengths fit as `Isa::strip` checks, and nobody else uses the outputs.
///
/// # Panics
/// If the left operand lies otherwise, or k is longer than [`LONGEST`].
pub unsafe fn strip(s: &Strip, y: *mut f32, y_row: usize) {
    assert!(s.step == 1 && s.k <= LONGEST, "strip: pairs {} apart, {} of them", s.step, s.k);
    let panels = s.width.div_ceil(LANES);
    // SAFETY: the caller promises that there are tiles; the configuration is one that the manual allows.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack)) };
    for p in (0..panels).step_by(2) {
        // Where there is no second panel or tile of rows, the first stands for it, and its sums go nowhere.
        let b = [p, (p + 1).min(panels - 1)].map(|p| &s.panels[p * s.stride..][..s.k * LANES]);
        for row in (0..s.rows).step_by(2 * SIDE) {
            if let Some(next) = s.next {
                next.ask(row / (2 * SIDE), s.rows.div_ceil(2 * SIDE));
            }
            // SAFETY: the caller's promises are passed on.
            unsafe { four(s, row, p, b, y, y_row) };
        }
    }
    // SAFETY: as above. Without tiles in use, a thread is saved sooner.
    unsafe { asm!("tilerelease", options(nostack)) };
}

/// Room for a tile's rows, where there are not as many.
fn no_rows() -> [[f32; LONGEST]; SIDE] {
    [[0.0; LONGEST]; SIDE]
}

/// Sums of two tiles of rows by two panels.
///
/// # Safety
/// As for [`strip`].
unsafe fn four(s: &Strip, row: usize, panel: usize, b: [&[f32]; 2], y: *mut f32, y_row: usize) {
    let second = if row + SIDE < s.rows { row + SIDE } else { row };
    let mut few = None;
    let mut a: [(*const f32, usize); 2] = [(std::ptr::null(), 0); 2];
    for (first, a) in [row, second].into_iter().zip(&mut a) {
        let start =
            first / super::avx512::STRIP_ROWS * s.tile + first % super::avx512::STRIP_ROWS * s.row;
        *a = (s.left.get(start..).unwrap_or_default().as_ptr(), s.row);
        let count = s.rows - first;
        if count < SIDE {
            let few = few.get_or_insert_with(no_rows);
            for (i, to) in few[..count].iter_mut().enumerate() {
                let from = s.left.get(start + i * s.row..).unwrap_or_default();
                to[..s.k].copy_from_slice(&from[..s.k]);
            }
            *a = (few.as_ptr().cast(), LONGEST);
        }
    }
    // Sums that do not fill a tile, or are of no use, lie here.
    let mut apart: Option<[[Square; 2]; 2]> = None;
    let valid = |i: usize, j: usize| {
        let rows = if i == 1 && second == row { 0 } else { s.rows - [row, second][i] };
        let columns = s.width.saturating_sub((panel + j) * LANES);
        [rows.min(SIDE), columns.min(LANES)]
    };
    let out = |i: usize, j: usize| y.wrapping_add([row, second][i] * y_row + (panel + j) * LANES);
    let whole = |at: usize| valid(at / 2, at % 2) == [SIDE, LANES];
    for at in (0..4).filter(|&at| !whole(at)) {
        let (i, j) = (at / 2, at % 2);
        let [rows, columns] = valid(i, j);
        let square = &mut apart.get_or_insert_default()[i][j];
        for (r, to) in square[..rows].iter_mut().enumerate().filter(|_| !s.fresh) {
            // SAFETY: these columns of the row are this call's own.
            unsafe {
                out(i, j).add(r * y_row).copy_to_nonoverlapping(to.as_mut_ptr(), columns);
            }
        }
    }
    let squares = apart.as_mut().map_or(std::ptr::null_mut(), |squares| squares.as_mut_ptr());
    let to: [(*mut f32, usize); 4] = std::array::from_fn(|at| match whole(at) {
        true => (out(at / 2, at % 2), y_row),
        false => (squares.cast::<Square>().wrapping_add(at).cast(), SIDE),
    });
    // SAFETY: every pointer is at 16 rows of 64 bytes for each block of k.
    unsafe {
        load(to, s.fresh);
        multiply(a, b.map(<[f32]>::as_ptr), s.k / SIDE);
        let (done, rest) = (s.k / SIDE * SIDE, s.k % SIDE);
        if rest > 0 {
            let mut ends: [Square; 4] = Default::default();
            let [a0, a1, b0, b1] = &mut ends;
            for ((from, step), to) in a.into_iter().zip([&mut *a0, &mut *a1]) {
                for (i, to) in to.iter_mut().enumerate() {
                    from.add(i * step + done).copy_to_nonoverlapping(to.as_mut_ptr(), rest);
                }
            }
            for (from, to) in b.into_iter().zip([&mut *b0, &mut *b1]) {
                to.as_flattened_mut()[..rest * LANES].copy_from_slice(&from[done * LANES..]);
            }
            let [a, b] = [[a0, a1], [b0, b1]].map(|x| x.map(|x| x.as_ptr().cast::<f32>()));
            multiply(a.map(|a| (a, SIDE)), b, 1);
        }
        store(to);
    }
    for (at, square) in apart.iter().flatten().flatten().enumerate().filter(|(at, _)| !whole(*at)) {
        let (i, j) = (at / 2, at % 2);
        let [rows, columns] = valid(i, j);
        for (r, from) in square[..rows].iter().enumerate() {
            // SAFETY: as above.
            unsafe {
                let to = out(i, j).add(r * y_row);
                to.copy_from_nonoverlapping(from.as_ptr(), columns);
            }
        }
    }
}

/// Sums as they are, or zeros.
///
/// # Safety
/// Tiles are configured, and each pointer is at 16 rows, so many floats apart.
unsafe fn load(from: [(*mut f32, usize); 4], fresh: bool) {
    // SAFETY: the caller's promises.
    unsafe {
        if fresh {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3");
            return;
        }
        let [(a, a_row), (b, b_row), (c, c_row), (d, d_row)] = from.map(|(at, row)| (at, 4 * row));
        asm!("tileloadd tmm0, [{}+{}*1]", in(reg) a, in(reg) a_row, options(nostack));
        asm!("tileloadd tmm1, [{}+{}*1]", in(reg) b, in(reg) b_row, options(nostack));
        asm!("tileloadd tmm2, [{}+{}*1]", in(reg) c, in(reg) c_row, options(nostack));
        asm!("tileloadd tmm3, [{}+{}*1]", in(reg) d, in(reg) d_row, options(nostack));
    }
}

/// Writes the sums.
///
/// # Safety
/// As for [`load`].
unsafe fn store(to: [(*mut f32, usize); 4]) {
    let [(a, a_row), (b, b_row), (c, c_row), (d, d_row)] = to.map(|(at, row)| (at, 4 * row));
    // SAFETY: the caller's promises.
    unsafe {
        asm!("tilestored [{}+{}*1], tmm0", in(reg) a, in(reg) a_row, options(nostack));
        asm!("tilestored [{}+{}*1], tmm1", in(reg) b, in(reg) b_row, options(nostack));
        asm!("tilestored [{}+{}*1], tmm2", in(reg) c, in(reg) c_row, options(nostack));
        asm!("tilestored [{}+{}*1], tmm3", in(reg) d, in(reg) d_row, options(nostack));
    }
}

/// Adds products of `blocks` blocks of 16 pairs to the sums: two tiles whose rows are so many pairs apart, by two
/// panels.
///
/// # Safety
/// Tiles are configured, and the operands have so many blocks.
unsafe fn multiply(
    [(a, row), (other, other_row)]: [(*const f32, usize); 2],
    b: [*const f32; 2],
    blocks: usize,
) {
    if blocks == 0 {
        return;
    }
    // SAFETY: the caller's promises.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a}+{row}*1]",
            "tileloadd tmm6, [{b}+{line}*1]",
            "tileloadd tmm7, [{c}+{line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{other}+{other_row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {other}, 64",
            "add {b}, 1024",
            "add {c}, 1024",
            "dec {blocks}",
            "jnz 2b",
            a = inout(reg) a => _,
            row = in(reg) 4 * row,
            other = inout(reg) other => _,
            other_row = in(reg) 4 * other_row,
            b = inout(reg) b[0] => _,
            c = inout(reg) b[1] => _,
            line = in(reg) 64usize,
            blocks = inout(reg) blocks => _,
            options(nostack),
        );
    }
}

/// Operations of a round of [`rounds`].
pub const OPERATIONS: usize = 4 * 2 * SIDE * SIDE * 2 * SIDE;

/// `n` rounds of four independent products, for [`crate::cpu::limits`].
///
/// # Safety
/// [`available`].
pub unsafe fn rounds(n: u64) -> f32 {
    let operand = [[0.0f32; SIDE]; SIDE];
    let (at, line) = (operand.as_ptr(), 64usize);
    // SAFETY: the caller promises that there are tiles.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack));
        load([(std::ptr::null_mut(), 0); 4], true);
        asm!("tileloadd tmm4, [{}+{}*1]", in(reg) at, in(reg) line, options(nostack));
        asm!("tileloadd tmm6, [{}+{}*1]", in(reg) at, in(reg) line, options(nostack));
        asm!(
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tdpbf16ps tmm3, tmm4, tmm6",
            "dec {n}",
            "jnz 2b",
            n = inout(reg) n => _,
            options(nostack),
        );
        asm!("tilerelease", options(nostack));
    }
    operand[0][0]
}
