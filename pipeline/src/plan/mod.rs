//! What a training run will need before it is run: memory, and the time of a step, from the model's
//! shape alone; weights are not needed.

mod memory;
mod shape;
mod time;

pub use memory::{Memory, Method, NF4_BITS, Setting, Whole, kept, trained};
pub use shape::{Parameters, forward_flops, train_flops};
pub use time::{Device, matmul_flops, step_flops, step_seconds};

use puyu_models::Config;

/// The largest batch of at most `most` rows with which a step of `setting` fits into `bytes`: a power
/// of two, or `most` itself.
pub fn largest_batch(c: &Config, setting: Setting, bytes: f64, most: usize) -> Option<usize> {
    let powers = (0..usize::BITS).map(|i| 1 << i).take_while(|b| *b < most).chain([most]);
    let fits =
        |batch: &usize| Memory::of(c, &Setting { batch: *batch, ..setting }).total() <= bytes;
    powers.filter(fits).max()
}
