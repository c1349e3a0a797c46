//! `transfer`: files of any size between running cells.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, absolute},
};

use cellbus_cells::control::{
    Event, GetAsk, ListAsk, Next, PutAsk, ReceiveAsk, Reply, Request, ResumeAsk, Seen, TransferAsk,
    TransferCancelled, TransferEnd, TransferEnds, TransferEvent, TransferRow, TransferRows,
};
use cellbus_proto::status::Status;

mod args;
mod show;

pub use self::args::Transfer;
use self::{
    args::{Cancel, Get, Ls, Put, Receive, Resume},
    show::Show,
};
use crate::{
    args::Target,
    ask::{millis, no, read_payload, word},
    codes::CliCode,
    output::{Failure, Format, Outcome, Success},
    table::{Table, bytes, or_dash, time},
    target::{ask, converse, full_name},
};

/// Does what is asked for.
pub async fn run(format: Format, verb: Transfer) -> Outcome {
    match verb {
        Transfer::Put(args) => put(format, args).await,
        Transfer::Get(args) => get(format, args).await,
        Transfer::Receive(args) => receive(format, args).await,
        Transfer::Ls(args) => ls(args).await,
        Transfer::Resume(args) => resume(format, args).await,
        Transfer::Cancel(args) => cancel(args).await,
    }
}

async fn put(format: Format, args: Put) -> Outcome {
    let Put { file, cells, on, reference, again, sealed, content_type, rate, target, .. } = args;
    let open = examine(&file);
    let file = seen(&file, open)?;
    let to = cells.into_iter().map(|cell| full_name(&target, cell)).collect::<Result<_, _>>()?;
    let ask = TransferAsk::Put(PutAsk {
        file,
        to,
        channel: on.channel().clone(),
        topic: on.topic().clone(),
        offer: !reference,
        again: again.map(|id| id.to_string()),
        sealed,
        content_type,
        rate,
        lifetime_s: args.lifetime.as_secs().max(1),
        wait_ms: millis(args.wait),
        patience_ms: millis(args.patience),
    });
    finish(follow(format, &target, ask, None).await?)
}

async fn get(format: Format, args: Get) -> Outcome {
    let Get { reference, directory, name, replace, rate, patience, target } = args;
    let text = read_payload(&reference)?;
    let text = String::from_utf8_lossy(&text);
    let ask = TransferAsk::Get(GetAsk {
        reference: text.lines().next().unwrap_or_default().trim().to_owned(),
        into: seen(&directory, fs::metadata(&directory))?,
        name,
        replace,
        rate,
        patience_ms: millis(patience),
    });
    finish(follow(format, &target, ask, None).await?)
}

async fn receive(format: Format, args: Receive) -> Outcome {
    let Receive { directory, on, replace, size_max, at_once, count, patience, target } = args;
    if format == Format::Json && count.is_none() {
        let text = "`-o json` prints one envelope, which needs an end";
        return Err(Failure::new(CliCode::Usage, text).hint("add `--count N`, or use `-o jsonl`"));
    }
    let ask = TransferAsk::Receive(ReceiveAsk {
        into: seen(&directory, fs::metadata(&directory))?,
        channel: on.channel().clone(),
        topic: on.topic().clone(),
        at_once,
        size_max,
        replace,
        patience_ms: millis(patience),
    });
    let followed = follow(format, &target, ask, count).await?;
    // Who receives until he has enough says so by Ctrl-C.
    let is_over = followed.is_over || count.is_none();
    finish(Followed { is_over, ..followed })
}

async fn resume(format: Format, args: Resume) -> Outcome {
    let Resume { directory, id, patience, target } = args;
    let ask = TransferAsk::Resume(ResumeAsk {
        into: seen(&directory, fs::metadata(&directory))?,
        id: id.map(|id| id.to_string()),
        patience_ms: millis(patience),
    });
    finish(follow(format, &target, ask, None).await?)
}

