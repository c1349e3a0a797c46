//! Files that job code serves and fetches through its cell.

use std::{fs::File, io::Write};

use cellbus_channels::{
    Delivery, Failure, Reply, Status, from_fn,
    local::{
        files::{FileOptions, Files, Served},
        memfd,
    },
    transfer::{
        Combine, FetchError, FetchOptions, Hold, KeyError, Offer, ServeOptions, SignedReference,
        Sink, Taken,
    },
};
use cellbus_proto::local::Settled;

use super::jobs::{
    Job, MIB, OTHER_JOB, SERVER, SITE_1, SITE_2, job, name, scenario, target, whole, within,
};

fn files(job: &Job) -> Files {
    Files::of(&job.bus).expect("it is job code's bus")
}

async fn fetch(
    job: &Job,
    reference: &[u8],
    sink: Sink,
) -> Result<cellbus_channels::transfer::Fetched, FetchError> {
    let reference = SignedReference::decode(reference).unwrap();
    within(job.bus.transfers().fetch(&reference, sink, FetchOptions::default())).await
}

fn on_disk(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn a_file_of_job_code_is_fetched_by_job_code_and_each_receiver_settles() {
    scenario(|net| async move {
        let holder = job(&net, SERVER).await;
        let sites = [job(&net, SITE_1).await, job(&net, SITE_2).await];
        let sent = whole(3 * MIB + 5);
        for file in [on_disk(&sent), memfd::write(&sent).unwrap()] {
            let options = FileOptions::new(target("task/fetch"), [SITE_1, SITE_2].map(name))
                .content_type("text/plain")
                .headers("round=3");
            let mut serving = within(files(&holder).serve(file, options)).await.unwrap();
            let reference = serving.reference().clone();
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("model");
            let fetched = fetch(&sites[0], &reference, Sink::memory(8 << 20)).await.unwrap();
            assert_eq!(fetched.reference.reference.content_type.as_deref(), Some("text/plain"));
            assert_eq!(fetched.reference.reference.headers.0, b"round=3");
            assert!(fetched.into_bytes() == sent);
            fetch(&sites[1], &reference, Sink::file(&path)).await.unwrap();
            assert!(std::fs::read(&path).unwrap() == sent);
            let mut settled = Vec::new();
            while let Some(served) = within(serving.next()).await {
                if let Served::Settled { from, end } = served {
                    settled.push((from, end));
                }
            }
            assert_eq!(settled, [SITE_1, SITE_2].map(|site| (name(site), Settled::Stored)));
        }
        net.finish().await;
    });
}

#[test]
fn c_14_what_is_for_one_job_or_one_cell_is_for_nobody_else() {
    scenario(|net| async move {
        let holder = job(&net, SERVER).await;
        let (named, other_site) = (job(&net, SITE_1).await, job(&net, SITE_2).await);
        let other_job = job(&net, OTHER_JOB).await;
        let sent = whole(MIB);
        let for_job = FileOptions::for_own_job(target("task/fetch"));
        let for_one = FileOptions::new(target("task/fetch"), [name(SITE_1)]);
        let for_job = within(files(&holder).serve(on_disk(&sent), for_job)).await.unwrap();
        let for_one = within(files(&holder).serve(on_disk(&sent), for_one)).await.unwrap();
        let status = async |job: &Job, reference: &[u8]| {
            fetch(job, reference, Sink::memory(4 << 20)).await.map(|_| ()).map_err(|e| e.status())
        };
        assert_eq!(status(&other_job, for_job.reference()).await, Err(Status::Forbidden));
        assert_eq!(status(&other_job, for_one.reference()).await, Err(Status::Forbidden));
        assert_eq!(status(&other_site, for_one.reference()).await, Err(Status::Forbidden));
        for (job, serving) in [(&named, &for_one), (&named, &for_job), (&other_site, &for_job)] {
            assert_eq!(status(job, serving.reference()).await, Ok(()));
        }
        for_job.stop();
        drop(for_one);
        net.advance(std::time::Duration::from_secs(1)).await;
        let gone = status(&other_site, for_job.reference()).await.unwrap_err();
        assert_eq!(gone, Status::TransferCancelled);
        net.finish().await;
    });
}

#[test]
fn c_14_a_reference_of_somebody_else_is_no_attachment() {
    scenario(|net| async move {
        let (holder, sending) = (job(&net, SERVER).await, job(&net, SITE_1).await);
        let receiving = job(&net, SITE_2).await;
        let options = FileOptions::for_own_job(target("task/fetch"));
        let files = files(&holder);
        let serving = within(files.serve(on_disk(&whole(MIB)), options)).await.unwrap();
        let echo = from_fn(|delivery: Delivery| async { Ok(Reply::from(delivery.payload)) });
        receiving.bus.handle(target("task/ping"), echo).await.unwrap();
        let request = sending.bus.request(name(SITE_2), target("task/ping"));
        let request = request.content_type("application/vnd.cellbus.attached");
        let refused = within(request.payload(serving.reference().clone()).send()).await;
        assert_eq!(refused.unwrap_err().status(), Status::Forbidden);
        net.finish().await;
    });
}

#[test]
fn a_cell_that_is_no_job_gets_the_reference_and_may_answer_with_one() {
    scenario(|net| async move {
        let asking = job(&net, SITE_1).await;
        let own = net.cell("relay.site-1").running.bus();
        let (sent, answered) = (whole(2 * MIB), whole(3 * MIB));
        let (bus, expected, answer) = (own.clone(), sent.clone(), answered.clone());
        let (keep, mut kept) = tokio::sync::mpsc::unbounded_channel();
        let handler = from_fn(move |delivery: Delivery| {
            let (bus, expected, keep) = (bus.clone(), expected.clone(), keep.clone());
            let answer = answer.clone();
            async move {
                let is_attached =
                    delivery.content_type.as_deref() == Some("application/vnd.cellbus.attached");
                let reference = SignedReference::decode(&delivery.payload);
                let reference = reference.ok().filter(|_| is_attached);
                let reference = reference.ok_or_else(|| Failure::failed("no reference"))?;
                let (transfers, sink) = (bus.transfers(), Sink::memory(4 << 20));
                let fetched = transfers.fetch(&reference, sink, FetchOptions::default()).await;
                let fetched = fetched.map_err(|error| Failure::failed(error.to_string()))?;
                if fetched.into_bytes() != expected {
                    return Err(Failure::failed("other bytes"));
                }
                let options = cellbus_channels::transfer::ServeOptions::new(
                    delivery.target,
                    [delivery.origin.name.clone()],
                );
                let served = transfers.serve(answer, options).await;
                let served = served.map_err(|error| Failure::failed(error.to_string()))?;
                let payload = served.reference().encode().expect("it is small");
                let _ = keep.send(served);
                let content_type = Some("application/vnd.cellbus.attached".into());
                Ok(Reply { payload, content_type })
            }
        });
        own.handle(target("task/ping"), handler).await.unwrap();
        let request = asking.bus.request(name("relay.site-1"), target("task/ping")).payload(sent);
        assert!(within(request.send()).await.unwrap().payload == answered);
        assert!(kept.try_recv().is_ok());
        net.finish().await;
    });
}

/// Takes everything that is offered to it, and hands the bytes on.
async fn take_all(job: &Job) -> tokio::sync::mpsc::UnboundedReceiver<Vec<u8>> {
    let (came, coming) = tokio::sync::mpsc::unbounded_channel();
    let receive = move |_offer: Offer| {
        let came = came.clone();
        let taken = Taken::new(Sink::memory(8 << 20)).then(move |fetched| async move {
            let _ = came.send(fetched.expect("it is fetched").into_bytes().to_vec());
        });
        async move { Ok::<_, Failure>(taken) }
    };
    let receiving = job.bus.transfers().receive(target("task/fetch"), 2, receive).await.unwrap();
    // For as long as the job runs.
    std::mem::forget(receiving);
    coming
}

#[test]
fn a_file_that_job_code_sends_is_taken_by_who_receives_and_each_end_is_said() {
    scenario(|net| async move {
        let holder = job(&net, SERVER).await;
        let sites = [job(&net, SITE_1).await, job(&net, SITE_2).await];
        let mut taken = take_all(&sites[0]).await;
        let refuse = |_offer: Offer| async { Err::<Taken, _>(Failure::Refused(Status::TooLarge)) };
        let refusing = sites[1].bus.transfers().receive(target("task/fetch"), 1, refuse).await;
        let sent = whole(3 * MIB + 5);
        let options = FileOptions::new(target("task/fetch"), [SITE_1, SITE_2].map(name));
        let sending = within(files(&holder).send(on_disk(&sent), options)).await.unwrap();
        let ends = within(sending.outcome()).await;
        assert_eq!(ends[&name(SITE_1)], Settled::Stored);
        assert_eq!(ends[&name(SITE_2)], Settled::Failed(Status::TooLarge));
        assert!(taken.recv().await.unwrap() == sent);
        drop(refusing);
        net.finish().await;
    });
}

#[test]
fn who_receives_later_is_offered_it_again_and_who_never_comes_is_missing() {
    scenario(|net| async move {
        let holder = job(&net, SERVER).await;
        let (late, _never) = (job(&net, SITE_1).await, job(&net, SITE_2).await);
        let sent = whole(2 * MIB);
        let options = FileOptions::new(target("task/fetch"), [SITE_1, SITE_2].map(name))
            .patience(std::time::Duration::from_secs(20));
        let mut sending = within(files(&holder).send(on_disk(&sent), options)).await.unwrap();
        // Offered, and refused by both: nobody receives there.
        let wait = tokio::time::sleep(std::time::Duration::from_secs(5));
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                early = sending.next() => {
                    assert!(matches!(early, Some(Served::Progress { bytes: 0, .. })), "{early:?}");
                }
            }
        }
        let mut taken = take_all(&late).await;
        let ends = within(sending.outcome()).await;
        assert_eq!(ends[&name(SITE_1)], Settled::Stored);
        assert_eq!(ends[&name(SITE_2)], Settled::Missing);
        assert!(taken.recv().await.unwrap() == sent);
        net.finish().await;
    });
}

