//! Job code, and the cell to which it speaks: each a process of its own, with the local socket between them.

use std::{fs, io, path::Path, time::Duration};

use cellbus_channels::{Bus, local};
use cellbus_runtime::local_socket::{Meeting, Options};

use super::{Inbox, SideError, cells::CellCall, say};
use crate::{
    drive::{Pace, closed_loop, payload},
    message::{Ask, SideSpec, Tell},
};

/// Time for job code to come.
const LIFETIME: Duration = Duration::from_secs(60);
/// Where the socket lies, below the directory of all sides.
const PLACE: &str = "job";
/// Name of the file that says where it is.
const FILE: &str = "attach";

/// Lets one process of job code speak to the cell of `bus`, as soon as it comes.
pub(super) fn wait_for_code(directory: &Path, bus: Bus) -> Result<(), SideError> {
    let place = directory.join(PLACE);
    // A process that was ended has left its socket.
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(SideError::new(error)),
        Ok(()) | Err(_) => {}
    }
    let meeting = Meeting::offer(&place, &bus, LIFETIME, Options::default());
    tokio::spawn(meeting.map_err(SideError::new)?.serve(bus));
    Ok(())
}

/// Runs as job code until nobody asks any more.
///
/// # Errors
/// [`SideError`].
pub(super) async fn run(spec: SideSpec, mut inbox: Inbox) -> Result<(), SideError> {
    let directory = spec.state.parent().unwrap_or(&spec.state).join(PLACE);
    let bus = local::connect_attached(&directory.join(FILE)).await.map_err(SideError::new)?;
    say(&Tell::Ready { address: None });
    while let Some(ask) = inbox.recv().await {
        let Ask::Drive { to, fan: false, size, callers, warm_ms, window_ms } = ask else {
            return Err(SideError::text("job code is asked for requests and for nothing else"));
        };
        let warm = Duration::from_millis(warm_ms);
        let pace = Pace { callers, warm, window: Duration::from_millis(window_ms) };
        let call = CellCall::echo(bus.clone(), &to)?;
        let driven = closed_loop(call, payload(size)?, pace, || say(&Tell::Begun)).await;
        say(&Tell::Driven(driven));
    }
    Ok(())
}
