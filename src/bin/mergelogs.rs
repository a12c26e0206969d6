//! mergelogs(1).

fn main() -> std::process::ExitCode {
    pen::tools::mergelogs::main()
}
