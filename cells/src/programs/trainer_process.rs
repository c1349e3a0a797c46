//! A trainer: a process of its own that knows nothing but its job cell's local socket.

use std::{process::Stdio, time::Duration};

use cellbus_channels::{ChannelTopic, Reply, from_fn};
use cellbus_proto::local::Bootstrap;
use cellbus_runtime::{
    host::RunningCell,
    local_socket::{Ended, LaunchSecret, LocalSocket, Options, bootstrap_fd},
    secret_file::create_private_dir,
};

use super::{ProgramError, learn};
use crate::job::JobBootstrap;

/// The argument that makes this binary a trainer. Nobody types it.
pub const VERB: &str = "trainer";

/// Name of the socket in the job's own directory.
const SOCKET: &str = "s";

/// Time that a trainer has to end after it has said goodbye.
const GRACE: Duration = Duration::from_secs(5);

pub(super) async fn run(cell: &RunningCell, bootstrap: &JobBootstrap) -> Result<(), ProgramError> {
    let bus = cell.bus();
    let parameters = bytes::Bytes::copy_from_slice(&bootstrap.parameters.0);
    bus.handle(
        ChannelTopic::parse(learn::JOB_CHANNEL, learn::PARAMETERS).expect("both are names"),
        from_fn(move |_| {
            let parameters = parameters.clone();
            async move { Ok(Reply::from(parameters)) }
        }),
    )
    .await?;
    // The directory is this job's own; what a killed predecessor left there is nobody's.
    let _ = std::fs::remove_file(bootstrap.socket_dir.join(SOCKET));
    create_private_dir(&bootstrap.socket_dir)?;
    let socket = LocalSocket::bind(&bootstrap.socket_dir, SOCKET)?;
    let secret = LaunchSecret::generate()?;
    let fd = bootstrap_fd(socket.path(), &secret)?;
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(["-o", "json", VERB])
        .env(Bootstrap::ENV, "0")
        .stdin(Stdio::from(fd))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    let job = bootstrap.name.base().parse().expect("the last segment of a name is a segment");
    let mut options = Options::default().job(job);
    if let Some(pid) = child.id() {
        options = options.expected_pid(pid);
    }
    let serving = socket.serve(bus, secret, options);
    tokio::pin!(serving);
    let status = tokio::select! {
        status = child.wait() => status?,
        ended = &mut serving => {
            if ended != Ended::Finished {
                tracing::info!(?ended, "the trainer left its socket");
            }
            match tokio::time::timeout(GRACE, child.wait()).await {
                Ok(status) => status?,
                Err(_elapsed) => {
                    child.kill().await?;
                    return Err(ProgramError::Ended("it did not end after its goodbye".to_owned()));
                }
            }
        }
    };
    if status.success() { Ok(()) } else { Err(ProgramError::Ended(status.to_string())) }
}
