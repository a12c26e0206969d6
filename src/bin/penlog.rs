//! penlog(1).

fn main() -> std::process::ExitCode {
    pen::tools::penlog::main()
}
