//! The create helper alone, to see what linking libcontainer statically takes.

fn main() -> std::process::ExitCode {
    runtime::create::helper_main()
}
