//! The news that everything that was queued on some streams has arrived.

use tokio::sync::mpsc;

/// Both halves of the news that writers have ended.
#[derive(Debug)]
pub(super) struct Written {
    open: Option<mpsc::Sender<()>>,
    pub(super) ended: Option<mpsc::Receiver<()>>,
}

impl Default for Written {
    fn default() -> Self {
        let (open, ended) = mpsc::channel(1);
        Self { open: Some(open), ended: Some(ended) }
    }
}

impl Written {
    /// What the writers hold while they write.
    pub(super) fn sender(&mut self) -> Option<mpsc::Sender<()>> {
        self.open.take()
    }

    pub(super) async fn wait(ended: Option<mpsc::Receiver<()>>) {
        if let Some(mut ended) = ended {
            // Nothing is ever sent: it ends when every writer has let go.
            let _ = ended.recv().await;
        }
    }
}
