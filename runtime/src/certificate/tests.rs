use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, KeyPair, SanType};

use super::*;
use crate::authority::{Authority, leaf_params};

const NOW: u64 = 1_800_000_000;

fn authority() -> Authority {
    Authority::create("study".parse().unwrap(), NOW).unwrap()
}

fn identity(uri: &str) -> Identity {
    Identity::from_uri(uri).unwrap()
}

fn site() -> Identity {
    identity("cell://study/client/site-1?org=hq")
}

fn params() -> CertificateParams {
    leaf_params(&site(), CertDates::lasting(NOW, Duration::from_secs(60))).unwrap()
}

fn read(params: &CertificateParams) -> Result<CertContents, CertificateError> {
    let key = KeyPair::generate().unwrap();
    read_certificate(params.self_signed(&key).unwrap().der())
}

#[test]
fn a_certificate_reads_as_it_was_issued() {
    let issued = authority()
        .issue(&site(), &[], CertDates { not_before: NOW, not_after: NOW + 60 })
        .unwrap();
    let der = &issued.chain()[0];
    let (identity, dates) = identity_of(der).unwrap();
    assert_eq!(identity, site());
    assert_eq!(dates, CertDates { not_before: NOW, not_after: NOW + 60 });
    assert_eq!(leaf_hash(der), issued.hash());
}

#[test]
fn dates_count_from_the_first_second_to_the_last() {
    let dates = CertDates { not_before: 100, not_after: 200 };
    assert_eq!(dates.check(99), Err(OutOfDate::NotYetValid { not_before: 100 }));
    assert_eq!(dates.check(100), Ok(()));
    assert_eq!(dates.check(200), Ok(()));
    assert_eq!(dates.check(201), Err(OutOfDate::Expired { not_after: 200 }));
}

#[test]
fn atk_033_a_certificate_without_extended_key_usage_names_nobody() {
    let mut params = params();
    params.extended_key_usages.clear();
    let facts = read(&params).unwrap().facts;
    assert!(!facts.client_auth && !facts.server_auth);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    let facts = read(&params).unwrap().facts;
    assert!(!facts.client_auth && !facts.server_auth);
    assert!(Identity::from_facts(&facts).is_err());
}

#[test]
fn p_03_two_uri_names_or_none_name_nobody() {
    let mut params = params();
    params.subject_alt_names.push(SanType::URI("https://example.org/".try_into().unwrap()));
    let facts = read(&params).unwrap().facts;
    assert_eq!(facts.uris.len(), 2);
    assert!(Identity::from_facts(&facts).is_err());
    params.subject_alt_names = vec![SanType::DnsName("site-1".try_into().unwrap())];
    let facts = read(&params).unwrap().facts;
    assert!(facts.uris.is_empty());
    assert!(Identity::from_facts(&facts).is_err());
}

#[test]
fn atk_034_what_may_sign_others_is_an_authority_however_it_says_so() {
    let contents = read_certificate(authority().root()).unwrap();
    assert!(contents.facts.is_authority);
    let mut params = params();
    params.key_usages.push(rcgen::KeyUsagePurpose::KeyCertSign);
    assert!(read(&params).unwrap().facts.is_authority);
}

#[test]
fn an_extension_that_is_repeated_or_unreadable_spoils_the_whole_certificate() {
    let mut names_twice = params();
    names_twice
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x00]));
    assert_eq!(read(&names_twice), Err(CertificateError::Malformed));

    // An alternative name of the URI kind whose bytes are no text.
    let mut bad_uri = params();
    bad_uri.subject_alt_names.clear();
    let names = vec![0x30, 0x04, 0x86, 0x02, 0xff, 0xfe];
    bad_uri.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], names));
    assert_eq!(read(&bad_uri), Err(CertificateError::Malformed));

    let mut bad_basic = params();
    bad_basic.is_ca = rcgen::IsCa::NoCa;
    bad_basic
        .custom_extensions
        .push(CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x02, 0x01, 0x01]));
    assert_eq!(read(&bad_basic), Err(CertificateError::Malformed));
}

#[test]
fn trailing_bytes_are_refused() {
    let mut der = authority().root().to_vec();
    read_certificate(&der).unwrap();
    der.push(0);
    assert_eq!(read_certificate(&der), Err(CertificateError::Malformed));
}

proptest! {
    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(identity_of(&bytes).is_err());
    }

    #[test]
    fn any_change_to_a_certificate_gives_an_answer(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        thread_local! {
            static DER: Vec<u8> = authority().issue(&site(), &[], CertDates::lasting(NOW, Duration::from_secs(60))).unwrap().chain()[0].to_vec();
        }
        let mut der = DER.with(Clone::clone);
        for (at, byte) in changes {
            let at = at.index(der.len());
            der[at] = byte;
        }
        let _ = identity_of(&der);
        der.truncate(cut.index(der.len()));
        prop_assert!(identity_of(&der).is_err());
    }
}
