// Piece: the 12 bytes in which q4_k and q5_k keep a 6-bit scale and a 6-bit minimum for each of 8
// sub-blocks of 32.

// Scale and minimum of sub-block s; the 12 bytes start at byte `at`.
fn scale_and_minimum(at: u32, s: u32) -> vec2<f32> {
    if s < 4u {
        return vec2(f32(byte(at + s) & 63u), f32(byte(at + 4u + s) & 63u));
    }
    let low = byte(at + 4u + s);
    let scale = (low & 15u) | ((byte(at + s - 4u) >> 6u) << 4u);
    let minimum = (low >> 4u) | ((byte(at + s) >> 6u) << 4u);
    return vec2(f32(scale), f32(minimum));
}
