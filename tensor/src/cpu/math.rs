//! Elementary functions written so that compilers vectorize them.

/// eˣ to about 2 units in the last place: x = n·ln 2 + r, eʳ by a polynomial (Cephes' expf), 2ⁿ by the
/// exponent bits. Below -87 the result is e⁻⁸⁷, above 88 it is e⁸⁸.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5·2²³ rounds to the nearest integer n, which then lies in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HI - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_3e-1;
    let e = p * r * r + r + 1.0;
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23)) * e
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_to_the_library_function() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let (a, b) = (super::exp(x), x.exp());
            assert!((a - b).abs() <= 3e-7 * b, "exp({x}) = {a}, not {b}");
        }
        assert_eq!(super::exp(0.0), 1.0);
    }
}
