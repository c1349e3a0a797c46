//! What must hold on a cluster.

use std::{fs, future::Future, os::unix::fs::PermissionsExt, path::Path, pin::Pin, time::Duration};

use cellbus_launch::{
    Exit, Handle, HandleError, LaunchError, Launcher, Progress, SchedulerEnd, Signal, Stream,
};
use cellbus_slurm::{SlurmRequest, SlurmSpec};

use crate::{
    cluster::{CPUS, Cluster, LONG, read, until},
    worker::sum,
};

type Case = for<'a> fn(&'a mut Cluster) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        /// Every case with its name.
        pub(crate) const ALL: &[(&str, Case)] =
            &[$((stringify!($name), |cluster| Box::pin($name(cluster)))),+];
    };
}

cases![
    a_program_runs_to_its_end_and_nothing_of_it_is_left,
    j_26_how_a_program_ended_is_known,
    j_25_row_102_the_secret_is_gone_before_the_program_runs_and_stands_nowhere,
    j_21_a_job_gets_what_it_may_wish_and_else_nothing_is_submitted,
    j_25_a_job_of_somebody_else_is_neither_shown_nor_ended,
    a_full_cluster_makes_a_job_wait_and_a_waiting_job_can_be_ended,
    j_15_row_144_a_program_is_asked_to_end_and_then_made_to,
    j_15_what_was_launched_twice_ended_is_no_error,
    j_32_row_93_a_program_that_prints_for_ever_fills_no_disk,
    a_launcher_that_is_opened_again_goes_on_where_the_last_one_was,
    what_nobody_knows_any_more_is_swept,
    a_controller_that_does_not_answer_is_not_the_end_of_a_job,
    a_job_that_runs_too_long_is_ended_by_its_time_limit,
];

const SECRET: &[u8] = b"cellbus-test-secret-7d1f0c55a2e94b";

fn is_ended(progress: Progress) -> bool {
    matches!(progress, Progress::Ended(_))
}

fn is_running(progress: Progress) -> bool {
    progress == Progress::Running
}

fn number(handle: &Handle) -> &str {
    handle.token.split_once('.').unwrap().0
}

fn job_dir(cluster: &Cluster, handle: &Handle) -> std::path::PathBuf {
    cluster.shared().join(handle.token.split_once('.').unwrap().1)
}

/// Every file below `dir` that has `needle` in it.
fn holding(dir: &Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(holding(&path, needle));
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap_or_default();
            if content.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
    found
}

async fn a_program_runs_to_its_end_and_nothing_of_it_is_left(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let handle = launcher.launch(cluster.order(&["print", "0"], SECRET)).await.unwrap();
    assert_eq!(until(&launcher, &handle, is_ended).await, Progress::Ended(Exit::Code(0)));
    let out = read(&launcher, &handle, Stream::Out, |_| false).await;
    assert_eq!(out, "on the output\n");
    let err = read(&launcher, &handle, Stream::Err, |_| false).await;
    assert_eq!(err, "on the error output\n");
    assert_eq!(launcher.reap(&handle).await.unwrap(), Exit::Code(0));
    assert!(!job_dir(cluster, &handle).exists());
    let gone = launcher.poll(&handle, Duration::ZERO).await;
    assert!(matches!(gone, Err(HandleError::Unknown(_))), "{gone:?}");
}

async fn j_26_how_a_program_ended_is_known(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    for (arguments, exit) in [(&["print", "7"][..], Exit::Code(7)), (&["die"][..], Exit::Signal(9))]
    {
        let handle = launcher.launch(cluster.order(arguments, SECRET)).await.unwrap();
        assert_eq!(until(&launcher, &handle, is_ended).await, Progress::Ended(exit));
        assert_eq!(launcher.reap(&handle).await.unwrap(), exit);
    }
    let mut absent = cluster.order(&[], SECRET);
    absent.argv = vec!["/nonexistent/program".into()];
    let handle = launcher.launch(absent).await.unwrap();
    let ended = until(&launcher, &handle, is_ended).await;
    assert!(matches!(ended, Progress::Ended(Exit::Code(code)) if code != 0), "{ended:?}");
    launcher.reap(&handle).await.unwrap();
}

