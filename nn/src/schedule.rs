//! Learning rates over the steps of a run: a linear warmup, then one of the field's curves down to a
//! floor. A schedule is a pure function of the step, so there is no state to keep or to resume.

use std::f64::consts::PI;

/// How the learning rate goes after the warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Curve {
    /// Half a cosine from peak to floor (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5).
    #[default]
    Cosine,
    /// A straight line from peak to floor.
    Linear,
    /// The peak.
    Constant,
    /// Warmup, stable, decay (Hu et al. 2024, arXiv 2404.06395, section 4.2): the peak, then a straight
    /// line to the floor over the last steps.
    WarmupStableDecay,
}

/// The learning rate of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What follows the warmup.
    pub curve: Curve,
    /// The highest learning rate.
    pub peak: f64,
    /// The learning rate at the end of the run.
    pub floor: f64,
    /// Steps of the warmup.
    pub warmup: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Steps of the decay of [`Curve::WarmupStableDecay`].
    pub decay: u64,
}

impl Schedule {
    /// The learning rate of step `s`, counted from 0. In the warmup of w steps it is peak·(s + 1)/w.
    /// After it, with p = (s − w)/(steps − w): cosine gives floor + (peak − floor)·(1 + cos πp)/2, linear
    /// peak + (floor − peak)·p. Steps beyond the run have the rate of its end.
    pub fn rate(&self, s: u64) -> f64 {
        let Self { peak, floor, warmup, steps, .. } = *self;
        if s < warmup {
            return peak * (s + 1) as f64 / warmup as f64;
        }
        let done = |from: u64| {
            let span = steps.saturating_sub(from).max(1);
            (s.saturating_sub(from) as f64 / span as f64).min(1.0)
        };
        match self.curve {
            Curve::Cosine => floor + (peak - floor) * 0.5 * (1.0 + (PI * done(warmup)).cos()),
            Curve::Linear => peak + (floor - peak) * done(warmup),
            Curve::Constant => peak,
            Curve::WarmupStableDecay => {
                let from = steps.saturating_sub(self.decay).max(warmup);
                peak + (floor - peak) * done(from)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(curve: Curve) -> Schedule {
        Schedule { curve, peak: 1.0, floor: 0.1, warmup: 10, steps: 110, decay: 20 }
    }

    #[test]
    fn every_curve_warms_up_and_ends_where_it_should() {
        for (curve, half, end) in [
            (Curve::Cosine, 0.55, 0.1),
            (Curve::Linear, 0.55, 0.1),
            (Curve::Constant, 1.0, 1.0),
            (Curve::WarmupStableDecay, 1.0, 0.1),
        ] {
            let s = schedule(curve);
            let near = |step, want: f64| {
                let got = s.rate(step);
                assert!((got - want).abs() < 1e-12, "{curve:?} at {step}: {got}, not {want}");
            };
            near(0, 0.1);
            near(9, 1.0);
            near(10, 1.0);
            near(60, half);
            near(110, end);
            near(1000, end);
        }
        assert!((schedule(Curve::WarmupStableDecay).rate(100) - 0.55).abs() < 1e-12);
    }

    #[test]
    fn odd_lengths_give_finite_rates() {
        for curve in [Curve::Cosine, Curve::Linear, Curve::Constant, Curve::WarmupStableDecay] {
            let s = Schedule { warmup: 0, steps: 0, decay: 5, ..schedule(curve) };
            assert!((0..3).all(|step| s.rate(step).is_finite()), "{curve:?}");
            let s = Schedule { warmup: 50, steps: 20, ..schedule(curve) };
            assert!((0..60).all(|step| (0.0..=1.0).contains(&s.rate(step))), "{curve:?}");
        }
    }
}
