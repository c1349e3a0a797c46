use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use cellbus_proto::name::Fqcn;

use super::*;
use crate::{
    certificate::identity_of,
    secret_file::SecretFileError,
    tls::{ChainError, Direction, Roots, verify_chain},
};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

fn authority() -> Authority {
    Authority::create("study".parse().unwrap(), NOW).unwrap()
}

fn id(uri: &str) -> Identity {
    Identity::from_uri(uri).unwrap()
}

fn server() -> Identity {
    id("cell://study/server/server?org=hq")
}

fn site() -> Identity {
    id("cell://study/client/site-1?org=st-mary")
}

fn quarter() -> CertDates {
    CertDates::lasting(NOW, DEV_LEAF_LIFE)
}

fn roots(authority: &Authority) -> Roots {
    Roots::new(vec![authority.root().clone()]).unwrap()
}

fn scratch() -> tempfile::TempDir {
    let owner_only = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().permissions(owner_only).tempdir().unwrap()
}

#[test]
fn every_kind_but_a_job_gets_a_certificate_of_its_direction() {
    let authority = authority();
    let roots = roots(&authority);
    for (uri, is_dialled) in [
        ("cell://study/server/server?org=hq", true),
        ("cell://study/relay/relay-a?org=hq", true),
        ("cell://study/client/site-1?org=st-mary", false),
        ("cell://study/admin/alice?org=hq&role=lead", false),
    ] {
        let issued = authority.issue(&id(uri), &[], quarter()).unwrap();
        let chain = issued.chain();
        let peer = verify_chain(&roots, &chain, Direction::Dials, NOW).unwrap();
        assert_eq!(peer.identity, id(uri));
        assert_eq!(peer.hash, issued.hash());
        let dialled = verify_chain(&roots, &chain, Direction::IsDialled, NOW);
        assert_eq!(dialled.is_ok(), is_dialled, "{uri}");
        if !is_dialled {
            assert!(matches!(dialled, Err(ChainError::KeyUsage { .. })), "{dialled:?}");
        }
        OwnCertificate::try_from(&issued).unwrap();
    }
    let error = authority.issue(&id("cell://study/job/server.j?org=hq"), &[], quarter());
    assert!(matches!(error, Err(AuthorityError::Kind { kind: CellKind::Job })));
}

#[test]
fn nothing_is_issued_for_another_project() {
    let error = authority().issue(&id("cell://other/server/server?org=hq"), &[], quarter());
    assert!(matches!(error, Err(AuthorityError::Project { .. })));
}

#[test]
fn hosts_are_for_those_who_are_dialled_and_must_be_hosts() {
    let authority = authority();
    let hosts = ["127.0.0.1", "::1", "localhost", "bus.example.org"].map(str::to_owned);
    let issued = authority.issue(&server(), &hosts, quarter()).unwrap();
    assert_eq!(identity_of(&issued.chain()[0]).unwrap().0, server());
    for host in ["", "a b", "-x-", "https://x", "ü", "a..b"] {
        let error = authority.issue(&server(), &[host.to_owned()], quarter());
        assert!(matches!(error, Err(AuthorityError::Host { .. })), "{host:?}");
    }
    let error = authority.issue(&site(), &hosts, quarter());
    assert!(matches!(error, Err(AuthorityError::Host { kind: CellKind::Client, .. })));
}

#[test]
fn a_leaf_never_outlives_its_authority() {
    let authority = authority();
    let end = authority.dates().not_after;
    let late = CertDates::lasting(end - 5 * DAY, DEV_LEAF_LIFE);
    let issued = authority.issue(&site(), &[], late).unwrap();
    assert_eq!(identity_of(&issued.chain()[0]).unwrap().1.not_after, end);
    let early = CertDates { not_before: 0, not_after: NOW + DAY };
    let issued = authority.issue(&site(), &[], early).unwrap();
    let (_, dates) = identity_of(&issued.chain()[0]).unwrap();
    assert_eq!(dates.not_before, authority.dates().not_before);
    for outside in [
        CertDates { not_before: end + 1, not_after: end + 2 },
        CertDates { not_before: 9, not_after: 8 },
    ] {
        let error = authority.issue(&site(), &[], outside);
        assert!(matches!(error, Err(AuthorityError::Dates { .. })));
    }
}