/// Adds what sites send, byte by byte.
#[derive(Default)]
struct Sum(Vec<u64>);

impl Combine for Sum {
    fn part(
        &mut self,
        _: &cellbus_channels::Fqcn,
        _: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), String> {
        let from = usize::try_from(offset).map_err(|error| error.to_string())?;
        self.0.resize(self.0.len().max(from + bytes.len()), 0);
        self.0[from..].iter_mut().zip(bytes).for_each(|(sum, byte)| *sum += u64::from(*byte));
        Ok(())
    }
}

#[test]
fn what_the_job_code_of_sites_sends_is_gathered_by_that_of_the_server() {
    scenario(|net| async move {
        let server = job(&net, SERVER).await;
        let sites = [job(&net, SITE_1).await, job(&net, SITE_2).await];
        let transfers = server.bus.transfers();
        let from = [SITE_1, SITE_2].map(name);
        let hold = Hold::Memory(8 << 20);
        let gathering = transfers.gather(from, target("task/submit"), 1, hold, Sum::default());
        let mut gathering = within(gathering).await.unwrap();
        let sent = whole(2 * MIB + 7);
        let send = async |site: &Job| {
            let options = FileOptions::new(target("task/submit"), [name(SERVER)]);
            let sending = files(site).send(on_disk(&sent), options).await.unwrap();
            sending.outcome().await[&name(SERVER)]
        };
        let gathered = async {
            let mut count = 0;
            while let Some((_, outcome)) = gathering.next().await {
                outcome.unwrap();
                count += 1;
            }
            count
        };
        let all = async { tokio::join!(send(&sites[0]), send(&sites[1]), gathered) };
        assert_eq!(within(all).await, (Settled::Stored, Settled::Stored, 2));
        let sum = gathering.finish().unwrap_or_else(|why| panic!("{why}")).0;
        let twice: Vec<u64> = sent.iter().map(|byte| 2 * u64::from(*byte)).collect();
        assert!(sum == twice);
        net.finish().await;
    });
}

#[test]
fn a_sealed_transfer_is_refused_over_a_local_socket_and_never_taken_for_what_it_hides() {
    scenario(|net| async move {
        let receiving = job(&net, SITE_1).await;
        let own = net.cell("relay.site-1").running.bus();
        let options = ServeOptions::new(target("task/fetch"), [name(SITE_1)]).sealed();
        let served = own.transfers().serve(whole(MIB), options).await.unwrap();
        let reference = served.reference().encode().unwrap();
        let refused = fetch(&receiving, &reference, Sink::memory(4 << 20)).await.unwrap_err();
        assert!(matches!(refused, FetchError::Key(KeyError::NotCarried)), "{refused:?}");
        net.finish().await;
    });
}
