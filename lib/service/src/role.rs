//! Roles, as people, flags and certificates name them.

use std::fmt;
use std::str::FromStr;

/// What a process is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Agent,
    Origin,
    Tracker,
    BuildIndex,
    Proxy,
}

/// A name that no role has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role; write agent, origin, tracker, build-index or proxy")]
pub struct RoleError(pub String);

impl Role {
    /// All of them, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Agent,
        Self::Origin,
        Self::Tracker,
        Self::BuildIndex,
        Self::Proxy,
    ];

    /// Returns its name, as people, flags and folders have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Origin => "origin",
            Self::Tracker => "tracker",
            Self::BuildIndex => "build-index",
            Self::Proxy => "proxy",
        }
    }

    /// Returns the DNS name that a certificate of this role has among its alternative names. Nobody
    /// resolves it.
    #[must_use]
    pub const fn dns_name(self) -> &'static str {
        match self {
            Self::Agent => "agent.shoal.internal",
            Self::Origin => "origin.shoal.internal",
            Self::Tracker => "tracker.shoal.internal",
            Self::BuildIndex => "build-index.shoal.internal",
            Self::Proxy => "proxy.shoal.internal",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| RoleError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_one_role() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert!(role.dns_name().starts_with(role.as_str()));
        }
        for text in ["", "Agent", "build_index"] {
            let error = text.parse::<Role>().unwrap_err().to_string();
            assert!(
                Role::ALL.iter().all(|role| error.contains(role.as_str())),
                "{error}"
            );
        }
    }
}
