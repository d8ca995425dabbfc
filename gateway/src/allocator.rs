//! Configures jemalloc to give memory back: what ten thousand clients needed is not kept for the ten that stayed.
//!
//! Only the program chooses an allocator; the library and its tests run with the one that they are linked to.

#![expect(unsafe_code, reason = "jemalloc reads its options from a symbol with a name of its own")]

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Free pages go back to the system after about a second, by a thread of the allocator's own: workers never pay for it.
const OPTIONS: &std::ffi::CStr = c"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";

/// A pointer to the options, of the type that jemalloc expects.
#[repr(transparent)]
struct Options(*const std::ffi::c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for Options {}

// SAFETY: nothing else in the program has this name; jemalloc declares it as a pointer to a C string.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONF: Options = Options(OPTIONS.as_ptr());
