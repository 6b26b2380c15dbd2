//! Tasks that give shares back while a thread waits for them.

use std::cell::Cell;
use std::sync::Arc;

use super::quota::Quota;
use crate::dispatch::Intake;
use crate::dispatch::sync::thread;

/// Each share goes to a thread that gives it back; tells of them.
fn serve(quota: &Arc<Quota>, connections: usize) -> Vec<thread::JoinHandle<()>> {
    let mut tasks = Vec::new();
    quota.forward(&Intake(Cell::new(connections)), |_, share| {
        tasks.push(thread::spawn(move || drop(share)));
        true
    });
    tasks
}

pub fn a_share_comes_back() {
    let quota = Quota::new(1);
    for task in serve(&quota, 2) {
        task.join().expect("no panic");
    }
}

pub fn all_come_back() {
    let quota = Quota::new(2);
    let tasks = serve(&quota, 2);
    quota.wait_until_free(2);
    for task in tasks {
        task.join().expect("no panic");
    }
}
