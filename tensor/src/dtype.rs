//! Element types. A block format is a dtype like any other: `Q4_0` is to a row of weights what `F16`
//! is, so there is no second tensor type, no second loader and no second model for quantized weights.
//!
//! A block dtype stores `block_len` consecutive elements of a row in `block_bytes` bytes; plain types
//! are blocks of one. Layouts follow ggml bit by bit, so a file's bytes are used as they lie.

use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an f32.
    BF16,
    /// Unsigned 32-bit integers: token ids, positions, lengths, block tables.
    U32,
    /// 32 elements: f16 scale, 32 int8.
    Q8_0,
    /// 32 elements: f16 scale, 4-bit codes minus 8.
    Q4_0,
    /// 32 elements: f16 scale and minimum, 4-bit codes.
    Q4_1,
    /// 32 elements: f16 scale, 5-bit codes minus 16.
    Q5_0,
    /// 32 elements: f16 scale and minimum, 5-bit codes.
    Q5_1,
    /// 256 elements in 8 sub-blocks with 6-bit scales and minima, 4-bit codes.
    Q4K,
    /// As [`DType::Q4K`] with 5-bit codes.
    Q5K,
    /// 256 elements in 16 sub-blocks with int8 scales, 6-bit codes.
    Q6K,
    /// 64 elements: f32 scale, 4-bit codes of normally distributed weights. Lives in memory only.
    Nf4,
    /// As [`DType::Nf4`] with an 8-bit scale.
    Nf4Dq,
    /// Activations rounded to int8 by `round_rows`: 32 elements as f32 scale, int32 sum of the
    /// codes, 32 int8. Lives only between a producer and its matmuls, never in a file.
    I8Row,
}

impl DType {
    /// Every dtype, in declaration order.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::U32,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Nf4,
        Self::Nf4Dq,
        Self::I8Row,
    ];

    /// Dtypes of what training passes from op to op.
    pub const ACTIVATIONS: [Self; 2] = [Self::F32, Self::BF16];

    /// Dtypes a matmul accepts as weights.
    pub const WEIGHTS: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Nf4,
        Self::Nf4Dq,
    ];

    /// Elements in one block; 1 for plain types.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::U32 => 1,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
            Self::Nf4 | Self::Nf4Dq => 64,
            _ => 32,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Nf4 => 36,
            Self::Nf4Dq => 33,
            Self::I8Row => 48,
        }
    }

    /// Whether elements are stored in blocks of more than one.
    pub const fn is_block(self) -> bool {
        self.block_len() > 1
    }

    /// Whether weights are integers times a scale, so that a matmul takes activations rounded to
    /// [`DType::I8Row`].
    pub const fn has_integer_codes(self) -> bool {
        self.is_block() && !matches!(self, Self::Nf4 | Self::Nf4Dq)
    }

    /// Whether this is F32, F16 or BF16.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Bytes of `n` elements of one row.
    ///
    /// # Panics
    /// If `n` is not a multiple of the block length.
    #[track_caller]
    pub const fn bytes(self, n: usize) -> usize {
        assert!(n.is_multiple_of(self.block_len()), "row length is not a multiple of the block");
        n / self.block_len() * self.block_bytes()
    }

    /// The name used in flags, files and messages: `f32`, `q4_0`, `q4_k`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Nf4 => "nf4",
            Self::Nf4Dq => "nf4_dq",
            Self::I8Row => "i8_row",
        }
    }

    /// The dtype with this name, in any letter case (`Q4_K`, `q4_k`, `q4k`).
    pub fn from_name(name: &str) -> Option<Self> {
        let plain = |s: &str| s.to_ascii_lowercase().replace('_', "");
        Self::ALL.into_iter().find(|d| plain(d.name()) == plain(name))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
