//! The disk tree. Nobody else joins paths.
//!
//! ```text
//! <cache>/
//!   lock                    held by the process that uses the cache
//!   blobs/ab/<name>/        one blob; ab are the first two digits, name is <kind>-<hex>
//!     summary               length and root, signed; absent while the blob grows
//!     growing               length and generation, signed; where it once grew
//!     cvs                   log of signed chaining values of that generation
//!     metainfo              all chaining values, proven; absent until they came
//!     data                  the bytes, sparse: as long as the blob from the start
//!     pieces                log of the pieces in `data`, 4 bytes each
//!     complete              empty; there when the log claims all pieces
//!   trash/                  blobs on their way out
//!
//! <uploads>/
//!   lock
//!   <id>                    bytes received so far, appended only
//! ```

use std::path::{Path, PathBuf};

use oci::Digest;
use torrent::SwarmName;

/// A cache's folder.
#[derive(Clone, Debug)]
pub(crate) struct CacheTree(pub(crate) PathBuf);

impl CacheTree {
    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.0.join("trash")
    }

    pub(crate) fn blob(&self, name: &SwarmName) -> BlobTree {
        let text = folder_name(name);
        // The digits after the dash; every name has at least two.
        let digits = text.split_once('-').map_or("00", |(_, hex)| &hex[..2]);
        BlobTree(self.blobs().join(digits).join(text.as_str()))
    }
}

/// A blob's folder.
#[derive(Clone, Debug)]
pub(crate) struct BlobTree(pub(crate) PathBuf);

impl BlobTree {
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    pub(crate) fn summary(&self) -> PathBuf {
        self.0.join("summary")
    }

    pub(crate) fn growing(&self) -> PathBuf {
        self.0.join("growing")
    }

    pub(crate) fn cvs(&self) -> PathBuf {
        self.0.join("cvs")
    }

    pub(crate) fn metainfo(&self) -> PathBuf {
        self.0.join("metainfo")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    pub(crate) fn pieces(&self) -> PathBuf {
        self.0.join("pieces")
    }

    pub(crate) fn complete(&self) -> PathBuf {
        self.0.join("complete")
    }
}

/// Returns the folder name of a blob.
pub(crate) fn folder_name(name: &SwarmName) -> String {
    match name {
        SwarmName::Blob(digest) => format!("{}-{}", digest.algorithm().as_str(), digest.hex()),
        SwarmName::Source(hash) => format!("source-{}", Digest::Sha256(*hash).hex()),
    }
}

/// Returns the blob that a folder is named for.
pub(crate) fn parse_folder_name(text: &str) -> Option<SwarmName> {
    let (kind, hex) = text.split_once('-')?;
    if kind == "source" {
        return match format!("sha256:{hex}").parse() {
            Ok(Digest::Sha256(hash)) => Some(SwarmName::Source(hash)),
            Ok(Digest::Sha512(_)) | Err(_) => None,
        };
    }
    format!("{kind}:{hex}").parse().ok().map(SwarmName::Blob)
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn a_folder_names_its_blob() {
        let names = [
            SwarmName::Blob(Digest::sha256(b"x")),
            SwarmName::Blob(Digest::of(Algorithm::Sha512, b"x")),
            SwarmName::Source([7; 32]),
        ];
        for name in names {
            assert_eq!(parse_folder_name(&folder_name(&name)), Some(name));
        }
        for bad in ["", "sha256", "sha256-00", "md5-00", "source-zz"] {
            assert_eq!(parse_folder_name(bad), None);
        }
    }
}
