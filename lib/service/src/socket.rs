//! What every socket of ours is told.

use std::os::fd::AsFd;
use std::sync::LazyLock;

use rustix::net::sockopt;

/// Whether the system takes BBR, and nothing paces what that sends: each connection has a timer of
/// its own then, at a fifth more CPU time for what is sent.
static IS_UNPACED: LazyLock<bool> = LazyLock::new(|| {
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/{name}"));
        text.unwrap_or_default().trim().to_owned()
    };
    setting("ipv4/tcp_congestion_control") == "bbr" && setting("core/default_qdisc") != "fq"
});

/// Has a socket send at once what is written, however short it is; and by CUBIC where the system
/// would take BBR and nothing paces it. None of it is needed to work.
pub fn prepare(socket: impl AsFd) {
    if let Err(error) = sockopt::set_tcp_nodelay(&socket, true) {
        tracing::debug!(%error, "cannot switch off Nagle's algorithm");
    }
    if *IS_UNPACED && let Err(error) = sockopt::set_tcp_congestion(&socket, "cubic") {
        tracing::debug!(%error, "cannot send by CUBIC");
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_socket_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await;
        let socket = socket.unwrap();
        socket.set_nodelay(false).unwrap();
        prepare(&socket);
        assert!(socket.nodelay().unwrap());
    }
}
