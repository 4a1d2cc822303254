//! Parts that run, and their end.

use std::collections::BTreeSet;

use anyhow::anyhow;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all, select_all};
use service::{Admin, Role};
use tokio_util::sync::CancellationToken;

use crate::up::folder::Folder;
use crate::up::parts::{self, Part};

/// All parts that run.
#[derive(Debug, Default)]
pub(super) struct Live {
    parts: Vec<LivePart>,
}

#[derive(Debug)]
struct LivePart {
    role: Role,
    admin: Admin,
    stop: CancellationToken,
    end: Shared<BoxFuture<'static, Result<(), String>>>,
}

impl Live {
    /// Starts parts, in their order. Those that run already stay when one fails.
    ///
    /// # Errors
    /// What a part lacks.
    pub(super) async fn start(&mut self, parts: Vec<Part>, folder: &Folder) -> anyhow::Result<()> {
        let proxies = parts::addrs_of(&parts, Role::Proxy, "http_addr");
        let shared = parts::Shared {
            folder,
            cluster: parts::cluster(&parts),
            key: origin::key::load_or_create(&folder.key())?
                .public()
                .to_string(),
            proxies: proxies.into_iter().map(|(_, addr)| addr).collect(),
        };
        // As good as any 32 bytes that nobody else knows.
        origin::key::load_or_create(&folder.secret())?;
        for part in parts {
            let (name, role) = (part.name.clone(), part.role);
            let stop = CancellationToken::new();
            let running = part.start(&shared, stop.clone()).await;
            let running = running.map_err(|error| error.context(name))?;
            self.parts.push(LivePart {
                role,
                admin: running.admin.clone(),
                stop,
                end: running
                    .wait()
                    .map(|end| end.map_err(|error| error.to_string()))
                    .boxed()
                    .shared(),
            });
        }
        Ok(())
    }

    pub(super) fn admins(&self) -> Vec<Admin> {
        self.parts.iter().map(|part| part.admin.clone()).collect()
    }

    /// Waits until a part has ended by itself.
    pub(super) async fn broken(&self) -> anyhow::Error {
        if self.parts.is_empty() {
            return std::future::pending().await;
        }
        let ends = self.parts.iter().map(|part| part.end.clone());
        let (end, index, _) = select_all(ends).await;
        let name = self.parts[index].admin.name();
        match end {
            Ok(()) => anyhow!("{name} ended by itself; this is a bug, please report it"),
            Err(error) => anyhow!("{name}: {error}"),
        }
    }

    /// Ends everything: each part before those it needs, so that open requests can be answered.
    ///
    /// # Errors
    /// That of the first part that did not end well.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        let mut result = Ok(());
        let mut open: BTreeSet<_> = self.parts.iter().map(|part| part.role).collect();
        for role in [
            Role::Agent,
            Role::Proxy,
            Role::Origin,
            Role::BuildIndex,
            Role::Tracker,
        ] {
            open.remove(&role);
            let parts: Vec<_> = self.parts.iter().filter(|part| part.role == role).collect();
            for part in &parts {
                part.stop.cancel();
            }
            let ends = join_all(parts.iter().map(|part| part.end.clone())).await;
            for (part, end) in parts.iter().zip(ends) {
                let name = part.admin.name();
                result = result.and(end.map_err(|error| anyhow!("{name}: {error}")));
            }
        }
        debug_assert!(open.is_empty(), "every role is ended");
        result
    }
}
