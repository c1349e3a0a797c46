//! `cert`: what a certificate states, and whether it should be renewed.

use std::path::{Path, PathBuf};

use cellbus_runtime::{
    certificate::{certificates_in_pem, profile::CertProfile},
    secret_file::{SecretFileError, read_bounded_file},
};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::{
    codes::CliCode,
    exit::Exit,
    output::{Failure, Outcome, Success},
    table,
    trust::{
        self,
        args::{CertVerb, Revoke},
    },
};

/// Bytes in the largest file of certificates.
const MAX_BYTES: usize = 1 << 20;
/// Percent of its life after which a certificate should be renewed.
const RENEW_PERCENT: u64 = 66;

/// Verbs of `cert`.
#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Shows what the certificates in a file state
    Inspect {
        /// A PEM file, such as `startup/cell.crt` of a kit
        file: PathBuf,
    },
    /// Ends with 0 if a certificate should be renewed, 1 if not, 2 if there is no such file
    NeedsRenewal {
        /// A PEM file; its first certificate counts
        file: PathBuf,
        /// From when on: so many percent of its life, or, with d, h, m or s, so long before its end
        #[arg(long, value_name = "TIME", default_value = "66%", value_parser = expires_in)]
        expires_in: ExpiresIn,
    },
    /// Signs the next revocation list, which names these
    Revoke(Revoke),
}

/// When a certificate should be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiresIn {
    /// Once it has used up so much of its life.
    Percent(u64),
    /// Once it has fewer seconds left.
    Seconds(u64),
}

/// One certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertView {
    /// Common names of the subject.
    pub subject: Vec<String>,
    /// Common names of the issuer.
    pub issuer: Vec<String>,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// First second, since 1970.
    pub not_before_unix: u64,
    /// Last second, since 1970.
    pub not_after_unix: u64,
    /// The kind of key.
    pub key: String,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names and addresses.
    pub hosts: Vec<String>,
    /// Whether it may issue others.
    pub is_authority: bool,
    /// Authorities that may stand below it.
    pub path_length: Option<u32>,
    /// What its key may do.
    pub key_usage: Vec<String>,
    /// What it may be used for.
    pub extended_key_usage: Vec<String>,
    /// Projects that it may vouch for.
    pub permitted_projects: Vec<String>,
    /// Fingerprint.
    pub sha256: String,
}

/// What `cert needs-renewal` says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The file.
    pub file: String,
    /// Whether it should be renewed.
    pub needs_renewal: bool,
    /// Last second of the certificate.
    pub not_after_unix: u64,
    /// Percent of its life that is over.
    pub used_percent: u64,
}

/// `cert`.
pub fn run(args: Cert) -> Outcome {
    match args {
        Cert::Inspect { file } => inspect(&file),
        Cert::NeedsRenewal { file, expires_in } => needs_renewal(&file, expires_in),
        Cert::Revoke(args) => trust::sign::cert(&CertVerb::Revoke(args)),
    }
}

fn read(file: &Path) -> Result<Vec<CertProfile>, Box<Failure>> {
    let bytes = read_bounded_file(file, MAX_BYTES).map_err(|error| {
        let is_missing = matches!(error, SecretFileError::Missing { .. });
        let failure = Failure::new(CliCode::Input, error.to_string());
        // The number that scripts written for step(1) look for.
        if is_missing { Box::new(Failure { exit: Exit::Unreachable, ..*failure }) } else { failure }
    })?;
    let none = || {
        let text = format!("{} contains no certificate in PEM form", file.display());
        Failure::new(CliCode::Input, text)
    };
    let ders = certificates_in_pem(&bytes);
    let read: Result<Vec<_>, _> = ders.iter().map(|der| CertProfile::read(der)).collect();
    match read {
        Ok(profiles) if !profiles.is_empty() => Ok(profiles),
        Ok(_) | Err(_) => Err(none()),
    }
}

