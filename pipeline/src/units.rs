//! Numbers as people read them: three digits with a prefix, bytes, and time.

/// Three significant digits with a decimal prefix: `0`, `0.052`, `1.53k`, `12.3M`, `104G`. A unit may
/// follow it.
pub fn decimal(x: f64) -> String {
    scaled(x, 1000.0, ["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes with a binary prefix: `512 B`, `1.50 MiB`.
pub fn bytes(n: f64) -> String {
    scaled(n, 1024.0, [" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

fn scaled(x: f64, base: f64, prefixes: [&str; 7]) -> String {
    if !x.is_finite() {
        return x.to_string();
    }
    let (mut x, mut i) = (x, 0);
    // 999.5 would be shown as 1000.
    while x.abs() >= base.min(999.5) && i + 1 < prefixes.len() {
        x /= base;
        i += 1;
    }
    let digits = match x.abs() {
        0.0 => 0,
        a if a >= 99.95 => 0,
        a if a >= 9.995 => 1,
        _ if i == 0 && x.fract() == 0.0 => 0,
        a if a >= 0.9995 => 2,
        _ => 3,
    };
    format!("{x:.digits$}{}", prefixes[i])
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
