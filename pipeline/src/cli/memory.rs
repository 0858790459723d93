//! The most memory this process has held.

/// Peak resident memory in bytes, where the system tells (Linux).
#[cfg(target_os = "linux")]
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Peak resident memory in bytes, where the system tells (Linux).
#[cfg(not(target_os = "linux"))]
pub fn peak() -> Option<u64> {
    None
}
