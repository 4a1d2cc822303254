//! OCI image layouts: `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use oci::{Descriptor, Digest, DigestHasher, Tag};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::pull::image::Fetched;

/// Annotation by which tools find a tag in a layout.
const TAG_KEY: &str = "org.opencontainers.image.ref.name";

/// A layout that is being written.
#[derive(Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
}

impl Layout {
    /// Opens a layout, making it where it is missing.
    ///
    /// # Errors
    /// The folder cannot be made or written.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let layout = Self {
            folder: folder.to_owned(),
        };
        layout.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(layout)
    }

    /// Opens the file of a blob and hashes what is there of it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn blob(&self, target: &Descriptor) -> anyhow::Result<BlobFile> {
        let path = self.folder.join(path_of(&target.digest));
        make_folder_of(&path)?;
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .await
            .with_context(|| unwritable(&path))?;
        let mut hasher = DigestHasher::new(target.digest.algorithm());
        let mut written = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let count = file.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            written += count as u64;
        }
        Ok(BlobFile {
            path,
            file,
            hasher,
            written,
            target: target.clone(),
        })
    }

    /// Writes a manifest.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write_manifest(&self, manifest: &Fetched) -> anyhow::Result<()> {
        self.write(&path_of(&manifest.digest), &manifest.bytes)
    }

    /// Names the image in `index.json`, beside the others that the layout holds.
    ///
    /// # Errors
    /// There is an `index.json` that is none, or those of the file system.
    pub(crate) fn finish(&self, manifest: &Fetched, tag: Option<&Tag>) -> anyhow::Result<()> {
        let path = self.folder.join("index.json");
        let mut index: Value = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "{} is no index; remove it or take another folder",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "manifests": []})
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut entry = serde_json::to_value(manifest.descriptor())?;
        if let Some(tag) = tag {
            entry["annotations"] = json!({TAG_KEY: tag});
        }
        let Some(entries) = index["manifests"].as_array_mut() else {
            bail!(
                "{} is no index; remove it or take another folder",
                path.display()
            );
        };
        let same_tag =
            |there: &Value| tag.is_some_and(|tag| there["annotations"][TAG_KEY] == tag.as_str());
        entries.retain(|there| !same_tag(there) && *there != entry);
        entries.push(entry);
        self.write("index.json", index.to_string().as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        make_folder_of(&path)?;
        std::fs::write(&path, bytes).with_context(|| unwritable(&path))
    }
}

/// A blob on its way to disk.
#[derive(Debug)]
pub(crate) struct BlobFile {
    path: PathBuf,
    file: File,
    hasher: DigestHasher,
    written: u64,
    target: Descriptor,
}

impl BlobFile {
    pub(crate) const fn digest(&self) -> &Digest {
        &self.target.digest
    }

    /// Returns the bytes that are there.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Returns whether all bytes are there, right or wrong.
    pub(crate) const fn is_full(&self) -> bool {
        self.written >= self.target.size
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// More than the manifest says, or those of the file system.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.written + bytes.len() as u64 > self.target.size {
            let (digest, size) = (self.target.digest, self.target.size);
            bail!("more came than the {size} bytes that {digest} has by its manifest");
        }
        self.file
            .write_all(bytes)
            .await
            .with_context(|| unwritable(&self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Returns whether the bytes are those that the digest names.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn is_right(&mut self) -> anyhow::Result<bool> {
        self.file
            .flush()
            .await
            .with_context(|| unwritable(&self.path))?;
        Ok(self.written == self.target.size && self.hasher.clone().finish() == self.target.digest)
    }

    /// Drops what is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        use tokio::io::AsyncSeekExt as _;
        self.file
            .set_len(0)
            .await
            .with_context(|| unwritable(&self.path))?;
        self.file.rewind().await?;
        self.hasher = DigestHasher::new(self.target.digest.algorithm());
        self.written = 0;
        Ok(())
    }

    /// Removes the file.
    pub(crate) async fn remove(self) {
        // What stays would be found wrong by the next run and replaced.
        let _ = tokio::fs::remove_file(&self.path).await;
    }
}

fn path_of(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| unwritable(folder))
}

fn unwritable(path: &Path) -> String {
    format!(
        "{} cannot be written; name another folder with --output",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: u64) -> Fetched {
        let text =
            json!({"schemaVersion": 2, "manifests": [], "annotations": {"n": number.to_string()}});
        let bytes = text.to_string().into_bytes();
        Fetched::parse(Digest::sha256(&bytes), None, bytes).unwrap()
    }

    #[test]
    fn an_index_names_each_tag_once() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let tag = |text: &str| text.parse::<Tag>().unwrap();
        layout.finish(&manifest(1), Some(&tag("v1"))).unwrap();
        layout.finish(&manifest(2), Some(&tag("v2"))).unwrap();
        layout.finish(&manifest(3), Some(&tag("v1"))).unwrap();
        let index = std::fs::read(folder.path().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let entries = index["manifests"].as_array().unwrap().iter();
        let tags: Vec<_> = entries
            .map(|entry| entry["annotations"][TAG_KEY].as_str())
            .collect();
        assert_eq!(tags, [Some("v2"), Some("v1")]);
    }

    #[tokio::test]
    async fn a_blob_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let target = Descriptor::new("a/b", Digest::sha256(b"abcdef"), 6);
        let mut file = layout.blob(&target).await.unwrap();
        file.append(b"abc").await.unwrap();
        assert!(!file.is_right().await.unwrap());
        drop(file);
        let mut file = layout.blob(&target).await.unwrap();
        assert_eq!(file.written(), 3);
        file.append(b"def").await.unwrap();
        assert!(file.is_full() && file.is_right().await.unwrap());
        assert!(file.append(b"g").await.is_err());
        file.restart().await.unwrap();
        file.append(b"xxxxxx").await.unwrap();
        assert!(file.is_full() && !file.is_right().await.unwrap());
    }
}
