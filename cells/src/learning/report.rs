//! What the demo tells while it runs and what it claims at its end.

use serde::{Deserialize, Serialize};

/// Something that happened in the demo, in the order it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DemoEvent {
    /// A new part begins.
    Phase {
        /// What it does, for people.
        name: String,
    },
    /// All sites have contributed to a round and the weights have moved.
    Round {
        /// The round, from 1.
        round: u32,
        /// Rounds in all.
        of: u32,
        /// Mean loss over all training rows before the step, in nats.
        loss: f64,
        /// Share of test rows that the new weights get right.
        accuracy: f64,
        /// Payload bytes of all messages of the training so far.
        bytes: u64,
        /// Milliseconds since the training began.
        elapsed_ms: u64,
    },
    /// A claim was examined.
    Check {
        /// Which.
        name: String,
        /// Whether it holds.
        ok: bool,
        /// What was found, for people.
        detail: String,
    },
}

/// One claim of the demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Stable name.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub value: String,
    /// What had to be found.
    pub expect: String,
}

/// How much of the data one site held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteShare {
    /// The site.
    pub name: String,
    /// Its training rows.
    pub rows: usize,
}

/// What was measured. [`DemoReport::new`] turns it into claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Share of test rows that the federated weights get right.
    pub accuracy: f64,
    /// Largest difference between a federated and a central weight.
    pub weights_max_abs_diff: f64,
    /// Code with which the forbidden message was refused, if it was.
    pub denied_code: Option<String>,
    /// Log events at WARN or ERROR from start to stop.
    pub log_warn_or_error: u64,
    /// Rounds trained.
    pub rounds: u32,
    /// The sites, in order.
    pub sites: Vec<SiteShare>,
    /// Payload bytes of all messages of the training.
    pub bytes_sent: u64,
    /// Milliseconds from start to stop.
    pub elapsed_ms: u64,
}

/// The result of the demo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// Share of test rows that the federated weights get right.
    pub accuracy: f64,
    /// Largest difference between a federated and a central weight; `null` when it cannot be told.
    pub weights_max_abs_diff: Option<f64>,
    /// Code with which the forbidden message was refused, if it was.
    pub denied_code: Option<String>,
    /// Log events at WARN or ERROR from start to stop.
    pub log_warn_or_error: u64,
    /// Rounds trained.
    pub rounds: u32,
    /// The sites, in order.
    pub sites: Vec<SiteShare>,
    /// Payload bytes of all messages of the training.
    pub bytes_sent: u64,
    /// Milliseconds from start to stop.
    pub elapsed_ms: u64,
    /// The claims, each with what was found.
    pub checks: Vec<Check>,
}

/// The accuracy that must be passed.
pub const ACCURACY_FLOOR: f64 = 0.90;
/// The difference between federated and central weights that must not be passed.
pub const WEIGHTS_TOLERANCE: f64 = 1e-9;
/// The code that the forbidden message must be refused with.
pub const DENIED_CODE: &str = "TOPIC_DENIED";

impl DemoReport {
    /// Holds `findings` against what they have to be.
    #[must_use]
    pub fn new(findings: Findings) -> Self {
        let Findings {
            accuracy,
            weights_max_abs_diff: diff,
            denied_code,
            log_warn_or_error,
            rounds,
            sites,
            bytes_sent,
            elapsed_ms,
        } = findings;
        let denied = denied_code.as_deref();
        // A NaN is in no range, so it passes none of these.
        let checks = vec![
            check(
                "accuracy",
                accuracy > ACCURACY_FLOOR,
                format!("{accuracy:.4}"),
                &format!("> {ACCURACY_FLOOR}"),
            ),
            check(
                "weights_max_abs_diff",
                diff <= WEIGHTS_TOLERANCE,
                format!("{diff:.1e}"),
                &format!("<= {WEIGHTS_TOLERANCE:e}"),
            ),
            check(
                "denied_code",
                denied == Some(DENIED_CODE),
                denied.unwrap_or("not refused").to_owned(),
                DENIED_CODE,
            ),
            check("log_warn_or_error", log_warn_or_error == 0, log_warn_or_error.to_string(), "0"),
        ];
        Self {
            accuracy,
            weights_max_abs_diff: diff.is_finite().then_some(diff),
            denied_code,
            log_warn_or_error,
            rounds,
            sites,
            bytes_sent,
            elapsed_ms,
            checks,
        }
    }

    /// Adds a claim of another part of the demo.
    pub fn push(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Whether every claim holds.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

fn check(name: &str, ok: bool, value: String, expect: &str) -> Check {
    Check { name: name.to_owned(), ok, value, expect: expect.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        Findings {
            accuracy: 0.95,
            weights_max_abs_diff: 1e-14,
            denied_code: Some(DENIED_CODE.to_owned()),
            log_warn_or_error: 0,
            rounds: 50,
            sites: vec![SiteShare { name: "site-1".to_owned(), rows: 719 }],
            bytes_sent: 1,
            elapsed_ms: 1,
        }
    }

    fn failed(findings: Findings) -> Vec<String> {
        let report = DemoReport::new(findings);
        let failed = report.checks.iter().filter(|check| !check.ok).map(|check| check.name.clone());
        let failed: Vec<_> = failed.collect();
        assert_eq!(report.is_ok(), failed.is_empty());
        failed
    }

    #[test]
    fn every_claim_can_fail_alone() {
        assert!(failed(good()).is_empty());
        for accuracy in [0.90, f64::NAN] {
            assert_eq!(failed(Findings { accuracy, ..good() }), ["accuracy"]);
        }
        for diff in [1.1e-9, f64::INFINITY, f64::NAN] {
            let findings = Findings { weights_max_abs_diff: diff, ..good() };
            assert_eq!(failed(findings), ["weights_max_abs_diff"]);
        }
        for code in [None, Some("NO_ROUTE".to_owned())] {
            assert_eq!(failed(Findings { denied_code: code, ..good() }), ["denied_code"]);
        }
        let findings = Findings { log_warn_or_error: 1, ..good() };
        assert_eq!(failed(findings), ["log_warn_or_error"]);
    }

    #[test]
    fn events_and_reports_survive_json() {
        let report = DemoReport::new(good());
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<DemoReport>(&text).unwrap(), report);
        let event = DemoEvent::Phase { name: "start".to_owned() };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"event":"phase","name":"start"}"#);
    }
}
