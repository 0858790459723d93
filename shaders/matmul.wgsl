// y = x · w: y[m, n] = Σₖ x[m, k] w[k, n], in f32 whatever w's dtype; the piece in front says how w
// is stored.
// x [batch, m, k], w [batch or 1, k, n] -> y [batch, m, n]. One workgroup owns a tile of 16 by 16
// outputs, one invocation one output: k goes by steps of 16, for which the tiles of x and w are
// brought to workgroup memory, so that each element is read once per tile and not once per output.

const TILE = 16u;

struct Params {
    x_strides: array<vec4<u32>, 2>, // of x's leading dimensions, m among them
    x_sizes: array<vec4<u32>, 2>,
    w_strides: array<vec4<u32>, 2>, // of w's leading dimensions before its last two
    w_sizes: array<vec4<u32>, 2>,
    x_rank: u32,
    w_rank: u32,
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    x_k: u32, // stride of x along k
    w_offset: u32, // in blocks of w's dtype
    w_k: u32, // strides of w along k and n
    w_n: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>; // [batch, m, k]
@group(0) @binding(1) var<storage, read> w: array<u32>; // [batch or 1, k, n]
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // [batch, m, n]
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> x_tile: array<f32, TILE * TILE>; // [m, k]
var<workgroup> w_tile: array<f32, TILE * TILE>; // [n, k]

fn load1(i: u32) -> f32 {
    return load4(i & ~3u)[i & 3u];
}

// Four neighbours of w along k; zero past its end, where w may hold another row or nothing.
fn w_along_k(start: u32, k: u32, n: u32) -> vec4<f32> {
    let inside = vec4(k, k + 1u, k + 2u, k + 3u) < vec4(params.k);
    let i = start + k * params.w_k + n * params.w_n;
    if n >= params.n || !inside.x {
        return vec4(0.0);
    }
    if params.w_k == 1u {
        return select(vec4(0.0), load4(i), inside);
    }
    let step = params.w_k;
    let four = vec4(load1(i), load1(i + step), load1(i + 2u * step), load1(i + 3u * step));
    return select(vec4(0.0), four, inside);
}

@compute @workgroup_size(WG)
fn main(at: Grid) {
    let group = at.group;
    let local = at.local;
    let row = local / TILE;
    let column = local % TILE;
    let m = group.y * TILE + row;
    let n = group.x * TILE + column;
    let x_row = group.z * params.m + min(m, params.m - 1u);
    let x_start =
        params.x_offset + strided(x_row, params.x_rank, params.x_sizes, params.x_strides);
    let w_start = params.w_offset * BLOCK
        + strided(group.z, params.w_rank, params.w_sizes, params.w_strides);
    var sum = 0.0;
    for (var k0 = 0u; k0 < params.k; k0 += TILE) {
        let k = k0 + column;
        if m < params.m && k < params.k {
            x_tile[local] = x[x_start + k * params.x_k];
        } else {
            x_tile[local] = 0.0;
        }
        if local < TILE * TILE / 4u {
            let four = w_along_k(w_start, k0 + local % 4u * 4u, group.x * TILE + local / 4u);
            for (var i = 0u; i < 4u; i++) {
                w_tile[4u * local + i] = four[i];
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            sum += x_tile[row * TILE + i] * w_tile[column * TILE + i];
        }
        workgroupBarrier();
    }
    if m < params.m && n < params.n {
        y[(group.z * params.m + m) * params.n + n] = sum;
    }
}
