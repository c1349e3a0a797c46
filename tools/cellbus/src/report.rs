//! The result of the demo, for people.

use cellbus_cells::learning::report::DemoReport;

use crate::{
    codes::CliCode,
    output::{Failure, Outcome, Success},
    table::{self, Table},
};

/// The outcome of a demo: good only when every claim holds.
pub fn outcome(report: &DemoReport) -> Outcome {
    let human = render(report);
    if report.is_ok() {
        return Ok(Success::new(report, human));
    }
    let failed: Vec<&str> =
        report.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
    let message = format!("these claims do not hold: {}", failed.join(", "));
    let failure = Failure::new(CliCode::CheckFailed, message).data(report);
    Err(Box::new(Failure { human: Some(human), ..*failure }))
}

/// The report as text.
pub fn render(report: &DemoReport) -> String {
    let sites: Vec<String> =
        report.sites.iter().map(|site| format!("{} ({} rows)", site.name, site.rows)).collect();
    let mut text = format!(
        "{} rounds over {}: {:.1} % of the test digits right, {} sent, {}\n\n",
        report.rounds,
        sites.join(", "),
        report.accuracy * 100.0,
        table::bytes(report.bytes_sent),
        table::time(report.elapsed_ms),
    );
    let mut checks = Table::new(["CLAIM", "HOLDS", "FOUND", "EXPECTED"]);
    for check in &report.checks {
        checks.row([&check.name, if check.ok { "yes" } else { "NO" }, &check.value, &check.expect]);
    }
    text.push_str(&checks.render());
    text
}

#[cfg(test)]
mod tests {
    use cellbus_cells::learning::report::{Findings, SiteShare};

    use super::*;
    use crate::exit::Exit;

    fn report(log_warn_or_error: u64) -> DemoReport {
        DemoReport::new(Findings {
            accuracy: 0.951,
            weights_max_abs_diff: 2e-14,
            denied_code: Some("TOPIC_DENIED".to_owned()),
            log_warn_or_error,
            rounds: 50,
            sites: vec![SiteShare { name: "site-1".to_owned(), rows: 719 }],
            bytes_sent: 3 << 20,
            elapsed_ms: 900,
        })
    }

    #[test]
    fn a_claim_that_does_not_hold_is_a_failure_that_names_it_and_still_shows_everything() {
        let success = outcome(&report(0)).expect("every claim holds");
        assert_eq!(success.data["checks"].as_array().map(Vec::len), Some(4));

        let failure = outcome(&report(2)).unwrap_err();
        assert_eq!((failure.exit, failure.code.as_str()), (Exit::No, "CHECK_FAILED"));
        assert!(failure.message.ends_with(": log_warn_or_error"), "{}", failure.message);
        assert!(failure.human.is_some_and(|human| human.contains("NO")));
        assert_eq!(failure.data.expect("the report")["log_warn_or_error"], 2);
    }

    #[test]
    fn people_read_what_was_measured() {
        let text = render(&report(0));
        assert!(text.starts_with(
            "50 rounds over site-1 (719 rows): 95.1 % of the test digits right, 3.00 MiB"
        ));
    }
}
