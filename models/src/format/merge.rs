//! A base and its adapter as one source of tensors: what is adapted becomes W + scale·B·A when it is
//! asked for, so that merging needs the memory of one tensor.

use super::adapter::{self, SavedAdapter};
use super::recode::recode;
use super::{Checkpoint, Source};
use crate::Config;
use puyu_nn::lora_delta;
use puyu_tensor::{Context, DType, Result, Spec, Tensor};
use std::path::Path;

/// The merged tensors.
pub struct Merged<'a> {
    base: &'a dyn Source,
    adapter: SavedAdapter,
}

impl<'a> Merged<'a> {
    /// `base` with the adapter in `folder`.
    ///
    /// # Errors
    /// If the adapter cannot be read or does not fit: one error with all missing, misshapen and extra
    /// tensors.
    pub fn new(base: &'a Checkpoint, folder: &Path) -> Result<Self> {
        let config = Config::from_json(&base.config()?).context(base.path.display())?;
        let base = base.source();
        let adapter = SavedAdapter::open(folder, &config, &base.names())?;
        adapter::check(&adapter, base).context(folder.display())?;
        Ok(Self { base, adapter })
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
        self.base.names()
    }

    /// Floats keep their dtype; block formats that are merged become F32, since rounding them again
    /// would lose most of what was learnt.
    fn spec(&self, name: &str) -> Option<Spec> {
        let spec = self.base.spec(name)?;
        let path = name.strip_suffix(".weight").unwrap_or_default();
        let merged = spec.rank() == 2 && puyu_nn::Adapter::rank(&self.adapter, path).is_some();
        let dtype = if merged && spec.dtype.is_block() { DType::F32 } else { spec.dtype };
        Some(Spec::new(spec.shape, dtype))
    }

    fn tensor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.base.tensor(name)?;
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
