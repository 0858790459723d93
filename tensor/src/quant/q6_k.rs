//! Q6_K, 210 bytes for 256 elements in 16 sub-blocks of 16: `low[128]` nibbles, `high[64]` bit pairs,
//! `s[16]` int8 scales, `d` f16 last. Each half of 128 elements has 64 bytes of `low` and 32 of
//! `high`: element 32·k + l of a half takes the nibble k / 2 of low[32·(k % 2) + l] and the bit pair k
//! of high[l]. Element = d · scale · (code − 32).

use super::{f16_at, put_f16, signed_max};

/// Decodes one block.
#[inline(always)]
pub fn decode(block: &[u8; 210], y: &mut [f32; 256]) {
    let d = f16_at(block, 208);
    for (i, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (half, k) = (i / 4, i % 4);
        let low = &block[64 * half + 32 * (k % 2)..][..32];
        let high = &block[128 + 32 * half..][..32];
        for (l, y) in y.iter_mut().enumerate() {
            let code = low[l] >> (k / 2 * 4) & 15 | (high[l] >> (2 * k) & 3) << 4;
            let scale = block[192 + 2 * i + l / 16] as i8;
            *y = d * f32::from(scale) * (f32::from(code) - 32.0);
        }
    }
}

/// Encodes one block.
pub fn encode(x: &[f32; 256], block: &mut [u8; 210]) {
    block.fill(0);
    let (x, _) = x.as_chunks::<16>();
    let fits: [(f32, [f32; 16]); 16] = std::array::from_fn(|j| fit_scale(&x[j]));
    let max_scale =
        fits.iter().fold(0.0, |max: f32, f| if f.0.abs() > max.abs() { f.0 } else { max });
    if max_scale.abs() < TINY {
        return;
    }
    let to_int8 = -128.0 / max_scale;
    let d = put_f16(block, 208, 1.0 / to_int8);
    for (j, (scale, codes)) in fits.into_iter().enumerate() {
        let scale = (to_int8 * scale).round_ties_even().min(127.0) as i8;
        block[192 + j] = scale as u8;
        let step = d * f32::from(scale);
        for (i, (&v, code)) in x[j].iter().zip(codes).enumerate() {
            // The code is rounded again, now by the scale that was stored.
            let code = if step == 0.0 { code } else { to_code(v / step) };
            let code = (code + 32.0) as u8;
            let (half, k, l) = (j / 8, j % 8 / 2, j % 2 * 16 + i);
            block[64 * half + 32 * (k % 2) + l] |= (code & 15) << (k / 2 * 4);
            block[128 + 32 * half + l] |= (code >> 4) << (2 * k);
        }
    }
}

/// Below this a sub-block counts as zero.
const TINY: f32 = 1e-15;

/// The nearest code, −32 to 31.
fn to_code(v: f32) -> f32 {
    v.round_ties_even().clamp(-32.0, 31.0)
}

/// The scale and codes with the least Σ x²·(x − scale·code)² among 19 stretches of the range; for
/// given codes the best scale is Σ w·x·q / Σ w·q², and it leaves Σ w·x² − (Σ w·x·q)² / Σ w·q².
fn fit_scale(x: &[f32; 16]) -> (f32, [f32; 16]) {
    let max = signed_max(x);
    if max.abs() < TINY {
        return (0.0, [0.0; 16]);
    }
    let try_codes = |stretch: f32| {
        let q = x.map(|v| to_code(-(32.0 + stretch) / max * v));
        let sum_xq: f32 = x.iter().zip(q).map(|(v, q)| v * v * v * q).sum();
        let sum_qq: f32 = x.iter().zip(q).map(|(v, q)| v * v * q * q).sum();
        (q, sum_xq, sum_qq)
    };
    let (mut best_codes, sum_xq, sum_qq) = try_codes(0.0);
    let mut best_scale = if sum_qq > 0.0 { sum_xq / sum_qq } else { 0.0 };
    let mut best_gain = best_scale * sum_xq;
    for i in (-9..=9).filter(|&i| i != 0) {
        let (codes, sum_xq, sum_qq) = try_codes(0.1 * i as f32);
        if sum_qq > 0.0 && sum_xq * sum_xq > best_gain * sum_qq {
            best_scale = sum_xq / sum_qq;
            best_gain = best_scale * sum_xq;
            best_codes = codes;
        }
    }
    (best_scale, best_codes)
}
