//! For senders of this cell: the certificate that a message is sealed to, and publishes that are protected.

use std::{sync::Arc, time::Duration};

use actix::{Context, Handler, Message, ResponseFuture};
use bytes::Bytes;
use cellbus_channels::{Outgoing, RequestError};
use cellbus_proto::{
    codec::body, envelope::Kind, name::Fqcn, proof::SIGNED, status::Status, token::Token,
    well_known,
};

use crate::{
    cell::{Cell, millis},
    filter::{Pass, VerifyToken},
    own::Own,
    seal::Leaf,
};

/// Asks a cell for its certificate, and verifies the answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Leaf>, RequestError>")]
pub(crate) struct KeyOf {
    /// The cell.
    pub(crate) cell: Fqcn,
    /// Time that it has.
    pub(crate) budget: Option<Duration>,
}

/// A publish that has its number already.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), Status>")]
pub(crate) struct SubmitProtected {
    /// Its number.
    pub(crate) sequence: u64,
    /// Whom it is for.
    pub(crate) to: Fqcn,
    /// What to send.
    pub(crate) outgoing: Outgoing,
}

impl Handler<KeyOf> for Cell {
    type Result = ResponseFuture<Result<Arc<Leaf>, RequestError>>;

    fn handle(&mut self, KeyOf { cell, budget }: KeyOf, ctx: &mut Self::Context) -> Self::Result {
        let outgoing = Outgoing { budget, ..Outgoing::new(well_known::CERTIFICATE.into()) };
        let answer = self.ask_own(cell.clone(), outgoing, ctx);
        let (own, filter) = (Arc::clone(&self.own), self.filter.clone());
        Box::pin(async move {
            let reply = answer.await.unwrap_or(Err(RequestError::Closed))?;
            let refused = |status: Status| {
                tracing::warn!(
                    cell = %own.name, peer = %cell, code = status.code(),
                    "what was given as a cell's certificate is not"
                );
                let detail = Bytes::from_static(b"what was given as its certificate is not");
                RequestError::Returned { by: own.name.clone(), status, detail }
            };
            let body::Certificate { chain, token } =
                body::decode_exact(&reply.payload).map_err(|error| refused(error.status))?;
            let token =
                Token::from_bytes(token.0.into()).ok_or_else(|| refused(Status::BadToken))?;
            let claims = filter.send(VerifyToken(token)).await;
            let claims = claims.map_err(|_ended| RequestError::Closed)?;
            let claims = claims.map_err(|error| refused(error.into()))?;
            if claims.subject != cell {
                return Err(refused(Status::CertName));
            }
            let verifier = Arc::clone(&own);
            let verify = move || {
                let chain: Vec<Vec<u8>> = chain.into_iter().map(|der| der.0).collect();
                Leaf::verify(&verifier, &chain, &claims)
            };
            let verified = tokio::task::spawn_blocking(verify).await;
            let verified = verified.unwrap_or(Err(Status::BadSignature));
            verified.map(Arc::new).map_err(refused)
        })
    }
}

impl Handler<SubmitProtected> for Cell {
    type Result = ResponseFuture<Result<(), Status>>;

    fn handle(&mut self, submit: SubmitProtected, ctx: &mut Context<Self>) -> Self::Result {
        let SubmitProtected { sequence, to, outgoing } = submit;
        self.pacer.pace(1, ctx);
        let budget = match self.check_sendable(&outgoing) {
            Ok(budget) => budget,
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        };
        let kind = Kind::Publish;
        let mut envelope = self.own.envelope(kind, sequence, &to, &outgoing, millis(budget));
        self.sign(&mut envelope);
        let passed = self.filter.send(Pass(envelope));
        Box::pin(async move { passed.await.unwrap_or(Err(Status::ShuttingDown)) })
    }
}

impl Own {
    /// Whether a message of this cell must be signed, so that it can be for one cell only.
    pub(crate) fn protects(&self, outgoing: &Outgoing) -> bool {
        outgoing.target.system().is_some_and(|topic| SIGNED.contains(&topic))
    }
}
