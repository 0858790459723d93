//! `--check-tensors`: looks at every weight for NaN and infinity before any is used. It reads the whole
//! file, which opening does not, so it is asked for.

use super::Source;
use super::cursor::quote;
use puyu_tensor::quant::{decode_row, first_non_finite};
use puyu_tensor::{DType, Error, Result, Spec};

/// Checks that every number of every tensor that puyu computes with is finite.
///
/// # Errors
/// If one is not, naming the tensor and the place, or a tensor cannot be loaded.
pub fn check_tensors(source: &dyn Source) -> Result<()> {
    for name in source.names() {
        let numbers = |s: &Spec| s.dtype != DType::U32 && s.numel() > 0;
        let Some(spec) = source.spec(name).filter(numbers) else { continue };
        let tensor = source.tensor(name)?;
        let row_bytes = spec.dtype.bytes(spec.last());
        let mut row = vec![0.0; spec.last()];
        for (i, bytes) in tensor.bytes().chunks_exact(row_bytes).enumerate() {
            decode_row(spec.dtype, bytes, &mut row);
            if let Some(at) = first_non_finite(&row) {
                return Err(Error::format(format!(
                    "tensor {} holds {} in row {i} at {at}",
                    quote(name),
                    row[at]
                )));
            }
        }
    }
    Ok(())
}
