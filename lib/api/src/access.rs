//! Which role may do what, where certificates say who has which.

use service::Role;
use service::access::{Access, Row};
use service::tls::Caller;
use torrent::Peer;

/// Of an origin. What no row is about is between origins.
pub static ORIGIN: Access = Access {
    rows: &[
        Row {
            path: "/v1/uploads",
            reads: &[Role::Proxy, Role::Origin],
            writes: &[Role::Proxy, Role::Origin],
        },
        Row {
            path: "/v1/blobs",
            reads: &[Role::Proxy, Role::Origin],
            writes: &[Role::Proxy, Role::Origin],
        },
    ],
    others: &[Role::Origin],
};

/// Of a build-index. What no row is about is between build-indexes.
pub static BUILD_INDEX: Access = Access {
    rows: &[Row {
        path: "/v1/repositories",
        reads: &[Role::Agent, Role::Proxy, Role::BuildIndex],
        writes: &[Role::Proxy, Role::BuildIndex],
    }],
    others: &[Role::BuildIndex],
};

/// Returns the role that a certificate must have for one of the wire protocol. Origins may do what
/// agents may not: revoke complete blobs, answer for storage, be asked by grants.
#[must_use]
pub const fn of_peer(role: torrent::Role) -> Role {
    match role {
        torrent::Role::Agent => Role::Agent,
        torrent::Role::Origin => Role::Origin,
        torrent::Role::Tracker => Role::Tracker,
    }
}

/// Somebody said in HELLO to be what its certificate is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it says that it is {claimed}, and its certificate is of role {caller}; check which certificate \
     is configured there"
)]
pub struct Impostor {
    claimed: Role,
    caller: Caller,
}

/// Checks a HELLO against the certificate of whoever said it.
///
/// # Errors
/// [`Impostor`].
pub fn check_hello(caller: Caller, peer: &Peer) -> Result<(), Impostor> {
    let claimed = of_peer(peer.role);
    if caller.may_be(claimed) {
        Ok(())
    } else {
        Err(Impostor { claimed, caller })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use torrent::PeerId;

    use super::*;
    use crate::{build_index, origin};

    fn of(role: Role) -> Caller {
        Caller::Known([role].into_iter().collect())
    }

    /// Who may, of all roles, in the order of the enum.
    fn who(access: &Access, method: &Method, path: &str) -> Vec<Role> {
        let mut roles = Role::ALL.to_vec();
        roles.retain(|role| access.allows(of(*role), method, path));
        roles
    }

    #[test]
    fn the_table_of_origins() {
        use Role::{Origin, Proxy};
        for (method, path, roles) in [
            (Method::POST, origin::UPLOADS, vec![Origin, Proxy]),
            (Method::PATCH, origin::UPLOAD, vec![Origin, Proxy]),
            (Method::GET, origin::BLOB, vec![Origin, Proxy]),
            (Method::HEAD, origin::METAINFO, vec![Origin, Proxy]),
            (Method::DELETE, origin::BLOB, vec![Origin, Proxy]),
            (Method::POST, origin::VERIFY, vec![Origin, Proxy]),
            (Method::GET, "/v1/held/key", vec![Origin]),
            (Method::GET, "/v1/uploads-of-others", vec![Origin]),
        ] {
            assert_eq!(who(&ORIGIN, &method, path), roles, "{method} {path}");
        }
    }

    #[test]
    fn the_table_of_build_indexes() {
        use Role::{Agent, BuildIndex, Proxy};
        let readers = vec![Agent, BuildIndex, Proxy];
        for (method, path, roles) in [
            (Method::GET, build_index::MANIFEST, readers.clone()),
            (Method::HEAD, build_index::BLOB, readers.clone()),
            (Method::GET, build_index::REPOSITORIES, readers),
            (Method::PUT, build_index::MANIFEST, vec![BuildIndex, Proxy]),
            (Method::DELETE, build_index::BLOB, vec![BuildIndex, Proxy]),
            (Method::GET, "/v1/else", vec![BuildIndex]),
        ] {
            assert_eq!(who(&BUILD_INDEX, &method, path), roles, "{method} {path}");
        }
    }

    #[test]
    fn a_peer_is_what_its_certificate_is() {
        for claimed in [
            torrent::Role::Agent,
            torrent::Role::Origin,
            torrent::Role::Tracker,
        ] {
            let peer = Peer {
                id: PeerId::new([1; 20]),
                role: claimed,
                zone: "".into(),
                addr: "a:1".into(),
            };
            for role in Role::ALL {
                let checked = check_hello(of(role), &peer);
                assert_eq!(checked.is_ok(), of_peer(claimed) == role, "{role}");
            }
            assert_eq!(check_hello(Caller::Anybody, &peer), Ok(()));
        }
    }
}
