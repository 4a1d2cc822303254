//! The end of a process, on request.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice to end.
const IMPATIENT: i32 = 130;

/// Returns a token that SIGTERM or SIGINT cancels. A second signal ends the process at once.
///
/// # Errors
/// The system does not let the process see its signals.
pub fn on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let shutdown = token.clone();
    tokio::spawn(async move {
        for round in 0.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if round > 0 {
                end_now();
            }
            tracing::info!(
                signal = name,
                "shutting down; a second signal ends it at once"
            );
            shutdown.cancel();
        }
    });
    Ok(token)
}

#[expect(
    clippy::exit,
    reason = "somebody who asks twice does not want to wait for open requests"
)]
fn end_now() -> ! {
    std::process::exit(IMPATIENT)
}
