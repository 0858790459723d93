//! A chart as HTML: the curves are an SVG that stretches with the page, ticks and labels are text over
//! it and keep their size, so the same chart is readable on a wide screen and on a phone.

use super::series::Series;
use crate::units::decimal;
use std::fmt::Write;

/// The SVG's own width and height; it is stretched to its place.
const SIZE: f64 = 1000.0;

/// A line of a chart.
pub(super) struct Curve {
    /// What it is called in the legend and beside the pointer.
    pub name: &'static str,
    /// Its style: `main`, `second` or `faint`.
    pub class: &'static str,
    /// Its points are marked.
    pub dots: bool,
    /// (step, value), ascending.
    pub points: Vec<(f64, f64)>,
}

/// A chart over steps.
pub(super) struct Chart<'a> {
    /// Its title.
    pub title: &'a str,
    /// What stands after the title.
    pub unit: &'a str,
    /// Its curves; the later are drawn over the earlier.
    pub curves: Vec<Curve>,
    /// The least and greatest values around each step.
    pub band: Vec<(f64, f64, f64)>,
}

impl<'a> Chart<'a> {
    /// The usual chart: each bucket's mean faintly, its extent fainter, and the smoothed curve.
    pub fn of(title: &'a str, unit: &'a str, series: &Series) -> Self {
        let means = series.means();
        let smooth = series.smoothed();
        let wide = series.buckets().iter().any(|b| b.low < b.high);
        let band = series.buckets().iter().map(|b| (b.step as f64, b.low, b.high));
        let band = if wide { band.collect() } else { Vec::new() };
        let faint = Curve { name: "", class: "faint", dots: false, points: means.clone() };
        let main = Curve { name: "", class: "main", dots: false, points: smooth };
        let same = main.points == means;
        let curves = if same { vec![main] } else { vec![faint, main] };
        Self { title, unit, curves, band }
    }

    /// The chart; nothing if it has no points.
    pub fn html(&self) -> String {
        let Some(frame) = self.frame() else { return String::new() };
        let mut svg = String::new();
        for y in &frame.y_ticks {
            let _ = write!(svg, "<path class=\"grid\" d=\"M0 {:.1}H{SIZE}\"/>", frame.y(*y));
        }
        svg += &self.band_path(&frame);
        for curve in &self.curves {
            svg += &curve.paths(&frame);
        }
        let labels = frame.labels();
        let legend = self.legend();
        let unit = if self.unit.is_empty() { String::new() } else { format!(", {}", self.unit) };
        let (title, data) = (self.title, self.data(&frame));
        format!(
            "<figure class=\"chart\"><figcaption><h2>{title}<small>{unit}</small></h2>{legend}\
             </figcaption>\n<div class=\"plot\" data-chart='{data}'>\
             <svg viewBox=\"0 0 {SIZE} {SIZE}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"{title}\">{svg}</svg>{labels}</div></figure>\n"
        )
    }

    fn frame(&self) -> Option<Frame> {
        let points = || self.curves.iter().flat_map(|c| &c.points);
        let x = range(points().map(|p| p.0))?;
        // The steep start and spikes are cut off rather than allowed to press everything else flat.
        let mut values: Vec<f64> = points().map(|p| p.1).collect();
        values.sort_by(f64::total_cmp);
        let cut = if values.len() > 200 { 0.02 } else { 0.0 };
        let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
        let y = (at(cut / 4.0), at(1.0 - cut));
        let pad = match y.1 - y.0 {
            d if d > 0.0 => 0.06 * d,
            _ => y.0.abs().max(1e-9) * 0.5,
        };
        let floor = if y.0 >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        let y = ((y.0 - pad).max(floor), y.1 + pad);
        let x = if x.0 < x.1 { x } else { (x.0 - 1.0, x.1 + 1.0) };
        let whole = |t: &f64| t.fract() == 0.0;
        let x_ticks = ticks(x, 6).into_iter().filter(whole).collect();
        Some(Frame { x, y, x_ticks, y_ticks: ticks(y, 6) })
    }

    fn band_path(&self, frame: &Frame) -> String {
        if self.band.is_empty() {
            return String::new();
        }
        let upper = self.band.iter().map(|(x, _, high)| (*x, *high));
        let lower = self.band.iter().rev().map(|(x, low, _)| (*x, *low));
        format!("<path class=\"band\" d=\"{}Z\"/>", frame.line(upper.chain(lower)))
    }

    fn legend(&self) -> String {
        let entry = |c: &Curve| format!("<span class=\"key {}\">{}</span>", c.class, c.name);
        let entries = self.curves.iter().filter(|c| !c.name.is_empty()).map(entry);
        format!("<span>{}</span>", entries.collect::<String>())
    }

