//! Where a tensor's bytes live: owned memory from a size-class free list, a slice of a file, or a GPU
//! buffer. Opening a checkpoint maps its file and copies nothing; freed activations are kept for the
//! next step, because touching fresh pages costs about 0.4 ms a megabyte.

use crate::{Context, Device, Result};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What owned memory is made of. Its alignment is the allocator's own: a stricter one would make Rust
/// write every zero of fresh memory, and a large KV cache would be resident before its first token.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
struct Unit([u8; 16]);

/// A cache line: what owned bytes are aligned to, and the unit of size classes.
const LINE: usize = 64;

/// Freed memory by size class (class = number of lines, rounded up to a quarter of a power of two).
static FREE: Mutex<FreeList> = Mutex::new(FreeList::new());

/// At most this much freed memory is kept, and as much again as is in use: a training step frees its
/// activations and wants them back at once. Together with what is in use it is little more than was once
/// in use: what a step needs at its peak is all that it holds.
const KEEP_BYTES: usize = 256 << 20;

/// How much more. Without it, layers whose outputs differ in size give back what the next one asks for.
const SLACK: usize = 16 << 20;

struct FreeList {
    /// By size class, the last freed last, each with when that was.
    blocks: BTreeMap<usize, Vec<(u64, Block)>>,
    /// Blocks that were ever freed: the time.
    freed: u64,
    /// Bytes of all blocks.
    bytes: usize,
    /// Bytes of owned memory that is not free.
    used: usize,
    /// The most that was ever used.
    most: usize,
}

impl FreeList {
    const fn new() -> Self {
        Self { blocks: BTreeMap::new(), freed: 0, bytes: 0, used: 0, most: 0 }
    }

    /// Takes memory of a class into use: a free block of it or of at most a quarter more; else nothing,
    /// after so much was given back, what was free for longest first, that a fresh block makes no new peak
    /// unless it must.
    fn take(&mut self, class: usize, reuse: bool) -> Option<Block> {
        let fits = self.blocks.range_mut(class..=class + class / 4);
        let found = fits.map(|(c, blocks)| (*c, blocks)).find(|(_, blocks)| !blocks.is_empty());
        if reuse && let Some((class, (_, block))) = found.and_then(|(c, b)| Some((c, b.pop()?))) {
            self.bytes -= class * LINE;
            self.used += class * LINE;
            self.most = self.most.max(self.used);
            return Some(block);
        }
        self.used += class * LINE;
        self.most = self.most.max(self.used);
        self.give_back((self.most + SLACK).saturating_sub(self.used));
        None
    }

    /// Keeps a block that is no longer used, rather than one that was free for longer.
    fn keep(&mut self, block: Block) {
        let class = block.class();
        self.used -= class * LINE;
        let most = KEEP_BYTES + self.used;
        if class * LINE <= most {
            self.bytes += class * LINE;
            self.freed += 1;
            self.blocks.entry(class).or_default().push((self.freed, block));
            self.give_back(most);
        }
    }

    /// Gives back what was free for longest, until at most so many bytes are free.
    fn give_back(&mut self, most: usize) {
        while self.bytes > most {
            let first = self.blocks.iter().filter_map(|(c, blocks)| Some((blocks.first()?.0, *c)));
            let Some((_, class)) = first.min() else { break };
            self.blocks.entry(class).and_modify(|blocks| drop(blocks.remove(0)));
            self.bytes -= class * LINE;
        }
    }
}

/// Blocks from this size on are mapped, each for itself: given back, they are the system's at once,
/// where an allocator keeps what lies between others.
const MAPPED: usize = 1 << 20;

/// The memory of one [`Owned`].
enum Block {
    Heap(Vec<Unit>),
    Mapped(memmap2::MmapMut),
}