fn inspect(file: &Path) -> Outcome {
    let views: Vec<CertView> = read(file)?.into_iter().map(view).collect();
    let text = views.iter().map(render).collect::<Vec<_>>().join("\n");
    Ok(Success::new(&views, text))
}

fn needs_renewal(file: &Path, expires_in: ExpiresIn) -> Outcome {
    let dates = read(file)?.first().expect("there is at least one").dates;
    let now = table::now_unix();
    let life = dates.not_after.saturating_sub(dates.not_before).max(1);
    let used = now.saturating_sub(dates.not_before).min(life);
    let needs_renewal = match expires_in {
        ExpiresIn::Percent(percent) => used * 100 >= life * percent,
        ExpiresIn::Seconds(seconds) => now.saturating_add(seconds) >= dates.not_after,
    };
    let renewal = Renewal {
        file: file.display().to_string(),
        needs_renewal,
        not_after_unix: dates.not_after,
        used_percent: used * 100 / life,
    };
    let text = format!(
        "ends {}, {} % of its life is over",
        table::ahead(dates.not_after),
        renewal.used_percent
    );
    if needs_renewal {
        return Ok(Success::new(&renewal, format!("renew it: {text}")));
    }
    let failure = Failure::new(CliCode::CheckFailed, format!("no need to renew it: {text}"));
    Err(failure.data(&renewal))
}

fn view(profile: CertProfile) -> CertView {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    CertView {
        key_usage: words(&profile.key_usage),
        extended_key_usage: words(&profile.extended_key_usage),
        sha256: profile.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        subject: profile.subject,
        issuer: profile.issuer,
        serial: profile.serial,
        not_before_unix: profile.dates.not_before,
        not_after_unix: profile.dates.not_after,
        key: profile.key,
        uris: profile.uris,
        hosts: profile.hosts,
        is_authority: profile.is_authority.unwrap_or(false),
        path_length: profile.path_length,
        permitted_projects: profile.permitted_uri_hosts,
    }
}

fn render(view: &CertView) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{what:<12} {}\n", crate::output::printable(&value)));
        }
    };
    line("name", view.uris.join(", "));
    line("subject", view.subject.join(", "));
    line("issuer", view.issuer.join(", "));
    line("serial", view.serial.clone());
    line("ends", table::ahead(view.not_after_unix));
    line("key", view.key.clone());
    line("hosts", view.hosts.join(", "));
    let authority = match (view.is_authority, view.path_length) {
        (false, _) => "no".to_owned(),
        (true, Some(length)) => format!("yes, path length {length}"),
        (true, None) => "yes, of any length".to_owned(),
    };
    line("authority", authority);
    line("projects", view.permitted_projects.join(", "));
    line("key usage", view.key_usage.join(", "));
    line("for", view.extended_key_usage.join(", "));
    line("sha256", view.sha256.clone());
    text
}

fn expires_in(text: &str) -> Result<ExpiresIn, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a number and %, d, h, m or s".to_owned())?;
    let seconds = |each: u64| number.checked_mul(each).map(ExpiresIn::Seconds);
    let read = match unit {
        "%" if number <= 100 => Some(ExpiresIn::Percent(number)),
        "d" => seconds(86_400),
        "h" => seconds(3600),
        "m" => seconds(60),
        "s" => seconds(1),
        _ => None,
    };
    read.ok_or_else(|| {
        format!("a percentage such as {RENEW_PERCENT}%, or a time such as 30d, 12h, 5m or 30s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_renew_is_a_part_of_a_life_or_a_time_before_its_end() {
        assert_eq!(expires_in("66%"), Ok(ExpiresIn::Percent(66)));
        assert_eq!(expires_in("30d"), Ok(ExpiresIn::Seconds(30 * 86_400)));
        for bad in ["", "%", "101%", "5", "1w", "-1d", "99999999999999999999d"] {
            assert!(expires_in(bad).is_err(), "{bad}");
        }
    }
}
