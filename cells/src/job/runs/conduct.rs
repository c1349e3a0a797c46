//! How a job is started: the server's part, once that is there those of relays, and then those of the sites.

use cellbus_channels::RequestError;
use cellbus_proto::{
    causes::with_sources,
    codec::body::{self, Blob, JobStart},
    job::{End, JobId, JobState, Outcome, RunId},
    name::Fqcn,
    status::Class,
    well_known,
};
use cellbus_runtime::clock;

use super::{
    super::{
        files::chunks,
        parts::{LaunchError, refusal_of},
    },
    BUDGET, Plan, Runs,
};

impl Runs {
    /// Starts the parts of a job: the server's, once that is there those of relays, and then those of the sites.
    pub(super) async fn conduct(self, id: JobId, plan: Plan, run: RunId) {
        let own = self.own();
        self.start_own(&id, &plan, run).await;
        if !self.are_there(&id, &[own]).await {
            return;
        }
        let relays = plan.relays();
        let starts = relays.iter().map(|relay| self.start_at(&id, &plan, relay, run));
        futures_util::future::join_all(starts).await;
        if !self.are_there(&id, relays).await {
            return;
        }
        let starts = plan.sites.iter().map(|site| self.start_at(&id, &plan, site, run));
        futures_util::future::join_all(starts).await;
    }

    /// Waits until the parts of these cells run, or ran; `false` where the job ends first.
    async fn are_there(&self, id: &JobId, cells: &[Fqcn]) -> bool {
        let mut news = self.news();
        loop {
            let state = self.with(id, |whole| {
                let is_waited_for = |state| state < JobState::Running;
                let waits = whole
                    .parts()
                    .any(|(cell, state, _)| cells.contains(cell) && is_waited_for(state));
                (whole.state(), waits)
            });
            match state {
                None | Some((JobState::Stopping | JobState::Ended, _)) => return false,
                Some((_, false)) => return true,
                Some((_, true)) => {}
            }
            if news.changed().await.is_err() {
                return false;
            }
        }
    }

    async fn start_own(&self, id: &JobId, plan: &Plan, run: RunId) {
        let own = self.own();
        let parts = &self.inner.parts;
        if self.with(id, |whole| whole.handle_asked(clock::now(), &own)) != Some(true) {
            return;
        }
        self.inner.running.allow_job(own.clone(), id.job.clone(), true);
        let started = async {
            let spec = self.spec(id, plan, &own, run);
            let spec = spec.map_err(|error| with_sources(&error))?;
            if plan.server.has_files {
                for chunk in chunks(id, &plan.package) {
                    parts.stage(chunk).await.map_err(|error| with_sources(&error))?;
                }
            }
            let started = parts.start(id.job.clone(), &plan.server.program, spec).await;
            started.map_err(|error: LaunchError| refusal_of(&error))
        };
        match started.await {
            Ok(()) => self.steps(id, |whole| whole.handle_confirmed(clock::now(), &own)),
            Err(text) => self.refused(id, &own, End::new(Outcome::Failed, text)),
        }
    }

    /// Starts the part of a relay or a site.
    async fn start_at(&self, id: &JobId, plan: &Plan, site: &Fqcn, run: RunId) {
        let bus = self.inner.running.bus();
        let part = plan.part_at(site, &self.own());
        if part.has_files {
            for chunk in chunks(id, &plan.package) {
                let request = bus.request(site.clone(), well_known::JOB_FILE.into());
                let sent = request.payload(body::encode(&chunk)).budget(BUDGET).send().await;
                if let Err(error) = sent {
                    let end = End::new(Outcome::Failed, format!("files: {}", told(&error)));
                    if self.with(id, |whole| whole.handle_asked(clock::now(), site)) == Some(true) {
                        self.refused(id, site, end);
                    }
                    return;
                }
            }
        }
        let spec = match self.spec(id, plan, site, run) {
            Ok(spec) => spec,
            Err(error) => {
                tracing::error!(%id, %error, "a part cannot be described");
                return;
            }
        };
        if self.with(id, |whole| whole.handle_asked(clock::now(), site)) != Some(true) {
            return;
        }
        self.inner.running.allow_job(site.clone(), id.job.clone(), true);
        let program = part.program.clone();
        let parameters = Blob(body::encode(&spec).to_vec());
        let start = JobStart { job: id.job.clone(), program, parameters };
        let request = bus.request(site.clone(), well_known::JOB_START.into());
        match request.payload(body::encode(&start)).budget(BUDGET).send().await {
            Ok(_) => self.steps(id, |whole| whole.handle_confirmed(clock::now(), site)),
            Err(error) => {
                let outcome = match error.class() {
                    Class::Refused | Class::Failed => Outcome::Failed,
                    // It may run; the answer to its table ends it.
                    Class::Unknown => Outcome::Lost,
                };
                self.refused(id, site, End::new(outcome, told(&error)));
            }
        }
    }

    fn refused(&self, id: &JobId, runner: &Fqcn, end: End) {
        self.steps(id, |whole| whole.handle_end(clock::now(), runner, id, end).unwrap_or_default());
    }
}

/// What a site said, or why it said nothing, for people.
fn told(error: &RequestError) -> String {
    if let RequestError::Returned { detail, .. } = error
        && !detail.is_empty()
    {
        return String::from_utf8_lossy(detail).chars().flat_map(escaped).collect();
    }
    with_sources(error)
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}
