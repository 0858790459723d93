// y = weight · x / √(mean(x²) + ε) over rows (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4).
// x [rows, h], weight [h] -> y [rows, h]. One workgroup owns one row: each invocation sums every
// WG-th square, then a tree in workgroup memory adds the parts, in an order that never changes.

struct Params {
    rows: u32,
    h: u32,
    x_offset: u32,
    weight_offset: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [rows, h]
@group(0) @binding(1) var<storage, read> weight: array<f32>; // [h]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, h]
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> parts: array<f32, WG>;

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let row = workgroup_index(at);
    let local = at.local;
    if row >= params.rows {
        return;
    }
    let start = params.x_offset + row * params.h;
    var sum = 0.0;
    for (var i = local; i < params.h; i += WG) {
        sum += x[start + i] * x[start + i];
    }
    parts[local] = sum;
    for (var width = WG / 2u; width > 0u; width /= 2u) {
        workgroupBarrier();
        if local < width {
            parts[local] += parts[local + width];
        }
    }
    workgroupBarrier();
    let scale = 1.0 / sqrt(parts[0] / f32(params.h) + params.eps);
    for (var i = local; i < params.h; i += WG) {
        y[row * params.h + i] = x[start + i] * scale * weight[params.weight_offset + i];
    }
}
