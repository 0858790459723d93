//! Commands as data. An op becomes commands (pipeline, buffers, params, grid) in the device's
//! recording; reading a value, or a bounded number of commands, submits them: one encoder, one pass,
//! one submit. One submit per op would cost more than most ops do.

use super::{Buffer, Gpu, State};
use crate::op::Dispatch;
use crate::{Error, Result};
use puyu_shaders::Shader;
use std::collections::HashMap;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// Commands after which a submit is due.
const COMMANDS: usize = 512;

/// Bytes of params per command: the largest alignment that WebGPU allows a device to ask for.
const SLOT: usize = 256;

/// The buffer that holds the params of every command of a submit. `write_buffer` lands after the
/// submit before, so one is enough.
pub(super) const PARAMS: wgpu::BufferDescriptor = wgpu::BufferDescriptor {
    label: Some("params"),
    size: (COMMANDS * SLOT) as u64,
    usage: wgpu::BufferUsages::UNIFORM.union(wgpu::BufferUsages::COPY_DST),
    mapped_at_creation: false,
};

/// What a device has been asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Dispatches recorded.
    pub dispatches: u64,
    /// Submits to the queue.
    pub submits: u64,
}

/// Commands that wait for the next submit, and the pipelines made so far.
#[derive(Default)]
pub(super) struct Recording {
    commands: Vec<Command>,
    params: Vec<u8>,
    uploaded: usize,
    counts: Counts,
    kernels: HashMap<&'static str, Arc<Kernel>>,
}

struct Kernel {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

struct Command {
    kernel: Arc<Kernel>,
    group: wgpu::BindGroup,
    groups: [u32; 3],
}

impl Recording {
    /// The number of the submit that the commands recorded now belong to.
    pub(super) fn submit(&self) -> u64 {
        self.counts.submits
    }

    /// Notes an upload of `bytes`; the bytes uploaded since the last submit.
    pub(super) fn uploaded(&mut self, bytes: usize) -> usize {
        self.uploaded += bytes;
        self.uploaded
    }
}

/// A part of a buffer, as a dispatch binds it.
pub(super) struct Binding<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) bytes: Range<usize>,
}

impl Gpu {
    /// Dispatches and submits so far.
    pub fn counts(&self) -> Counts {
        self.state().recording.counts
    }

    /// Submits what is recorded, without waiting for it.
    pub fn flush(&self) {
        self.submit(&mut self.state(), |_| {});
    }

    /// Appends one dispatch of the op called `label`.
    pub(super) fn record(
        &self,
        label: &str,
        dispatch: &Dispatch,
        bindings: &[Binding],
        params: &[u32],
    ) {
        if self.status().is_err() {
            return;
        }
        let mut state = self.state();
        let recording = &mut state.recording;
        let kernel = self.kernel(recording, dispatch.shader);
        let bytes: &[u8] = bytemuck::cast_slice(params);
        assert!(bytes.len() <= SLOT, "{label}: {} params", params.len());
        let start = recording.commands.len() * SLOT;
        recording.params.resize(start, 0);
        recording.params.extend(bytes);
        let buffers = bindings.iter().map(|b| wgpu::BufferBinding {
            buffer: &b.buffer.raw,
            offset: b.bytes.start as u64,
            size: std::num::NonZero::new(b.bytes.len() as u64),
        });
        let params = wgpu::BufferBinding {
            buffer: &self.0.params,
            offset: start as u64,
            size: std::num::NonZero::new(SLOT as u64),
        };
        let entries: Vec<_> = buffers
            .chain([params])
            .zip(0..)
            .map(|(b, binding)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(b),
            })
            .collect();
        let group = self.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &kernel.layout,
            entries: &entries,
        });
        recording.commands.push(Command { kernel, group, groups: dispatch.groups });
        recording.counts.dispatches += 1;
        if recording.commands.len() == COMMANDS {
            self.submit(&mut state, |_| {});
        }
    }

    fn kernel(&self, recording: &mut Recording, shader: &'static Shader) -> Arc<Kernel> {
        let make = || {
            let device = &self.0.device;
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(shader.name),
                source: wgpu::ShaderSource::Wgsl(shader.parts.concat().into()),
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(shader.name),
                layout: None,
                module: &module,
                entry_point: Some("main"),
                // Kernels write workgroup memory before they read it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: None,
            });
            Arc::new(Kernel { layout: pipeline.get_bind_group_layout(0), pipeline })
        };
        recording.kernels.entry(shader.name).or_insert_with(make).clone()
    }

    /// Submits the commands of `state`, then what `after` adds to the encoder.
    fn submit(&self, state: &mut State, after: impl FnOnce(&mut wgpu::CommandEncoder)) {
        let recording = &mut state.recording;
        let commands = std::mem::take(&mut recording.commands);
        if self.status().is_err() {
            return;
        }
        self.0.queue.write_buffer(&self.0.params, 0, &recording.params);
        recording.params.clear();
        recording.uploaded = 0;
        recording.counts.submits += 1;
        let mut encoder = self.0.device.create_command_encoder(&Default::default());
        if !commands.is_empty() {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for command in &commands {
                pass.set_pipeline(&command.kernel.pipeline);
                pass.set_bind_group(0, &command.group, &[]);
                let [x, y, z] = command.groups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        after(&mut encoder);
        self.0.queue.submit([encoder.finish()]);
    }

    /// The bytes of `buffer` in `range`, once everything recorded before has run.
    ///
    /// # Errors
    /// The device's first error.
    pub(crate) async fn read(&self, buffer: &Buffer, range: Range<usize>) -> Result<Vec<u8>> {
        self.status()?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let start = range.start / 4 * 4;
        let size = (range.end - start).next_multiple_of(4) as u64;
        let staging = self.0.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.submit(&mut self.state(), |encoder| {
            encoder.copy_buffer_to_buffer(&buffer.raw, start as u64, &staging, 0, size);
        });
        let mapped = Signal::default();
        let done = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| done.set(result));
        // On native this blocks until the copy is done; in a browser it does nothing, and the event
        // loop wakes the future.
        let waited = self.0.device.poll(wgpu::PollType::wait_indefinitely());
        if let Err(e) = waited {
            self.fail(Error::device(format!("{} does not answer: {e}", self.name())));
        }
        self.status()?;
        let lost = |e: String| Error::device(format!("{}: cannot read memory: {e}", self.name()));
        mapped.await.map_err(|e| lost(e.to_string()))?;
        let view = staging.get_mapped_range(..).map_err(|e| lost(e.to_string()))?;
        Ok(view[range.start - start..][..range.len()].to_vec())
    }
}

/// A value that a callback sends to a future.
struct Signal<T>(Arc<Mutex<(Option<T>, Option<Waker>)>>);

impl<T> Default for Signal<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((None, None))))
    }
}

impl<T> Clone for Signal<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Signal<T> {
    fn set(&self, value: T) {
        let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
        slot.0 = Some(value);
        if let Some(waker) = slot.1.take() {
            waker.wake();
        }
    }
}

impl<T> Future for Signal<T> {
    type Output = T;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match slot.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                slot.1 = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
