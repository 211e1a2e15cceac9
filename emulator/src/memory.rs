//! Global memory: a 64-bit address space whose pages are made on touch.
//!
//! Every allocation starts 256 bytes into a fresh page and is followed by at least one page that belongs to nobody, so
//! that a page lies in one allocation at most and a stray address near an allocation hits nothing. A page knows which
//! of its bytes lie in the allocation and which were ever written. Words are relaxed atomics: CTAs on different cores
//! may touch the same memory, as on a GPU.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::global::{Conflict, Deed, Ledger, Shadow, Toucher};

pub(crate) const PAGE_BITS: u32 = 16;
pub(crate) const PAGE: u64 = 1 << PAGE_BITS;
/// Where an allocation starts in its first page: a multiple of 256 and of nothing more, so that code which leans on a
/// larger alignment than the driver promises is seen to.
const SKEW: u64 = 256;
const FIRST: u64 = 0x10_0000_0000;
const LAST: u64 = 1 << 56;

/// Global memory of the emulated device.
#[derive(Debug, Default)]
pub struct Memory {
    space: RwLock<Space>,
}

/// What went wrong with an access from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Some byte is in no allocation.
    #[error("global memory at {address:#x}: the {bytes} bytes from here are not all in one allocation")]
    OutOfBounds {
        /// First byte of the access.
        address: u64,
        /// Its length.
        bytes: u64,
    },
    /// Some byte was never written.
    #[error("global memory at {address:#x} is read and was never written")]
    Unwritten {
        /// The first such byte.
        address: u64,
    },
}

#[derive(Debug)]
struct Space {
    next: u64,
    /// Start to end.
    allocations: BTreeMap<u64, u64>,
    pages: HashMap<u64, Arc<Page>>,
}

impl Default for Space {
    fn default() -> Self {
        Space { next: FIRST, allocations: BTreeMap::new(), pages: HashMap::new() }
    }
}

impl Space {
    /// The allocation that holds `address`.
    fn holding(&self, address: u64) -> Option<(u64, u64)> {
        let (&start, &end) = self.allocations.range(..=address).next_back()?;
        (address < end).then_some((start, end))
    }

    fn contains(&self, address: u64, bytes: u64) -> bool {
        self.holding(address).is_some_and(|(_, end)| bytes <= end - address)
    }
}

/// 64 KiB of global memory in one allocation.
#[derive(Debug)]
struct Page {
    /// The bytes of the page that lie in the allocation.
    first: u32,
    end: u32,
    words: Box<[AtomicU32]>,
    /// One bit a byte.
    written: Box<[AtomicU64]>,
}

impl Page {
    fn new(number: u64, allocation: (u64, u64)) -> Page {
        let base = number << PAGE_BITS;
        Page {
            first: allocation.0.saturating_sub(base).min(PAGE) as u32,
            end: (allocation.1 - base).min(PAGE) as u32,
            words: std::iter::repeat_with(|| AtomicU32::new(0)).take((PAGE / 4) as usize).collect(),
            written: std::iter::repeat_with(|| AtomicU64::new(0)).take((PAGE / 64) as usize).collect(),
        }
    }

    /// Whether `bytes` (at most 16, aligned to their own size) at `offset` were written.
    #[inline(always)]
    fn is_written(&self, offset: usize, bytes: usize) -> bool {
        let bits = ((1u64 << bytes) - 1) << (offset % 64);
        self.written[offset / 64].load(Relaxed) & bits == bits
    }

    #[inline(always)]
    fn mark(&self, offset: usize, bytes: usize) {
        let bits = ((1u64 << bytes) - 1) << (offset % 64);
        let word = &self.written[offset / 64];
        if word.load(Relaxed) & bits != bits {
            word.fetch_or(bits, Relaxed);
        }
    }

    fn byte(&self, offset: usize) -> u8 {
        (self.words[offset / 4].load(Relaxed) >> (offset % 4 * 8)) as u8
    }

    fn set_part(&self, offset: usize, value: u32, bits: u32) {
        let shift = (offset % 4 * 8) as u32;
        let word = &self.words[offset / 4];
        let put = |old: u32| Some(old & !(bits << shift) | (value & bits) << shift);
        // The closure never declines.
        let _ = word.fetch_update(Relaxed, Relaxed, put);
    }
}

impl Memory {
    /// An empty address space.
    pub fn new() -> Self {
        Self::default()
    }

