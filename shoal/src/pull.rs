//! `shoal pull`: a client of an agent that writes an image as an OCI image layout.
//!
//! Every blob is checked against its digest before the layout names it; `index.json` is written
//! last, so what it names is whole.

mod image;
mod layout;
mod progress;
mod registry;

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use oci::{Descriptor, Digest, ImageReference, Reference};

use crate::cli::Pull;
use crate::output;
use image::{Fetched, default_folder};
use layout::{BlobFile, Layout};
use progress::{Bar, Progress};
use registry::Registry;

/// Blobs that are fetched at a time.
const CONCURRENCY: usize = 4;
/// Deepest nesting of indexes.
const MAX_DEPTH: usize = 4;
/// Most manifests of one image.
const MAX_MANIFESTS: usize = 1000;

/// Pulls the image.
///
/// # Errors
/// It cannot be had, is not what its digest says, or cannot be written.
pub(crate) async fn run(flags: Pull) -> anyhow::Result<()> {
    let image: ImageReference = flags.image.parse()?;
    let folder = flags.output.unwrap_or_else(|| default_folder(&image));
    let host = image.host.as_deref().unwrap_or(&flags.agent);
    let registry = Registry::new(host, &image.repository)?;
    let root = resolve(&registry, &image.reference(), flags.platform.as_deref()).await?;
    let layout = Layout::open(&folder)?;

    let mut manifests = vec![root.clone()];
    let mut blobs = Vec::new();
    let mut seen = BTreeSet::new();
    collect(&registry, &root, MAX_DEPTH, &mut manifests, &mut blobs).await?;
    blobs.retain(|blob: &Descriptor| seen.insert(blob.digest));

    let progress = Progress::new(&blobs);
    futures_util::stream::iter(&blobs)
        .map(|target| fetch(&registry, &layout, target, &progress))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<()>>()
        .await?;
    for manifest in &manifests {
        layout.write_manifest(manifest)?;
    }
    layout.finish(&root, image.reference().tag())?;
    output::line(format_args!(
        "{} is in {}: {}",
        image,
        folder.display(),
        root.digest
    ))
}

/// Fetches the manifest that the reference means, of the platform that was asked for.
async fn resolve(
    registry: &Registry,
    reference: &Reference,
    platform: Option<&str>,
) -> anyhow::Result<Fetched> {
    let mut manifest = registry.manifest(reference).await?;
    let Some(platform) = platform else {
        return Ok(manifest);
    };
    for _ in 0..MAX_DEPTH {
        if manifest.children().next().is_none() {
            return Ok(manifest);
        }
        let Some(child) = manifest.child_of(platform) else {
            let there = manifest.platforms().join(", ");
            bail!("{reference} has no platform {platform}; it has {there}");
        };
        manifest = registry.manifest(&child.digest.into()).await?;
    }
    bail!("{reference} nests indexes more than {MAX_DEPTH} deep");
}

/// Collects everything below a manifest: further manifests, and the blobs they need.
async fn collect(
    registry: &Registry,
    manifest: &Fetched,
    depth: usize,
    manifests: &mut Vec<Fetched>,
    blobs: &mut Vec<Descriptor>,
) -> anyhow::Result<()> {
    blobs.extend(manifest.blobs().cloned());
    for child in manifest.children() {
        if depth == 0 {
            bail!("the image nests indexes more than {MAX_DEPTH} deep");
        }
        if manifests.iter().any(|there| there.digest == child.digest) {
            continue;
        }
        if manifests.len() == MAX_MANIFESTS {
            bail!("the image has more than {MAX_MANIFESTS} manifests; name one with --platform");
        }
        let child = registry.manifest(&child.digest.into()).await?;
        manifests.push(child.clone());
        Box::pin(collect(registry, &child, depth - 1, manifests, blobs)).await?;
    }
    Ok(())
}

/// Fetches a blob, going on with what an earlier run left.
async fn fetch(
    registry: &Registry,
    layout: &Layout,
    target: &Descriptor,
    progress: &Progress,
) -> anyhow::Result<()> {
    let context = || format!("blob {}", target.digest);
    let bar = progress
        .of(&target.digest)
        .context("every blob has its bar")?;
    let mut file = layout.blob(target).await.with_context(context)?;
    if file.is_right().await.with_context(context)? {
        return bar.done("was there");
    }
    if file.is_full() {
        file.restart().await.with_context(context)?;
    }
    let resumed = file.written() > 0;
    read(registry, &mut file, bar).await.with_context(context)?;
    if resumed && !file.is_right().await.with_context(context)? {
        // What an earlier run left was not a part of this blob.
        file.restart().await.with_context(context)?;
        read(registry, &mut file, bar).await.with_context(context)?;
    }
    if !file.is_right().await.with_context(context)? {
        file.remove().await;
        bail!(
            "the bytes that came are not {}; nothing of them was kept",
            target.digest
        );
    }
    bar.done("pulled")
}

/// Reads a blob to its end. A body that was cut goes on where it ended, as long as each new one
/// brings something.
async fn read(registry: &Registry, file: &mut BlobFile, bar: &Bar) -> anyhow::Result<()> {
    while !file.is_full() {
        let before = file.written();
        bar.set(before);
        let cut = registry.read_into(file, |written| bar.set(written)).await;
        if let Err(error) = cut
            && file.written() <= before
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Fails where bytes are not what their name says.
fn check(name: &Digest, bytes: &[u8]) -> anyhow::Result<()> {
    let actual = Digest::of(name.algorithm(), bytes);
    if actual != *name {
        bail!("what was sent as {name} is {actual}; ask again, or another agent");
    }
    Ok(())
}
