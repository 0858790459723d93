//! The `puyu` command.

fn main() -> std::process::ExitCode {
    puyu::cli::main()
}
