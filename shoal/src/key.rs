//! `shoal key new`: the cluster key, before anything runs that would make it.

use crate::cli::KeyNew;
use crate::output;

/// Makes the key, and says where its halves are.
///
/// # Errors
/// There is one already, or it cannot be written.
pub(crate) fn new(flags: &KeyNew) -> anyhow::Result<()> {
    let key = if flags.if_missing {
        origin::key::load_or_create(&flags.secret)?
    } else {
        origin::key::create(&flags.secret)?
    };
    origin::key::write_public(&flags.public, &key.public())?;
    output::line(format_args!(
        "{}: the secret half, for origins only (cluster_key_file)\n\
         {}: the public half, for agents and trackers (cluster_public_key_file)\n\
         {}",
        flags.secret.display(),
        flags.public.display(),
        key.public()
    ))
}
