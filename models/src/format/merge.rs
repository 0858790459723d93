//! A base and its adapter as one source of tensors: what is adapted becomes W + scale·B·A when it is
//! asked for, so that merging needs the memory of one tensor; what the adapter holds as a whole is that.

use super::adapter::{self, SavedAdapter};
use super::recode::recode;
use super::{Checkpoint, Source};
use crate::Config;
use crate::reward::{HEAD, Headless, become_reward_model};
use puyu_nn::{Weights, lora_delta};
use puyu_tensor::{Context, DType, Result, Spec, Tensor};
use serde_json::Value;
use std::path::Path;

/// The merged tensors.
pub struct Merged<'a> {
    base: &'a dyn Source,
    /// The base without its head, and what comes in its place, if the adapter brings a score's.
    headless: Option<(Headless<'a>, Spec)>,
    adapter: SavedAdapter,
    /// config.json of the merged model.
    pub config: Value,
}

impl<'a> Merged<'a> {
    /// `base` with the adapter in `folder`.
    ///
    /// # Errors
    /// If the adapter cannot be read or does not fit: one error with all missing, misshapen and extra
    /// tensors.
    pub fn new(base: &'a Checkpoint, folder: &Path) -> Result<Self> {
        let mut config = base.config()?;
        let shape = Config::from_json(&config).context(base.path.display())?;
        let source = base.source();
        let adapter = SavedAdapter::open(folder, &shape, &source.names())?;
        let headless = if adapter.scores() && !shape.reward {
            become_reward_model(&mut config, &base.tokenizer()?).context(folder.display())?;
            Some((Headless(source), Spec::new([1, shape.hidden_size], DType::F32)))
        } else {
            None
        };
        let merged = Self { base: source, headless, adapter, config };
        adapter::check(&merged.adapter, &merged).context(folder.display())?;
        Ok(merged)
    }

    fn base(&self) -> &dyn Source {
        self.headless.as_ref().map_or(self.base, |(headless, _)| headless)
    }

    /// What is added to the tensor `name` of `spec`, in F32.
    fn delta(&self, name: &str, spec: &Spec) -> Result<Option<Tensor>> {
        let Some(path) = name.strip_suffix(".weight").filter(|_| spec.rank() == 2) else {
            return Ok(None);
        };
        let parts = self.adapter.of(path, spec.shape[0], spec.shape[1])?;
        Ok(parts.map(|(a, b, scale)| lora_delta(&a, &b, scale)))
    }
}

impl Source for Merged<'_> {
    fn names(&self) -> Vec<&str> {
        let head = self.headless.as_ref().map(|_| HEAD);
        self.base().names().into_iter().chain(head).collect()
    }

    /// Floats keep their dtype; block formats that are merged become F32, since rounding them again
    /// would lose most of what was learnt.
    fn spec(&self, name: &str) -> Option<Spec> {
        let head = self.headless.as_ref().filter(|_| name == HEAD).map(|(_, spec)| *spec);
        let spec = self.base().spec(name).or(head)?;
        if let Some(whole) = self.adapter.whole(name) {
            return Some(Spec::new(spec.shape, whole.dtype));
        }
        let path = name.strip_suffix(".weight").unwrap_or_default();
        let merged = spec.rank() == 2 && puyu_nn::Adapter::rank(&self.adapter, path).is_some();
        let dtype = if merged && spec.dtype.is_block() { DType::F32 } else { spec.dtype };
        Some(Spec::new(spec.shape, dtype))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        if let Some(whole) = self.adapter.whole(name) {
            let tensor = self.adapter.get(name)?.contiguous();
            let spec = Spec::new(tensor.spec().shape, whole.dtype);
            return Ok(Tensor::from_bytes(
                &recode(tensor.spec(), tensor.bytes(), whole.dtype)?,
                spec,
            ));
        }
        let tensor = self.base().tensor(name)?;
        let Some(delta) = self.delta(name, tensor.spec())? else { return Ok(tensor) };
        let (tensor, spec) = (tensor.contiguous(), *tensor.spec());
        let f32s = Spec::new(spec.shape, DType::F32);
        let plain = Tensor::from_bytes(&recode(&spec, tensor.bytes(), DType::F32)?, f32s);
        let merged = (&plain + &delta).contiguous();
        let to = if spec.dtype.is_block() { DType::F32 } else { spec.dtype };
        let bytes = recode(&f32s, merged.bytes(), to)?;
        Ok(Tensor::from_bytes(&bytes, Spec::new(spec.shape, to)))
    }
}
