// Piece: w in bf16, the upper halves of f32, two to a word. load4: elements i to i + 3.

const BLOCK = 1u;

fn load4(i: u32) -> vec4<f32> {
    let bits = vec4(unit(i), unit(i + 1u), unit(i + 2u), unit(i + 3u));
    return bitcast<vec4<f32>>(bits << vec4(16u));
}
