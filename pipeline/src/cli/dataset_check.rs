//! `puyu check-custom-dataset` and `puyu list-dataset-format`.

use super::dataset::{DatasetArgs, count_broken};
use super::output;
use crate::data::Format;
use clap::Args;
use puyu_tensor::{Error, Result};

/// Check the data of a config, or a file, before training on it
#[derive(Args, Clone, Debug)]
pub struct CheckDatasetArgs {
    #[command(flatten)]
    data: DatasetArgs,
}

/// List the formats of data that puyu reads
#[derive(Args, Clone, Debug)]
pub struct ListFormatArgs {}

impl CheckDatasetArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If the data cannot be read, or lines of it are broken.
    pub fn run(&self) -> Result<()> {
        let opened = self.data.open(count_broken)?;
        output::print(&opened.report.to_string())?;
        let broken: u64 = opened.report.sources.iter().map(|s| s.found.broken).sum();
        if broken > 0 {
            return Err(Error::format(format!(
                "broken lines: {broken}; mend them, or train with on_error = \"skip\""
            )));
        }
        output::print("no line is broken\n")
    }
}

impl ListFormatArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If standard output is full.
    pub fn run(&self) -> Result<()> {
        let line = |(_, name, sample): &(Format, &str, &str)| format!("{name:<21}{sample}\n");
        output::print(&Format::ALL.iter().map(line).collect::<String>())
    }
}
