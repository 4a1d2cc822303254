//! `shoal cert new`: an authority of the cluster, and certificates of roles by it.
//!
//! ```text
//! ca.pem     the authority: `tls.ca` of every process
//! ca.key     its key, which signs certificates; no process needs it
//! ROLE.pem   a certificate: `tls.certificate` of that role
//! ROLE.key   its key: `tls.key`
//! ```

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use service::Role;
use service::tls::{self, Authority, Tls};
use store::durable::put_in_place;

use crate::cli::CertNew;
use crate::output;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority is valid.
const AUTHORITY_DAYS: u32 = 3650;
/// Clocks of machines differ: certificates are valid since a while ago.
const SINCE: Duration = Duration::from_secs(3600);

/// Makes what is missing, and says what it is for.
///
/// # Errors
/// Something is there already, or cannot be written.
pub(crate) fn new(flags: &CertNew) -> anyhow::Result<()> {
    let folder = &flags.out;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let authority = authority(folder)?;
    let mut roles = flags.role.clone();
    if roles.is_empty() {
        roles = Role::ALL.to_vec();
    }
    for role in roles {
        issue(&authority, folder, role, flags)?;
    }
    output::line(format_args!(
        "Give each process its own role's files as `tls`: certificate, key, and {} as ca",
        folder.join("ca.pem").display()
    ))
}

/// Returns the authority of the folder, and makes it where there is none. One that is there is
/// never made anew: nothing it signed would be worth anything.
fn authority(folder: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    let (next_certificate, next_key) = (next_to(&certificate), next_to(&key));
    // An earlier run ended between the two.
    if certificate.exists() && !key.exists() && next_key.exists() {
        put_in_place(&next_key, &key)?;
    }
    match (certificate.exists(), key.exists()) {
        (true, true) => {
            let authority = Authority::of_pem(&read(&certificate)?, &read(&key)?);
            authority.with_context(|| {
                let (certificate, key) = (certificate.display(), key.display());
                format!("{certificate} and {key} cannot be used")
            })
        }
        (false, false) => {
            let (authority, made) = Authority::new(valid(AUTHORITY_DAYS))?;
            write_over(&next_key, &made.key, 0o600)?;
            write_over(&next_certificate, &made.certificate, 0o644)?;
            put_in_place(&next_certificate, &certificate)?;
            put_in_place(&next_key, &key)?;
            output::line(format_args!("{}: a new authority", certificate.display()))?;
            Ok(authority)
        }
        (true, false) => bail!(
            "{} is there, but not its key {}; bring the key from where the authority was made, or \
             make a new authority in another folder",
            certificate.display(),
            key.display()
        ),
        (false, true) => bail!(
            "{} is there, but not its certificate {}; bring it from where the authority was made, \
             or make a new authority in another folder",
            key.display(),
            certificate.display()
        ),
    }
}

fn issue(authority: &Authority, folder: &Path, role: Role, flags: &CertNew) -> anyhow::Result<()> {
    let name = role.as_str();
    let certificate = folder.join(format!("{name}.pem"));
    let key = folder.join(format!("{name}.key"));
    if certificate.exists() && !flags.renew {
        bail!(
            "{} is there already; make it anew with --renew, or name another folder with --out",
            certificate.display()
        );
    }
    let kept = match fs::read_to_string(&key) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("cannot read {}", key.display())),
    };
    let issued = authority.issue(&[role], kept.as_deref(), valid(flags.days))?;
    if kept.is_none() {
        write_new(&key, &issued.key, 0o600)?;
    }
    let next = next_to(&certificate);
    write_over(&next, &issued.certificate, 0o644)?;
    let files = tls::Config {
        certificate: Some(next.clone()),
        key: Some(key),
        ca: Some(folder.join("ca.pem")),
    };
    // What the others would refuse takes the place of nothing.
    if let Err(error) = Tls::check(&files, role) {
        let _ = fs::remove_file(&next);
        return Err(error).context(format!("{} is left as it was", certificate.display()));
    }
    // Whole at once: a process that runs may be looking.
    put_in_place(&next, &certificate)?;
    output::line(format_args!(
        "{}: role {name}, for {} days",
        certificate.display(),
        flags.days
    ))
}

fn valid(days: u32) -> Range<SystemTime> {
    let now = SystemTime::now();
    now - SINCE..now + DAY * days
}

/// Returns where a file is made before it gets its name.
fn next_to(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file in the place of what an earlier run may have left there.
fn write_over(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        Ok(()) | Err(_) => write_new(path, text, mode),
    }
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot make {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn flags(out: &Path, role: &[Role]) -> CertNew {
        CertNew {
            out: out.to_owned(),
            role: role.to_vec(),
            days: 30,
            renew: false,
        }
    }

    #[test]
    fn an_authority_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("inner");
        new(&flags(&out, &[Role::Origin])).unwrap();
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        let (authority, origin) = (read("ca.pem"), read("origin.pem"));
        for name in ["ca.key", "origin.key"] {
            let mode = fs::metadata(out.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        new(&flags(&out, &[Role::Agent])).unwrap();
        assert_eq!(read("ca.pem"), authority);

        let error = new(&flags(&out, &[Role::Origin])).unwrap_err().to_string();
        assert!(error.contains("--renew"), "{error}");
        assert_eq!(read("origin.pem"), origin);
        let key = read("origin.key");
        let renew = CertNew {
            renew: true,
            ..flags(&out, &[Role::Origin])
        };
        new(&renew).unwrap();
        assert_ne!(read("origin.pem"), origin);
        assert_eq!((read("origin.key"), read("ca.pem")), (key, authority));
    }

    #[test]
    fn half_an_authority_is_not_replaced() {
        for missing in ["ca.key", "ca.pem"] {
            let folder = tempfile::tempdir().unwrap();
            new(&flags(folder.path(), &[Role::Proxy])).unwrap();
            fs::remove_file(folder.path().join(missing)).unwrap();
            let error = new(&flags(folder.path(), &[Role::Agent])).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(missing), "{error}");
            assert!(!folder.path().join(missing).exists());
        }
    }

    #[test]
    fn an_authority_that_was_half_made_is_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // Only the key had been written: nobody has seen the certificate.
        fs::write(path("ca.key.new"), "half of a k").unwrap();
        new(&flags(folder.path(), &[Role::Proxy])).unwrap();
        assert!(!path("ca.key.new").exists() && !path("ca.pem.new").exists());
        // The certificate had its name already, and the key had not.
        let authority = fs::read_to_string(path("ca.pem")).unwrap();
        fs::copy(path("ca.key"), path("ca.key.new")).unwrap();
        fs::remove_file(path("ca.key")).unwrap();
        new(&flags(folder.path(), &[Role::Agent])).unwrap();
        assert_eq!(fs::read_to_string(path("ca.pem")).unwrap(), authority);
        assert!(path("ca.key").exists());
    }

    fn renew(out: &Path, role: Role) -> anyhow::Result<()> {
        new(&CertNew {
            renew: true,
            ..flags(out, &[role])
        })
    }

    #[test]
    fn the_key_of_another_authority_changes_nothing() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            new(&flags(folder.path(), &[Role::Proxy])).unwrap();
        }
        let before = fs::read_to_string(one.path().join("proxy.pem")).unwrap();
        fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
        for role in [Role::Agent, Role::Proxy] {
            let error = format!("{:#}", renew(one.path(), role).unwrap_err());
            assert!(error.contains("another cluster"), "{error}");
        }
        assert!(!one.path().join("agent.pem").exists());
        let after = fs::read_to_string(one.path().join("proxy.pem")).unwrap();
        assert_eq!(after, before);
    }
}
