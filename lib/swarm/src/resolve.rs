//! Blobs nobody announced: an origin looks into storage, once for all who ask.

use torrent::{Description, PeerId, Role, SwarmName};

use crate::event::{ConnId, Found, Output};
use crate::message::{AnnounceEvent, Message};
use crate::seed::FirstPass;
use crate::swarm::Swarm;
use crate::time::Time;
use crate::torrent::Torrent;

/// Agents that are told when storage has answered about a blob.
const MAX_ASKERS: usize = 1_024;

impl Swarm {
    /// An agent takes part in a blob that is not known here: an origin looks into storage.
    pub(crate) fn asked_about(&mut self, conn: ConnId, name: SwarmName) {
        if self.config.me.role == Role::Origin {
            self.resolve(name, Vec::new(), Some(conn));
        }
    }

    pub(crate) fn resolve(&mut self, name: SwarmName, owners: Vec<PeerId>, asker: Option<ConnId>) {
        let is_new = !self.origin.resolving.contains_key(&name);
        if is_new {
            if self.origin.resolving.len() >= self.config.policy.max_resolving {
                self.grants_forgotten(&name);
                return self.announce(&name, AnnounceEvent::Failed);
            }
            self.outputs.push_back(Output::Resolve { name });
        }
        let question = self.origin.resolving.entry(name).or_default();
        if !owners.is_empty() {
            question.owners = owners;
        }
        if question.askers.len() < MAX_ASKERS {
            question.askers.extend(asker);
        }
    }

    /// Storage has answered.
    pub(crate) fn resolved(&mut self, now: Time, name: SwarmName, found: Found) {
        let question = self.origin.resolving.remove(&name).unwrap_or_default();
        match found {
            Found::Here(description) => {
                self.source(now, name, description, question.owners);
                for conn in question.askers {
                    self.introduce_link(now, conn, &name);
                }
            }
            Found::Absent => {
                self.grants_forgotten(&name);
                self.announce(&name, AnnounceEvent::Absent);
                // Without a tracker this is how an agent learns it (§7.9).
                for conn in question.askers {
                    if self.conns.contains_key(&conn) {
                        let nothing = Message::Bitfield {
                            name,
                            description: None,
                            have: Vec::new(),
                        };
                        self.send(conn, nothing);
                    }
                }
            }
            Found::Failed(_) => {
                self.grants_forgotten(&name);
                self.announce(&name, AnnounceEvent::Failed);
            }
        }
    }

    /// The blob is in storage, whole or growing.
    fn source(
        &mut self,
        now: Time,
        name: SwarmName,
        description: Description,
        owners: Vec<PeerId>,
    ) {
        if self.torrents.contains_key(&name) {
            return self.announce_source(&name);
        }
        let pieces = description.geometry().pieces();
        let mut torrent = Torrent::new(now);
        let mut pass = FirstPass::new(pieces);
        pass.owners = owners;
        torrent.pass = Some(pass);
        match description {
            Description::Complete(_) => {
                self.torrents.insert(name, torrent);
                self.seed(now, description);
            }
            Description::Growing(_) => {
                torrent.description = Some(description);
                torrent.size_sets(pieces);
                self.torrents.insert(name, torrent);
                self.announce_source(&name);
                self.outputs.push_back(Output::Open { description });
            }
        }
    }

    /// The next piece of a growing blob is here.
    pub(crate) fn hashed(&mut self, now: Time, name: SwarmName, piece: u32) {
        let Some(torrent) = self.torrents.get_mut(&name) else {
            return;
        };
        torrent.known.insert(piece);
        if torrent.have.insert(piece) {
            self.announce_piece(now, &name, piece);
            self.start_uploads(now);
        }
    }

    pub(crate) fn storage_failed(&mut self, name: &SwarmName) {
        self.grants_forgotten(name);
        self.announce(name, AnnounceEvent::Failed);
    }
}
