//! Memory that the kernel keeps locked for a ring, as it counts it: whole pages of the queues, and of the slots' buffers if
//! they are registered.
//!
//! Against RLIMIT_MEMLOCK it counts both for all processes of a user together, unless who makes the ring has CAP_IPC_LOCK
//! (the queues: before 5.12, and again since 6.14). `VmPin` of /proc/PID/status tells of the buffers alone. Where
//! transparent huge pages are made unasked, the kernel counts the whole of one in which buffers lie.

use super::setup::{SQ_ENTRIES, completion_entries};
use super::{SLOT_BYTES, Sizes};

/// Fewest completion queue entries that a ring gets when memory is short: the kernel wants no fewer than submission entries,
/// and as many again leave room for answers beside them.
pub const COMPLETIONS_MIN: u32 = SQ_ENTRIES * 2;

/// Bytes of a submission queue entry and of a completion queue entry.
const SQE: u64 = 64;
const CQE: u64 = 16;
/// What stands before the completions: heads, tails and masks of both queues; on older kernels the order of submissions,
/// too. It never takes more than the page that completions leave unfinished.
const HEAD: u64 = 1024;

impl Sizes {
    /// Bytes that a ring of these sizes keeps locked.
    pub fn locked(&self) -> u64 {
        let completions = completion_entries(self.completions);
        let buffers = if self.registered { u64::from(self.slots) * u64::from(SLOT_BYTES) } else { 0 };
        queues(SQ_ENTRIES.min(completions), completions) + pages(buffers)
    }
}

/// Bytes of queues with so many entries.
pub fn queues(submissions: u32, completions: u32) -> u64 {
    let [submissions, completions] = parts(submissions, completions);
    pages(submissions) + pages(completions)
}

/// The two pieces of memory of such queues.
fn parts(submissions: u32, completions: u32) -> [u64; 2] {
    [SQE * u64::from(submissions), HEAD + CQE * u64::from(completions)]
}

/// So many bytes in whole pages.
pub fn pages(bytes: u64) -> u64 {
    bytes.next_multiple_of(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::driver::Native;
    use crate::ring::{Ring, Waker};

    #[test]
    fn queues_are_what_the_kernel_was_measured_to_count() {
        for (submissions, completions, kib) in
            [(64, 512, 16), (256, 4096, 84), (256, 8192, 148), (256, 16_384, 276), (256, 32_768, 532)]
        {
            let [one, other] = parts(submissions, completions).map(|bytes| bytes.next_multiple_of(4096));
            assert_eq!(one + other, kib * 1024, "{submissions} and {completions} entries");
        }
    }

    #[test]
    fn a_ring_locks_what_its_sizes_say() {
        for (registered, completions) in [(true, 600), (false, 5000), (true, 2)] {
            let sizes = Sizes { slots: 100, longest: 4096, completions, registered };
            let ring = Ring::new(sizes, Vec::new(), Waker::new().expect("a descriptor")).expect("the kernel has rings");
            assert_eq!(ring.locked(), sizes.locked(), "{sizes:?}");
            assert!(ring.unregistered().is_none());
        }
    }
}
