//! The one socket option that has no safe wrapper in our dependencies.
#![expect(
    unsafe_code,
    reason = "setsockopt(2) with IP_BIND_ADDRESS_NO_PORT has no safe wrapper in socket2 or rustix"
)]

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Lets a socket be bound to an address while its port is chosen at connect, when the target is known. One port of a
/// source address can then serve several targets.
pub fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option is an int that `on` holds.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
