//! The client's side of a ring: sockets that connect, send and receive, for the bundled load generator.
