//! `puyu tour`, and `puyu` alone: the whole chain in about two minutes. It is a list of commands, run as if
//! they were typed, so that whatever is seen can be done again, and changed.

use super::{Cli, output};
use clap::{Args, Parser};
use puyu_tensor::Result;
use std::time::Instant;

/// See the whole chain at work, in about two minutes: data, training, tuning, quantizing, measuring
#[derive(Args, Clone, Debug)]
pub struct TourArgs {}

/// What each step is about, and its command.
pub const STEPS: &[(&str, &str)] = &[
    (
        "Data. puyu writes texts, conversations and questions about a small world of its own",
        "data world --seed 1 --megabytes 3 --lang en --kinds days --questions 100 --out work_dirs/tour/world",
    ),
    (
        "A tokenizer learns its vocabulary from the texts",
        "tokenizer train work_dirs/tour/world/pretrain.jsonl --vocab-size 800 --out work_dirs/tour/tokenizer",
    ),
    (
        "A model of 0.9 million parameters learns to write such texts, from nothing",
        "train tour --work-dir work_dirs/tour/base --resume",
    ),
    (
        "It has never seen a conversation. So many questions does it answer",
        "data world-exam work_dirs/tour/base/step-000800 --questions work_dirs/tour/world/answer_test.jsonl",
    ),
    (
        "LoRA teaches it to answer, training a small addition to it",
        "finetune tour-lora --work-dir work_dirs/tour/lora --resume",
    ),
    (
        "The addition becomes part of the weights",
        "merge work_dirs/tour/base/step-000800 work_dirs/tour/lora/step-000700 work_dirs/tour/merged",
    ),
    (
        "Weights of 4 bits: a seventh of the memory",
        "quantize work_dirs/tour/merged work_dirs/tour/tour.gguf Q4_0",
    ),
    (
        "So many of them does it answer now. None of them was in its training",
        "data world-exam work_dirs/tour/tour.gguf --questions work_dirs/tour/world/answer_test.jsonl",
    ),
    (
        "How well it predicts a text, before quantizing",
        "perplexity work_dirs/tour/merged --file work_dirs/tour/world/validation.txt --ctx-size 128 --chunks 40",
    ),
    (
        "and after",
        "perplexity work_dirs/tour/tour.gguf --file work_dirs/tour/world/validation.txt --ctx-size 128 --chunks 40",
    ),
    (
        "Asked a question, it counts the days and answers",
        "chat work_dirs/tour/tour.gguf --temp 0 --prompt \"Today is Friday. What day is it in 3 days?\"",
    ),
    (
        "The model that comes with puyu was made so too, of a world with all its kinds of questions",
        "chat --temp 0 --prompt \"Tom is in the park. Leo has a blue kite. Anna has a red cup. Who has a blue kite?\"",
    ),
];

impl TourArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the first step that fails.
    pub fn run(&self) -> Result<()> {
        let began = Instant::now();
        output::print(
            "puyu runs and trains InternLM and Llama models. This is the whole chain, small; every step \
             can be\ntyped as it stands, and `puyu --help` lists what else there is. Ctrl-C stops; the \
             next tour goes on.\n",
        )?;
        for (i, (about, command)) in STEPS.iter().enumerate() {
            let seconds = began.elapsed().as_secs();
            output::print(&format!(
                "\n[{}/{}, {seconds} s] {about}.\n$ puyu {command}\n",
                i + 1,
                STEPS.len()
            ))?;
            let words = std::iter::once("puyu".to_owned()).chain(words(command));
            let cli = Cli::try_parse_from(words)
                .expect("the tour's commands are right: a test runs them");
            super::run(cli)?;
        }
        Ok(())
    }
}

/// The words of a command; spaces between quotes are part of a word.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in command.chars() {
        match (c, words.last_mut()) {
            ('"', _) => quoted = !quoted,
            (' ', _) if !quoted => words.push(String::new()),
            (_, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_tour_is_one() {
        for (_, command) in STEPS {
            let all = std::iter::once("puyu".to_owned()).chain(words(command));
            Cli::try_parse_from(all).unwrap_or_else(|e| panic!("{command}: {e}"));
        }
        assert_eq!(words("a \"b c\" d"), ["a", "b c", "d"]);
    }
}
