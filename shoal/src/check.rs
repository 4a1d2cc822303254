//! `shoal check-config`: whether a file is a configuration.

use anyhow::Context as _;
use service::Role;

use crate::cli::CheckConfig;
use crate::role::Part;
use crate::{output, serve};

/// Reads a file as the role would: with what the environment sets, and refusing what a start would
/// refuse. Only what others have to say (disk, network) is not asked.
///
/// # Errors
/// What is wrong with it, where, and what to write instead.
pub(crate) fn run(flags: &CheckConfig) -> anyhow::Result<()> {
    match flags.role {
        Role::Agent => read::<agent::Config>(flags)?,
        Role::Origin => read::<origin::Config>(flags)?,
        Role::Tracker => read::<tracker::Config>(flags)?,
        Role::BuildIndex => read::<build_index::Config>(flags)?,
        Role::Proxy => read::<proxy::Config>(flags)?,
    }
    output::line(format_args!("{} is right", flags.file.display()))
}

fn read<P: Part>(flags: &CheckConfig) -> anyhow::Result<()> {
    let config: P = service::config::load(Some(&flags.file), serve::variables())?;
    let checked = config.check();
    checked.with_context(|| flags.file.display().to_string())
}
