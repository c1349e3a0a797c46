//! Session tokens: no bytes pass that the server did not sign, and of those that it signed only one
//! spelling.

use bytes::Bytes;
use cellbus_proto::{
    envelope::Incarnation,
    token::{Claims, ServerKey, Token, TokenSigner, TokenVerifier},
    transcript::{Purpose, Transcript},
};
use ed25519_dalek::{Signer, SigningKey};

/// The token key, project and incarnation of the wire vectors, whose tokens are good here.
const SECRET: [u8; 32] = [4; 32];
const NOW: u64 = 1_800_000_000;

/// A token, and claims that are signed here.
///
/// # Panics
/// When a token passes that the server would not have issued.
pub fn token(data: &[u8]) {
    let signer = TokenSigner::new(&SECRET);
    if let Some(claims) = verify(&signer, data) {
        assert_eq!(signer.sign(&claims).as_bytes(), data, "a token that was not issued passed");
    }
    let key = SigningKey::from_bytes(&SECRET);
    let signable = Transcript::new(Purpose::Token).field(data).finish();
    let signed = [data, &key.sign(&signable).to_bytes()[..]].concat();
    if let Some(claims) = verify(&signer, &signed) {
        assert_eq!(
            signer.sign(&claims).as_bytes(),
            &signed,
            "claims with a second spelling passed"
        );
    }
}

fn verify(signer: &TokenSigner, bytes: &[u8]) -> Option<Claims> {
    let token = Token::from_bytes(Bytes::copy_from_slice(bytes))?;
    let mut verifier = TokenVerifier::new("study".parse().expect("is a segment"));
    verifier.set_server(ServerKey {
        server: "server".parse().expect("is a name"),
        incarnation: Incarnation { counter: 5, nonce: 0x1112_1314_1516_1718 },
        key: signer.public_key(),
    });
    verifier.verify(&token, NOW).ok().map(|claims| (*claims).clone())
}
