//! What the kernel says about processor time and memory of processes.

use std::{
    fs,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Processor time up to a moment.
#[derive(Clone, Debug)]
pub struct Accounts {
    at: Instant,
    machine: Duration,
    own: Duration,
    sides: Vec<Duration>,
}

/// Processor time between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Spent {
    /// Seconds of each side.
    pub sides_s: Vec<f64>,
    /// Cores that programs used which have no part in the measurement.
    pub foreign: f64,
}

impl Accounts {
    /// Reads the accounts of this process and of `sides`.
    ///
    /// # Errors
    /// When a process has ended, or the system keeps no accounts.
    pub fn read(sides: &[u32]) -> io::Result<Self> {
        let own = cpu_of("self")?;
        let sides: io::Result<Vec<Duration>> =
            sides.iter().map(|pid| cpu_of(&pid.to_string())).collect();
        let machine = machine(&fs::read_to_string("/proc/stat")?)?;
        Ok(Self { at: Instant::now(), machine, own, sides: sides? })
    }

    /// What was spent since `earlier`, which is of the same sides.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Spent {
        let both = self.sides.iter().zip(&earlier.sides);
        let sides: Vec<Duration> = both.map(|(now, then)| now.saturating_sub(*then)).collect();
        let ours = sides.iter().sum::<Duration>() + self.own.saturating_sub(earlier.own);
        let machine = self.machine.saturating_sub(earlier.machine);
        let elapsed = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        let foreign = machine.saturating_sub(ours).as_secs_f64() / elapsed.max(1e-9);
        Spent { sides_s: sides.iter().map(Duration::as_secs_f64).collect(), foreign }
    }
}

/// Lets the peak of a process's memory begin anew.
///
/// # Errors
/// When the process has ended, or belongs to another user.
pub fn reset_peak(pid: u32) -> io::Result<()> {
    let mut refs = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/clear_refs"))?;
    refs.write_all(b"5")
}

/// Peak of a process's resident memory since it was reset, in bytes.
///
/// # Errors
/// When the process has ended.
pub fn peak(pid: u32) -> io::Result<u64> {
    status_field(pid, "VmHWM:")
}

/// A process's resident memory, in bytes.
///
/// # Errors
/// When the process has ended.
pub fn resident(pid: u32) -> io::Result<u64> {
    status_field(pid, "VmRSS:")
}

fn status_field(pid: u32, field: &'static str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| unreadable(field))
}

fn cpu_of(process: &str) -> io::Result<Duration> {
    process_cpu(&fs::read_to_string(format!("/proc/{process}/stat"))?)
}

/// User and system time of `/proc/<pid>/stat`. The name of the program comes before and may contain
/// anything but ends at the last bracket.
fn process_cpu(stat: &str) -> io::Result<Duration> {
    const USER: usize = 11;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let mut times = fields.into_iter().flat_map(str::split_whitespace).skip(USER);
    let mut next = || times.next().and_then(|ticks| ticks.parse::<u64>().ok());
    let both = next().zip(next()).ok_or_else(|| unreadable("stat"))?;
    Ok(from_ticks(both.0 + both.1))
}

/// Time of all programs in `/proc/stat`: user, nice and system. Interrupts belong to nobody.
fn machine(stat: &str) -> io::Result<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let times = line.into_iter().flat_map(str::split_whitespace).take(3);
    let times: Vec<u64> = times.filter_map(|ticks| ticks.parse().ok()).collect();
    match times.as_slice() {
        [user, nice, system] => Ok(from_ticks(user + nice + system)),
        _ => Err(unreadable("/proc/stat")),
    }
}

fn from_ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000) / per_second)
}

fn unreadable(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not as Linux writes it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name_of_a_program() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 50 25 0 0 20 0 1 0 9 9 9";
        assert_eq!(process_cpu(stat).expect("it is well formed"), from_ticks(75));
        assert!(process_cpu("7 (cut) S 1").is_err());
        let stat = "cpu  10 5 20 1000 7 1 2 3 0 0\ncpu0 1 1 1 1";
        assert_eq!(machine(stat).expect("it is well formed"), from_ticks(35));
        assert!(machine("intr 5").is_err());
    }

    #[test]
    fn this_process_has_accounts() {
        let pid = std::process::id();
        let before = Accounts::read(&[pid]).expect("Linux keeps accounts");
        let spent = Accounts::read(&[pid]).expect("Linux keeps accounts").since(&before);
        assert_eq!(spent.sides_s.len(), 1);
        assert!(spent.foreign >= 0.0);
        reset_peak(pid).expect("a process may reset its own peak");
        let (peak, now) = (peak(pid).expect("a figure"), resident(pid).expect("a figure"));
        assert!(peak > 0 && now > 0);
        assert!(Accounts::read(&[u32::MAX]).is_err());
    }
}
