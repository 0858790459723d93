//! The command line: one file per command, each with its arguments and `run`.
//!
//! Text goes to stdout, everything else to stderr. Exit codes: 0, 1 (error), 2 (usage), 130 (Ctrl-C).

mod args;
mod bench;
mod chat;
mod configs;
mod convert;
mod data;
mod data_internevo;
mod data_world;
mod dataset;
mod dataset_check;
mod dataset_log;
mod finetune;
mod generate;
mod inspect;
mod interrupt;
mod logits;
pub mod memory;
mod output;
mod perplexity;
mod plan;
mod settings;
mod shorts;
mod tokenize;
mod tokenizer;
pub mod tour;
mod train;

use crate::hub;
use clap::{CommandFactory, Parser, Subcommand};
use hub::cli::{ListArgs, PullArgs, RmArgs};
use puyu_tensor::{ErrorKind, Result};
use std::process::ExitCode;

/// puyu (浦语): the whole InternLM chain in one program
#[derive(Parser, Debug)]
#[command(name = "puyu", version, about, arg_required_else_help = false, infer_subcommands = false)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    Tour(tour::TourArgs),
    Generate(generate::GenerateArgs),
    Chat(chat::ChatArgs),
    Perplexity(perplexity::PerplexityArgs),
    Tokenize(tokenize::TokenizeArgs),
    Tokenizer(tokenizer::TokenizerArgs),
    Bench(bench::BenchArgs),
    Logits(logits::LogitsArgs),
    Inspect(inspect::InspectArgs),
    Convert(convert::ConvertArgs),
    Data(data::DataArgs),
    CheckCustomDataset(dataset_check::CheckDatasetArgs),
    LogDataset(dataset_log::LogDatasetArgs),
    ListDatasetFormat(dataset_check::ListFormatArgs),
    Merge(convert::MergeArgs),
    Quantize(convert::QuantizeArgs),
    Train(train::TrainArgs),
    Finetune(finetune::FinetuneArgs),
    Plan(plan::PlanArgs),
    #[command(name = "list-cfg")]
    ListCfg(configs::ListConfigArgs),
    #[command(name = "copy-cfg")]
    CopyCfg(configs::CopyConfigArgs),
    Pull(PullArgs),
    List(ListArgs),
    Rm(RmArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let args = shorts::rewrite(std::env::args_os());
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // A closed pipe behind --help is no error.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let ended = run(cli);
    if let Some(sums) = puyu_tensor::trace_sums() {
        eprintln!("\n{sums}");
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == ErrorKind::Interrupted => ExitCode::from(130),
        Err(e) if output::is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        None => tour::TourArgs {}.run(),
        Some(Command::Tour(a)) => a.run(),
        Some(Command::Generate(a)) => a.run(),
        Some(Command::Chat(a)) => a.run(),
        Some(Command::Perplexity(a)) => a.run(),
        Some(Command::Tokenize(a)) => a.run(),
        Some(Command::Tokenizer(a)) => a.run(),
        Some(Command::Bench(a)) => a.run(),
        Some(Command::Logits(a)) => a.run(),
        Some(Command::Inspect(a)) => a.run(),
        Some(Command::Convert(a)) => a.run(),
        Some(Command::Data(a)) => a.run(),
        Some(Command::CheckCustomDataset(a)) => a.run(),
        Some(Command::LogDataset(a)) => a.run(),
        Some(Command::ListDatasetFormat(a)) => a.run(),
        Some(Command::Merge(a)) => a.run(),
        Some(Command::Quantize(a)) => a.run(),
        Some(Command::Train(a)) => a.run(),
        Some(Command::Finetune(a)) => a.run(),
        Some(Command::Plan(a)) => a.run(),
        Some(Command::ListCfg(a)) => a.run(),
        Some(Command::CopyCfg(a)) => a.run(),
        Some(Command::Pull(a)) => a.run(),
        Some(Command::List(a)) => a.run(),
        Some(Command::Rm(a)) => a.run(),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "puyu", &mut script);
            output::write(&script)
        }
    }
}
