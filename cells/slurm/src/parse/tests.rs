//! Answers of Slurm 22.05 as they were printed, and answers that nobody prints.

use super::*;

const SHOWN: &str = include_str!("recorded/scontrol-running.txt");
const FAILED: &str = include_str!("recorded/scontrol-failed.txt");

#[test]
fn the_number_of_a_submitted_job_is_read() {
    assert_eq!(submitted("17\n").unwrap(), 17);
    assert_eq!(submitted("17;west\n").unwrap(), 17);
    for bad in [
        "",
        "\n",
        "0",
        "-1",
        "+1",
        " 17",
        "17 ",
        "17\n18\n",
        "Submitted batch job 17",
        "4294967296",
    ] {
        let error = submitted(bad).unwrap_err();
        assert!(matches!(error, SlurmError::Answer { command: "sbatch", .. }), "{bad:?}: {error}");
    }
}

#[test]
fn a_table_of_jobs_is_read_as_a_whole_or_not_at_all() {
    let printed = "1|0|FAILED|768|\n2|1000|PENDING|0|\n7|0|FAILED|9|\n8|0|COMPLETED|0|\n";
    let table = rows(printed).unwrap();
    assert_eq!(table.len(), 4);
    assert_eq!(table[&1].status, Status { code: 3, signal: 0 });
    assert_eq!((table[&2].state, table[&2].uid), (SlurmState::Pending, 1000));
    assert_eq!(table[&7].status, Status { code: 0, signal: 9 });
    assert!(rows("").unwrap().is_empty());
    for bad in [
        "1|0|FAILED|768\n",
        "1|0|FAILED|768||\n",
        "1|0|FAILED|x|\n",
        "x|0|FAILED|0|\n",
        "1_4|0|FAILED|0|\n",
        "1|root|FAILED|0|\n",
        "1|0|FAILED|0|\n1|0|COMPLETED|0|\n",
        "slurm_load_jobs error: Unexpected message received\n",
    ] {
        assert!(matches!(rows(bad), Err(SlurmError::Answer { .. })), "{bad:?}");
    }
}

#[test]
fn a_job_in_a_state_that_is_not_known_is_asked_about_by_itself() {
    let table = rows("1|0|HIBERNATING|0|\n2|0|RUNNING|0|\n").unwrap();
    assert_eq!(table.keys().copied().collect::<Vec<_>>(), [2]);
    let shown = SHOWN.replace("JobState=RUNNING", "JobState=HIBERNATING");
    assert!(matches!(facts(&shown, 1), Err(SlurmError::State(state)) if state == "HIBERNATING"));
}

#[test]
fn what_is_shown_about_a_job_is_read() {
    let running = facts(SHOWN, 1).unwrap();
    assert_eq!(running.comment, "cellbus:0123456789abcdef0123456789abcdef");
    assert_eq!((running.row.uid, running.row.state), (0, SlurmState::Running));
    let failed = facts(FAILED, 7).unwrap();
    assert_eq!(failed.row.state, SlurmState::Failed);
    assert_eq!(failed.row.status, Status { code: 0, signal: 9 });
    assert_eq!(failed.comment, "");
}

#[test]
fn what_is_shown_about_another_job_or_twice_is_refused() {
    assert!(matches!(facts(SHOWN, 2), Err(SlurmError::Answer { .. })));
    let twice = format!("{SHOWN}\n{SHOWN}");
    assert!(matches!(facts(&twice, 1), Err(SlurmError::Answer { .. })));
    let forged = SHOWN.replace("Power=", "Comment=cellbus:ffff");
    assert!(matches!(facts(&forged, 1), Err(SlurmError::Answer { .. })));
    for key in ["JobId=", "UserId=", "JobState=", "ExitCode="] {
        let without = SHOWN.replace(key, "Other=");
        assert!(matches!(facts(&without, 1), Err(SlurmError::Answer { .. })), "{key}");
    }
}

#[test]
fn no_cut_of_an_answer_makes_it_panic() {
    for cut in 0..SHOWN.len() {
        let _ = facts(&SHOWN[..cut], 1);
    }
}

#[test]
fn what_is_accounted_is_read() {
    let printed = "17|1000|CANCELLED by 0|0:15|site-1.fold\n";
    let row = accounted(printed, 17, "site-1.fold").unwrap().unwrap();
    assert_eq!((row.uid, row.state), (1000, SlurmState::Cancelled));
    assert_eq!(accounted("", 17, "x").unwrap(), None);
    // Somebody else's job, which had this number before or has such a name.
    assert_eq!(accounted(printed, 17, "other").unwrap(), None);
    let pipes = "17|1000|FAILED|3:0|a|b\n";
    assert_eq!(accounted(pipes, 17, "a|b").unwrap().unwrap().status.code, 3);
    assert!(accounted("17|1000|FAILED\n", 17, "x").is_err());
    assert!(accounted(&format!("{printed}{printed}"), 17, "site-1.fold").is_err());
}