    /// What the script shows beside the pointer.
    fn data(&self, frame: &Frame) -> String {
        let curves: Vec<_> = self.curves.iter().filter(|c| c.class != "faint" || c.dots).collect();
        let rounded = |x: &f64| format!("{x:.5e}").parse::<f64>().unwrap_or(*x);
        let curves: Vec<_> = curves
            .iter()
            .map(|c| {
                let points: Vec<_> = c.points.iter().map(|(x, y)| [*x, rounded(y)]).collect();
                serde_json::json!({ "name": c.name, "class": c.class, "points": points })
            })
            .collect();
        serde_json::json!({ "x": [frame.x.0, frame.x.1], "y": [frame.y.0, frame.y.1], "curves": curves })
            .to_string()
    }
}

impl Curve {
    fn paths(&self, frame: &Frame) -> String {
        let class = self.class;
        let line = frame.line(self.points.iter().copied());
        let mut out = format!("<path class=\"line {class}\" d=\"{line}\"/>");
        if self.dots || self.points.len() == 1 {
            // A line of no length with round ends is a dot that the stretching leaves round.
            let dot = |p: &(f64, f64)| frame.line([*p].into_iter()) + "h0";
            let dots: String = self.points.iter().map(dot).collect();
            let _ = write!(out, "<path class=\"dots {class}\" d=\"{dots}\"/>");
        }
        out
    }
}

/// Where values lie.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    x_ticks: Vec<f64>,
    y_ticks: Vec<f64>,
}

impl Frame {
    fn x(&self, x: f64) -> f64 {
        SIZE * (x - self.x.0) / (self.x.1 - self.x.0)
    }

    fn y(&self, y: f64) -> f64 {
        // Far outside is outside all the same, and keeps the numbers short.
        (SIZE * (self.y.1 - y) / (self.y.1 - self.y.0)).clamp(-SIZE, 2.0 * SIZE)
    }

    fn line(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let mut d = String::new();
        for (x, y) in points {
            let mark = if d.is_empty() { 'M' } else { 'L' };
            let _ = write!(d, "{mark}{:.1} {:.1}", self.x(x), self.y(y));
        }
        d
    }

    fn labels(&self) -> String {
        let percent = |v: f64| 100.0 * v / SIZE;
        let mut out = String::new();
        for (y, text) in self.y_ticks.iter().zip(tick_labels(&self.y_ticks)) {
            let at = percent(self.y(*y));
            let _ = write!(out, "<i class=\"y\" style=\"top:{at:.2}%\">{text}</i>");
        }
        for (x, text) in self.x_ticks.iter().zip(tick_labels(&self.x_ticks)) {
            let at = percent(self.x(*x));
            let _ = write!(out, "<i class=\"x\" style=\"left:{at:.2}%\">{text}</i>");
        }
        out
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |all, v| {
        let (low, high) = all.unwrap_or((v, v));
        Some((low.min(v), high.max(v)))
    })
}

/// About `n` round numbers within `range`: multiples of 1, 2 or 5 times a power of ten.
fn ticks(range: (f64, f64), n: usize) -> Vec<f64> {
    let rough = (range.1 - range.0) / n as f64;
    // Rounding neither makes a step larger nor takes the tick at an end away.
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough * (1.0 - 1e-9));
    let step = step.unwrap_or(rough);
    let (first, last) = (range.0 / step - 1e-9, range.1 / step + 1e-9);
    let (first, last) = (first.ceil() as i64, last.floor() as i64);
    (first..=last).map(|i| i as f64 * step).collect()
}

/// The numbers with as many digits as tell them apart.
fn tick_labels(ticks: &[f64]) -> Vec<String> {
    let most = ticks.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
    let step = ticks.windows(2).next().map_or(most, |w| w[1] - w[0]);
    let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    let label = |t: &f64| match most {
        _ if *t == 0.0 => "0".to_owned(),
        m if m >= 10_000.0 => decimal(*t).replace(".00", "").replace(".0", ""),
        m if m < 0.01 => format!("{t:.1e}").replace(".0e", "e"),
        _ => format!("{t:.digits$}"),
    };
    ticks.iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::{tick_labels, ticks};

    #[test]
    fn ticks_are_round_and_told_apart() {
        assert_eq!(tick_labels(&ticks((2.0, 11.3), 5)), ["2", "4", "6", "8", "10"]);
        assert_eq!(tick_labels(&ticks((0.0, 3e-4), 5)), ["0", "1e-4", "2e-4", "3e-4"]);
        assert_eq!(
            tick_labels(&ticks((1.31, 1.36), 5)),
            ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36"]
        );
        assert_eq!(tick_labels(&ticks((0.0, 100_000.0), 5))[1], "20k");
    }
}
