//! All figures that are published, one after the other.

use std::path::PathBuf;

use serde::Serialize;

use crate::cluster::Place;
use crate::idle::{IdleReport, idle};
use crate::machine::Machine;
use crate::push::{PushReport, push};
use crate::small::{SmallPlan, SmallReport, small};
use crate::storage::Storage;
use crate::swarm::{SwarmPlan, SwarmReport, swarm};

const GIB: u64 = 1 << 30;

/// Agents that pull at once.
const AGENTS: u16 = 8;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Suite {
    pub machine: Machine,
    pub commit: String,
    pub idle: IdleReport,
    pub push: PushReport,
    /// One agent, an origin that has the blob at hand.
    pub one: SwarmReport,
    pub eight: SwarmReport,
    /// Over a store, with origins that have nothing.
    pub one_cold: SwarmReport,
    pub eight_cold: SwarmReport,
    /// The only tracker is killed during the pull.
    pub tracker_killed: SwarmReport,
    pub small_cold: SmallReport,
}

impl Suite {
    /// Measures everything; this takes minutes. `progress` is told what comes next.
    ///
    /// # Errors
    /// A part that does not start or ends, a pull or push that fails.
    pub async fn run(
        binary: PathBuf,
        folder: PathBuf,
        store: Storage,
        commit: String,
        mut progress: impl FnMut(&'static str),
    ) -> anyhow::Result<Self> {
        let machine = Machine::look(&folder);
        let on = |storage| Place {
            binary: binary.clone(),
            folder: folder.clone(),
            storage,
        };
        let (folder, store) = (on(Storage::Folder), on(store));
        let plan = SwarmPlan {
            agents: 1,
            origins: 1,
            blobs: 1,
            size: GIB,
            rate: None,
            cold: false,
            kill_tracker: false,
        };
        let eight = SwarmPlan {
            agents: AGENTS,
            ..plan
        };
        progress("roles without work");
        let idle = idle(&folder).await?;
        progress("pushing 1 GiB");
        let push = push(&folder, 1, GIB).await?;
        progress("one agent");
        let one = swarm(&folder, &plan).await?;
        progress("8 agents at once");
        let eight_warm = swarm(&folder, &eight).await?;
        progress("one agent, cold origin over a store");
        let one_cold = swarm(&store, &SwarmPlan { cold: true, ..plan }).await?;
        progress("8 agents at once, cold origin over a store");
        let eight_cold = swarm(
            &store,
            &SwarmPlan {
                cold: true,
                ..eight
            },
        )
        .await?;
        progress("the same, and the tracker is killed");
        let killed = SwarmPlan {
            cold: true,
            kill_tracker: true,
            ..eight
        };
        let tracker_killed = swarm(&store, &killed).await?;
        progress("64 small blobs, cold origin over a store");
        let few = SmallPlan {
            blobs: 64,
            size: 64 << 10,
            agents: AGENTS,
        };
        let small_cold = small(&store, &few).await?;
        Ok(Self {
            machine,
            commit,
            idle,
            push,
            one,
            eight: eight_warm,
            one_cold,
            eight_cold,
            tracker_killed,
            small_cold,
        })
    }
}
