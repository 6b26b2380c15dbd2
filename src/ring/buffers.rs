//! The slots' buffers, owned by the ring for its whole life.
//!
//! Invariant: while a slot is `busy` the kernel may write to its buffer, and no safe code can reach it: [`Buffers::bytes`]
//! and [`Buffers::lengthen`] refuse. `busy` starts with [`Buffers::lend`] and ends with [`Buffers::give_back`], which is
//! called when the read's completion was reaped.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::HashMap;
use std::ptr::NonNull;

/// Bytes of every slot's own buffer: any version 1 line, and version 2 headers with the usual TLVs, with room for the
/// client's first bytes.
pub const SLOT_BYTES: u32 = 256;

/// Most slots that hold a longer buffer at once.
pub const LONG_MAX: usize = 1024;

/// A place in memory that the kernel is about to write to.
pub struct Lent {
    pub pointer: *mut u8,
    pub len: u32,
    /// Inside the region that is registered with the ring.
    pub in_region: bool,
}

pub struct Buffers {
    region: NonNull<u8>,
    layout: Layout,
    busy: Box<[bool]>,
    busy_count: usize,
    long: HashMap<u32, NonNull<u8>>,
    spare: Vec<NonNull<u8>>,
    long_layout: Layout,
}

impl Buffers {
    /// Buffers for `slots` slots, perhaps none; `longest` is the size of a longer buffer.
    pub fn new(slots: u32, longest: u32) -> Buffers {
        let layout =
            Layout::from_size_align(slots as usize * SLOT_BYTES as usize, 4096).expect("fits the address space");
        let long_layout =
            Layout::from_size_align(longest.max(SLOT_BYTES) as usize, 64).expect("fits the address space");
        Buffers {
            region: if slots > 0 { allocate(layout) } else { NonNull::dangling() },
            layout,
            busy: vec![false; slots as usize].into(),
            busy_count: 0,
            long: HashMap::new(),
            spare: Vec::new(),
            long_layout,
        }
    }

    /// The region of all slots' own buffers, to register with the kernel, if there are slots.
    pub fn region(&self) -> Option<(*mut u8, usize)> {
        (self.layout.size() > 0).then(|| (self.region.as_ptr(), self.layout.size()))
    }

    /// How many reads are in flight.
    pub fn busy_count(&self) -> usize {
        self.busy_count
    }

    pub fn capacity(&self, slot: u32) -> u32 {
        if self.long.contains_key(&slot) { self.long_layout.size() as u32 } else { SLOT_BYTES }
    }

    /// Lends the buffer behind its first `at` bytes to the kernel.
    pub fn lend(&mut self, slot: u32, at: u32) -> Lent {
        let room = self.capacity(slot).checked_sub(at).filter(|&room| room > 0).expect("a read needs room");
        let busy = &mut self.busy[slot as usize];
        assert!(!*busy, "one read a slot");
        *busy = true;
        self.busy_count += 1;
        // SAFETY: `at` is inside the buffer that starts here, checked above.
        let pointer = unsafe { self.start(slot).add(at as usize) };
        Lent { pointer, len: room, in_region: !self.long.contains_key(&slot) }
    }

    /// The room that was lent and that nobody but the caller writes to: for a driver whose reads are plain system calls.
    pub fn lent_room(&mut self, slot: u32, at: u32) -> &mut [u8] {
        assert!(self.busy[slot as usize], "only what was lent");
        let room = self.capacity(slot).checked_sub(at).expect("inside the buffer");
        // SAFETY: `at` is inside the buffer that starts here, checked above.
        let pointer = unsafe { self.start(slot).add(at as usize) };
        // SAFETY: the buffer is initialised (allocated zeroed), `room` bytes of it lie behind `pointer`, it is borrowed by
        // `&mut self`, and its being lent keeps [`Buffers::bytes`] from it.
        unsafe { std::slice::from_raw_parts_mut(pointer, room as usize) }
    }

    /// The kernel is done with the slot's buffer. `false` if it never had it: a completion that belongs to nobody.
    pub fn give_back(&mut self, slot: u32) -> bool {
        match self.busy.get_mut(slot as usize) {
            Some(busy) if *busy => {
                *busy = false;
                self.busy_count -= 1;
                true
            }
            _ => false,
        }
    }

    pub fn bytes(&self, slot: u32, len: u32) -> &[u8] {
        assert!(!self.busy[slot as usize], "a buffer in flight cannot be looked at");
        assert!(len <= self.capacity(slot), "inside the buffer");
        // SAFETY: the buffer is initialised (allocated zeroed), `len` lies inside, and it is not busy, so the kernel does
        // not write to it; writing needs `&mut self`, which the borrow excludes.
        unsafe { std::slice::from_raw_parts(self.start(slot), len as usize) }
    }

    pub fn lengthen(&mut self, slot: u32, len: u32) -> bool {
        assert!(!self.busy[slot as usize], "a buffer in flight cannot be moved");
        if self.long.contains_key(&slot) || self.longer_left() == 0 {
            return false;
        }
        let long = self.spare.pop().unwrap_or_else(|| allocate(self.long_layout));
        let from = self.start(slot);
        assert!(len <= SLOT_BYTES, "inside the buffer");
        // SAFETY: both buffers hold at least `len` bytes, are different allocations, and neither is lent to the kernel.
        unsafe { std::ptr::copy_nonoverlapping(from, long.as_ptr(), len as usize) };
        self.long.insert(slot, long);
        true
    }