    /// Allocates `bytes`, uninitialised, at an address that is a multiple of 256. Costs nothing until it is touched.
    ///
    /// # Panics
    /// When 2^56 bytes of address space are used up.
    pub fn alloc(&self, bytes: u64) -> u64 {
        let mut space = self.space.write().unwrap_or_else(PoisonError::into_inner);
        let start = space.next + SKEW;
        let end = start.checked_add(bytes).filter(|end| *end < LAST);
        let Some(end) = end else { panic!("the emulator's global address space is used up") };
        space.next = (end.next_multiple_of(PAGE)) + PAGE;
        space.allocations.insert(start, end);
        start
    }

    /// Frees what [`Memory::alloc`] gave. An address that it did not give is left alone.
    pub fn free(&self, address: u64) {
        let mut space = self.space.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = space.allocations.remove(&address) {
            space.pages.retain(|number, _| !(address >> PAGE_BITS..=end >> PAGE_BITS).contains(number));
        }
    }

    /// Copies `bytes` in.
    ///
    /// # Errors
    /// When they do not all lie in one allocation.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(address, bytes.len() as u64)?;
        let mut at = address;
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = self.page(at).ok_or(MemoryError::OutOfBounds { address: at, bytes: rest.len() as u64 })?;
            let mut offset = (at % PAGE) as usize;
            let (mut now, later) = rest.split_at(rest.len().min(PAGE as usize - offset));
            at += now.len() as u64;
            rest = later;
            while !now.is_empty() {
                if let (0, Some((word, tail))) = (offset % 4, now.split_first_chunk::<4>()) {
                    page.words[offset / 4].store(u32::from_le_bytes(*word), Relaxed);
                    page.mark(offset, 4);
                    (offset, now) = (offset + 4, tail);
                } else {
                    page.set_part(offset, u32::from(now[0]), 0xff);
                    page.mark(offset, 1);
                    (offset, now) = (offset + 1, &now[1..]);
                }
            }
        }
        Ok(())
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// When they do not all lie in one allocation, or one was never written.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        self.check(address, out.len() as u64)?;
        if let Some(address) = self.unwritten(address, out.len() as u64) {
            return Err(MemoryError::Unwritten { address });
        }
        let mut at = address;
        for chunk in out.chunk_by_mut_at(address) {
            let page = self.page(at).ok_or(MemoryError::OutOfBounds { address: at, bytes: chunk.len() as u64 })?;
            let offset = (at % PAGE) as usize;
            let mut rest = &mut chunk[..];
            let mut offset = offset;
            while !rest.is_empty() {
                if let (0, Some((word, _))) = (offset % 4, rest.split_first_chunk_mut::<4>()) {
                    *word = page.words[offset / 4].load(Relaxed).to_le_bytes();
                    (offset, rest) = (offset + 4, &mut rest[4..]);
                } else {
                    rest[0] = page.byte(offset);
                    (offset, rest) = (offset + 1, &mut rest[1..]);
                }
            }
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// The first of these bytes that was never written (or is in no allocation).
    pub fn unwritten(&self, address: u64, bytes: u64) -> Option<u64> {
        let space = self.space.read().unwrap_or_else(PoisonError::into_inner);
        if bytes == 0 {
            return None;
        }
        if !space.contains(address, bytes) {
            return Some(address);
        }
        let end = address + bytes;
        let mut at = address;
        while at < end {
            let stop = end.min((at / PAGE + 1) * PAGE);
            let Some(page) = space.pages.get(&(at >> PAGE_BITS)) else { return Some(at) };
            while at < stop {
                let offset = (at % PAGE) as usize;
                if offset.is_multiple_of(64) && at + 64 <= stop && page.written[offset / 64].load(Relaxed) == u64::MAX {
                    at += 64;
                } else if page.is_written(offset, 1) {
                    at += 1;
                } else {
                    return Some(at);
                }
            }
        }
        None
    }

    /// The allocation that holds `address`: its start and its end.
    pub(crate) fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.space.read().unwrap_or_else(PoisonError::into_inner).holding(address)
    }

    /// Every allocation.
    pub(crate) fn allocations(&self) -> Vec<(u64, u64)> {
        let space = self.space.read().unwrap_or_else(PoisonError::into_inner);
        space.allocations.iter().map(|(start, end)| (*start, *end)).collect()
    }

    fn check(&self, address: u64, bytes: u64) -> Result<(), MemoryError> {
        let space = self.space.read().unwrap_or_else(PoisonError::into_inner);
        if bytes == 0 || space.contains(address, bytes) {
            Ok(())
        } else {
            Err(MemoryError::OutOfBounds { address, bytes })
        }
    }

    /// The page that holds `address`, made if it lies in an allocation and was never touched.
    fn page(&self, address: u64) -> Option<Arc<Page>> {
        let number = address >> PAGE_BITS;
        if let Some(page) = self.space.read().unwrap_or_else(PoisonError::into_inner).pages.get(&number) {
            return Some(Arc::clone(page));
        }
        let mut space = self.space.write().unwrap_or_else(PoisonError::into_inner);
        let allocation = space.holding(address)?;
        Some(Arc::clone(space.pages.entry(number).or_insert_with(|| Arc::new(Page::new(number, allocation)))))
    }
}

