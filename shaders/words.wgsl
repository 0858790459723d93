// Piece: bytes of w, a buffer of any dtype. Every block format has whole 16-bit units, so that is the
// unit of addresses; a block may start in the middle of a 32-bit word.

fn unit(i: u32) -> u32 {
    return (w[i / 2u] >> (i % 2u * 16u)) & 0xffffu;
}

// The four bytes from unit i on.
fn four(i: u32) -> u32 {
    return unit(i) | (unit(i + 1u) << 16u);
}

fn half_float(i: u32) -> f32 {
    return unpack2x16float(unit(i)).x;
}

fn byte(i: u32) -> u32 {
    return (w[i / 4u] >> (i % 4u * 8u)) & 0xffu;
}