async fn ls(args: Ls) -> Outcome {
    let look = |directory| seen(directory, fs::metadata(directory));
    let directories = args.directories.iter().map(|d| look(d)).collect::<Result<_, _>>()?;
    let request = Request::Transfer(TransferAsk::List(ListAsk { directories }));
    let found: TransferRows = ask(&args.target, request).await?;
    let mut table = Table::new(["ID", "STATE", "OTHER", "BYTES", "OF", "AGE", "TARGET", "FILE"]);
    for row in &found.rows {
        let TransferRow { id, other, target, file, size, .. } = row;
        table.row([
            id,
            &word(&row.state),
            &or_dash(other.as_ref()),
            &bytes(row.bytes),
            &or_dash(size.map(bytes)),
            &time(row.age_ms),
            target,
            &or_dash(file.as_ref()),
        ]);
    }
    Ok(Success::new(&found, table.render()))
}

async fn cancel(args: Cancel) -> Outcome {
    let id = args.id.to_string();
    let request = Request::Transfer(TransferAsk::Cancel { id });
    let cancelled: TransferCancelled = ask(&args.target, request).await?;
    let human = format!("{} is given up", cancelled.id);
    Ok(Success::new(&cancelled, human))
}

/// Shows how transfers go on until the cell says that they are over, `count` have ended, or Ctrl-C.
async fn follow(
    format: Format,
    target: &Target,
    ask: TransferAsk,
    count: Option<u32>,
) -> Result<Followed, Box<Failure>> {
    let mut show = Show::new(format);
    let mut talk = converse(target, Request::Transfer(ask)).await?;
    let mut ends = Vec::new();
    loop {
        let next = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                return Ok(Followed { ends: TransferEnds { ends, sent: None }, is_over: false });
            }
            next = talk.next() => next?,
        };
        match next {
            Next::Event(event) => {
                show.show(&event);
                if let Event::Transfer(TransferEvent::Ended(end)) = event {
                    ends.push(end);
                    if count.is_some_and(|count| ends.len() >= count as usize) {
                        let ends = TransferEnds { ends, sent: None };
                        return Ok(Followed { ends, is_over: true });
                    }
                }
            }
            Next::End(Reply::TransferEnds(ends)) => return Ok(Followed { ends, is_over: true }),
            Next::End(_) => {
                let ends = TransferEnds { ends, sent: None };
                return Ok(Followed { ends, is_over: true });
            }
        }
    }
}

/// Transfers up to the end of a conversation.
struct Followed {
    ends: TransferEnds,
    /// Whether all that was asked for has come to its end.
    is_over: bool,
}

/// Good only when everything is stored where it should be. The lines have been printed.
fn finish(followed: Followed) -> Outcome {
    let Followed { ends, is_over } = followed;
    let failed: Vec<&TransferEnd> = ends.ends.iter().filter(|end| !end.stored).collect();
    let failure = match (failed.first(), is_over) {
        (None, true) => return Ok(Success::new(&ends, String::new())),
        (None, false) => Failure::new(CliCode::Unfinished, "interrupted"),
        (Some(end), _) => {
            let code = end.code.clone();
            let code = code.unwrap_or_else(|| Status::TransferStalled.code().to_owned());
            let (file, why) = (&end.file, end.text.as_deref().unwrap_or("nobody said why"));
            let text = match (failed.len(), ends.ends.len()) {
                (1, _) => format!("{file}: {why}"),
                (some, all) => format!("{some} of {all} have failed; the first, {file}: {why}"),
            };
            no(code, text, Some(end.other.to_string()), String::new())
        }
    };
    Err(failure.data(&ends))
}

/// A file or directory by its absolute path, and which one it is: the cell opens it, and refuses another.
/// Opened, not only looked at: who may not read it has no business with it. A pipe is not: it would keep everybody.
fn examine(path: &Path) -> std::io::Result<fs::Metadata> {
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::other("it must be a regular file"));
    }
    File::open(path)?.metadata()
}

fn seen(path: &Path, found: std::io::Result<fs::Metadata>) -> Result<Seen, Box<Failure>> {
    let input = |text: String| Failure::new(CliCode::Input, format!("{}: {text}", path.display()));
    let found = found.map_err(|error| input(error.to_string()))?;
    let full = absolute(path).map_err(|error| input(error.to_string()))?;
    let full = full.into_os_string().into_string();
    let path = full.map_err(|_| input("its path is no UTF-8".to_owned()))?;
    Ok(Seen { path, device: found.dev(), inode: found.ino() })
}
