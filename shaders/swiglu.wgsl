// y = silu(gate) · up, silu(v) = v / (1 + e⁻ᵛ) (Shazeer 2020, arXiv 2002.05202).
// gate [n], up [n] -> y [n]. One invocation owns one element.

struct Params {
    n: u32,
    gate_offset: u32,
    up_offset: u32,
}

@group(0) @binding(0) var<storage, read> gate: array<f32>; // [n]
@group(0) @binding(1) var<storage, read> up: array<f32>; // [n]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [n]
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = invocation(at);
    if i < params.n {
        let g = gate[params.gate_offset + i];
        y[i] = g / (1.0 + exp(-g)) * up[params.up_offset + i];
    }
}
