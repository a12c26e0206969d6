//! penctl(1).

fn main() -> std::process::ExitCode {
    pen::tools::penctl::main()
}
