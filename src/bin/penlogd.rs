//! penlogd(1).

fn main() -> std::process::ExitCode {
    pen::tools::penlogd::main()
}