async fn j_25_row_102_the_secret_is_gone_before_the_program_runs_and_stands_nowhere(
    cluster: &mut Cluster,
) {
    let launcher = cluster.launcher();
    let go = cluster.path("go-look");
    let shared = cluster.shared();
    let order = cluster.order(&["look", shared.to_str().unwrap(), go.to_str().unwrap()], SECRET);
    let handle = launcher.launch(order).await.unwrap();
    let looked = |text: &str| text.contains("looked\n");
    let saw = read(&launcher, &handle, Stream::Out, looked).await;
    assert!(saw.contains(&format!("sum {}\n", sum(SECRET))), "it has read its secret: {saw}");
    assert!(saw.contains("file work\n"), "it has seen its directory: {saw}");
    assert!(!saw.contains("bootstrap"), "{saw}");
    // J-22, row 109, C-15
    let fds: Vec<&str> = saw.lines().filter_map(|line| line.strip_prefix("fd ")).collect();
    assert_eq!(fds.len(), 3, "{saw}");
    assert!(saw.contains(&format!("cwd {}\n", cluster.path("work").display())));
    let names: Vec<&str> = saw
        .lines()
        .filter_map(|line| line.strip_prefix("env ")?.split('=').next())
        .filter(|name| !name.starts_with("SLURM"))
        .collect();
    assert_eq!(names, ["GIVEN"], "{saw}");
    assert!(saw.contains("env GIVEN=a 'b' $c\n"));
    assert!(saw.contains(&format!("env SLURM_JOB_ID={}\n", number(&handle))));
    // While it runs: what Slurm shows, its script, everything that Slurm and the launcher have written.
    let id = number(&handle);
    let shown = cluster.ask("scontrol", &["show", "job", id]);
    assert!(shown.contains("JobName=site-1.fold-"), "{shown}");
    let script = cluster.ask("scontrol", &["write", "batch_script", id, "-"]);
    assert!(script.contains("slurm-step"), "{script}");
    let secret = str::from_utf8(SECRET).unwrap();
    assert!(!shown.contains(secret) && !script.contains(secret));
    assert_eq!(holding(cluster.dir.path(), SECRET), Vec::<std::path::PathBuf>::new());
    assert!(!holding(cluster.dir.path(), b"slurm-step").is_empty(), "the search finds the script");
    let mut looked_at = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for name in ["cmdline", "environ"] {
            let Ok(content) = fs::read(process.path().join(name)) else { continue };
            looked_at += 1;
            let has = content.windows(SECRET.len()).any(|window| window == SECRET);
            assert!(!has, "{} of {}", name, process.path().display());
        }
    }
    assert!(looked_at > 10);
    fs::write(&go, "").unwrap();
    assert_eq!(until(&launcher, &handle, is_ended).await, Progress::Ended(Exit::Code(0)));
    launcher.reap(&handle).await.unwrap();
    assert_eq!(holding(cluster.dir.path(), SECRET), Vec::<std::path::PathBuf>::new());
}

