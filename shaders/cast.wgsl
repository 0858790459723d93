// y = w decoded to f32; the piece in front says how w's dtype is stored.
// w [n] -> y [n]. One invocation owns four neighbours.

struct Params {
    n: u32,
    w_offset: u32, // in blocks of w's dtype
}

@group(0) @binding(0) var<storage, read> w: array<u32>; // [n]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = 4u * invocation(at);
    if i >= params.n {
        return;
    }
    let v = load4(params.w_offset * BLOCK + i);
    for (var j = 0u; j < min(4u, params.n - i); j++) {
        y[i + j] = v[j];
    }
}
