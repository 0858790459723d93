//! Tokens as a training step takes them: whole sequences one after another, and what each token must
//! predict. Packed documents, padded-free conversations and preference pairs are all this one shape.

use puyu_nn::Ctx;
use puyu_tensor::Tensor;

/// A target that does not count.
pub const IGNORE: u32 = puyu_tensor::ops::NO_INDEX;

/// Sequences one after another. In preference data sequence 2i is the chosen answer of pair i, 2i + 1
/// the rejected one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all sequences, `[T]`.
    pub ids: Vec<u32>,
    /// The id that should follow each token, or [`IGNORE`], `[T]`.
    pub targets: Vec<u32>,
    /// Tokens of each sequence; their sum is T. Attention never crosses sequences, and positions
    /// restart in each.
    pub lengths: Vec<usize>,
}

impl Batch {
    /// Appends a sequence.
    ///
    /// # Panics
    /// If there is not one target for each id.
    pub fn push(&mut self, ids: &[u32], targets: &[u32]) {
        assert!(ids.len() == targets.len(), "{} ids, {} targets", ids.len(), targets.len());
        self.ids.extend_from_slice(ids);
        self.targets.extend_from_slice(targets);
        self.lengths.push(ids.len());
    }

    /// Appends all sequences of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.ids.extend_from_slice(&other.ids);
        self.targets.extend_from_slice(&other.targets);
        self.lengths.extend_from_slice(&other.lengths);
    }

    /// T, the number of tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many targets count.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|t| **t != IGNORE).count()
    }

    /// The ids as a tensor, U32 `[T]`.
    pub fn ids(&self) -> Tensor {
        Tensor::new(&self.ids, [self.ids.len()])
    }

    /// The targets as a tensor, U32 `[T]`.
    pub fn targets(&self) -> Tensor {
        Tensor::new(&self.targets, [self.targets.len()])
    }

    /// The step's context: positions and sequences, no cache.
    pub fn ctx(&self) -> Ctx<'static> {
        Ctx::packed(&self.lengths)
    }
}
