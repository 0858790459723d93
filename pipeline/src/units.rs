//! Numbers as people read them: three digits with a prefix, bytes, and time.

const DECIMAL: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Three significant digits with a decimal prefix: `0`, `0.052`, `1.53k`, `12.3M`, `104G`.
pub fn decimal(x: f64) -> String {
    let (number, prefix) = scaled(x, 1000.0);
    number + DECIMAL[prefix]
}

/// The same with a unit: `317 GFLOP/s`.
pub fn quantity(x: f64, unit: &str) -> String {
    let (number, prefix) = scaled(x, 1000.0);
    format!("{number} {}{unit}", DECIMAL[prefix])
}

/// Bytes with a binary prefix: `512 B`, `1.50 MiB`.
pub fn bytes(n: f64) -> String {
    let (number, prefix) = scaled(n, 1024.0);
    let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"][prefix];
    format!("{number} {unit}")
}

/// The digits, and the power of `base`, at most the sixth, that they are multiplied by.
fn scaled(x: f64, base: f64) -> (String, usize) {
    if !x.is_finite() {
        return (x.to_string(), 0);
    }
    let (mut x, mut power) = (x, 0);
    // 999.5 would be shown as 1000.
    while x.abs() >= 999.5 && power < 6 {
        x /= base;
        power += 1;
    }
    let digits = match x.abs() {
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        _ if power == 0 && x.fract() == 0.0 => 0,
        a if a >= 0.9995 => 2,
        _ => 3,
    };
    (format!("{x:.digits$}"), power)
}

/// `42 s`, `3m 05s`, `2h 07m`, `4d 11h`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return seconds.to_string();
    }
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {:02}h", s / 86400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, decimal, duration, quantity};

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 7.0, 0.0523, 999.7, 1530.0, 12_345_678.0, 1.04e11].map(decimal);
        assert_eq!(shown, ["0", "7", "0.052", "1.00k", "1.53k", "12.3M", "104G"]);
        assert_eq!(quantity(3.17e11, "FLOP/s"), "317 GFLOP/s");
        assert_eq!([512.0, 1010.0, 1.5e6].map(bytes), ["512 B", "0.986 KiB", "1.43 MiB"]);
        let times = [42.0, 185.0, 7620.0, 385_200.0].map(duration);
        assert_eq!(times, ["42 s", "3m 05s", "2h 07m", "4d 11h"]);
    }
}
