// y = a ∘ b, elementwise, a and b broadcast to the shape of y; ∘ is + - · / in the order of the Rust
// enum. a, b with any strides -> y [n] contiguous. One invocation owns one element of y.

struct Params {
    a_strides: array<vec4<u32>, 2>,
    b_strides: array<vec4<u32>, 2>,
    sizes: array<vec4<u32>, 2>,
    rank: u32,
    n: u32,
    a_offset: u32,
    b_offset: u32,
    function: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [n]
@group(0) @binding(3) var<uniform> params: Params;

fn f(a: f32, b: f32) -> f32 {
    switch params.function {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        default: { return a / b; }
    }
}

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let i = invocation(at);
    if i >= params.n {
        return;
    }
    let a_at = params.a_offset + strided(i, params.rank, params.sizes, params.a_strides);
    let b_at = params.b_offset + strided(i, params.rank, params.sizes, params.b_strides);
    y[i] = f(a[a_at], b[b_at]);
}
