// Piece: w in q4_0: blocks of 32 as f16 scale, 16 bytes with elements j (low) and j + 16 (high) as
// codes minus 8. load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 32u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 9u;
    let j = i % BLOCK;
    let codes = unpack4xU8((four(block + 1u + j % 16u / 2u) >> (j / 16u * 4u)) & 0x0f0f0f0fu);
    return half_float(block) * (vec4<f32>(codes) - 8.0);
}
