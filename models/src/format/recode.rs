//! Elements from one dtype to another, row by row through f32: what converting and quantizing are made
//! of. Equal dtypes are passed on untouched, so converting to the type a file has loses nothing.

use puyu_tensor::cpu::pool::par_rows;
use puyu_tensor::quant::{decode_row, encode_row, first_non_finite};
use puyu_tensor::{DType, Error, Result, Spec};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

/// The row-major elements of `spec` in `bytes`, as `to`.
///
/// # Errors
/// If a block format is to hold a NaN or an infinity.
///
/// # Panics
/// If the rows of `spec` are not whole blocks of `to`, or either dtype is U32.
pub fn recode<'a>(spec: &Spec, bytes: &'a [u8], to: DType) -> Result<Cow<'a, [u8]>> {
    if spec.dtype == to {
        return Ok(Cow::Borrowed(bytes));
    }
    let row = spec.last();
    let (from_bytes, to_bytes) = (spec.dtype.bytes(row), to.bytes(row));
    let mut out = vec![0; spec.rows() * to_bytes];
    let bad = AtomicBool::new(false);
    par_rows(&mut out, to_bytes, 16, |first, rows| {
        let mut values = vec![0.0; row];
        for (i, out) in rows.chunks_exact_mut(to_bytes).enumerate() {
            let at = (first + i) * from_bytes;
            decode_row(spec.dtype, &bytes[at..at + from_bytes], &mut values);
            if to.is_block() && first_non_finite(&values).is_some() {
                bad.store(true, Ordering::Relaxed);
                return;
            }
            encode_row(to, &values, out);
        }
    });
    if bad.into_inner() {
        return Err(Error::format(format!("it holds NaN or infinity, which {to} cannot")));
    }
    Ok(Cow::Owned(out))
}

/// `wanted`, or what llama.cpp's quantizer takes instead for rows that are not whole blocks of it: a
/// 32-element format of about the same quality, and F16 where even that does not fit.
pub fn fitting(wanted: DType, row: usize) -> DType {
    let fits = |d: DType| row.is_multiple_of(d.block_len());
    let instead = match wanted {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        _ => DType::F16,
    };
    [wanted, instead].into_iter().find(|d| fits(*d)).unwrap_or(DType::F16)
}