impl Block {
    /// Zeros for `lines` lines; pages are touched when they are used.
    fn fresh(lines: usize) -> Self {
        let bytes = lines * LINE;
        match (bytes >= MAPPED).then(|| memmap2::MmapMut::map_anon(bytes)) {
            Some(Ok(map)) => Self::Mapped(map),
            // One line more, for they begin wherever they are aligned.
            _ => Self::Heap(bytemuck::zeroed_vec((lines + 1) * LINE / size_of::<Unit>())),
        }
    }

    /// Its size class.
    fn class(&self) -> usize {
        match self {
            Self::Heap(units) => size_of_val(&units[..]) / LINE - 1,
            Self::Mapped(map) => map.len() / LINE,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Heap(units) => bytemuck::cast_slice(units),
            Self::Mapped(map) => map,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(units) => bytemuck::cast_slice_mut(units),
            Self::Mapped(map) => map,
        }
    }
}

/// Owned, 64-byte aligned bytes that return to the free list when dropped.
pub(crate) struct Owned {
    block: Block,
    len: usize,
}

/// Lines of the size class that holds `len` bytes: waste is at most a quarter.
fn class_of(len: usize) -> usize {
    let lines = len.div_ceil(LINE).max(1);
    let step = (lines.next_power_of_two() / 8).max(1);
    lines.next_multiple_of(step)
}

thread_local! {
    static FILL: Cell<Option<u8>> = const { Cell::new(None) };
}

/// Runs `f` with the memory of every output that this thread allocates filled with `byte` first. A
/// test that sees the same result for two bytes knows that the op wrote every byte.
pub fn fill_scratch<R>(byte: u8, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<u8>);
    impl Drop for Restore {
        fn drop(&mut self) {
            FILL.set(self.0);
        }
    }
    let _restore = Restore(FILL.replace(Some(byte)));
    f()
}

/// Bytes of the size class that holds `len` bytes.
#[cfg(feature = "gpu")]
pub(crate) fn class_bytes(len: usize) -> usize {
    class_of(len) * LINE
}

impl Owned {
    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut owned = Self::scratch(bytes.len());
        owned.bytes_mut().copy_from_slice(bytes);
        owned
    }

    /// `len` bytes of unspecified content: ops write every byte of their outputs.
    pub(crate) fn scratch(len: usize) -> Self {
        let mut owned = Self::reused(len);
        if let Some(byte) = FILL.get() {
            owned.bytes_mut().fill(byte);
        }
        owned
    }

    fn reused(len: usize) -> Self {
        let class = class_of(len);
        let taken = FREE.lock().unwrap_or_else(|e| e.into_inner()).take(class, true);
        Self { block: taken.unwrap_or_else(|| Block::fresh(class)), len }
    }

    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Self {
        let class = class_of(len);
        FREE.lock().unwrap_or_else(|e| e.into_inner()).take(class, false);
        Self { block: Block::fresh(class), len }
    }

    /// `len` bytes, zeros, in pages of the largest size that the system gives: what is read as a whole again
    /// and again is then found with fewer looks at page tables, up to a third faster. A page is there as a whole
    /// once it is touched, so it is not for memory that may stay empty.
    pub(crate) fn large_pages(len: usize) -> Self {
        let class = len.div_ceil(LINE).max(1);
        FREE.lock().unwrap_or_else(|e| e.into_inner()).take(class, false);
        let block = Block::fresh(class);
        #[cfg(target_os = "linux")]
        if let Block::Mapped(map) = &block {
            // Where it is refused, pages are small, and all else is the same.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Self { block, len }
    }

    /// Where the aligned bytes are.
    fn range(&self) -> Range<usize> {
        let address = self.block.bytes().as_ptr().addr();
        let start = address.next_multiple_of(LINE) - address;
        start..start + self.len
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.block.bytes()[self.range()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range();
        &mut self.block.bytes_mut()[range]
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let block = std::mem::replace(&mut self.block, Block::Heap(Vec::new()));
        FREE.lock().unwrap_or_else(|e| e.into_inner()).keep(block);
    }
}

/// The bytes of one file, memory-mapped or read into memory.
pub struct FileBytes {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Read(Owned),
}

impl FileBytes {
    /// Maps `path`; nothing is read until it is touched.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped. An empty file gives an empty slice.
    pub fn map(path: &Path) -> Result<Arc<Self>> {
        let place = || format!("cannot open {}", path.display());
        let file = std::fs::File::open(path).map_err(crate::Error::from);
        let file = file.map_err(|e| e.context(place()))?;
        if file.metadata().context(place())?.len() == 0 {
            return Ok(Arc::new(Self { path: path.into(), bytes: Bytes::Read(Owned::zeroed(0)) }));
        }
        // SAFETY: the map is read-only and private to this process. A file that another process
        // truncates meanwhile would fault; that is the documented price of mapping, and the reason
        // `FileBytes::read` (`--no-mmap`) exists.
        let map = unsafe { memmap2::Mmap::map(&file) }.context(place())?;
        Ok(Arc::new(Self { path: path.into(), bytes: Bytes::Mapped(map) }))
    }

    /// Reads `path` into memory: safe against a file that changes while it is used.
    ///
    /// # Errors
    /// If the file cannot be read whole.
    pub fn read(path: &Path) -> Result<Arc<Self>> {
        use std::io::Read;
        let place = || format!("cannot read {}", path.display());
        let mut file = std::fs::File::open(path).context(place())?;
        let len = file.metadata().context(place())?.len() as usize;
        let mut owned = Owned::scratch(len);
        file.read_exact(owned.bytes_mut()).context(place())?;
        Ok(Arc::new(Self { path: path.into(), bytes: Bytes::Read(owned) }))
    }

    /// The whole content.
    pub fn as_slice(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(m) => m,
            Bytes::Read(o) => o.bytes(),
        }
    }

    /// Tells the system that `range` will not be needed soon: its pages no longer count as this
    /// process's memory, and are read again from the file if they are touched.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the pages are clean copies of the file, so dropping them changes no content.
            // Failing is harmless: it was only advice.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// The file these bytes come from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl std::fmt::Debug for FileBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileBytes({}, {} bytes)", self.path.display(), self.as_slice().len())
    }
}

