//! Valgrind's client requests, as `valgrind.h` and `callgrind.h` define them for x86-64 Linux: instructions that change nothing, which valgrind
//! knows. Outside of valgrind, and on other machines, they do nothing.

/// Begins to count instructions.
pub(crate) fn start() {
    request(CALLGRIND_START_INSTRUMENTATION);
}

/// Ends it.
pub(crate) fn stop() {
    request(CALLGRIND_STOP_INSTRUMENTATION);
}

/// `VG_USERREQ_TOOL_BASE('C', 'T')` and the places in callgrind.h's list.
const CALLGRIND: u64 = 0x4354_0000;
const CALLGRIND_START_INSTRUMENTATION: u64 = CALLGRIND + 4;
const CALLGRIND_STOP_INSTRUMENTATION: u64 = CALLGRIND + 5;

#[cfg(target_arch = "x86_64")]
fn request(code: u64) {
    let arguments = [code, 0, 0, 0, 0, 0];
    // SAFETY: rdi is rotated by 3 + 13 + 61 + 51 = 128 bits and rbx exchanged with itself, which leaves both as they were. Valgrind reads the six
    // words that rax points to and writes its answer to rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") arguments.as_ptr(),
            inout("rdx") 0u64 => _,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn request(_: u64) {}
