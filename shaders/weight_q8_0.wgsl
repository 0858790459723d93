// Piece: w in q8_0: blocks of 32 as f16 scale, 32 int8. load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 32u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 17u;
    let codes = unpack4xI8(four(block + 1u + i % BLOCK / 2u));
    return half_float(block) * vec4<f32>(codes);
}
