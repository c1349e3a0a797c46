//! What the cluster runs in the cases: programs that look around, print, end, or do not want to.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::Path,
    process::{Command, ExitCode},
};

use tokio::signal::unix::{SignalKind, signal};

/// The argument that makes this binary a program of a job.
pub(crate) const VERB: &str = "worker";

/// What shows that somebody has read a secret, without showing the secret.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum, byte| sum.wrapping_mul(1_000_003).wrapping_add(u64::from(*byte)))
}

fn print(text: &str) {
    let mut out = io::stdout();
    writeln!(out, "{text}").unwrap();
    out.flush().unwrap();
}

/// Does what the first argument says, with the others.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> =
        arguments.map(|argument| argument.into_string().unwrap()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["print", code] => {
            print("on the output");
            let mut err = io::stderr();
            writeln!(err, "on the error output").unwrap();
            ExitCode::from(code.parse::<u8>().unwrap())
        }
        ["die"] => {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
            unreachable!("killed")
        }
        ["look", shared, go] => {
            look(Path::new(shared));
            wait_for(Path::new(go));
            ExitCode::SUCCESS
        }
        ["wait", go] => {
            print("waits");
            wait_for(Path::new(go));
            ExitCode::SUCCESS
        }
        ["polite"] => ExitCode::from(until_told("polite", 1)),
        ["stubborn"] => {
            let mut child = Command::new("/usr/bin/setsid");
            let child = child.args(["--fork", "/bin/sh", "-c", "echo child $$; exec sleep 1000"]);
            child.status().unwrap();
            ExitCode::from(until_told("stubborn", u32::MAX))
        }
        ["flood", mib] => {
            let line = [b'x'; 1 << 10];
            for _ in 0..mib.parse::<u64>().unwrap() << 10 {
                io::stdout().write_all(&line).unwrap();
            }
            print("the end");
            ExitCode::SUCCESS
        }
        _ => ExitCode::from(99),
    }
}

/// Prints everything that a program sees.
fn look(shared: &Path) {
    let mut secret = Vec::new();
    io::stdin().read_to_end(&mut secret).unwrap();
    print(&format!("sum {}", sum(&secret)));
    for entry in std::fs::read_dir(shared).unwrap().flatten() {
        for file in std::fs::read_dir(entry.path()).unwrap().flatten() {
            print(&format!("file {}", file.file_name().to_str().unwrap()));
        }
    }
    for (name, value) in std::env::vars() {
        print(&format!("env {name}={value}"));
    }
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    for fd in fds.filter(|fd| std::fs::read_link(fd.path()).is_ok()) {
        let to = std::fs::read_link(fd.path()).unwrap();
        if !to.starts_with("/proc") {
            print(&format!("fd {}", fd.file_name().to_str().unwrap()));
        }
    }
    print(&format!("cwd {}", std::env::current_dir().unwrap().display()));
    print("looked");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn wait_for(path: &Path) {
    runtime().block_on(async {
        while !path.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}

/// Says that it runs, and ends once it was told to `enough` times.
fn until_told(what: &str, enough: u32) -> u8 {
    runtime().block_on(async {
        let mut term = signal(SignalKind::terminate()).unwrap();
        print(&format!("{what} {}", std::process::id()));
        for _ in 0..enough {
            term.recv().await;
            print("told");
        }
    });
    5
}
