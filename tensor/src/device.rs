//! Where tensors live and ops run, chosen at run time; moving a tensor there and reading it back.
//!
//! Reading is the one call that waits for a device and that can fail; it is asynchronous because a
//! browser cannot block.

#[cfg(feature = "gpu")]
pub use crate::gpu::Gpu;
use crate::storage::Storage;
use crate::{Element, Result, Tensor};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// A handle to a GPU; nothing without the feature `gpu`.
#[cfg(not(feature = "gpu"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpu {}

/// Where a tensor's elements lie, and where an op on them runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// This machine's processor and memory.
    Cpu,
    /// A GPU and its memory.
    Gpu(Gpu),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => write!(f, "gpu ({})", gpu.name()),
            #[cfg(not(feature = "gpu"))]
            Self::Gpu(none) => match *none {},
        }
    }
}

/// Blocks this thread until `future` is done. For native programs; a browser cannot block and awaits
/// instead.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl Tensor {
    /// Where the elements lie.
    pub fn device(&self) -> Device {
        match &*self.0.storage {
            Storage::Owned(_) | Storage::File { .. } => Device::Cpu,
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => Device::Gpu(buffer.gpu().clone()),
            Storage::Gone(device) => device.clone(),
        }
    }

    /// The same elements on `device`, in row-major order, for ops that run from now on; a leaf that no
    /// gradient flows through, unless it is there already.
    ///
    /// # Panics
    /// If the tensor lies on a GPU and `device` is another one: [`Tensor::read`] brings it back.
    #[track_caller]
    #[must_use]
    pub fn to_device(&self, device: &Device) -> Self {
        let from = self.device();
        match device {
            _ if from == *device => self.clone(),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) if from == Device::Cpu => {
                let x = self.unpack().contiguous();
                let buffer = gpu.upload(x.bytes());
                Self::build(*x.spec(), 0, Arc::new(Storage::Gpu(buffer)), None)
            }
            _ => panic!("to_device: {self:?} is on {from}; read() it to bring it to {device}"),
        }
    }

    /// A copy of all elements in row-major order, once everything before has run.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    ///
    /// # Panics
    /// If the dtype is another.
    pub async fn read<T: Element>(&self) -> Result<Vec<T>> {
        let spec = self.spec();
        assert!(spec.dtype == T::DTYPE, "read: elements of {spec} as {}", T::DTYPE);
        match self.device() {
            Device::Cpu => Ok(self.contiguous().data().to_vec()),
            #[cfg(feature = "gpu")]
            Device::Gpu(_) => Ok(bytemuck::pod_collect_to_vec(&self.read_bytes().await?)),
        }
    }

    /// A copy of all bytes in row-major order, as [`Tensor::read`]; for any dtype.
    ///
    /// # Errors
    /// The device's first error, if it failed.
    pub async fn read_bytes(&self) -> Result<Vec<u8>> {
        let x = self.contiguous();
        match &*x.0.storage {
            Storage::Owned(_) | Storage::File { .. } | Storage::Gone(_) => Ok(x.bytes().to_vec()),
            #[cfg(feature = "gpu")]
            Storage::Gpu(b) => b.gpu().read(b, x.spec().byte_range(x.0.offset)).await,
        }
    }
}
