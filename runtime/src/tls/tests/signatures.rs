//! Signatures and chains outside of any handshake.

use super::*;

#[test]
fn a_leaf_signature_is_good_for_its_key_and_message_alone() {
    let world = World::new();
    let (mine, other) = (world.issue(&site()), world.issue(&site()));
    let minted = mint_job(&job(), NOW).unwrap();
    for issued in [&mine, &minted] {
        let signer = LeafSigner::new(&OwnCertificate::try_from(issued).unwrap());
        let signature = signer.sign(b"transcript").unwrap();
        let chain = issued.chain();
        assert!(verify_leaf_signature(&chain[0], b"transcript", &signature));
        assert!(!verify_leaf_signature(&chain[0], b"transcripu", &signature));
        assert!(!verify_leaf_signature(&other.chain()[0], b"transcript", &signature));
        assert!(!verify_leaf_signature(&chain[0], b"transcript", &signature[1..]));
        assert!(!verify_leaf_signature(&chain[0], b"transcript", b""));
        assert!(!verify_leaf_signature(b"", b"transcript", &signature));
        for bit in 0..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify_leaf_signature(&chain[0], b"transcript", &flipped), "bit {bit}");
        }
    }
}

#[test]
fn an_ed25519_leaf_signs_too() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = leaf_params(&site(), quarter()).unwrap().self_signed(&key).unwrap();
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let own = OwnCertificate::new(vec![certificate.der().clone()], &der).unwrap();
    let signature = LeafSigner::new(&own).sign(b"transcript").unwrap();
    assert!(verify_leaf_signature(&own.chain()[0], b"transcript", &signature));
    assert!(!verify_leaf_signature(&own.chain()[0], b"another", &signature));
}

#[test]
fn p_20_a_chain_that_a_relay_presents_proves_its_leaf_and_no_job() {
    let world = World::new();
    let issued = world.issue(&site());
    let peer = verify_chain(&world.roots, &issued.chain(), Direction::Dials, NOW).unwrap();
    assert_eq!((peer.identity, peer.hash), (site(), issued.hash()));
    let empty = verify_chain(&world.roots, &[], Direction::Dials, NOW);
    assert_eq!(empty, Err(ChainError::Empty));
    let minted = mint_job(&job(), NOW).unwrap();
    let error = verify_chain(&world.roots, &minted.chain(), Direction::Dials, NOW);
    assert!(matches!(error, Err(ChainError::Untrusted { .. })), "{error:?}");
    let root = verify_chain(&world.roots, &[world.authority.root().clone()], Direction::Dials, NOW);
    assert!(root.is_err());
    let bytes = vec![rustls_pki_types::CertificateDer::from(vec![0x30, 0x80])];
    let error = verify_chain(&world.roots, &bytes, Direction::Dials, NOW);
    assert!(error.is_err());
}
