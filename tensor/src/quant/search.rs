//! What the K formats share: the search for a sub-block's scale and minimum, and the packing of
//! eight 6-bit scales and minima into twelve bytes.
//!
//! A sub-block's best scale is not range / levels: stretching the range a little and solving a
//! weighted least-squares problem for the rounded codes gives a smaller error (the method of ggml's
//! K-quants, ikawrakow, llama.cpp pull request 1684).

use super::put_f16;

/// The levels of a K format and the stretches of the range that its search tries.
pub struct Levels {
    /// The largest code.
    pub max: f32,
    /// The first stretch, in codes.
    pub first: f32,
    /// How many stretches follow it, each 0.1 codes wider.
    pub steps: usize,
}

/// Finds scales and minima for 256 elements, stores `d`, `dmin` and the packed pairs into the first
/// 16 bytes of `block`, and returns the codes.
pub fn encode_sub_blocks(x: &[f32; 256], levels: &Levels, block: &mut [u8]) -> [u8; 256] {
    let mut codes = [0; 256];
    let mut fits = [(0.0, 0.0); 8];
    let (x, _) = x.as_chunks::<32>();
    for ((x, codes), fit) in x.iter().zip(codes.as_chunks_mut().0).zip(&mut fits) {
        *fit = fit_scale_and_min(x, levels, codes);
    }
    let max_scale = fits.iter().fold(0.0, |max: f32, f| max.max(f.0));
    let max_min = fits.iter().fold(0.0, |max: f32, f| max.max(f.1));
    let to_six_bits = |v: f32, max: f32| {
        if max > 0.0 { (63.0 / max * v).round_ties_even().min(63.0) as u8 } else { 0 }
    };
    let pairs = fits.map(|(scale, min)| [to_six_bits(scale, max_scale), to_six_bits(min, max_min)]);
    let d = [put_f16(block, 0, max_scale / 63.0), put_f16(block, 2, max_min / 63.0)];
    pack_pairs(&pairs, &mut block[4..16]);
    // The codes are rounded again, now by the scales that were stored.
    for ((x, codes), [scale, min]) in x.iter().zip(codes.as_chunks_mut::<32>().0).zip(pairs) {
        let (scale, min) = (d[0] * f32::from(scale), d[1] * f32::from(min));
        if scale != 0.0 {
            *codes = x.map(|v| ((v + min) / scale).round_ties_even().clamp(0.0, levels.max) as u8);
        }
    }
    codes
}

/// The scale and negated minimum (both at least 0) that approximate `x` by scale · code − min, with
/// errors weighted by rms(x) + |x|; writes the codes.
fn fit_scale_and_min(x: &[f32; 32], levels: &Levels, codes: &mut [u8; 32]) -> (f32, f32) {
    let rms = (x.iter().map(|v| v * v).sum::<f32>() / 32.0).sqrt();
    let weights = x.map(|v| rms + v.abs());
    let (low, high) = super::min_max(x);
    let low = low.min(0.0);
    if high <= low {
        *codes = [0; 32];
        return (0.0, -low);
    }
    let round = |stretch: f32, low: f32| {
        let scale = (stretch + levels.max) / (high - low);
        x.map(|v| (scale * (v - low)).round_ties_even().clamp(0.0, levels.max))
    };
    let error = |q: &[f32; 32], scale: f32, min: f32| -> f32 {
        (0..32).map(|i| weights[i] * (scale * q[i] + min - x[i]).powi(2)).sum()
    };
    let sum_w: f32 = weights.iter().sum();
    let sum_x: f32 = (0..32).map(|i| weights[i] * x[i]).sum();

    let mut best = ((high - low) / levels.max, low);
    let mut best_codes = round(0.0, low);
    let mut best_error = error(&best_codes, best.0, best.1);
    for step in 0..=levels.steps {
        // A better minimum found on the way is where the next range begins.
        let q = round(levels.first + 0.1 * step as f32, best.1);
        let sum_q: f32 = (0..32).map(|i| weights[i] * q[i]).sum();
        let sum_qq: f32 = (0..32).map(|i| weights[i] * q[i] * q[i]).sum();
        let sum_xq: f32 = (0..32).map(|i| weights[i] * q[i] * x[i]).sum();
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut scale = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut min = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
        if min > 0.0 {
            (scale, min) = (sum_xq / sum_qq, 0.0);
        }
        let this_error = error(&q, scale, min);
        if this_error < best_error {
            (best, best_codes, best_error) = ((scale, min), q, this_error);
        }
    }
    *codes = best_codes.map(|q| q as u8);
    (best.0, -best.1)
}

/// Packs eight (scale, minimum) pairs of 6 bits: the first four lie in the low six bits of bytes 0–3
/// and 4–7; of the last four, the low nibbles share bytes 8–11 and the high two bits top bytes 0–7.
fn pack_pairs(pairs: &[[u8; 2]; 8], out: &mut [u8]) {
    for j in 0..4 {
        let ([scale, min], [late_scale, late_min]) = (pairs[j], pairs[j + 4]);
        out[j] = scale | late_scale >> 4 << 6;
        out[j + 4] = min | late_min >> 4 << 6;
        out[j + 8] = late_scale & 15 | late_min << 4;
    }
}

/// The eight (scale, minimum) pairs packed in twelve bytes.
#[inline(always)]
pub fn unpack_pairs(packed: &[u8]) -> [[u8; 2]; 8] {
    std::array::from_fn(|j| {
        if j < 4 {
            [packed[j] & 63, packed[j + 4] & 63]
        } else {
            let low = packed[j + 4];
            [low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4]
        }
    })
}
