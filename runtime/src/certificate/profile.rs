//! Everything that a certificate states, for people to read and for its form to be examined.

use std::net::IpAddr;

use cellbus_proto::identity::CellKind;
use x509_parser::{
    extensions::{GeneralName, ParsedExtension, X509Extension},
    prelude::{FromDer, X509Certificate},
};

use super::{CertDates, CertificateError, LeafHash, leaf_hash};

const P256: &str = "1.2.840.10045.3.1.7";
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

/// What a certificate states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertProfile {
    /// Common names of the subject.
    pub subject: Vec<String>,
    /// Attributes of the subject, of any kind.
    pub subject_attributes: usize,
    /// Common names of the issuer.
    pub issuer: Vec<String>,
    /// The serial number, in hexadecimal digits.
    pub serial: String,
    /// When it counts.
    pub dates: CertDates,
    /// The kind of its key: `P-256`, `Ed25519`, or an object identifier.
    pub key: String,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names and addresses.
    pub hosts: Vec<String>,
    /// Names of other kinds.
    pub other_names: usize,
    /// Whether it states that it is or is no authority's.
    pub is_authority: Option<bool>,
    /// Authorities that may stand below it.
    pub path_length: Option<u32>,
    /// Whether basic constraints are critical.
    pub basic_is_critical: bool,
    /// What its key may do.
    pub key_usage: Vec<&'static str>,
    /// Whether the key usage is critical.
    pub key_usage_is_critical: bool,
    /// What it may be used for.
    pub extended_key_usage: Vec<&'static str>,
    /// Hosts of URI names that it may vouch for.
    pub permitted_uri_hosts: Vec<String>,
    /// SHA-256 of its DER form.
    pub hash: LeafHash,
}

impl CertProfile {
    /// Reads a certificate from its DER form.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn read(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        let seconds = |at: x509_parser::time::ASN1Time| u64::try_from(at.timestamp()).unwrap_or(0);
        let names = |name: &x509_parser::x509::X509Name<'_>| {
            let texts = name.iter_common_name().filter_map(|one| one.as_str().ok());
            texts.map(str::to_owned).collect()
        };
        let algorithm = &cert.public_key().algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
        let curve = curve.map(|curve| curve.to_id_string());
        let key = match (algorithm.algorithm.to_id_string(), curve.as_deref()) {
            (kind, Some(P256)) if kind == EC => "P-256".to_owned(),
            (kind, _) if kind == ED25519 => "Ed25519".to_owned(),
            (kind, curve) => curve.map(str::to_owned).unwrap_or(kind),
        };
        let mut profile = Self {
            subject: names(cert.subject()),
            subject_attributes: cert.subject().iter_attributes().count(),
            issuer: names(cert.issuer()),
            serial: cert.raw_serial_as_string().replace(':', ""),
            dates: CertDates {
                not_before: seconds(cert.validity().not_before),
                not_after: seconds(cert.validity().not_after),
            },
            key,
            uris: Vec::new(),
            hosts: Vec::new(),
            other_names: 0,
            is_authority: None,
            path_length: None,
            basic_is_critical: false,
            key_usage: Vec::new(),
            key_usage_is_critical: false,
            extended_key_usage: Vec::new(),
            permitted_uri_hosts: Vec::new(),
            hash: leaf_hash(der),
        };
        cert.iter_extensions().for_each(|extension| profile.take(extension));
        Ok(profile)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of extensions is open")]
    fn take(&mut self, extension: &X509Extension<'_>) {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                names.general_names.iter().for_each(|name| self.take_name(name));
            }
            ParsedExtension::BasicConstraints(basic) => {
                self.is_authority = Some(basic.ca);
                self.path_length = basic.path_len_constraint;
                self.basic_is_critical = extension.critical;
            }
            ParsedExtension::KeyUsage(usage) => {
                self.key_usage_is_critical = extension.critical;
                let all = [
                    (usage.digital_signature(), "digitalSignature"),
                    (usage.non_repudiation(), "nonRepudiation"),
                    (usage.key_encipherment(), "keyEncipherment"),
                    (usage.data_encipherment(), "dataEncipherment"),
                    (usage.key_agreement(), "keyAgreement"),
                    (usage.key_cert_sign(), "keyCertSign"),
                    (usage.crl_sign(), "cRLSign"),
                ];
                self.key_usage =
                    all.into_iter().filter(|(has, _)| *has).map(|(_, word)| word).collect();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let all = [
                    (usage.any, "any"),
                    (usage.client_auth, "clientAuth"),
                    (usage.server_auth, "serverAuth"),
                    (usage.code_signing, "codeSigning"),
                    (usage.email_protection, "emailProtection"),
                    (usage.time_stamping, "timeStamping"),
                    (usage.ocsp_signing, "ocspSigning"),
                    (!usage.other.is_empty(), "other"),
                ];
                let held = all.into_iter().filter(|(has, _)| *has);
                self.extended_key_usage = held.map(|(_, word)| word).collect();
            }
            ParsedExtension::NameConstraints(names) => {
                for subtree in names.permitted_subtrees.iter().flatten() {
                    if let GeneralName::URI(host) = &subtree.base {
                        self.permitted_uri_hosts.push((*host).to_owned());
                    }
                }
            }
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "other kinds of names are counted only")]
    fn take_name(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(host) => self.hosts.push((*host).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                match address {
                    Ok(address) => self.hosts.push(address.to_string()),
                    Err(_) => self.other_names += 1,
                }
            }
            _ => self.other_names += 1,
        }
    }

    /// In what a leaf of this kind differs from the form that provisioning gives it; empty where in nothing.
    #[must_use]
    pub fn deviations(&self, kind: CellKind) -> Vec<String> {
        let mut bad = Vec::new();
        let mut want = |holds: bool, what: &str| {
            if !holds {
                bad.push(what.to_owned());
            }
        };
        let accepts = kind.accepts_cells();
        want(
            matches!(self.key.as_str(), "P-256" | "Ed25519"),
            "the key is neither P-256 nor Ed25519",
        );
        want(self.is_authority == Some(false), "it does not state that it is no authority's");
        want(self.basic_is_critical, "its basic constraints are not critical");
        want(self.key_usage == ["digitalSignature"], "its key usage is not digitalSignature alone");
        want(self.key_usage_is_critical, "its key usage is not critical");
        want(self.uris.len() == 1, "it has not exactly one URI name");
        want(self.other_names == 0, "it has names of kinds that cells do not use");
        want(self.subject_attributes <= 1, "its subject has more than one attribute");
        want(accepts || self.hosts.is_empty(), "it has host names, and nobody dials its holder");
        let usage: &[&str] = if accepts { &["clientAuth", "serverAuth"] } else { &["clientAuth"] };
        want(self.extended_key_usage == usage, "its extended key usage is not that of its kind");
        bad
    }
}
