//! Deliberate bugs for the simulation to catch: a checker that has never caught anything proves nothing.
//! Outside tests there are none, and the questions compile to `false`.

/// A bug that an engine of this kind could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A multishot accept that has ended is taken for armed.
    IgnoredEnd,
    /// A slot is not freed when its connection is handed over.
    LostSlot,
    /// Every read starts the deadline anew.
    RearmedDeadline,
    /// A connection that a pool declines is neither closed nor kept.
    LeakOnDecline,
    /// What a read brings that was cancelled too late is not handed over with its connection.
    BytesLeftBehind,
    /// Workers are not told of connections.
    SilentBell,
    /// Whom a broken ring has lost are not counted.
    UncountedLoss,
    /// Of the last bytes before an end, some are not passed on.
    LostTail,
    /// Bytes that a socket took are sent again.
    DoubleSend,
    /// A session keeps what it needed only until its server was connected.
    BufferLeak,
    /// A session that is only looked at counts as active.
    RearmedIdle,
    /// A server that a session has tried in vain is chosen again.
    DeadServer,
    /// What a client says in its handshake is taken twice.
    DoubledFeed,
    /// Nobody wakes a ring for the deadline of a handshake.
    SleptThrough,
    /// What a thread has done goes to whoever has the slot by then.
    StrayStep,
    /// A connection whose handshake has failed is neither closed nor counted.
    LostHandshake,
    /// A server's end is passed on though records wait before it.
    HastyEnd,
    /// Records that go out are no sign of life until the last of them has.
    SilentFlush,
    /// An end that was told together with a part of a record is not looked for.
    LostEnd,
    /// A session answers behind the end of our stream, which looks as if the client took nothing any more.
    LateAnswer,
    /// That a client takes no records any more, of which some wait, is not told to the pair.
    UntoldReset,
    /// A client's stream is ended without `close_notify`.
    UnsaidEnd,
    /// Nothing follows, a client is told in the name of a server that was reset.
    FeignedEnd,
    /// A server that was not read because of records that wait is not looked at when they are gone.
    ForgottenServer,
    /// What is left in a TLS session for want of room waits until the client speaks again.
    ForgottenRest,
    /// What has come with the end of a handshake waits until the client speaks again.
    ForgottenEarly,
    /// Whoever goes on with a session that the kernel encrypts takes its socket for a plain one.
    ForgottenKeys,
    /// What a client has said before it broke the protocol is lost if both came at once.
    LostLastWords,
    /// A socket is closed twice.
    #[cfg(test)]
    DoubleClose,
}

#[cfg(test)]
thread_local! {
    static PRESENT: std::cell::Cell<Option<Fault>> = const { std::cell::Cell::new(None) };
}

/// Whether the bug is in this build, on this thread.
#[inline]
pub fn present(fault: Fault) -> bool {
    #[cfg(test)]
    let present = PRESENT.get() == Some(fault);
    #[cfg(not(test))]
    let present = {
        let _ = fault;
        false
    };
    present
}

/// Puts a bug in, or takes it out.
#[cfg(test)]
pub fn set(fault: Option<Fault>) {
    PRESENT.set(fault);
}
