// y = x in row-major order, x with any strides. Counted in units: 32 bits for 4-byte dtypes, else 16
// bits, of which every dtype has a whole number (a q8_0 block is 17).
// x -> y [n units]. One invocation owns one word of y: one unit of 32 bits or two of 16.

struct Params {
    strides: array<vec4<u32>, 2>, // in units, as are the sizes
    sizes: array<vec4<u32>, 2>,
    rank: u32,
    n: u32,
    x_offset: u32, // in blocks of x's dtype
    block_units: u32,
    unit_bytes: u32, // 4 or 2
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

// Where unit i of y lies in x.
fn source(i: u32) -> u32 {
    let start = params.x_offset * params.block_units;
    return start + strided(i, params.rank, params.sizes, params.strides);
}

fn half_at(i: u32) -> u32 {
    let at = source(i);
    return (x[at / 2u] >> (at % 2u * 16u)) & 0xffffu;
}

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = invocation(at);
    if params.unit_bytes == 4u {
        if i < params.n {
            y[i] = x[source(i)];
        }
    } else if 2u * i < params.n {
        var word = half_at(2u * i);
        if 2u * i + 1u < params.n {
            word |= half_at(2u * i + 1u) << 16u;
        }
        y[i] = word;
    }
}
