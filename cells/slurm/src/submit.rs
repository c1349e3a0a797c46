//! What `sbatch` is told: its arguments, and a script that says nothing but what to execute.

use cellbus_proto::job::SlurmRequest;

use crate::{SlurmError, spool::Mark, step};

/// What a scheduler's list calls a job: plain characters, by which people recognise the label and which no other job
/// of this user has.
pub(crate) fn name_of(label: &str, mark: &Mark) -> String {
    const LABEL_MAX: usize = 48;
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let label: String = label.chars().map(plain).take(LABEL_MAX).collect();
    let first = if label.starts_with(|c: char| c.is_ascii_alphanumeric()) { "" } else { "j" };
    format!("{first}{label}-{:.12}", mark.to_string())
}

/// What a job of this launcher has as its comment, by which it is known for what it is.
pub(crate) fn comment_of(mark: &Mark) -> String {
    format!("cellbus:{mark}")
}

/// The arguments of `sbatch`, which reads the [`script`] from its standard input.
///
/// # Errors
/// When a value of `request` is none.
pub(crate) fn arguments(
    name: &str,
    mark: &Mark,
    work_dir: &str,
    job_dir: &str,
    request: &SlurmRequest,
) -> Result<Vec<String>, SlurmError> {
    request.check()?;
    let mut arguments: Vec<String> = [
        "--parsable",
        // Only variables of Slurm itself; what the program gets, its step sets.
        "--export=NONE",
        // Its secret is good for one start.
        "--no-requeue",
        "--nodes=1",
        "--ntasks=1",
        "--input=/dev/null",
        "--open-mode=append",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--job-name={name}"));
    arguments.push(format!("--comment={}", comment_of(mark)));
    arguments.push(format!("--chdir={work_dir}"));
    arguments.push(format!("--output={job_dir}/{}", step::LOG));
    let SlurmRequest { partition, account, qos, time_limit_min, cpus, memory_mib, gres } = request;
    for (option, value) in [
        ("partition", partition.clone()),
        ("account", account.clone()),
        ("qos", qos.clone()),
        ("time", time_limit_min.map(|minutes| minutes.to_string())),
        ("cpus-per-task", cpus.map(|cpus| cpus.to_string())),
        ("mem", memory_mib.map(|mib| format!("{mib}M"))),
    ] {
        arguments.extend(value.map(|value| format!("--{option}={value}")));
    }
    if !gres.is_empty() {
        let each = gres.iter().map(|(name, count)| format!("{name}:{count}"));
        arguments.push(format!("--gres={}", each.collect::<Vec<_>>().join(",")));
    }
    Ok(arguments)
}

/// The batch script: it becomes the step of the job whose directory is `job_dir`. Both are paths that are [`usable`].
pub(crate) fn script(step: &str, job_dir: &str) -> String {
    format!("#!/bin/sh\nexec '{step}' {} '{job_dir}'\n", step::VERB)
}

/// Whether a path can stand in a script and in a pattern for names of files as it is.
///
/// # Errors
/// [`SlurmError::Unusable`] says why not.
pub(crate) fn usable<'a>(what: &str, path: &'a std::path::Path) -> Result<&'a str, SlurmError> {
    let bad = |why| SlurmError::Unusable { what: format!("{what} {}", path.display()), why };
    let text = path.to_str().ok_or_else(|| bad("its path is no UTF-8"))?;
    if !text.starts_with('/') {
        return Err(bad("its path is not absolute"));
    }
    if text.chars().any(|c| c.is_control() || matches!(c, '\'' | '\\' | '%')) {
        return Err(bad(
            "its path has a quote, a backslash, a percent sign or a control character",
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mark() -> Mark {
        "0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    #[test]
    fn everything_that_is_asked_for_is_one_argument_of_its_own() {
        let request = SlurmRequest {
            partition: Some("gpu".into()),
            account: Some("study".into()),
            qos: Some("normal".into()),
            time_limit_min: Some(90),
            cpus: Some(4),
            memory_mib: Some(2048),
            gres: [("gpu:a100".to_owned(), 2), ("shard".to_owned(), 1)].into(),
        };
        let arguments = arguments("site-1.fold", &mark(), "/work", "/state/x", &request).unwrap();
        for expected in [
            "--parsable",
            "--export=NONE",
            "--no-requeue",
            "--job-name=site-1.fold",
            "--comment=cellbus:0123456789abcdef0123456789abcdef",
            "--chdir=/work",
            "--output=/state/x/step.log",
            "--partition=gpu",
            "--account=study",
            "--qos=normal",
            "--time=90",
            "--cpus-per-task=4",
            "--mem=2048M",
            "--gres=gpu:a100:2,shard:1",
        ] {
            assert!(arguments.iter().any(|argument| argument == expected), "{expected}");
        }
        assert!(arguments.iter().all(|argument| argument.starts_with("--")));
        let least = super::arguments("j", &mark(), "/w", "/s", &SlurmRequest::default()).unwrap();
        assert!(!least.iter().any(|argument| argument.starts_with("--time")), "{least:?}");
    }

    #[test]
    fn row_140_no_value_becomes_another_option() {
        let request = SlurmRequest { qos: Some("x --uid=0".into()), ..SlurmRequest::default() };
        let refused = arguments("j", &mark(), "/w", "/s", &request);
        assert!(matches!(refused, Err(SlurmError::Request(_))), "{refused:?}");
    }

    #[test]
    fn a_script_says_what_to_execute_and_nothing_else() {
        let script = script("/opt/cell bus/cellbus", "/state/ab");
        assert_eq!(script, "#!/bin/sh\nexec '/opt/cell bus/cellbus' slurm-step '/state/ab'\n");
        for hostile in ["a", "/a'b", "/a\nb", "/a%jb", "/a\\b", "/a\0b"] {
            assert!(usable("directory", Path::new(hostile)).is_err(), "{hostile:?}");
        }
        assert_eq!(usable("directory", Path::new("/a b/c")).unwrap(), "/a b/c");
    }

    #[test]
    fn a_label_becomes_a_plain_name() {
        assert_eq!(name_of("site-1.fold", &mark()), "site-1.fold-0123456789ab");
        assert_eq!(name_of("--uid=0\n", &mark()), "j--uid-0--0123456789ab");
        assert_eq!(name_of("", &mark()), "j-0123456789ab");
        assert_eq!(name_of(&"x".repeat(500), &mark()).len(), 61);
    }
}
