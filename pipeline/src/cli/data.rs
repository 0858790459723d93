//! `puyu data`: commands that make and look at training data.

use super::data_internevo::InternevoArgs;
use super::data_world::{WorldArgs, WorldBaselineArgs, WorldExamArgs};
use clap::{Args, Subcommand};
use puyu_tensor::Result;

/// Make and look at training data
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum DataCommand {
    Internevo(InternevoArgs),
    World(WorldArgs),
    WorldBaseline(WorldBaselineArgs),
    WorldExam(WorldExamArgs),
}

impl DataArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command that is named.
    pub fn run(&self) -> Result<()> {
        match &self.command {
            DataCommand::Internevo(args) => args.run(),
            DataCommand::World(args) => args.run(),
            DataCommand::WorldBaseline(args) => args.run(),
            DataCommand::WorldExam(args) => args.run(),
        }
    }
}
