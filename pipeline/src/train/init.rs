//! The first weights of a new model: normal numbers, and smaller where a layer writes to the residual
//! stream. Each number is a function of seed, name and place, so a model begins with the
//! same bits on any number of threads, and a parameter keeps its values when others are added.

use puyu_nn::Weights;
use puyu_tensor::cpu::pool::par_rows;
use puyu_tensor::{DType, Result, Tensor};

/// The deviation of the first weights of a model of width `hidden`, where none is asked for: 0.02 (Radford
/// et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 4.1) as large
/// models have it, and 1/√hidden below 2,500. There 0.02 makes the first products of queries and keys
/// so small that attention is even over all tokens and hardly learns at first: `benches/nanogpt.rs`, of
/// width 128, ends at a loss of 1.583 instead of 1.615.
pub fn first_deviation(hidden: usize) -> f64 {
    f64::max(0.02, 1.0 / (hidden.max(1) as f64).sqrt())
}

/// First weights for a model of so many layers.
#[derive(Clone, Copy, Debug)]
pub struct FirstWeights {
    /// Seed of all numbers.
    pub seed: u64,
    /// Layers of the model. Outputs of attention and of the feed-forward layer, two a layer, are divided
    /// by √(2·layers), so that their sum has the deviation of one (Radford et al. 2019, "Language Models
    /// are Unsupervised Multitask Learners", section 2.3).
    pub layers: usize,
    /// Deviation of the other matrices: `initializer_range` of Hugging Face's configs.
    pub deviation: f64,
}

impl Weights for FirstWeights {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn get(&self, name: &str) -> Result<Tensor> {
        unreachable!("{name} was not among the names")
    }

    fn fresh(&self, name: &str, shape: &[usize]) -> Option<Tensor> {
        let (path, kind) = name.rsplit_once('.').unwrap_or(("", name));
        let layer = path.rsplit('.').next().unwrap_or_default();
        Some(match kind {
            "bias" => Tensor::zeros(shape, DType::F32),
            _ if shape.len() < 2 => Tensor::full(shape, 1.0),
            _ => {
                let output = ["wo", "w2", "o_proj", "down_proj"].contains(&layer);
                let parts = if output { 2 * self.layers.max(1) } else { 1 };
                normal(self.seed, name, shape, self.deviation / (parts as f64).sqrt())
            }
        })
    }
}

/// Normal numbers of deviation `deviation` around zero, by Box and Muller (1958): for two uniform u, v,
/// √(−2 ln u)·cos 2πv.
pub fn normal(seed: u64, name: &str, shape: &[usize], deviation: f64) -> Tensor {
    numbers(seed, name, shape, |u, v| {
        deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    })
}

/// Uniform numbers from `-bound` to `bound`.
pub fn uniform(seed: u64, name: &str, shape: &[usize], bound: f64) -> Tensor {
    numbers(seed, name, shape, |u, _| bound * (2.0 * u - 1.0))
}

/// A number that looks random, of `seed` and `name`: FNV-1a over the name, then mixed with the seed.
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash) ^ mix(seed))
}

/// A tensor of what `number` makes of two uniform numbers in (0, 1].
fn numbers(
    seed: u64,
    name: &str,
    shape: &[usize],
    number: impl Fn(f64, f64) -> f64 + Sync,
) -> Tensor {
    let key = key(seed, name);
    let mut values = vec![0.0f32; shape.iter().product()];
    par_rows(&mut values, 1, 1 << 12, |first, values| {
        for (i, value) in values.iter_mut().enumerate() {
            let place = 2 * (first + i) as u64;
            let [u, v] = [place, place + 1].map(|p| unit(mix(key.wrapping_add(p))));
            *value = number(u, v) as f32;
        }
    });
    Tensor::new(&values, shape)
}

/// A number in (0, 1] from the upper 53 bits.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014) of a counter.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use puyu_tensor::cpu::pool::with_threads;

    fn moments(x: &[f32]) -> (f64, f64) {
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        (mean, square.sqrt())
    }

    #[test]
    fn first_weights_have_the_deviation_of_their_layer() {
        let first = FirstWeights { seed: 1, layers: 8, deviation: 0.02 };
        let values = |name: &str, shape: &[usize]| -> Vec<f32> {
            first.fresh(name, shape).unwrap().to_vec().unwrap()
        };
        for (name, wanted) in [
            ("model.layers.0.attention.wqkv.weight", 0.02),
            ("model.layers.0.attention.wo.weight", 0.005),
            ("model.layers.0.mlp.down_proj.weight", 0.005),
            ("output.weight", 0.02),
        ] {
            let (mean, deviation) = moments(&values(name, &[200, 500]));
            assert!(mean.abs() < wanted / 100.0, "{name}: mean {mean}");
            assert!((deviation / wanted - 1.0).abs() < 0.01, "{name}: deviation {deviation}");
        }
        assert_eq!(values("model.norm.weight", &[3]), [1.0; 3]);
        assert_eq!((first_deviation(4096), first_deviation(256)), (0.02, 0.0625));
        assert_eq!(values("model.layers.0.attention.wqkv.bias", &[2]), [0.0; 2]);
    }

    #[test]
    fn first_weights_depend_on_seed_and_name_and_not_on_threads() {
        let make = |seed, name, threads| -> Vec<f32> {
            with_threads(threads, || normal(seed, name, &[100, 100], 1.0).to_vec().unwrap())
        };
        assert_eq!(make(1, "a", 1), make(1, "a", 3));
        assert_ne!(make(1, "a", 1), make(2, "a", 1));
        assert_ne!(make(1, "a", 1), make(1, "b", 1));
    }
}
