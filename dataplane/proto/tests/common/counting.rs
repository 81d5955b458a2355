//! An allocator that counts, thread by thread, for tests that promise not to allocate.
#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts the calls and the bytes that are alive.
pub(crate) struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(calls: u64, bytes: i64, requested: usize) {
    // A thread that is ending has no counters any more; nobody reads them then.
    let _ = CALLS.try_with(|total| total.set(total.get() + calls));
    let _ = LIVE.try_with(|total| total.set(total.get() + bytes));
    let _ = BYTES.try_with(|total| total.set(total.get() + requested as u64));
}

// SAFETY: every call goes on to the system allocator with the caller's arguments; counting touches only thread-local cells that never allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64, layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64), 0);
        // SAFETY: `pointer` came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) };
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64, size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Allocations and reallocations of this thread so far.
pub(crate) fn calls() -> u64 {
    CALLS.with(Cell::get)
}

/// Bytes asked for by these so far, also those given back.
pub(crate) fn requested_bytes() -> u64 {
    BYTES.with(Cell::get)
}

/// Bytes that this thread has allocated and not given back.
pub(crate) fn live_bytes() -> i64 {
    LIVE.with(Cell::get)
}