/// Splits a slice where its addresses cross pages.
trait ChunkByPage {
    fn chunk_by_mut_at(&mut self, address: u64) -> impl Iterator<Item = &mut [u8]>;
}

impl ChunkByPage for [u8] {
    fn chunk_by_mut_at(&mut self, address: u64) -> impl Iterator<Item = &mut [u8]> {
        let first = self.len().min((PAGE - address % PAGE) as usize);
        let (head, tail) = self.split_at_mut(first);
        std::iter::once(head).chain(tail.chunks_mut(PAGE as usize))
    }
}

/// Why a device access to global memory cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    OutOfBounds,
    Unwritten,
    Unordered(Conflict),
}

/// A worker's way into global memory: the pages that it touched last, at hand.
pub(crate) struct View<'m> {
    memory: &'m Memory,
    ledger: &'m Ledger,
    cache: Vec<Cached>,
    nothing: Arc<Page>,
}

/// A page at hand, and who did what to it in this launch, where that is remembered.
#[derive(Clone)]
struct Cached {
    number: u64,
    page: Option<Arc<Page>>,
    shadow: Option<Arc<Mutex<Shadow>>>,
}

const CACHED: usize = 512;

impl<'m> View<'m> {
    pub(crate) fn new(memory: &'m Memory, ledger: &'m Ledger) -> Self {
        let nothing = Arc::new(Page { first: 0, end: 0, words: Box::default(), written: Box::default() });
        let empty = Cached { number: u64::MAX, page: None, shadow: None };
        View { memory, ledger, cache: vec![empty; CACHED], nothing }
    }

