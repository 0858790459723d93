//! GPU memory: buffers by size class, returned to free lists when the last tensor lets go.
//!
//! A freed buffer may serve a later command of the same recording, since commands run in order. An
//! upload may not have it: `write_buffer` lands before everything in the next submit. So each freed
//! buffer remembers the submit it was last used before.

use super::Gpu;
use crate::Error;
use crate::storage::class_bytes;

/// Bytes of uploads after which a submit is due, so that their staging memory is given back.
const UPLOAD_BYTES: usize = 64 << 20;

/// At most this much freed memory is kept.
const KEEP_BYTES: usize = 1 << 30;

/// Memory of a GPU.
pub(crate) struct Buffer {
    gpu: Gpu,
    pub(super) raw: wgpu::Buffer,
    len: usize,
}

impl Buffer {
    /// The GPU this lies on.
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The bytes asked for; the buffer itself may be longer.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut state = self.gpu.state();
        let submit = state.recording.submit();
        state.pool.give(self.raw.clone(), submit);
    }
}

/// Freed buffers.
#[derive(Default)]
pub(super) struct Pool {
    /// (submit that could last use it, buffer), in the order of freeing.
    free: Vec<(u64, wgpu::Buffer)>,
    bytes: usize,
}

impl Pool {
    fn give(&mut self, raw: wgpu::Buffer, submit: u64) {
        let size = raw.size() as usize;
        if self.bytes + size <= KEEP_BYTES {
            self.bytes += size;
            self.free.push((submit, raw));
        }
    }

    /// A buffer of exactly `size` bytes that no command of submit `before` or later uses.
    fn take(&mut self, size: usize, before: u64) -> Option<wgpu::Buffer> {
        let fits =
            |(submit, raw): &(u64, wgpu::Buffer)| raw.size() == size as u64 && *submit < before;
        let i = self.free.iter().rposition(fits)?;
        self.bytes -= size;
        Some(self.free.swap_remove(i).1)
    }
}

impl Gpu {
    /// `len` bytes of unspecified content, for commands to write.
    pub(super) fn scratch(&self, len: usize) -> Buffer {
        self.take(len, u64::MAX)
    }

    /// `bytes` on the GPU; seen by every command recorded from now on.
    pub(crate) fn upload(&self, bytes: &[u8]) -> Buffer {
        let submit = self.state().recording.submit();
        let buffer = self.take(bytes.len(), submit);
        if self.status().is_err() {
            return buffer;
        }
        let (whole, rest) = bytes.split_at(bytes.len() / 4 * 4);
        self.0.queue.write_buffer(&buffer.raw, 0, whole);
        if !rest.is_empty() {
            let mut word = [0; 4];
            word[..rest.len()].copy_from_slice(rest);
            self.0.queue.write_buffer(&buffer.raw, whole.len() as u64, &word);
        }
        let due = self.state().recording.uploaded(bytes.len()) > UPLOAD_BYTES;
        if due {
            self.flush();
        }
        buffer
    }

    fn take(&self, len: usize, before: u64) -> Buffer {
        let mut size = class_bytes(len);
        let limit = self.0.limits.max_buffer_size;
        if size as u64 > limit {
            self.fail(Error::resource(format!(
                "a tensor of {len} bytes is over the limit of {limit} bytes that {} sets for one; \
                 use --device cpu",
                self.name()
            )));
            size = class_bytes(0);
        }
        let free = self.state().pool.take(size, before);
        let raw = free.unwrap_or_else(|| {
            use wgpu::BufferUsages as Usage;
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: size as u64,
                usage: Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
                mapped_at_creation: false,
            })
        });
        Buffer { gpu: self.clone(), raw, len }
    }
}
