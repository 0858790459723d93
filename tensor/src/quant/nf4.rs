//! NF4, 4-bit codes of normally distributed weights (Dettmers et al. 2023, arXiv 2305.14314, section 3
//! and appendix E): 64 elements share the scale absmax, element = absmax · level\[code\].
//!
//! Two formats differ in how absmax is kept. `Nf4` has it in f32 (36 bytes, 4.5 bits a weight).
//! `Nf4Dq` has it in eight bits (33 bytes, 4.125 bits): what double quantization saves, without its
//! second constants, so that a row of weights is still whole by itself: one of 255 values in equal
//! ratios. The codes are chosen for the rounded scale (at most 3.5 % off).

use super::pack_nibbles;

/// The quantiles of a normal distribution, scaled to −1 to 1, zero among them (appendix E).
#[allow(clippy::excessive_precision, reason = "the numbers as they were published")]
const LEVELS: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];

/// The values of 8-bit scales: zero, then ten to each power of two, from 2⁻¹⁵·⁹ to 2⁹·⁵.
const SCALES: [f32; 256] = {
    /// 2^0.1
    const STEP: f64 = 1.071_773_462_536_293_1;
    let mut scales = [0.0; 256];
    let (mut i, mut value) = (1, STEP / 65_536.0);
    while i < scales.len() {
        scales[i] = value as f32;
        value *= STEP;
        i += 1;
    }
    scales
};

/// The 8-bit scale nearest to `x`, which is not negative; the largest for what is above it.
fn scale_code(x: f32) -> u8 {
    let above = SCALES.partition_point(|&s| s < x).clamp(1, SCALES.len() - 1);
    let nearer_below = x - SCALES[above - 1] < SCALES[above] - x;
    (above - usize::from(nearer_below)) as u8
}

#[inline(always)]
fn decode_codes(scale: f32, codes: &[u8], y: &mut [f32; 64]) {
    let (codes, _) = codes.as_chunks::<16>();
    let (halves, _) = y.as_chunks_mut::<32>();
    for (y, codes) in halves.iter_mut().zip(codes) {
        for (j, &q) in codes.iter().enumerate() {
            y[j] = scale * LEVELS[usize::from(q & 15)];
            y[j + 16] = scale * LEVELS[usize::from(q >> 4)];
        }
    }
}

fn encode_codes(scale: f32, x: &[f32; 64], out: &mut [u8]) {
    let inverse = super::inverse(scale);
    let (halves, _) = x.as_chunks::<32>();
    for (x, out) in halves.iter().zip(out.chunks_exact_mut(16)) {
        pack_nibbles(&x.map(|v| nearest(v * inverse)), out);
    }
}

/// The code of the level nearest to `x`: how many midpoints between levels lie below it.
fn nearest(x: f32) -> u8 {
    LEVELS.windows(2).filter(|w| x > (w[0] + w[1]) / 2.0).count() as u8
}

fn absmax(x: &[f32; 64]) -> f32 {
    x.iter().fold(0.0, |max: f32, v| max.max(v.abs()))
}

/// Decodes one block with an f32 scale.
#[inline(always)]
pub fn decode(block: &[u8; 36], y: &mut [f32; 64]) {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    decode_codes(scale, &block[4..], y);
}

/// Encodes one block with an f32 scale.
pub fn encode(x: &[f32; 64], block: &mut [u8; 36]) {
    let scale = absmax(x);
    block[..4].copy_from_slice(&scale.to_le_bytes());
    encode_codes(scale, x, &mut block[4..]);
}

/// Decodes one block with an 8-bit scale.
#[inline(always)]
pub fn decode_dq(block: &[u8; 33], y: &mut [f32; 64]) {
    decode_codes(SCALES[usize::from(block[0])], &block[1..], y);
}

/// Encodes one block with an 8-bit scale.
pub fn encode_dq(x: &[f32; 64], block: &mut [u8; 33]) {
    block[0] = scale_code(absmax(x));
    encode_codes(SCALES[usize::from(block[0])], x, &mut block[1..]);
}
