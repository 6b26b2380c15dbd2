//! The wake protocols of the library as they stand there, in every order in which their threads can run: nobody sleeps for
//! ever while there is something to do. A thread that would is a deadlock, which loom reports.
#![allow(missing_docs, dead_code)]

mod dispatch;
mod worker;

fn main() {
    let models: [(&str, fn()); 9] = [
        ("bell: who falls asleep while something comes", dispatch::models::one_worker),
        ("bell: two for two, called one at a time", dispatch::models::two_workers_are_called_one_by_one),
        ("bell: two for two, called once for both", dispatch::models::two_workers_are_called_at_once),
        ("bell: all are called when the queue closes", dispatch::models::closing_calls_everybody),
        ("gate: who waits for room while a worker takes", dispatch::models::a_full_queue_drains),
        ("gate: two wait for room", dispatch::models::two_wait_for_room),
        ("gate: who waits while the last worker goes", dispatch::models::the_last_worker_goes),
        ("quota: a share comes back while another is waited for", worker::models::a_share_comes_back),
        ("quota: all are waited for", worker::models::all_come_back),
    ];
    for (name, model) in models {
        let mut builder = loom::model::Builder::new();
        // Beyond three changes of thread that nobody asked for, orders become too many and show nothing new.
        builder.preemption_bound = Some(3);
        builder.check(model);
        println!("ok      {name}");
    }
}
