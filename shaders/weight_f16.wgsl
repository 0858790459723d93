// Piece: w in f16, two to a word. load4: elements i to i + 3.

const BLOCK = 1u;

fn load4(i: u32) -> vec4<f32> {
    return vec4(half_float(i), half_float(i + 1u), half_float(i + 2u), half_float(i + 3u));
}
