//! Certificates that change while the process runs.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::signal::unix::{SignalKind, signal};

use super::error::TlsError;
use super::files::{Files, Seen};

/// How often files are looked at. SIGHUP does not wait for it.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Reads files off the threads of the runtime, and notes what they were.
pub(super) async fn read<T: Send + 'static>(
    files: &Files,
    load: impl FnOnce(&Files) -> Result<T, TlsError> + Send + 'static,
) -> Result<(T, Seen), TlsError> {
    blocking(files, |files| {
        // Before they are read: what changes meanwhile is seen the next time.
        let seen = files.seen();
        Ok((load(files)?, seen))
    })
    .await
}

async fn blocking<T: Send + 'static>(
    files: &Files,
    look: impl FnOnce(&Files) -> Result<T, TlsError> + Send + 'static,
) -> Result<T, TlsError> {
    let path = files.certificate.clone();
    let files = files.clone();
    let looking = tokio::task::spawn_blocking(move || look(&files));
    looking.await.unwrap_or_else(|error| {
        let reason = error.to_string();
        Err(TlsError::Unusable { path, reason })
    })
}

/// Returns what looks after certificates for ever: what was loaded anew becomes the current.
pub(super) fn keep<T: Send + Sync + 'static>(
    files: Files,
    seen: Seen,
    current: Arc<RwLock<Arc<T>>>,
    load: impl Fn(&Files) -> Result<T, TlsError> + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send, TlsError> {
    watch(files, seen, move |files| {
        let loaded = load(files)?;
        *current.write() = Arc::new(loaded);
        Ok(())
    })
}

/// Loads files anew when they were changed, and whenever SIGHUP says so. What cannot be used is
/// tried again, and said once; what was there before stays.
fn watch(
    files: Files,
    mut seen: Seen,
    load: impl Fn(&Files) -> Result<(), TlsError> + Send + Sync + 'static,
) -> Result<impl Future<Output = ()> + Send, TlsError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(TlsError::Signal)?;
    let load = Arc::new(load);
    let mut said = None;
    Ok(async move {
        loop {
            let told = tokio::select! {
                told = hangup.recv() => told.is_some(),
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let (known, load) = (seen.clone(), Arc::clone(&load));
            let looked = blocking(&files, move |files| {
                let now = files.seen();
                let changed = told || now != known;
                Ok((changed.then(|| load(files)), now))
            });
            let path = files.certificate.display();
            match looked.await {
                Ok((None, _)) => said = None,
                Ok((Some(Ok(())), now)) => {
                    (seen, said) = (now, None);
                    tracing::info!(certificate = %path, "certificates were loaded anew");
                }
                // Not seen: it may be the disk that failed, and not the files that are wrong.
                Ok((Some(Err(error)), _)) => {
                    let error = Some(error.to_string());
                    if told || error != said {
                        tracing::error!(
                            certificate = %path, error,
                            "the new certificates cannot be used; those from before stay in use"
                        );
                    }
                    said = error;
                }
                Err(error) => tracing::error!(%error, "cannot look after the certificates"),
            }
        }
    })
}
