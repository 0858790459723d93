// Piece: where an element of a strided tensor lies. Sizes and strides are innermost dimension first,
// and neighbouring dimensions that lie as one are one (strided() in kernels.rs).

// The distance from the first element to element i in row-major order.
fn strided(
    i: u32,
    rank: u32,
    sizes: array<vec4<u32>, 2>,
    strides: array<vec4<u32>, 2>,
) -> u32 {
    var rest = i;
    var at = 0u;
    for (var d = 0u; d < rank; d++) {
        let size = sizes[d / 4u][d % 4u];
        at += rest % size * strides[d / 4u][d % 4u];
        rest /= size;
    }
    return at;
}
