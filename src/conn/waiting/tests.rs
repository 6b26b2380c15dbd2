//! One header, read in every way.

use super::*;
use crate::admission::Refusal;

const LINE: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 143\r\n";

/// A socket's stream that arrives in pieces, and a buffer, as the ring would keep them.
struct World {
    stream: Vec<u8>,
    /// How much of it has arrived.
    arrived: usize,
    /// How much was taken out of the socket.
    consumed: usize,
    buffer: Vec<u8>,
}

impl World {
    fn new(stream: &[u8]) -> World {
        World { stream: stream.to_vec(), arrived: 0, consumed: 0, buffer: vec![0; 8192] }
    }

    /// What a read brings: 0 if nothing more will come.
    fn read(&mut self, at: u32, how: How) -> u32 {
        let there = &self.stream[self.consumed..self.arrived];
        let wanted = if let How::Consume(limit) = how { there.len().min(limit as usize) } else { there.len() };
        self.buffer[at as usize..at as usize + wanted].copy_from_slice(&there[..wanted]);
        if how != How::Peek {
            self.consumed += wanted;
        }
        wanted as u32
    }
}

/// Lets the stream arrive in pieces of `step` bytes and follows the actions to the end.
fn run(stream: &[u8], step: usize, terms: &Terms) -> (Action, World) {
    let mut world = World::new(stream);
    let mut waiting = Waiting::default();
    let mut action = waiting.start(terms);
    loop {
        let Action::Read { at, how, room } = action else { return (action, world) };
        assert!(room as usize <= world.buffer.len());
        if world.consumed == world.arrived {
            world.arrived = (world.arrived + step).min(world.stream.len());
        }
        let count = world.read(at, how);
        let buffer = world.buffer.clone();
        action = waiting.handle_read(count, |len| &buffer[..len as usize], terms);
    }
}

#[test]
fn every_split_gives_the_same_header() {
    for exact in [false, true] {
        let terms = Terms { exact, ..Terms::default() };
        for step in 1..=LINE.len() {
            let (action, world) = run(LINE, step, &terms);
            let Action::Dispatch(admitted) = action else { panic!("{action:?} with pieces of {step}") };
            assert_eq!((admitted.head().len(), world.consumed), (LINE.len(), LINE.len()));
        }
    }
}

#[test]
fn exact_leaves_the_residual_in_the_socket() {
    let stream = [LINE, b"a NOOP\r\n"].concat();
    let (action, world) = run(&stream, stream.len(), &Terms { exact: true, ..Terms::default() });
    assert!(matches!(action, Action::Dispatch(_)));
    assert_eq!(world.consumed, LINE.len());
    let (action, world) = run(&stream, stream.len(), &Terms::default());
    assert!(matches!(action, Action::Dispatch(_)));
    assert_eq!(world.consumed, stream.len(), "otherwise it travels with the connection");
}

#[test]
fn refuses_what_the_doors_refuse() {
    for exact in [false, true] {
        let terms = Terms { exact, ..Terms::default() };
        let twice = [LINE, LINE].concat();
        let (action, _) = run(&twice, twice.len(), &terms);
        assert_eq!(action, Action::Close(Ending::Refused(Refusal::SecondHeader)));
        let (action, _) = run(b"EHLO mail.test\r\n", 16, &terms);
        assert_eq!(action, Action::Close(Ending::Absent { at: 1 }));
    }
}

#[test]
fn the_end_names_how_far_it_came() {
    for exact in [false, true] {
        let terms = Terms { exact, ..Terms::default() };
        let (action, _) = run(b"", 1, &terms);
        assert_eq!(action, Action::Close(Ending::ClosedEmpty));
        let (action, _) = run(&LINE[..9], 3, &terms);
        assert_eq!(action, Action::Close(Ending::ClosedPartial));
    }
    let mut waiting = Waiting::default();
    waiting.start(&Terms::default());
    assert_eq!(waiting.expired(), Ending::Silent);
    waiting.handle_read(4, |_| b"PROX", &Terms::default());
    assert_eq!(waiting.expired(), Ending::Timeout);
}

#[test]
fn asks_for_room_for_a_long_header() {
    let mut header = crate::proxy::V2_SIGNATURE.to_vec();
    header.extend([0x21, 0x11, 0x04, 0x00]);
    let mut waiting = Waiting::default();
    let terms = Terms::default();
    waiting.start(&terms);
    let action = waiting.handle_read(16, |_| &header, &terms);
    assert_eq!(action, Action::Read { at: 16, how: How::Take, room: 16 + 1024 });
}