    /// The page of `address` and the offset in it, if `bytes` (aligned to their own size) from there are in bounds.
    #[inline(always)]
    fn at(&mut self, address: u64, bytes: usize) -> Result<(&Page, usize), Denied> {
        let number = address >> PAGE_BITS;
        let slot = number as usize % CACHED;
        if self.cache[slot].number != number {
            self.fetch(address, slot);
        }
        let page: &Page = self.cache[slot].page.as_deref().unwrap_or(&self.nothing);
        let offset = (address % PAGE) as usize;
        if offset >= page.first as usize && offset + bytes <= page.end as usize {
            Ok((page, offset))
        } else {
            Err(Denied::OutOfBounds)
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch(&mut self, address: u64, slot: usize) {
        if let Some(page) = self.memory.page(address) {
            let shadow = self.ledger.shadow(address);
            self.cache[slot] = Cached { number: address >> PAGE_BITS, page: Some(page), shadow };
        } else {
            self.cache[slot] = Cached { number: u64::MAX, page: None, shadow: None };
        }
    }

    /// Whether it is remembered who touches this address, which was just accessed; from its first write on it is.
    #[inline(always)]
    pub(crate) fn remembers(&self, address: u64, deed: Deed) -> bool {
        let slot = (address >> PAGE_BITS) as usize % CACHED;
        self.cache[slot].shadow.is_some() || matches!(deed, Deed::Write | Deed::Atomic)
    }

    /// Notes who does what to up to 16 bytes of a page that is at hand.
    #[inline(never)]
    pub(crate) fn note(&mut self, address: u64, bytes: usize, deed: Deed, by: &Toucher<'_>) -> Result<(), Denied> {
        let slot = (address >> PAGE_BITS) as usize % CACHED;
        let shadow = self.cache[slot].shadow.get_or_insert_with(|| self.ledger.make(address));
        let mut shadow = shadow.lock().unwrap_or_else(PoisonError::into_inner);
        shadow.touch((address % PAGE) as u32, bytes as u32, deed, by).map_err(Denied::Unordered)
    }

    /// Whether `bytes` from here lie in an allocation.
    #[inline(always)]
    pub(crate) fn holds(&mut self, address: u64, bytes: usize) -> Result<(), Denied> {
        self.at(address, bytes).map(|_| ())
    }

    pub(crate) const fn ledger(&self) -> &'m Ledger {
        self.ledger
    }

    /// Whether a copy of `bytes` (of a unit of `unit` bytes) may start here.
    #[inline(always)]
    pub(crate) fn probe(&mut self, address: u64, bytes: usize) -> Result<(), Denied> {
        let (page, offset) = self.at(address, bytes)?;
        if page.is_written(offset, bytes) { Ok(()) } else { Err(Denied::Unwritten) }
    }

    /// `N` words, aligned to their size.
    #[inline(always)]
    pub(crate) fn load<const N: usize>(&mut self, address: u64) -> Result<[u32; N], Denied> {
        let (page, offset) = self.at(address, 4 * N)?;
        if !page.is_written(offset, 4 * N) {
            return Err(Denied::Unwritten);
        }
        let words = &page.words[offset / 4..offset / 4 + N];
        let mut out = [0; N];
        for (out, word) in out.iter_mut().zip(words) {
            *out = word.load(Relaxed);
        }
        Ok(out)
    }

    #[inline(always)]
    pub(crate) fn store<const N: usize>(&mut self, address: u64, value: [u32; N]) -> Result<(), Denied> {
        let (page, offset) = self.at(address, 4 * N)?;
        let words = &page.words[offset / 4..offset / 4 + N];
        for (word, value) in words.iter().zip(value) {
            word.store(value, Relaxed);
        }
        page.mark(offset, 4 * N);
        Ok(())
    }

    pub(crate) fn load_half(&mut self, address: u64) -> Result<u32, Denied> {
        let (page, offset) = self.at(address, 2)?;
        if !page.is_written(offset, 2) {
            return Err(Denied::Unwritten);
        }
        Ok(page.words[offset / 4].load(Relaxed) >> (offset % 4 * 8) & 0xffff)
    }

    pub(crate) fn store_half(&mut self, address: u64, value: u32) -> Result<(), Denied> {
        let (page, offset) = self.at(address, 2)?;
        page.set_part(offset, value, 0xffff);
        page.mark(offset, 2);
        Ok(())
    }

    /// The first `bytes` of a copy of up to 16, the rest zero. The source is in bounds and written (see `probe`).
    #[inline(always)]
    pub(crate) fn copy_source(&mut self, address: u64, bytes: usize) -> Result<[u32; 4], Denied> {
        if bytes == 16 {
            return self.load::<4>(address);
        }
        let mut out = [0; 4];
        if bytes == 0 {
            return Ok(out);
        }
        let (page, offset) = self.at(address, bytes)?;
        for i in 0..bytes {
            if !page.is_written(offset + i, 1) {
                return Err(Denied::Unwritten);
            }
            out[i / 4] |= u32::from(page.byte(offset + i)) << (i % 4 * 8);
        }
        Ok(out)
    }

    /// Replaces a word by `next` of it in one step; gives the old one.
    pub(crate) fn update(&mut self, address: u64, mut next: impl FnMut(u32) -> u32) -> Result<u32, Denied> {
        let (page, offset) = self.at(address, 4)?;
        if !page.is_written(offset, 4) {
            return Err(Denied::Unwritten);
        }
        let word = &page.words[offset / 4];
        match word.fetch_update(Relaxed, Relaxed, |old| Some(next(old))) {
            Ok(old) | Err(old) => Ok(old),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_costs_what_is_touched() {
        let memory = Memory::new();
        let at = memory.alloc(1 << 40);
        let far = at + (1 << 40) - 3;
        memory.write(far, &[1, 2, 3]).unwrap();
        let mut out = [0; 3];
        memory.read(far, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(memory.unwritten(far - 1, 4), Some(far - 1));
        assert_eq!(memory.write(far, &[0; 4]), Err(MemoryError::OutOfBounds { address: far, bytes: 4 }));
    }

    #[test]
    fn neighbours_are_apart_and_freed_memory_is_gone() {
        let memory = Memory::new();
        let (a, b) = (memory.alloc(100), memory.alloc(100));
        assert!(a.is_multiple_of(256) && b >= a + 100 + PAGE);
        memory.write(a, &[7; 100]).unwrap();
        assert_eq!(memory.unwritten(a, 100), None);
        assert_eq!(memory.read(b, &mut [0; 1]), Err(MemoryError::Unwritten { address: b }));
        memory.free(a);
        assert_eq!(memory.read(a, &mut [0; 1]), Err(MemoryError::OutOfBounds { address: a, bytes: 1 }));
    }

    #[test]
    fn bytes_cross_pages() {
        let memory = Memory::new();
        let at = memory.alloc(3 * PAGE);
        let data: Vec<u8> = (0..2 * PAGE + 17).map(|i| (i * 7 % 251) as u8).collect();
        memory.write(at + 5, &data).unwrap();
        let mut out = vec![0; data.len()];
        memory.read(at + 5, &mut out).unwrap();
        assert_eq!(out, data);
    }
}