async fn j_21_a_job_gets_what_it_may_wish_and_else_nothing_is_submitted(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let submitted = || cluster.ask("squeue", &["-h", "--states=all", "-o", "%A"]).lines().count();
    let before = submitted();
    for wishes in [
        SlurmRequest { cpus: Some(CPUS + 1), ..SlurmRequest::default() },
        SlurmRequest { account: Some("root".into()), ..SlurmRequest::default() },
        SlurmRequest { partition: Some("x --uid=0".into()), ..SlurmRequest::default() },
    ] {
        let refused = launcher.launch_with(cluster.order(&["print", "0"], SECRET), &wishes).await;
        assert!(matches!(refused, Err(LaunchError::System { .. })), "{refused:?}");
    }
    assert_eq!(submitted(), before);
    assert_eq!(fs::read_dir(cluster.shared()).unwrap().count(), 0);
    let (partition, cpus, time_limit_min) = (Some("other".to_owned()), Some(2), Some(7));
    let wishes = SlurmRequest { partition, cpus, time_limit_min, ..SlurmRequest::default() };
    let order = cluster.order(&["print", "0"], SECRET);
    let handle = launcher.launch_with(order, &wishes).await.unwrap();
    let shown = cluster.ask("scontrol", &["show", "job", number(&handle)]);
    for expected in ["Partition=other", "CPUs/Task=2", "TimeLimit=00:07:00", "Requeue=0"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    launcher.reap(&handle).await.unwrap();
    // A cluster that refuses: nothing is left of the secret either.
    let mut spec: SlurmSpec = cluster.spec();
    spec.request.partition = Some("no-such-partition".into());
    let step = std::env::current_exe().unwrap();
    let launcher = cellbus_slurm::SlurmLauncher::open(spec, &cluster.shared(), &step).unwrap();
    let refused = launcher.launch(cluster.order(&["print", "0"], SECRET)).await.unwrap_err();
    let LaunchError::System { source, .. } = refused else { panic!("{refused}") };
    assert!(source.to_string().contains("invalid partition"), "{source}");
    assert_eq!(fs::read_dir(cluster.shared()).unwrap().count(), 0);
}

async fn j_25_a_job_of_somebody_else_is_neither_shown_nor_ended(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let own = launcher.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    let (_, mark) = own.token.split_once('.').unwrap();
    let submit = |options: &[&str]| {
        // A file of its own is more than another user may make here: such a job would end at once.
        let fixed = ["--parsable", "--chdir=/", "--output=/dev/null", "--wrap=sleep 600"];
        let id = cluster.ask("sbatch", &[options, &fixed].concat());
        id.trim().to_owned()
    };
    let comment = format!("--comment=cellbus:{mark}");
    let mut foreign = vec![submit(&[]), submit(&["--comment=cellbus:0"])];
    if rustix::process::geteuid().is_root() {
        // With our very mark, but of another user.
        foreign.push(submit(&["--uid=nobody", &comment]));
    }
    for id in &foreign {
        assert!(id.parse::<u32>().is_ok(), "submitted: {id:?}");
        let handle = Handle { launcher: own.launcher.clone(), token: format!("{id}.{mark}") };
        let refusals = [
            launcher.poll(&handle, Duration::ZERO).await.map(drop),
            launcher.signal(&handle, Signal::Terminate).await,
            launcher.signal(&handle, Signal::Kill).await,
            launcher.logs(&handle, Stream::Out, 0).await.map(drop),
            launcher.reap(&handle).await.map(drop),
        ];
        for refused in refusals {
            assert!(matches!(refused, Err(HandleError::Unknown(_))), "{id}: {refused:?}");
        }
        let state = cluster.ask("squeue", &["-h", "-j", id, "-o", "%T"]);
        assert!(["RUNNING", "PENDING", "CONFIGURING"].contains(&state.trim()), "{id}: {state}");
    }
    let forged = |launcher: &str, token: &str| Handle {
        launcher: launcher.to_owned(),
        token: token.to_owned(),
    };
    for handle in [
        forged("process", &own.token),
        forged("slurm", &foreign[0]),
        forged("slurm", &format!("{}.../../../../../../../../../../../etc", foreign[0])),
        forged("slurm", &format!("--all.{mark}")),
        forged("slurm", ""),
    ] {
        let refused = launcher.signal(&handle, Signal::Kill).await;
        assert!(matches!(refused, Err(HandleError::Unknown(_))), "{handle}: {refused:?}");
    }
    for id in &foreign {
        cluster.ask("scancel", &[id]);
    }
    launcher.reap(&own).await.unwrap();
}

async fn a_full_cluster_makes_a_job_wait_and_a_waiting_job_can_be_ended(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let all = SlurmRequest { cpus: Some(CPUS), ..SlurmRequest::default() };
    let first = launcher.launch_with(cluster.order(&["polite"], SECRET), &all).await.unwrap();
    until(&launcher, &first, is_running).await;
    let second = launcher.launch_with(cluster.order(&["print", "0"], SECRET), &all).await.unwrap();
    assert_eq!(launcher.poll(&second, Duration::from_secs(2)).await.unwrap(), Progress::Waiting);
    // As long as it waits, its secret does, for nobody else.
    let bootstrap = job_dir(cluster, &second).join("bootstrap");
    assert_eq!(fs::read(&bootstrap).unwrap(), SECRET);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&bootstrap), mode(bootstrap.parent().unwrap())), (0o600, 0o700));
    launcher.signal(&second, Signal::Terminate).await.unwrap();
    let ended = until(&launcher, &second, is_ended).await;
    assert_eq!(ended, Progress::Ended(Exit::Scheduler(SchedulerEnd::Cancelled)));
    let out = read(&launcher, &second, Stream::Out, |_| false).await;
    assert_eq!(out, "", "it never ran");
    launcher.reap(&second).await.unwrap();
    assert!(!bootstrap.exists());
    // One that is not asked first.
    let third = launcher.launch_with(cluster.order(&["print", "0"], SECRET), &all).await.unwrap();
    let exit = launcher.reap(&third).await.unwrap();
    assert_eq!(exit, Exit::Scheduler(SchedulerEnd::Cancelled));
    assert_eq!(launcher.poll(&first, Duration::ZERO).await.unwrap(), Progress::Running);
    launcher.reap(&first).await.unwrap();
}

