//! A curve in bounded memory, however long the run: neighbouring steps share a bucket, and buckets
//! become twice as wide when there are too many. The bucket of a step depends on its number alone.

/// The most buckets of a curve; more than pixels would not be seen.
const MOST: usize = 1024;

/// Steps next to each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    /// The last step in it.
    pub step: u64,
    sum: f64,
    count: f64,
    /// The least value.
    pub low: f64,
    /// The greatest value.
    pub high: f64,
}

impl Bucket {
    /// The mean value.
    pub fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn merge(&mut self, later: &Self) {
        self.step = later.step;
        self.sum += later.sum;
        self.count += later.count;
        self.low = self.low.min(later.low);
        self.high = self.high.max(later.high);
    }
}

/// Values by step.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// Steps in a bucket, a power of two.
    width: u64,
    buckets: Vec<Bucket>,
}

impl Default for Series {
    fn default() -> Self {
        Self { width: 1, buckets: Vec::new() }
    }
}

impl Series {
    /// Adds the value of `step`, which is not below those before. What is not finite is left out.
    pub fn add(&mut self, step: u64, value: f64) {
        if value.is_finite() {
            self.push(Bucket { step, sum: value, count: 1.0, low: value, high: value });
        }
        while self.buckets.len() > MOST {
            self.width *= 2;
            for bucket in std::mem::take(&mut self.buckets) {
                self.push(bucket);
            }
        }
    }

    fn push(&mut self, bucket: Bucket) {
        match self.buckets.last_mut() {
            Some(last) if last.step / self.width == bucket.step / self.width => last.merge(&bucket),
            _ => self.buckets.push(bucket),
        }
    }

    /// What is to be drawn, in order.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The mean of each bucket, by step.
    pub fn means(&self) -> Vec<(f64, f64)> {
        self.buckets.iter().map(|b| (b.step as f64, b.mean())).collect()
    }

    /// Means, each averaged with a hundredth of the curve before it and after it, so that nothing is
    /// shown late; with fewer neighbours at the start, where a curve is steep.
    pub fn smoothed(&self) -> Vec<(f64, f64)> {
        let means = self.means();
        let reach = means.len() / 100;
        let mean = |i: usize| {
            let near = &means[i - reach.min(i)..=(i + reach.min(i)).min(means.len() - 1)];
            near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64
        };
        (0..means.len()).map(|i| (means[i].0, mean(i))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Series};

    #[test]
    fn long_curves_keep_their_mean_and_their_spikes() {
        let mut series = Series::default();
        let n = 100_000u64;
        for step in 1..=n {
            series.add(step, if step == 777 { 50.0 } else { 1.0 });
        }
        series.add(n + 1, f64::NAN);
        let buckets = series.buckets();
        assert!(buckets.len() <= MOST && buckets.len() > MOST / 4, "{} buckets", buckets.len());
        assert_eq!(buckets.iter().map(|b| b.high).fold(0.0, f64::max), 50.0);
        assert_eq!(buckets.iter().map(|b| b.count).sum::<f64>(), n as f64);
        assert_eq!(buckets.iter().map(|b| b.sum).sum::<f64>(), n as f64 + 49.0);
        assert_eq!(buckets.last().map(|b| b.step), Some(n));
        let (_, end) = series.smoothed().pop().expect("a curve");
        assert!((end - 1.0).abs() < 1e-9, "{end}");
    }
}