#[test]
fn times_at_the_edges_make_no_panic() {
    for now in [0, 1, LAST_SECOND, u64::MAX] {
        let made = Authority::create("study".parse().unwrap(), now);
        assert_eq!(made.is_ok(), now <= LAST_SECOND, "{now}");
    }
}

#[test]
fn an_authority_is_taken_up_again_from_its_files() {
    let first = authority();
    let project: Segment = "study".parse().unwrap();
    let again = Authority::restore(project.clone(), first.root_pem(), &first.key_pem()).unwrap();
    assert_eq!((again.root(), again.dates()), (first.root(), first.dates()));
    let issued = again.issue(&site(), &[], quarter()).unwrap();
    verify_chain(&roots(&first), &issued.chain(), Direction::Dials, NOW).unwrap();

    let other = authority();
    let mixed = Authority::restore(project.clone(), first.root_pem(), &other.key_pem());
    assert!(matches!(mixed, Err(AuthorityError::Mismatch)));
    let leaf = Authority::restore(project.clone(), &issued.chain_pem(), &issued.key_pem());
    assert!(matches!(leaf, Err(AuthorityError::NoAuthority)));
    assert!(Authority::restore(project, "", "").is_err());
}

#[test]
fn atk_034_a_leaf_cannot_issue() {
    let authority = authority();
    let relay = authority.issue(&id("cell://study/relay/relay-a?org=hq"), &[], quarter()).unwrap();
    let key = KeyPair::from_pem(&relay.key_pem()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&relay.chain()[0], key).unwrap();
    let forged_key = KeyPair::generate().unwrap();
    let forged =
        leaf_params(&server(), quarter()).unwrap().signed_by(&forged_key, &issuer).unwrap();
    let chain = [forged.der().clone(), relay.chain()[0].clone()];
    for direction in [Direction::Dials, Direction::IsDialled] {
        let error = verify_chain(&roots(&authority), &chain, direction, NOW);
        assert!(matches!(error, Err(ChainError::Untrusted { .. })), "{error:?}");
    }
}

#[test]
fn a_job_certificate_lasts_a_day_and_is_nobody_elses() {
    let job = id("cell://study/job/site-1.job-7?org=st-mary");
    let minted = mint_job(&job, NOW).unwrap();
    let (identity, dates) = identity_of(&minted.chain()[0]).unwrap();
    assert_eq!(identity, job);
    assert_eq!(dates.not_after, NOW + DAY);
    let again = mint_job(&job, NOW).unwrap();
    assert_ne!(again.hash(), minted.hash());
    assert!(matches!(mint_job(&site(), NOW), Err(AuthorityError::Kind { .. })));
    // What a job's process gets over its pipe is enough to be that job.
    let own = OwnCertificate::new(minted.chain(), &minted.key()).unwrap();
    assert_eq!((own.identity(), own.hash()), (&job, minted.hash()));
}

#[test]
fn nothing_that_is_printed_contains_a_key() {
    let authority = authority();
    let issued = authority.issue(&site(), &[], quarter()).unwrap();
    let own = OwnCertificate::try_from(&issued).unwrap();
    let text = format!("{authority:?} {issued:?} {own:?}");
    assert!(text.len() < 400 && !text.to_lowercase().contains("key"), "{text}");
}

fn saved() -> (tempfile::TempDir, Authority) {
    let dir = scratch();
    let authority = authority();
    let issued = authority.issue(&site(), &[], quarter()).unwrap();
    Credentials::save(&dir.path().join("cell"), authority.root_pem(), &issued).unwrap();
    (dir, authority)
}

fn load(dir: &tempfile::TempDir) -> Result<Credentials, CredentialsError> {
    Credentials::load(&dir.path().join("cell"), NOW)
}

