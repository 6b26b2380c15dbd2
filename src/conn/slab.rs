//! The table of slots: made once, handed out and taken back, each with a generation.
//!
//! Invariant: a slot is either on the free list or holds a value; taking a value out moves the slot to its next
//! generation, so that an id of the former user finds nothing.

/// Generations are this wide, as in the completions that bring them back.
pub const GENERATION_BITS: u32 = 28;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// A slot as its present user knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// Which slot.
    pub index: u32,
    /// Which user of the slot, 28 bits.
    pub generation: u32,
}

/// A bounded number of slots. Their memory is set aside at the start and touched when it is needed first.
#[derive(Debug)]
pub struct Slab<T> {
    limit: usize,
    entries: Vec<Entry<T>>,
    /// Of `entries`.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    /// `slots` empty slots.
    pub fn new(slots: u32) -> Slab<T> {
        let limit = slots as usize;
        Slab { limit, entries: Vec::with_capacity(limit), free: Vec::with_capacity(limit) }
    }

    /// Takes a free slot; gives the value back if there is none.
    pub fn insert(&mut self, value: T) -> Result<SlotId, T> {
        // One that was used before first: the memory in use stays dense.
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.entries.len() < self.limit => {
                self.entries.push(Entry { generation: 0, value: None });
                self.entries.len() as u32 - 1
            }
            None => return Err(value),
        };
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.value.is_none(), "a free slot holds nothing");
        entry.value = Some(value);
        Ok(SlotId { index, generation: entry.generation })
    }

    /// The value, unless the id is of a former user.
    pub fn get(&self, id: SlotId) -> Option<&T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation == id.generation { entry.value.as_ref() } else { None }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation == id.generation { entry.value.as_mut() } else { None }
    }

    /// Takes the value out and frees the slot; nothing happens if the id is of a former user.
    pub fn remove(&mut self, id: SlotId) -> Option<T> {
        let entry = self.entries.get_mut(id.index as usize)?;
        if entry.generation != id.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(value)
    }

    /// The id of a slot's present user.
    pub fn id_of(&self, index: u32) -> Option<SlotId> {
        let entry = self.entries.get(index as usize).filter(|entry| entry.value.is_some())?;
        Some(SlotId { index, generation: entry.generation })
    }

    /// Slots that were ever in use: the indices of all ids are below.
    pub fn places(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Slots that are free.
    pub fn free(&self) -> usize {
        self.limit - self.len()
    }

    /// Whether no slot is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether no slot is free.
    pub fn is_full(&self) -> bool {
        self.free() == 0
    }

    /// The ids of all slots in use.
    pub fn ids(&self) -> impl Iterator<Item = SlotId> + '_ {
        (0..self.entries.len() as u32).filter_map(|index| self.id_of(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_a_former_user_finds_nothing() {
        let mut slab = Slab::new(1);
        let first = slab.insert('a').expect("free");
        assert_eq!(slab.insert('b'), Err('b'), "full gives the value back");
        assert_eq!(slab.remove(first), Some('a'));
        let second = slab.insert('c').expect("free again");
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut 'c'));
        assert_eq!(slab.get_mut(SlotId { index: 9, generation: 0 }), None);
    }

    #[test]
    fn generations_wrap() {
        let mut slab = Slab::new(1);
        let first = slab.insert(()).expect("free");
        slab.remove(first);
        slab.entries[0].generation = GENERATION_MASK;
        let last = slab.insert(()).expect("free");
        slab.remove(last);
        assert_eq!(slab.insert(()).expect("free").generation, 0);
    }

    #[test]
    fn counts() {
        let mut slab = Slab::new(3);
        let ids: Vec<SlotId> = (0..3).map(|n| slab.insert(n).expect("free")).collect();
        assert!(slab.is_full() && slab.ids().eq(ids.iter().copied()));
        slab.remove(ids[1]);
        assert_eq!((slab.len(), slab.is_empty(), slab.is_full()), (2, false, false));
    }
}
