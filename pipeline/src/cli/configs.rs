//! `puyu list-cfg` and `puyu copy-cfg`: the configs that come with puyu, with XTuner's commands for them.

use super::output;
use crate::train::config::{SHIPPED, Shipped};
use clap::Args;
use puyu_models::format::atomic::AtomicFile;
use puyu_tensor::{Context, Error, Result};
use std::path::PathBuf;

/// List the configs that come with puyu
#[derive(Args, Clone, Debug)]
pub struct ListConfigArgs {
    /// Only names that hold this
    #[arg(short, long, value_name = "TEXT")]
    pattern: Option<String>,
}

/// Copy a config that comes with puyu, to be changed
#[derive(Args, Clone, Debug)]
pub struct CopyConfigArgs {
    /// Its name, as `puyu list-cfg` shows it
    name: String,
    /// Where it goes
    #[arg(default_value = ".")]
    folder: PathBuf,
}

impl ListConfigArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If no name holds the pattern, or standard output is closed.
    pub fn run(&self) -> Result<()> {
        let pattern = self.pattern.as_deref().unwrap_or_default().to_lowercase();
        let found: Vec<_> = SHIPPED.iter().filter(|s| s.name.contains(&pattern)).collect();
        if found.is_empty() {
            let message = format!("no config's name holds `{pattern}`; without -p all are listed");
            return Err(Error::not_found(message));
        }
        let width = found.iter().map(|s| s.name.len()).max().unwrap_or_default();
        let line = |s: &&Shipped| format!("{:<width$} {}\n", s.name, s.about());
        output::print(&found.iter().map(line).collect::<String>())
    }
}

impl CopyConfigArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// If there is no such config, or the file is there already or cannot be written.
    pub fn run(&self) -> Result<()> {
        let shipped = Shipped::find(&self.name).ok_or_else(|| {
            Error::not_found(format!(
                "no config is called {}; `puyu list-cfg` lists them",
                self.name
            ))
        })?;
        std::fs::create_dir_all(&self.folder).context(self.folder.display())?;
        let path = self.folder.join(format!("{}.toml", shipped.name));
        if path.exists() {
            let shown = path.display();
            return Err(Error::invalid(format!("{shown} exists; move it away or choose a folder")));
        }
        let mut file = AtomicFile::create(&path)?;
        file.write(shipped.text.as_bytes())?;
        file.finish()?;
        output::print(&format!("{}\n", path.display()))
    }
}
