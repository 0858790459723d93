// Piece: w in f32. load4: elements i to i + 3.

const BLOCK = 1u;

fn load4(i: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4(w[i], w[i + 1u], w[i + 2u], w[i + 3u]));
}
