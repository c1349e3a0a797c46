//! Panics on this thread, also those that a runtime catches and keeps to itself.

use std::{
    cell::{Cell, RefCell},
    panic::{self, PanicHookInfo},
    sync::Once,
};

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static WATCHES: Cell<usize> = const { Cell::new(0) };
}

/// Somebody on this thread answers for its panics.
pub(crate) struct Watch(());

impl Watch {
    /// Forgets the panics before it, unless somebody watches them already.
    pub(crate) fn start() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                note(info);
                before(info);
            }));
        });
        if !is_watched() {
            take();
        }
        WATCHES.set(WATCHES.get() + 1);
        Self(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.set(WATCHES.get() - 1);
    }
}

/// Whether somebody answers for the panics of this thread.
pub(crate) fn is_watched() -> bool {
    WATCHES.get() > 0
}

/// The panics since the last time, oldest first, each with its place.
pub(crate) fn take() -> Vec<String> {
    PANICS.take()
}

fn note(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no text");
    let place = info.location().map(|at| format!(" ({at})")).unwrap_or_default();
    // A panic while a thread ends, or in here, is one that nobody asks for.
    let _ = PANICS.try_with(|panics| {
        if let Ok(mut panics) = panics.try_borrow_mut() {
            panics.push(format!("{message}{place}"));
        }
    });
}
