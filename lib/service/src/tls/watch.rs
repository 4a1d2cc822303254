//! Certificates that change while the process runs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use rustls::sign::CertifiedKey;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use x509_parser::parse_x509_certificate;

use super::error::TlsError;
use super::files::{Files, Seen};

/// How often files are looked at. SIGHUP does not wait for it.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Days before its end from which on a certificate is said to expire soon.
const SOON_DAYS: i64 = 30;
const DAY_S: i64 = 24 * 3600;

/// What shows a certificate.
pub(super) trait Shows {
    fn certified(&self) -> &CertifiedKey;
}

impl Shows for CertifiedKey {
    fn certified(&self) -> &CertifiedKey {
        self
    }
}

/// What was loaded last. Clones are the same.
#[derive(Debug)]
pub(super) struct Current<T> {
    loaded: Arc<RwLock<Arc<T>>>,
    /// When its certificate expires, in seconds since 1970.
    expiry: Gauge,
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self {
            loaded: Arc::clone(&self.loaded),
            expiry: self.expiry.clone(),
        }
    }
}

impl<T: Shows> Current<T> {
    fn new(files: &Files, loaded: T) -> Self {
        let expiry = Gauge::default();
        note(files, loaded.certified(), &expiry);
        let loaded = Arc::new(RwLock::new(Arc::new(loaded)));
        Self { loaded, expiry }
    }

    pub(super) fn get(&self) -> Arc<T> {
        Arc::clone(&self.loaded.read())
    }

    /// Puts what was loaded anew in the place of what there was.
    pub(super) fn set(&self, files: &Files, loaded: T) {
        note(files, loaded.certified(), &self.expiry);
        *self.loaded.write() = Arc::new(loaded);
    }

    /// Returns when the certificate expires, in seconds since 1970; 0 where it does not say so in
    /// words that are understood.
    pub(super) const fn expiry(&self) -> &Gauge {
        &self.expiry
    }
}

/// Notes when a certificate expires, and says so where that is soon.
fn note(files: &Files, certified: &CertifiedKey, expiry: &Gauge) {
    let expires = expires(certified).unwrap_or_default();
    expiry.set(expires);
    if let Some(days) = days_left(expires, SystemTime::now()) {
        tracing::warn!(
            certificate = %files.certificate.display(), days,
            "the certificate expires soon; put a new one in its place"
        );
    }
}

/// Returns when the first of the certificates that are shown expires.
fn expires(certified: &CertifiedKey) -> Option<i64> {
    let ends = certified.cert.iter().map(|certificate| {
        let (_, parsed) = parse_x509_certificate(certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    ends.min().flatten()
}

/// Returns how many whole days a certificate is valid yet, where that is not long.
fn days_left(expires: i64, now: SystemTime) -> Option<i64> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    let days = expires.saturating_sub(now).div_euclid(DAY_S);
    (days < SOON_DAYS).then_some(days)
}

/// Reads files, and looks after them until `shutdown`: what can be loaded anew becomes the current.
/// Must be called inside a tokio runtime.
pub(super) async fn open<T: Shows + Send + Sync + 'static>(
    files: Files,
    load: impl Fn(&Files) -> Result<T, TlsError> + Clone + Send + Sync + 'static,
    shutdown: &CancellationToken,
) -> Result<Current<T>, TlsError> {
    let first = load.clone();
    let (loaded, seen) = blocking(&files, move |files| {
        // Before they are read: what changes meanwhile is seen the next time.
        let seen = files.seen();
        Ok((first(files)?, seen))
    })
    .await?;
    let current = Current::new(&files, loaded);
    let kept = current.clone();
    let watching = watch(files, seen, move |files| {
        kept.set(files, load(files)?);
        Ok(())
    })?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move { shutdown.run_until_cancelled(watching).await });
    Ok(current)
}

/// Does something with files off the threads of the runtime.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_near_in_the_last_days() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        for (left, expected) in [
            (31 * DAY_S, None),
            (30 * DAY_S, None),
            (30 * DAY_S - 1, Some(29)),
            (1, Some(0)),
            (-1, Some(-1)),
        ] {
            assert_eq!(days_left(1_000_000_000 + left, now), expected, "{left}");
        }
        assert!(days_left(0, now).is_some_and(|days| days < 0));
    }
}
