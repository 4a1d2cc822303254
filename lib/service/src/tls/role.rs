//! Roles, as certificates name them.

use std::fmt;

/// What a process is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Agent,
    Origin,
    Tracker,
    BuildIndex,
    Proxy,
}

impl Role {
    /// All of them, in the order of the enum.
    pub const ALL: [Self; 5] = [
        Self::Agent,
        Self::Origin,
        Self::Tracker,
        Self::BuildIndex,
        Self::Proxy,
    ];

    /// Returns its name, as people write it.
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

    const fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Roles of one certificate; a process may have several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Role::ALL.into_iter().filter(|role| self.has(*role));
        let names: Vec<_> = names.map(Role::as_str).collect();
        if names.is_empty() {
            return f.write_str("no role");
        }
        f.write_str(&names.join(", "))
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// In plaintext everybody is whoever it says.
    Anybody,
    /// Its certificate has these roles.
    Known(Roles),
}

impl Caller {
    /// Returns whether it may act as one of this role.
    #[must_use]
    pub const fn may_be(self, role: Role) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(roles) => roles.has(role),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Known(roles) => roles.fmt(f),
        }
    }
}
