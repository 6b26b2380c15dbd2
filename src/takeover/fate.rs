//! The death of a process, for the simulation: a thread that stands for one dies at one of the moments that another
//! process can notice, and everything it owns is closed, as the kernel does it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is in store for the process that this thread stands for.
pub struct Fate {
    /// It dies when it has come so far; `None`: not at all.
    pub moments: Cell<Option<u32>>,
    pub dead: Arc<AtomicBool>,
    /// Whether the other one is.
    pub other_is_dead: Arc<AtomicBool>,
}

/// What a dying process unwinds with.
pub struct Died;

thread_local! {
    static FATE: RefCell<Option<Fate>> = const { RefCell::new(None) };
}

/// Lives as this process; `None` if it has died.
pub fn live<T>(fate: Fate, body: impl FnOnce() -> T) -> Option<T> {
    FATE.set(Some(fate));
    let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    FATE.take();
    match lived {
        Ok(lived) => Some(lived),
        Err(cause) if cause.is::<Died>() => None,
        Err(cause) => std::panic::resume_unwind(cause),
    }
}

/// One of the moments at which a process may die.
pub fn moment() {
    let dies = FATE.with_borrow(|fate| {
        let Some(fate) = fate else { return false };
        let left = fate.moments.get();
        fate.moments.set(left.map(|left| left.saturating_sub(1)));
        let dies = left == Some(0) && !std::thread::panicking();
        if dies {
            // Before anything of it is closed.
            fate.dead.store(true, Ordering::SeqCst);
        }
        dies
    });
    if dies {
        std::panic::resume_unwind(Box::new(Died));
    }
}

/// Whether the other process has ended; `None` where no process is simulated.
pub fn other_is_dead() -> Option<bool> {
    FATE.with_borrow(|fate| fate.as_ref().map(|fate| fate.other_is_dead.load(Ordering::SeqCst)))
}
