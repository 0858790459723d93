// Piece: w in q5_0: blocks of 32 as f16 scale, 32 fifth bits, 16 bytes with elements j (low) and
// j + 16 (high); codes minus 16. load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 32u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 11u;
    let j = i % BLOCK;
    let low = unpack4xU8((four(block + 3u + j % 16u / 2u) >> (j / 16u * 4u)) & 0x0f0f0f0fu);
    let fifth = (vec4(four(block + 1u)) >> vec4(j, j + 1u, j + 2u, j + 3u)) & vec4(1u);
    return half_float(block) * (vec4<f32>(low | (fifth << vec4(4u))) - 16.0);
}