    /// How many longer buffers are free.
    pub fn longer_left(&self) -> usize {
        LONG_MAX - self.long.len()
    }

    pub fn fill(&mut self, slot: u32, bytes: &[u8]) -> bool {
        assert!(!self.busy[slot as usize], "a buffer in flight cannot be written");
        let is_short = |buffers: &Buffers| (buffers.capacity(slot) as usize) < bytes.len();
        if is_short(self) && (!self.lengthen(slot, 0) || is_short(self)) {
            return false;
        }
        // SAFETY: the buffer holds at least as many bytes, checked above, is no part of `bytes`, and is not lent to the
        // kernel.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start(slot), bytes.len()) };
        true
    }

    pub fn release(&mut self, slot: u32) {
        assert!(!self.busy[slot as usize], "a buffer in flight cannot be released");
        if let Some(long) = self.long.remove(&slot) {
            self.spare.push(long);
        }
    }

    fn start(&self, slot: u32) -> *mut u8 {
        assert!((slot as usize) < self.busy.len(), "a slot of this ring");
        match self.long.get(&slot) {
            Some(long) => long.as_ptr(),
            // SAFETY: the region holds SLOT_BYTES for every slot, and the slot is one of them.
            None => unsafe { self.region.as_ptr().add(slot as usize * SLOT_BYTES as usize) },
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if self.busy_count > 0 {
            // The kernel may still write: the memory must stay. Only a thread that panics in mid-flight comes here.
            return;
        }
        for long in self.long.values().chain(&self.spare) {
            // SAFETY: allocated with this layout, not lent, and never used again.
            unsafe { dealloc(long.as_ptr(), self.long_layout) };
        }
        if self.layout.size() > 0 {
            // SAFETY: allocated with this layout, as there are slots, not lent, and never used again.
            unsafe { dealloc(self.region.as_ptr(), self.layout) };
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0, "every caller's buffer holds at least SLOT_BYTES");
    // SAFETY: the layout's size is not zero, checked above.
    let pointer = unsafe { alloc_zeroed(layout) };
    NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffers: &mut Buffers, slot: u32, at: u32, data: &[u8]) {
        let lent = buffers.lend(slot, at);
        assert!(data.len() <= lent.len as usize);
        // SAFETY: plays the kernel: the place was lent, and `data` fits.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), lent.pointer, data.len()) };
        assert!(buffers.give_back(slot));
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut buffers = Buffers::new(3, 4096);
        for slot in 0..3 {
            fill(&mut buffers, slot, 0, &[slot as u8 + 1; SLOT_BYTES as usize]);
        }
        for slot in 0..3 {
            assert_eq!(buffers.bytes(slot, SLOT_BYTES), &[slot as u8 + 1; SLOT_BYTES as usize]);
        }
    }

    #[test]
    fn a_longer_buffer_keeps_what_was_read() {
        let mut buffers = Buffers::new(2, 4096);
        fill(&mut buffers, 1, 0, b"PROXY");
        assert!(buffers.lengthen(1, 5));
        fill(&mut buffers, 1, 5, &[7; 4091]);
        assert_eq!((&buffers.bytes(1, 4096)[..6], buffers.capacity(1)), (&b"PROXY\x07"[..], 4096));
        assert!(!buffers.lengthen(1, 5), "once is enough");
        buffers.release(1);
        assert_eq!((buffers.capacity(1), buffers.spare.len()), (SLOT_BYTES, 1));
    }

    #[test]
    fn takes_bytes_that_came_another_way_if_they_fit() {
        let mut buffers = Buffers::new(1, 4096);
        assert!(buffers.fill(0, b"PROXY ") && buffers.bytes(0, 6) == b"PROXY ");
        assert!(buffers.fill(0, &[9; 4096]) && buffers.bytes(0, 4096) == [9; 4096]);
        buffers.release(0);
        assert!(!buffers.fill(0, &[9; 4097]));
    }

    #[test]
    fn no_slots_need_no_memory() {
        let mut buffers = Buffers::new(0, 0);
        assert!(buffers.region().is_none() && !buffers.give_back(0));
    }

    #[test]
    fn a_completion_of_nobody_is_noticed() {
        let mut buffers = Buffers::new(1, 0);
        assert!(!buffers.give_back(0) && !buffers.give_back(9));
    }

    #[test]
    fn a_buffer_in_flight_is_out_of_reach() {
        let mut buffers = Buffers::new(1, 0);
        buffers.lend(0, 0);
        let looked = std::panic::catch_unwind(|| buffers.bytes(0, 1).len());
        let said = looked.expect_err("it is in flight").downcast::<&str>().expect("a text");
        assert!(said.contains("in flight"), "{said}");
        // Otherwise the memory would have to stay, for the kernel.
        assert!(buffers.give_back(0));
    }
}
