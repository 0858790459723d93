// Piece: w in q6_k: blocks of 256 as 128 bytes of low four bits, 64 of high two, 16 int8 scales of
// sub-blocks of 16, f16 scale; codes minus 32. Each half of 128 elements is four runs of 32: low bits
// of runs 0 and 2 share bytes, as do 1 and 3; high bits of all four share bytes.
// load4: elements i to i + 3, i a multiple of 4.

const BLOCK = 256u;

fn load4(i: u32) -> vec4<f32> {
    let block = i / BLOCK * 105u;
    let side = i % BLOCK / 128u;
    let run = i % 128u / 32u;
    let j = i % 32u;
    let low = four(block + side * 32u + run % 2u * 16u + j / 2u) >> (run / 2u * 4u);
    let high = four(block + 64u + side * 16u + j / 2u) >> (run * 2u);
    let codes = unpack4xU8((low & 0x0f0f0f0fu) | ((high & 0x03030303u) << 4u));
    let scale = unpack4xI8(byte(2u * block + 192u + i % BLOCK / 16u)).x;
    return half_float(block + 104u) * f32(scale) * (vec4<f32>(codes) - 32.0);
}
