//! The tables that only project files have, as they are written.

use serde::Deserialize;
use toml::Spanned;

/// The keys of the top level.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "tables are read one by one; this states their keys")]
pub(super) struct RawProjectFile {
    project: toml::Value,
    cell: toml::Value,
    admin: toml::Value,
    study: Option<toml::Value>,
    certificates: Option<toml::Value>,
    allow: Option<toml::Value>,
    deny: Option<toml::Value>,
    channel: Option<toml::Value>,
    policy_test: Option<toml::Value>,
    limits: Option<toml::Value>,
    metrics: Option<toml::Value>,
    trust: Option<toml::Value>,
}

/// `[project]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProjectTable {
    pub name: Option<Spanned<String>>,
    pub org: Option<Spanned<String>>,
    pub description: Option<Spanned<String>>,
}

/// `[[admin]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub name: Option<Spanned<String>>,
    pub org: Option<Spanned<String>>,
    pub role: Option<Spanned<String>>,
}

/// `[[study]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStudy {
    pub name: Option<Spanned<String>>,
    pub sites: Option<Spanned<Vec<Spanned<String>>>>,
    pub admins: Option<Spanned<Vec<Spanned<String>>>>,
}

/// `[certificates]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificates {
    pub leaf_days: Option<Spanned<u64>>,
    pub authority_days: Option<Spanned<u64>>,
    pub issuer_days: Option<Spanned<u64>>,
}