/// The memory behind one or more tensors.
pub(crate) enum Storage {
    Owned(Owned),
    File {
        file: Arc<FileBytes>,
        start: usize,
        len: usize,
    },
    #[cfg(feature = "gpu")]
    Gpu(crate::gpu::Buffer),
    /// Elements that no gradient reads, and where they lay.
    Gone(Device),
}

impl Storage {
    /// Releases the pages of a mapped file.
    pub(crate) fn release(&self) {
        if let Self::File { file, start, len } = self {
            file.release(*start..*start + *len);
        }
    }

    /// The bytes of CPU memory.
    ///
    /// # Panics
    /// If they lie on a GPU.
    #[track_caller]
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(o) => o.bytes(),
            Self::File { file, start, len } => &file.as_slice()[*start..*start + *len],
            #[cfg(feature = "gpu")]
            Self::Gpu(_) => panic!("the elements lie on a GPU: read() brings them here"),
            Self::Gone(_) => {
                panic!("a gradient reads elements that its op does not keep (Op::reads)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_free_for_longest_goes_first() {
        let mut free = FreeList::new();
        let class = |megabytes: usize| class_of(megabytes << 20);
        let take = |free: &mut FreeList, megabytes| {
            let found = free.take(class(megabytes), true);
            let fresh = found.is_none();
            (found.unwrap_or_else(|| Block::fresh(class(megabytes))), fresh)
        };
        // More than is kept beside what is in use, and then something small.
        let blocks = [64, 80, 96, 112].map(|size| take(&mut free, size).0);
        let (small, _) = take(&mut free, 1);
        blocks.into_iter().for_each(|block| free.keep(block));
        free.keep(small);
        assert!(free.bytes <= KEEP_BYTES && free.used == 0, "{} bytes are free", free.bytes);
        assert!(!take(&mut free, 1).1, "the block that was freed last is gone");
        assert!(!take(&mut free, 112).1 && take(&mut free, 64).1, "another than the first went");
    }
}
