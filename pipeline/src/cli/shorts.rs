//! Short flags of several letters, as llama.cpp's users type them; clap has only single letters.

use std::ffi::{OsStr, OsString};

/// What is typed, and the flag it stands for.
const SHORTS: &[(&str, &str)] = &[
    ("-ctk", "--cache-type"),
    ("-ctv", "--cache-type"),
    ("-sys", "--system"),
    ("-bs", "--logit-bias"),
    ("-npl", "--n-parallel"),
];

/// The arguments with multi-letter shorts written out; `-ctk=f16` keeps its value.
pub fn rewrite(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    args.into_iter()
        .map(|arg| {
            literal |= arg == "--";
            if literal { arg } else { long(&arg).unwrap_or(arg) }
        })
        .collect()
}

fn long(arg: &OsStr) -> Option<OsString> {
    let text = arg.to_str()?;
    let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
    let (_, flag) = SHORTS.iter().find(|(short, _)| *short == name)?;
    Some(value.map_or_else(|| (*flag).into(), |v| format!("{flag}={v}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_flags_before_the_double_dash_are_rewritten() {
        let run = |args: &[&str]| rewrite(args.iter().map(OsString::from));
        let want = ["puyu", "--cache-type", "f32", "--cache-type=f16", "-c", "9", "--", "-ctk"];
        assert_eq!(run(&["puyu", "-ctk", "f32", "-ctv=f16", "-c", "9", "--", "-ctk"]), want);
    }
}
