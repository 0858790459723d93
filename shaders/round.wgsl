// y = x rounded to f16 or bf16, to nearest, ties to even. In integers, because WGSL leaves the
// rounding of pack2x16float to the driver.
// x [n] -> y [n], two to a word. One invocation owns one word.

struct Params {
    n: u32,
    x_offset: u32,
    bf16: u32, // 1 for bf16, 0 for f16
}

@group(0) @binding(0) var<storage, read> x: array<u32>; // [n], bits of f32
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

// v without its lowest `drop` bits, rounded to nearest even; drop is 1 to 31.
fn shift_even(v: u32, drop: u32) -> u32 {
    let kept = v >> drop;
    let rest = v & ((1u << drop) - 1u);
    let half = 1u << (drop - 1u);
    return kept + select(0u, 1u, rest > half || (rest == half && (kept & 1u) == 1u));
}

fn to_bf16(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u; // NaN stays NaN
    }
    return shift_even(bits, 16u);
}

fn to_f16(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let v = bits & 0x7fffffffu;
    if v > 0x7f800000u {
        return sign | 0x7e00u | ((v >> 13u) & 0x3ffu); // NaN stays NaN
    }
    if v >= 0x477ff000u {
        return sign | 0x7c00u; // 65520 and above round to infinity
    }
    if v >= 0x38800000u {
        return sign | shift_even(v - 0x38000000u, 13u); // exponents from 127 - 14 on are normal
    }
    // Subnormal: the mantissa with its leading one, in units of 2⁻²⁴.
    let drop = 126u - (v >> 23u);
    return sign | select(0u, shift_even((v & 0x7fffffu) | 0x800000u, min(drop, 31u)), drop < 26u);
}

fn rounded(i: u32) -> u32 {
    let bits = x[params.x_offset + i];
    if params.bf16 == 1u {
        return to_bf16(bits);
    }
    return to_f16(bits);
}

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = 2u * invocation(at);
    if i >= params.n {
        return;
    }
    var word = rounded(i);
    if i + 1u < params.n {
        word |= rounded(i + 1u) << 16u;
    }
    y[i / 2u] = word;
}