async fn j_15_row_144_a_program_is_asked_to_end_and_then_made_to(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let polite = launcher.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    read(&launcher, &polite, Stream::Out, |text| text.contains("polite ")).await;
    launcher.signal(&polite, Signal::Terminate).await.unwrap();
    assert_eq!(until(&launcher, &polite, is_ended).await, Progress::Ended(Exit::Code(5)));
    let out = read(&launcher, &polite, Stream::Out, |_| false).await;
    assert!(out.ends_with("told\n"), "{out}");
    launcher.reap(&polite).await.unwrap();

    let stubborn = launcher.launch(cluster.order(&["stubborn"], SECRET)).await.unwrap();
    let both = |text: &str| text.contains("stubborn ") && text.contains("child ");
    let out = read(&launcher, &stubborn, Stream::Out, both).await;
    let pids: Vec<u32> =
        out.lines().filter_map(|line| line.split_once(' ')?.1.parse().ok()).collect();
    assert_eq!(pids.len(), 2, "{out}");
    launcher.signal(&stubborn, Signal::Terminate).await.unwrap();
    read(&launcher, &stubborn, Stream::Out, |text| text.contains("told")).await;
    assert_eq!(launcher.poll(&stubborn, Duration::ZERO).await.unwrap(), Progress::Running);
    let lives = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert!(pids.iter().all(lives));
    launcher.signal(&stubborn, Signal::Kill).await.unwrap();
    let ended = until(&launcher, &stubborn, is_ended).await;
    assert_eq!(ended, Progress::Ended(Exit::Signal(9)));
    assert!(!pids.iter().any(lives), "what it had let go of is gone too");
    launcher.reap(&stubborn).await.unwrap();
}

async fn j_15_what_was_launched_twice_ended_is_no_error(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let handle = launcher.launch(cluster.order(&["print", "0"], SECRET)).await.unwrap();
    until(&launcher, &handle, is_ended).await;
    for signal in [Signal::Terminate, Signal::Kill, Signal::Kill] {
        launcher.signal(&handle, signal).await.unwrap();
    }
    let ended = launcher.poll(&handle, Duration::ZERO).await.unwrap();
    assert_eq!(ended, Progress::Ended(Exit::Code(0)));
    assert_eq!(launcher.reap(&handle).await.unwrap(), Exit::Code(0));
}

async fn j_32_row_93_a_program_that_prints_for_ever_fills_no_disk(cluster: &mut Cluster) {
    const MIB: u64 = 1 << 20;
    let launcher = cluster.launcher();
    let handle = launcher.launch(cluster.order(&["flood", "10"], SECRET)).await.unwrap();
    assert_eq!(until(&launcher, &handle, is_ended).await, Progress::Ended(Exit::Code(0)));
    let files = fs::read_dir(job_dir(cluster, &handle)).unwrap().flatten();
    let kept: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
    assert!(kept < 9 * MIB, "{kept}");
    let first = launcher.logs(&handle, Stream::Out, 0).await.unwrap();
    assert!(first.from >= 2 * MIB && first.bytes.len() <= 64 << 10, "{}", first.from);
    let last = launcher.logs(&handle, Stream::Out, 10 * MIB).await.unwrap();
    assert_eq!(last.bytes, b"the end\n");
    launcher.reap(&handle).await.unwrap();
}

