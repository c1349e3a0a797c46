//! `[metrics]`: where the figures of a process can be fetched from.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::{
    draft,
    parse::Table,
    problem::{Code, Problem, Problems},
};

/// `[metrics]`: where the figures of a process can be fetched from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Metrics")]
pub(super) struct RawMetrics {
    /// `ip:port` on loopback that answers `GET /metrics`; port 0 takes any free one.
    #[schemars(with = "String")]
    pub listen: Option<Spanned<String>>,
}

/// The address that the table states, where it states a good one.
pub(super) fn settle(
    table: Option<&Table<RawMetrics>>,
    problems: &mut Problems,
) -> Option<SocketAddr> {
    let table = table?;
    let Some(written) = &table.raw.listen else {
        if !table.is_broken("listen") {
            let message = "[metrics] has no `listen`";
            let problem =
                Problem::new(Code::Missing, table.span.clone(), message, "no `listen` here");
            problems.add(problem.help("write listen = \"127.0.0.1:9464\", or leave [metrics] out"));
        }
        return None;
    };
    let address = draft::listen(written, problems)?.into_inner();
    if !address.ip().is_loopback() {
        let message = format!("figures would be given to everybody who reaches {address}");
        let problem =
            Problem::new(Code::MetricsNotLoopback, written.span(), message, "not on loopback");
        let help = format!(
            "write `127.0.0.1:{}`, and let a collector on this machine pass them on",
            address.port()
        );
        problems.add(problem.help(help));
        return None;
    }
    Some(address)
}
