//! The one tensor type. Immutable, cheap to clone, storage shared, views free.
//!
//! A tensor knows the op that made it and that op's inputs when a gradient can flow through it; that
//! record is all autograd needs.

use crate::apply::alone;
use crate::storage::{FileBytes, Owned, Storage};
use crate::{
    DType, Dims, Element, Error, Op, Result, Spec, View, apply_dyn, no_grad, prefetch, wait,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An n-dimensional array on a device.
#[derive(Clone)]
pub struct Tensor(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) spec: Spec,
    /// Elements from the start of the storage to the first one.
    pub(crate) offset: usize,
    pub(crate) storage: Arc<Storage>,
    pub(crate) origin: Option<Origin>,
    pub(crate) trainable: bool,
    id: u64,
}

/// Which output of which op run a tensor is.
#[derive(Clone)]
pub struct Origin {
    /// The run of the op.
    pub node: Arc<Node>,
    /// The index among its outputs.
    pub index: usize,
}

/// One run of an op that a gradient can flow through.
pub struct Node {
    /// The op.
    pub op: Arc<dyn Op>,
    /// What it ran on, without the elements that are not kept ([`Op::reads`], [`Op::cheap`]).
    pub inputs: Vec<Tensor>,
    /// What it kept for its gradient; these have no origin themselves.
    pub saved: Vec<Tensor>,
    /// The specs of its outputs.
    pub outputs: Vec<Spec>,
}

