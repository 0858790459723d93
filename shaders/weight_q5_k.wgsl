// Piece: w in q5_k: as q4_k with 32 bytes of fifth bits (bit s of byte j: element j of sub-block s)
// before the low four bits. load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 256u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 88u;
    let sub = i % BLOCK / 32u;
    let part = scale_and_minimum(2u * block + 4u, sub);
    let bytes = four(block + 24u + sub / 2u * 16u + i % 32u / 2u);
    let low = (bytes >> (sub % 2u * 4u)) & 0x0f0f0f0fu;
    let fifth = (four(block + 8u + i % 32u / 2u) >> sub) & 0x01010101u;
    let codes = unpack4xU8(low | (fifth << 4u));
    return half_float(block) * part.x * vec4<f32>(codes) - half_float(block + 1u) * part.y;
}
