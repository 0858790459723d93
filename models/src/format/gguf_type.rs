//! ggml's tensor types: number, name, block layout, and what puyu does with each. Every type that a file
//! may hold is known by size, so that a file can be checked and inspected even if it cannot be run.
//! Numbers and sizes: ggml's `ggml.h` and `ggml-common.h`.

use super::table::Stored;
use puyu_tensor::DType;
use puyu_tensor::quant::ImportType;

/// One ggml tensor type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// Its number in files.
    pub id: u32,
    /// ggml's name for it.
    pub name: &'static str,
    /// Elements in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// What puyu makes of it.
    pub stored: Stored,
}

/// A type that is used as it lies.
const fn plain(id: u32, name: &'static str, dtype: DType) -> GgmlType {
    let (block_len, block_bytes) = (dtype.block_len(), dtype.block_bytes());
    GgmlType { id, name, block_len, block_bytes, stored: Stored::Plain(dtype) }
}

/// A type that is decoded when loaded.
const fn import(id: u32, name: &'static str, t: ImportType) -> GgmlType {
    let (block_len, block_bytes) = (t.block_len(), t.block_bytes());
    GgmlType { id, name, block_len, block_bytes, stored: Stored::Import(t) }
}

/// A type that is known by size only.
const fn other(id: u32, name: &'static str, block_len: usize, block_bytes: usize) -> GgmlType {
    GgmlType { id, name, block_len, block_bytes, stored: Stored::Other(name) }
}

impl GgmlType {
    /// Every type that files may hold. Numbers 4, 5, 31 to 33 and 36 to 38 were withdrawn.
    pub const ALL: [Self; 32] = [
        plain(0, "F32", DType::F32),
        plain(1, "F16", DType::F16),
        plain(2, "Q4_0", DType::Q4_0),
        plain(3, "Q4_1", DType::Q4_1),
        plain(6, "Q5_0", DType::Q5_0),
        plain(7, "Q5_1", DType::Q5_1),
        plain(8, "Q8_0", DType::Q8_0),
        other(9, "Q8_1", 32, 36),
        import(10, "Q2_K", ImportType::Q2K),
        import(11, "Q3_K", ImportType::Q3K),
        plain(12, "Q4_K", DType::Q4K),
        plain(13, "Q5_K", DType::Q5K),
        plain(14, "Q6_K", DType::Q6K),
        other(15, "Q8_K", 256, 292),
        other(16, "IQ2_XXS", 256, 66),
        other(17, "IQ2_XS", 256, 74),
        other(18, "IQ3_XXS", 256, 98),
        other(19, "IQ1_S", 256, 50),
        import(20, "IQ4_NL", ImportType::Iq4Nl),
        other(21, "IQ3_S", 256, 110),
        other(22, "IQ2_S", 256, 82),
        import(23, "IQ4_XS", ImportType::Iq4Xs),
        other(24, "I8", 1, 1),
        other(25, "I16", 1, 2),
        other(26, "I32", 1, 4),
        other(27, "I64", 1, 8),
        other(28, "F64", 1, 8),
        other(29, "IQ1_M", 256, 56),
        plain(30, "BF16", DType::BF16),
        other(34, "TQ1_0", 256, 54),
        other(35, "TQ2_0", 256, 66),
        import(39, "MXFP4", ImportType::Mxfp4),
    ];

    /// The type with this number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.id == id)
    }

    /// The type that holds `dtype`; `None` for U32 and what lives only in memory.
    pub fn from_dtype(dtype: DType) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.stored == Stored::Plain(dtype))
    }

    /// The type whose elements are kept as `stored`.
    pub fn from_stored(stored: Stored) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.stored == stored)
    }
}
