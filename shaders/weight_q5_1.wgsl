// Piece: w in q5_1: blocks of 32 as f16 scale and minimum, 32 fifth bits, 16 bytes with elements j
// (low) and j + 16 (high). load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 32u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 12u;
    let j = i % BLOCK;
    let low = unpack4xU8((four(block + 4u + j % 16u / 2u) >> (j / 16u * 4u)) & 0x0f0f0f0fu);
    let fifth = (vec4(four(block + 2u)) >> vec4(j, j + 1u, j + 2u, j + 3u)) & vec4(1u);
    return half_float(block) * vec4<f32>(low | (fifth << vec4(4u))) + half_float(block + 1u);
}
