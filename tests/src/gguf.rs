//! GGUF files built by hand, right or wrong.

/// The bytes of a GGUF file so far.
pub struct GgufBuilder(pub Vec<u8>);

impl GgufBuilder {
    /// The header of version 3 with these counts.
    pub fn new(tensors: u64, pairs: u64) -> Self {
        Self([b"GGUF".as_slice(), &3u32.to_le_bytes()].concat()).u64(tensors).u64(pairs)
    }

    /// Appends a byte.
    pub fn u8(mut self, x: u8) -> Self {
        self.0.push(x);
        self
    }

    /// Appends a number of 4 bytes.
    pub fn u32(mut self, x: u32) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    /// Appends a number of 8 bytes.
    pub fn u64(mut self, x: u64) -> Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    /// Appends bytes.
    pub fn raw(mut self, x: &[u8]) -> Self {
        self.0.extend(x);
        self
    }

    /// Appends a string with its length.
    pub fn text(self, x: &[u8]) -> Self {
        self.u64(x.len() as u64).raw(x)
    }

    /// Appends a tensor's description; `ne` has the row length first.
    pub fn tensor(self, name: &str, ne: &[u64], kind: u32, offset: u64) -> Self {
        let mut b = self.text(name.as_bytes()).u32(ne.len() as u32);
        for n in ne {
            b = b.u64(*n);
        }
        b.u32(kind).u64(offset)
    }

    /// Pads the header and adds `n` bytes of data.
    pub fn data(mut self, n: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self.0
    }
}
