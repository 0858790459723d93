// Piece: w in q4_k: blocks of 256 as f16 scale and minimum, 12 bytes of 6-bit scales and minima of 8
// sub-blocks, then 32 bytes for each two sub-blocks (low and high halves).
// load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 256u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 72u;
    let sub = i % BLOCK / 32u;
    let part = scale_and_minimum(2u * block + 4u, sub);
    let bytes = four(block + 8u + sub / 2u * 16u + i % 32u / 2u);
    let codes = unpack4xU8((bytes >> (sub % 2u * 4u)) & 0x0f0f0f0fu);
    return half_float(block) * part.x * vec4<f32>(codes) - half_float(block + 1u) * part.y;
}