#[test]
fn credentials_survive_their_files() {
    let (dir, authority) = saved();
    let credentials = load(&dir).unwrap();
    assert_eq!(credentials.certificate().identity(), &site());
    assert_eq!(credentials.roots().ders(), [authority.root().clone()]);
    for file in ["root.crt", "cell.crt", "cell.key"] {
        let mode = std::fs::metadata(dir.path().join("cell").join(file)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    credentials.expect_holder(dir.path(), &site()).unwrap();
    for other in [
        "cell://study/client/site-2?org=st-mary",
        "cell://study/admin/site-1?org=st-mary",
        "cell://other/client/site-1?org=st-mary",
    ] {
        let error = credentials.expect_holder(dir.path(), &id(other)).unwrap_err();
        assert!(error.to_string().contains("study/client/site-1"), "{error}");
    }
}

#[test]
fn a_file_that_is_missing_wide_or_no_pem_is_named() {
    for file in ["root.crt", "cell.crt", "cell.key"] {
        let (dir, _) = saved();
        let path = dir.path().join("cell").join(file);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let error = load(&dir).unwrap_err();
        assert!(matches!(error, CredentialsError::File(SecretFileError::Mode { .. })), "{error:?}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "nothing of the kind").unwrap();
        let error = load(&dir).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        assert!(
            matches!(error, CredentialsError::Content { problem: FileProblem::NotPem { .. }, .. }),
            "{error:?}"
        );
        std::fs::remove_file(&path).unwrap();
        let error = load(&dir).unwrap_err();
        let CredentialsError::File(SecretFileError::Missing { path: missing }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*missing, path);
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (dir, authority) = saved();
    let other = authority.issue(&site(), &[], quarter()).unwrap();
    std::fs::write(dir.path().join("cell/cell.key"), other.key_pem().as_bytes()).unwrap();
    let error = load(&dir).unwrap_err();
    assert!(
        matches!(
            &error,
            CredentialsError::Content { path, problem: FileProblem::Own(OwnCertificateError::Mismatch) }
                if path.ends_with("cell.key")
        ),
        "{error:?}"
    );
}

#[test]
fn a_key_of_a_kind_that_cells_do_not_sign_with_is_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = leaf_params(&site(), quarter()).unwrap().self_signed(&key).unwrap();
    let der = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let error = OwnCertificate::new(vec![certificate.der().clone()], &der).unwrap_err();
    assert!(matches!(error, OwnCertificateError::Key), "{error:?}");
}

#[test]
fn a_root_that_does_not_vouch_for_the_certificate_is_refused() {
    let (dir, _) = saved();
    std::fs::write(dir.path().join("cell/root.crt"), authority().root_pem()).unwrap();
    let error = load(&dir).unwrap_err();
    assert!(matches!(error, CredentialsError::Chain { .. }), "{error:?}");
    // A leaf in the place of the root would make the cell trust whatever that leaf's holder signs.
    let leaf = std::fs::read(dir.path().join("cell/cell.crt")).unwrap();
    std::fs::write(dir.path().join("cell/root.crt"), leaf).unwrap();
    let error = load(&dir).unwrap_err();
    assert!(
        matches!(error, CredentialsError::Content { problem: FileProblem::Root(_), .. }),
        "{error:?}"
    );
}

#[test]
fn credentials_that_have_ended_or_not_begun_say_so() {
    let (dir, _) = saved();
    for now in [NOW - DAY, NOW + 91 * DAY] {
        let error = Credentials::load(&dir.path().join("cell"), now).unwrap_err();
        assert!(matches!(error, CredentialsError::OutOfDate { .. }), "{error:?}");
    }
}

fn tree() -> Vec<(Identity, Vec<String>)> {
    vec![(server(), vec!["127.0.0.1".into(), "localhost".into()]), (site(), Vec::new())]
}

fn ensure(dir: &Path, now: u64) -> Result<Vec<Credentials>, DevCredentialsError> {
    ensure_dev_credentials(dir, &"study".parse().unwrap(), &tree(), now)
}

fn hashes(credentials: &[Credentials]) -> Vec<LeafHash> {
    credentials.iter().map(|credentials| credentials.certificate().hash()).collect()
}

fn listing(dir: &Path, into: &mut Vec<(std::path::PathBuf, u32, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o7777;
        if path.is_dir() {
            listing(&path, into);
            into.push((path, mode, Vec::new()));
        } else {
            into.push((path.clone(), mode, std::fs::read(&path).unwrap()));
        }
    }
    into.sort();
}

#[test]
fn development_credentials_are_made_once() {
    let dir = scratch();
    let dir = dir.path().join("dev");
    let first = ensure(&dir, NOW).unwrap();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    listing(&dir, &mut before);
    let second = ensure(&dir, NOW + 3600).unwrap();
    listing(&dir, &mut after);
    assert_eq!(before, after);
    assert_eq!(hashes(&first), hashes(&second));
    assert_eq!(first[0].certificate().identity(), &server());
    assert_eq!(first[1].certificate().identity(), &site());
    for (path, mode, _) in &before {
        assert_eq!(*mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
    let name: Fqcn = "site-1".parse().unwrap();
    let loaded = Credentials::load(&cell_dir(&dir, &name), NOW).unwrap();
    assert_eq!(loaded.certificate().hash(), hashes(&first)[1]);
}

#[test]
fn development_credentials_are_renewed_before_they_end_and_after() {
    let dir = scratch();
    let first = ensure(dir.path(), NOW).unwrap();
    let kept = ensure(dir.path(), NOW + 50 * DAY).unwrap();
    assert_eq!(hashes(&first), hashes(&kept));
    let renewed = ensure(dir.path(), NOW + 65 * DAY).unwrap();
    assert!(hashes(&first).iter().all(|hash| !hashes(&renewed).contains(hash)));
    let late = ensure(dir.path(), NOW + 400 * DAY).unwrap();
    assert_eq!(late[0].roots().ders(), first[0].roots().ders());
    let after_the_authority = ensure(dir.path(), NOW + 11 * 365 * DAY);
    assert!(matches!(after_the_authority, Err(DevCredentialsError::Authority { .. })));
}

#[test]
fn development_credentials_heal_after_a_crash_at_any_file() {
    let dir = scratch();
    let first = ensure(dir.path(), NOW).unwrap();
    let own = cell_dir(dir.path(), &"site-1".parse().unwrap());
    for left in
        [&["cell.crt"][..], &["cell.crt", "root.crt"], &["cell.crt", "root.crt", "cell.key"]]
    {
        for file in left {
            std::fs::remove_file(own.join(file)).unwrap();
        }
        let healed = ensure(dir.path(), NOW).unwrap();
        assert_eq!(hashes(&healed)[0], hashes(&first)[0]);
        assert_ne!(hashes(&healed)[1], hashes(&first)[1]);
    }
    std::fs::remove_file(dir.path().join("authority/root.crt")).unwrap();
    let new = ensure(dir.path(), NOW).unwrap();
    assert_ne!(new[0].roots().ders(), first[0].roots().ders());
}

#[test]
fn development_credentials_that_are_damaged_are_left_as_they_are() {
    let dir = scratch();
    ensure(dir.path(), NOW).unwrap();
    let key = cell_dir(dir.path(), &"site-1".parse().unwrap()).join("cell.key");
    std::fs::write(&key, "damaged").unwrap();
    let error = ensure(dir.path(), NOW).unwrap_err();
    assert!(matches!(error, DevCredentialsError::Credentials { .. }), "{error:?}");
    assert_eq!(std::fs::read(&key).unwrap(), b"damaged");
}

/// An implementation that shares no code with this one reads the same out of a certificate.
#[test]
fn openssl_agrees_with_what_is_issued() {
    if Command::new("openssl").arg("version").output().is_err() {
        return;
    }
    let dir = scratch();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let credentials = ensure(dir.path(), now).unwrap();
    assert_eq!(credentials.len(), 2);
    let run = |name: &str, arguments: &[&str]| {
        let own = cell_dir(dir.path(), &name.parse().unwrap());
        let output = Command::new("openssl").args(arguments).current_dir(own).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    };
    let verify = |name: &str, purpose: &str| {
        run(
            name,
            &["verify", "-x509_strict", "-CAfile", "root.crt", "-purpose", purpose, "cell.crt"],
        )
    };
    assert!(verify("server", "sslserver").0 && verify("server", "sslclient").0);
    assert!(verify("site-1", "sslclient").0 && !verify("site-1", "sslserver").0);
    let (_, text) = run("server", &["x509", "-in", "cell.crt", "-noout", "-text"]);
    for part in [
        "URI:cell://study/server/server?org=hq",
        "IP Address:127.0.0.1",
        "DNS:localhost",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "prime256v1",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    let (_, text) = run("server", &["x509", "-in", "root.crt", "-noout", "-text"]);
    for part in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign"] {
        assert!(text.contains(part), "{part} not in {text}");
    }
}
