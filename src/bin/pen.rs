//! pen(1).

fn main() -> std::process::ExitCode {
    pen::tools::pen::main()
}
