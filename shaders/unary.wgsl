// y = f(x), elementwise; f is one of the functions below, in the order of the Rust enum.
// x [n] -> y [n]. One invocation owns one element.

struct Params {
    n: u32,
    x_offset: u32,
    function: u32,
    mul: f32,
    add: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [n]
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // [n]
@group(0) @binding(2) var<uniform> params: Params;

fn sigmoid(v: f32) -> f32 {
    return 1.0 / (1.0 + exp(-v));
}

fn f(v: f32) -> f32 {
    switch params.function {
        case 0u: { return -v; }
        case 1u: { return exp(v); }
        case 2u: { return log(v); }
        case 3u: { return v * v; }
        case 4u: { return sqrt(v); }
        case 5u: { return 1.0 / sqrt(v); }
        case 6u: { return 1.0 / v; }
        // Beyond 10 the result is 1 in f32, and some drivers compute NaN from large arguments.
        case 7u: { return tanh(clamp(v, -10.0, 10.0)); }
        case 8u: { return sigmoid(v); }
        case 9u: { return v * sigmoid(v); }
        default: { return params.mul * v + params.add; }
    }
}

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = invocation(at);
    if i < params.n {
        y[i] = f(x[params.x_offset + i]);
    }
}
