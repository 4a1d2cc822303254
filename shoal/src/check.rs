//! `shoal check-config`: whether a file is a configuration.

use crate::cli::{CheckConfig, Role};
use crate::output;
use crate::role::Part;

/// Reads a file as the role would.
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
    // Variables are not the file's fault.
    service::config::load::<P>(Some(&flags.file), [])?;
    Ok(())
}