async fn a_launcher_that_is_opened_again_goes_on_where_the_last_one_was(cluster: &mut Cluster) {
    let first = cluster.launcher();
    let handle = first.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    read(&first, &handle, Stream::Out, |text| text.contains("polite ")).await;
    let written = serde_json::to_string(&handle).unwrap();
    assert!(!written.contains(str::from_utf8(SECRET).unwrap()));
    drop(first);
    let second = cluster.launcher();
    let handle: Handle = serde_json::from_str(&written).unwrap();
    assert_eq!(second.poll(&handle, Duration::ZERO).await.unwrap(), Progress::Running);
    let out = read(&second, &handle, Stream::Out, |text| text.contains("polite ")).await;
    assert!(out.starts_with("polite "), "{out}");
    second.signal(&handle, Signal::Terminate).await.unwrap();
    assert_eq!(until(&second, &handle, is_ended).await, Progress::Ended(Exit::Code(5)));
    // A third one, which has not seen it run.
    assert_eq!(cluster.launcher().reap(&handle).await.unwrap(), Exit::Code(5));
}

async fn what_nobody_knows_any_more_is_swept(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let kept = launcher.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    let lost = launcher.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    until(&launcher, &lost, is_running).await;
    drop(launcher);
    let launcher = cluster.launcher();
    assert_eq!(launcher.sweep(std::slice::from_ref(&kept)).await.unwrap(), 1);
    assert!(!job_dir(cluster, &lost).exists());
    let states = || cluster.ask("squeue", &["-h", "-j", number(&lost), "--states=all", "-o", "%T"]);
    let swept = async {
        while !states().contains("CANCELLED") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, swept).await.expect("it is cancelled");
    until(&launcher, &kept, is_running).await;
    launcher.reap(&kept).await.unwrap();
}

async fn a_controller_that_does_not_answer_is_not_the_end_of_a_job(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let handle = launcher.launch(cluster.order(&["polite"], SECRET)).await.unwrap();
    read(&launcher, &handle, Stream::Out, |text| text.contains("polite ")).await;
    until(&launcher, &handle, is_running).await;
    cluster.stop_controller();
    // The table may be fresh still.
    let unknown = until(&launcher, &handle, |progress| progress != Progress::Running).await;
    assert_eq!(unknown, Progress::Unknown);
    assert!(matches!(
        launcher.signal(&handle, Signal::Terminate).await,
        Err(HandleError::System { .. })
    ));
    // Nor for one that has just been opened, and knows nothing.
    let opened = cluster.launcher();
    assert_eq!(opened.poll(&handle, Duration::ZERO).await.unwrap(), Progress::Unknown);
    assert!(job_dir(cluster, &handle).exists());
    let refused = launcher.launch(cluster.order(&["print", "0"], SECRET)).await;
    assert!(matches!(refused, Err(LaunchError::System { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(cluster.shared()).unwrap().count(), 1, "nothing of it is left");
    cluster.start_controller();
    until(&launcher, &handle, is_running).await;
    launcher.signal(&handle, Signal::Terminate).await.unwrap();
    assert_eq!(until(&launcher, &handle, is_ended).await, Progress::Ended(Exit::Code(5)));
    launcher.reap(&handle).await.unwrap();
}

async fn a_job_that_runs_too_long_is_ended_by_its_time_limit(cluster: &mut Cluster) {
    let launcher = cluster.launcher();
    let wishes = SlurmRequest { time_limit_min: Some(1), ..SlurmRequest::default() };
    let order = cluster.order(&["polite"], SECRET);
    let handle = launcher.launch_with(order, &wishes).await.unwrap();
    let ended = until(&launcher, &handle, is_ended).await;
    assert_eq!(ended, Progress::Ended(Exit::Scheduler(SchedulerEnd::Time)));
    let out = read(&launcher, &handle, Stream::Out, |_| false).await;
    assert!(out.ends_with("told\n"), "it was asked to end: {out}");
    launcher.reap(&handle).await.unwrap();
}
