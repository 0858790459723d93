//! The GPU device: any Vulkan, Metal or DX12 adapter, through wgpu and WGSL.
//!
//! An op on GPU tensors is recorded as data and submitted later, many at once (`recording`); memory
//! comes from free lists by size class (`buffers`). Nothing here can fail in the middle of a model:
//! the device keeps its first error, records nothing more, and every later read returns that error.

mod buffers;
mod check;
mod recording;
mod run;

use crate::{Error, Result, wait};
use buffers::Pool;
use recording::Recording;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub(crate) use buffers::Buffer;
pub use recording::Counts;

/// A handle to a GPU; clones share the device.
#[derive(Clone)]
pub struct Gpu(Arc<Shared>);

struct Shared {
    name: String,
    software: bool,
    check: bool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: wgpu::Limits,
    /// The params of all commands of one submit.
    params: wgpu::Buffer,
    state: Mutex<State>,
    error: Arc<OnceLock<Error>>,
}

/// What recording an op changes; behind one lock, which no wgpu callback takes.
struct State {
    pool: Pool,
    recording: Recording,
}

/// How to open a GPU.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The adapter's index in [`Gpu::list`] or a part of its name; without one, the fastest.
    pub adapter: Option<String>,
    /// Run every op on the CPU too and panic at the first that differs; outputs start out as NaN, and
    /// writes past their end are found.
    pub check: bool,
}

impl Options {
    /// The options that `PUYU_GPU` (index or name) and `PUYU_CHECK=1` choose.
    pub fn from_env() -> Self {
        let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        Self { adapter: set("PUYU_GPU"), check: set("PUYU_CHECK").is_some_and(|v| v != "0") }
    }
}

impl Gpu {
    /// Opens the GPU that the environment chooses ([`Options::from_env`]), else the fastest.
    ///
    /// # Errors
    /// If there is none, or its driver refuses.
    pub fn open() -> Result<Self> {
        wait(Self::request(&Options::from_env()))
    }

    /// Opens a GPU.
    ///
    /// # Errors
    /// If there is none of that name, or its driver refuses.
    pub async fn request(options: &Options) -> Result<Self> {
        let adapter = choose(options.adapter.as_deref()).await?;
        let info = adapter.get_info();
        let limits = adapter.limits();
        let descriptor =
            wgpu::DeviceDescriptor { required_limits: limits.clone(), ..Default::default() };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| {
            Error::device(format!("{} cannot be used: {e}; try --device cpu", info.name))
        })?;
        let error = Arc::new(OnceLock::new());
        keep_first_error(&device, &info.name, &error);
        Ok(Self(Arc::new(Shared {
            params: device.create_buffer(&recording::PARAMS),
            state: Mutex::new(State { pool: Pool::default(), recording: Recording::default() }),
            software: info.device_type == wgpu::DeviceType::Cpu,
            name: info.name,
            check: options.check,
            device,
            queue,
            limits,
            error,
        })))
    }

    /// The names of all adapters, in the order of the index that `PUYU_GPU` takes.
    pub async fn list() -> Vec<String> {
        adapters().await.iter().map(|a| a.get_info().name).collect()
    }

    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether this is a driver that computes on the CPU: right, and slow.
    pub fn is_software(&self) -> bool {
        self.0.software
    }

    /// The first error of this device, if it has failed.
    ///
    /// # Errors
    /// That error.
    pub fn status(&self) -> Result<()> {
        self.0.error.get().map_or(Ok(()), |e| Err(e.clone()))
    }

    fn fail(&self, error: Error) {
        // Only the first error is kept: those that follow are its consequences.
        let _ = self.0.error.set(error);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl PartialEq for Gpu {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.0.name)
    }
}

/// The one instance of the process, never dropped: drivers fail when instances are made on several threads at once
/// (<https://github.com/gfx-rs/wgpu/issues/5930>).
fn instance() -> &'static wgpu::Instance {
    static INSTANCE: OnceLock<wgpu::Instance> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
    })
}

async fn adapters() -> Vec<wgpu::Adapter> {
    instance().enumerate_adapters(wgpu::Backends::all()).await
}

async fn choose(name: Option<&str>) -> Result<wgpu::Adapter> {
    let Some(name) = name else {
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        return instance().request_adapter(&options).await.map_err(|e| {
            Error::not_found(format!(
                "no GPU was found ({e}); install its Vulkan driver, or use --device cpu"
            ))
        });
    };
    let mut adapters = adapters().await;
    let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
    let part = name.to_lowercase();
    let index = match name.parse::<usize>() {
        Ok(index) => Some(index).filter(|&i| i < names.len()),
        Err(_) => names.iter().position(|n| n.to_lowercase().contains(&part)),
    };
    let index = index.ok_or_else(|| {
        Error::not_found(format!("no GPU is called {name:?}; there are: {}", names.join(", ")))
    })?;
    Ok(adapters.swap_remove(index))
}

fn keep_first_error(device: &wgpu::Device, name: &str, error: &Arc<OnceLock<Error>>) {
    let (first, of) = (error.clone(), name.to_string());
    device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
        let _ = first.set(match e {
            wgpu::Error::OutOfMemory { .. } => Error::resource(format!(
                "{of} is out of memory; use a smaller model, batch or context, or --device cpu"
            )),
            other => Error::device(format!("{of} refused a command: {other}")),
        });
    }));
    let (first, of) = (error.clone(), name.to_string());
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            let _ = first.set(Error::device(format!("{of} was lost: {message}")));
        }
    });
}