impl Node {
    /// The inputs as the gradient takes them: what it reads of the outputs of cheap ops is computed again.
    pub fn restored(&self) -> Vec<Tensor> {
        let restore = |(i, x): (usize, &Tensor)| match x.origin() {
            Some(Origin { node, index }) if self.op.reads(i) && node.op.cheap() => {
                let inputs = node.restored();
                let inputs: Vec<&Tensor> = inputs.iter().collect();
                let y = no_grad(|| apply_dyn(node.op.clone(), &inputs)).swap_remove(*index);
                x.over(y.0.offset, y.0.storage.clone())
            }
            _ => x.clone(),
        };
        self.inputs.iter().enumerate().map(restore).collect()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Tensor {
    pub(crate) fn build(
        spec: Spec,
        offset: usize,
        storage: Arc<Storage>,
        origin: Option<Origin>,
    ) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner { spec, offset, storage, origin, trainable: false, id }))
    }

    fn owned(spec: Spec, bytes: Owned) -> Self {
        Self::build(spec, 0, Arc::new(Storage::Owned(bytes)), None)
    }

    /// A tensor of `shape` holding `data` in row-major order.
    ///
    /// # Panics
    /// If the number of elements differs.
    #[track_caller]
    pub fn new<T: Element>(data: &[T], shape: impl Into<Dims>) -> Self {
        let spec = Spec::new(shape, T::DTYPE);
        assert!(data.len() == spec.numel(), "{} elements for shape {}", data.len(), spec.shape);
        Self::from_bytes(bytemuck::cast_slice(data), spec)
    }

    /// A contiguous tensor holding a copy of `bytes`.
    ///
    /// # Panics
    /// If the number of bytes differs from what `spec` needs.
    #[track_caller]
    pub fn from_bytes(bytes: &[u8], spec: Spec) -> Self {
        assert!(bytes.len() == spec.bytes(), "{} bytes for {spec}", bytes.len());
        Self::owned(spec, Owned::copy_of(bytes))
    }

    /// The tensor of `spec` whose bytes start at `offset` of `file`: nothing is copied, unless the
    /// bytes are misaligned for the dtype.
    ///
    /// # Errors
    /// If the file ends before the tensor does.
    pub fn from_file(file: &Arc<FileBytes>, offset: usize, spec: Spec) -> Result<Self> {
        let len = spec.bytes();
        let Some(bytes) = offset.checked_add(len).and_then(|e| file.as_slice().get(offset..e))
        else {
            let have = file.as_slice().len();
            return Err(Error::format(format!(
                "{}: a tensor {spec} of {len} bytes starts at byte {offset}, but the file has only \
                 {have} bytes; it is cut short",
                file.path().display()
            )));
        };
        let align = if spec.dtype.is_block() { 1 } else { spec.dtype.block_bytes() };
        if !bytes.as_ptr().addr().is_multiple_of(align) {
            return Ok(Self::from_bytes(bytes, spec));
        }
        let storage = Storage::File { file: file.clone(), start: offset, len };
        Ok(Self::build(spec, 0, Arc::new(storage), None))
    }

    /// Zeros (for U32, the number 0).
    pub fn zeros(shape: impl Into<Dims>, dtype: DType) -> Self {
        let spec = Spec::new(shape, dtype);
        Self::owned(spec, Owned::zeroed(spec.bytes()))
    }

    /// F32 zeros in pages of the largest size that the system gives: for memory that is read and written as a whole
    /// again and again. A page is there as a whole once it is touched.
    pub fn zeros_in_large_pages(shape: impl Into<Dims>) -> Self {
        let spec = Spec::f32(shape);
        Self::owned(spec, Owned::large_pages(spec.bytes()))
    }

    /// The same F32 value everywhere.
    pub fn full(shape: impl Into<Dims>, value: f32) -> Self {
        let shape = shape.into();
        Self::new(&vec![value; shape.numel()], shape)
    }

    /// A scalar of rank 0.
    pub fn scalar(value: f32) -> Self {
        Self::new(&[value], [])
    }

    /// Shape, strides, dtype and packing.
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.0.spec.shape
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.0.spec.dtype
    }

    /// The size of dimension `i`, from the end if negative (`-1` is the last).
    ///
    /// # Panics
    /// If there is no such dimension.
    #[track_caller]
    pub fn dim(&self, i: isize) -> usize {
        self.shape()[self.axis(i)]
    }

    /// The index of dimension `i`, counted from the end if negative.
    ///
    /// # Panics
    /// If there is no such dimension.
    #[track_caller]
    pub fn axis(&self, i: isize) -> usize {
        let rank = self.shape().len() as isize;
        let axis = if i < 0 { i + rank } else { i };
        assert!((0..rank).contains(&axis), "dimension {i} of a tensor of shape {:?}", self.shape());
        axis as usize
    }

    /// A number that no other tensor of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// A leaf over the same elements whose gradient `backward` reports.
    #[must_use]
    pub fn trainable(&self) -> Self {
        let mut leaf = self.detach();
        let inner = Arc::get_mut(&mut leaf.0).expect("a fresh tensor has one owner");
        inner.trainable = true;
        leaf
    }

    /// A tensor over the same elements that no gradient flows through.
    #[must_use]
    pub fn detach(&self) -> Self {
        Self::build(self.0.spec, self.0.offset, self.0.storage.clone(), None)
    }

    /// What the record of gradients needs of this tensor if it does not need its elements.
    pub(crate) fn without_elements(&self) -> Self {
        self.over(0, Arc::new(Storage::Gone(self.device())))
    }

    /// The same tensor with its elements in another place.
    fn over(&self, offset: usize, storage: Arc<Storage>) -> Self {
        let Inner { spec, ref origin, trainable, id, .. } = *self.0;
        Self(Arc::new(Inner { spec, offset, storage, origin: origin.clone(), trainable, id }))
    }

    /// Whether this is a trainable leaf.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable
    }

    /// Whether a gradient can flow to or through this tensor.
    pub fn requires_grad(&self) -> bool {
        self.0.trainable || self.0.origin.is_some()
    }

    /// The op run that made this tensor, if a gradient can flow through it.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// Whether both tensors lie in the same storage.
    pub fn shares_storage(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.storage, &other.0.storage)
    }

    /// Whether no other tensor has these elements, and no file, so that they may be changed in place.
    pub fn is_alone(&mut self) -> bool {
        alone(self).is_some()
    }

    /// Gives pages of a mapped file back to the system until they are read again.
    pub fn release(&self) {
        self.0.storage.release();
    }

    /// Asks memory for what describes this tensor, not for its elements.
    pub fn prefetch(&self) {
        prefetch(Arc::as_ptr(&self.0));
    }

    /// What a CPU kernel sees of this tensor.
    #[track_caller]
    pub(crate) fn view(&self) -> View<'_> {
        let Inner { spec, offset, storage, .. } = &*self.0;
        View { spec: *spec, bytes: &storage.bytes()[spec.byte_range(*offset)] }
    }

    /// The elements of a contiguous tensor in CPU memory, without a copy.
    ///
    /// # Panics
    /// If the tensor is not contiguous or has another dtype.
    #[track_caller]
    pub fn data<T: Element>(&self) -> &[T] {
        assert!(self.0.spec.is_contiguous(), "elements of a strided {}", self.spec());
        self.view().data()
    }

    /// The bytes of a contiguous tensor in CPU memory, without a copy.
    ///
    /// # Panics
    /// If the tensor is not contiguous.
    #[track_caller]
    pub fn bytes(&self) -> &[u8] {
        assert!(self.0.spec.is_contiguous(), "bytes of a strided {}", self.spec());
        self.view().bytes
    }

    /// A copy of all elements in row-major order; on a GPU, waits for everything before to run.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    ///
    /// # Panics
    /// If the dtype is another.
    #[track_caller]
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        wait(self.read())
    }

    /// The value of a tensor with one element.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    ///
    /// # Panics
    /// If there is not exactly one F32 element.
    #[track_caller]
    pub fn item(&self) -> Result<f32> {
        let v = self.to_vec::<f32>()?;
        assert!(v.len() == 1, "item() of a tensor of shape {:?}", self.shape());
        Ok(v[0])
    }
}

impl From<&Tensor> for Tensor {
    /// A clone: the same elements.
    fn from(x: &Tensor) -> Self {
        x.clone()
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({})", self.spec())
    }
}
