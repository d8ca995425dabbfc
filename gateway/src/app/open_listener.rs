//! Opens the sockets on which a node listens, before anything serves them.

use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpSocket};

use super::{StartError, setup};

pub(super) fn open_listener(
    address: SocketAddr,
    setting: &'static str,
    backlog: u32,
) -> Result<(AsyncFd<mio::net::TcpListener>, SocketAddr), StartError> {
    let socket = listen(address, setting, backlog)?;
    let bound = socket.local_addr().map_err(setup)?;
    Ok((for_accepting(socket).map_err(setup)?, bound))
}

/// Listens on the address. `setting`: what the user changes to choose another one.
pub(super) fn listen(
    address: SocketAddr,
    setting: &'static str,
    backlog: u32,
) -> Result<TcpListener, StartError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted node must not wait for the connections of its predecessor to time out.
        socket.set_reuseaddr(true)?;
        // A publication is one write: nothing is gained by waiting for more. Accepted sockets inherit this.
        socket.set_nodelay(true)?;
        socket.bind(address)?;
        socket.listen(backlog)
    };
    bind().map_err(|error| StartError::Listen { address, setting, error })
}

/// Wraps the listener as mio's type, so that an accepted socket is not registered with a poll before somebody has to
/// wait for it.
#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of descriptors that change; a listener's does not"
)]
fn for_accepting(socket: TcpListener) -> std::io::Result<AsyncFd<mio::net::TcpListener>> {
    AsyncFd::with_interest(mio::net::TcpListener::from_std(socket.into_std()?), Interest::READABLE)
}
