//! From a source's path to its files, and the kinds of files that no text or JSON reader can take.

use puyu_tensor::{Context, Error, Result};
use std::path::{Path, PathBuf};

/// The files of `path`: itself, the files of a folder, or those that match a name with `*` and `?` in
/// its last part; in the order of their names. Hidden files and the `.meta` beside a `.bin` are left out.
///
/// # Errors
/// If there are none, or the folder cannot be read.
pub fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_file() {
        return Ok(vec![path.into()]);
    }
    let (folder, pattern) = if path.is_dir() {
        (path, "*")
    } else if name.contains(['*', '?']) {
        (path.parent().unwrap_or(Path::new("")), &*name)
    } else {
        return Err(Error::not_found(format!("{} does not exist", path.display())));
    };
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let place = || format!("cannot read the folder {}", here.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(here).context(place())? {
        let name = entry.context(place())?.file_name();
        let text = name.to_string_lossy();
        let aside = text.starts_with('.') || text.ends_with(".bin.meta");
        if !aside && matches(pattern.as_bytes(), text.as_bytes()) && here.join(&name).is_file() {
            files.push(folder.join(&name));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::not_found(format!("no file is at {}", path.display())));
    }
    Ok(files)
}

/// Whether `name` is what `pattern` says: `*` stands for any bytes, `?` for one.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last `*` has to stand for one byte more.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (p, n) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// First bytes of files that are something else, and what to do with them.
const FOREIGN: [(&[u8], &str); 8] = [
    (b"PAR1", PARQUET),
    (b"ARROW1", ARROW),
    (&[0xff, 0xff, 0xff, 0xff], ARROW),
    (&[0x1f, 0x8b], "is compressed with gzip; unpack it first (gunzip)"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "is compressed with zstd; unpack it first (unzstd)"),
    (b"PK\x03\x04", "is a zip archive; unpack it first"),
    (&[0xff, 0xfe], "is UTF-16; write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
    (&[0xfe, 0xff], "is UTF-16; write it as UTF-8 (iconv -f UTF-16 -t UTF-8)"),
];

const PARQUET: &str = "is a Parquet file, which puyu does not read; write it as JSON lines, in Python with \
    pandas.read_parquet(IN).to_json(OUT, orient=\"records\", lines=True, force_ascii=False)";
const ARROW: &str = "is an Arrow file, which puyu does not read; write it as JSON lines, in Python with \
    datasets.load_from_disk(FOLDER).to_json(OUT, force_ascii=False)";

/// Refuses what is neither text nor JSON.
///
/// # Errors
/// A Parquet, Arrow, compressed or UTF-16 file, with what to do about it.
pub fn refuse_foreign(bytes: &[u8]) -> Result<()> {
    match FOREIGN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        Some((_, what)) => Err(Error::unsupported(*what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_a_shell_does() {
        for (pattern, name, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaybz", true),
            ("*a*b", "xxaybz", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
