//! The relay with real servers: what clients, servers and logs see of a cluster with Vestibule in it.

mod balance;
mod bytes;
mod deadlines;
mod example;
mod failures;
mod forwarding;
mod protocols;
mod sources;
mod tier;
mod tls;
