//! `requests apply`: a policy approves who waits at a join door, where the authority's key is.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use cellbus_kits::{
    join::policy::{ApprovedBy, Policy},
    passphrase::{Passphrase, PassphraseError},
    provision::Wanted,
};
use cellbus_proto::{name::Segment, topology::project::Project};
use serde::Serialize;

use super::{
    failed,
    online::{self, NotApproved},
};
use crate::{
    args::Target,
    output::{Failure, Format, Outcome, Success, print_event},
    passphrase::PassphraseFrom,
    table::Table,
};

/// Between two looks at the door.
const AGAIN: Duration = Duration::from_secs(2);

/// What is to be applied, to whom.
pub(super) struct Apply<'a> {
    pub(super) project: &'a Project,
    pub(super) out: &'a Path,
    /// The policy, and its file.
    pub(super) policy: (&'a Path, &'a Policy),
    pub(super) wait: Duration,
    pub(super) passphrase: &'a PassphraseFrom,
    pub(super) target: &'a Target,
}

/// What became of one request.
#[derive(Debug, Serialize)]
struct Decided {
    name: Segment,
    /// Whether it was approved; otherwise it waits for a person.
    approved: bool,
    /// The rule that approves it, by its place in the file.
    rule: Option<usize>,
    /// That rule, or why it was not approved.
    why: String,
}

impl Apply<'_> {
    pub(super) async fn run(&self, format: Format) -> Outcome {
        let begun = Instant::now();
        let (mut seen, mut decided) = (BTreeSet::new(), Vec::new());
        // Asked for once, and only where somebody is approved.
        let mut secret: Option<Passphrase> = None;
        loop {
            for (name, request) in online::waiting(self.target).await? {
                if !seen.insert((name.clone(), request)) {
                    continue;
                }
                let one = self.decide(name, &mut secret).await?;
                if format == Format::Jsonl {
                    print_event(&one);
                }
                decided.push(one);
            }
            if begun.elapsed() + AGAIN > self.wait {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        let mut shown = Table::new(["PARTICIPANT", "APPROVED", "WHY"]);
        for one in &decided {
            let approved = if one.approved { "yes" } else { "no" };
            shown.row([one.name.as_str(), approved, &one.why]);
        }
        Ok(Success::new(&decided, shown.render()))
    }

    async fn decide(
        &self,
        name: Segment,
        secret: &mut Option<Passphrase>,
    ) -> Result<Decided, Box<Failure>> {
        let no = |name, why| Decided { name, approved: false, rule: None, why };
        let (file, policy) = self.policy;
        let ApprovedBy { number, rule } = match policy.approves(self.project, &name) {
            Ok(Some(by)) => by,
            Ok(None) => return Ok(no(name, "no rule names it; it waits for a person".to_owned())),
            Err(error) => return Ok(no(name, failed(&error).message.clone())),
        };
        let by = format!("rule {number} of {}: {rule}", file.display());
        let mut wanted = |_: Wanted| -> Result<Passphrase, PassphraseError> {
            if let Some(known) = secret.as_ref() {
                return Ok(known.clone());
            }
            let read = self.passphrase.read("Passphrase of the authority's key", false)?;
            Ok(secret.insert(read).clone())
        };
        let letters = online::Letters { target: self.target, out: self.out, file: None };
        match letters.approve(&name, self.project, &mut wanted, Some(by)).await {
            Ok(_) => Ok(Decided { name, approved: true, rule: Some(number), why: rule }),
            // What one of them has made wrong keeps nobody else waiting.
            Err(NotApproved::Request(failure)) => {
                let why = failure.message;
                Ok(Decided { name, approved: false, rule: Some(number), why })
            }
            Err(NotApproved::Other(failure)) => Err(failure),
        }
    }
}
