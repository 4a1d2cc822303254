//! Blobs nobody announced: an origin looks into storage, once for all who ask at a time.

use std::collections::btree_map::Entry;

use torrent::{Description, PeerId, Role, SwarmName};

use crate::event::{ConnId, Found, Output};
use crate::message::{AnnounceEvent, Message};
use crate::seed::{Askers, FirstPass, Question};
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

    /// Looks into storage for an agent, or for a tracker where there is no `agent`.
    pub(crate) fn resolve(&mut self, name: SwarmName, owners: Vec<PeerId>, agent: Option<ConnId>) {
        let full = self.origin.resolving.len() >= self.config.policy.max_resolving;
        let question = match self.origin.resolving.entry(name) {
            Entry::Vacant(_) if full => {
                if agent.is_none() {
                    self.storage_failed(&name);
                }
                return;
            }
            Entry::Vacant(vacant) => {
                self.outputs.push_back(Output::Resolve { name });
                vacant.insert(Question::default())
            }
            Entry::Occupied(occupied) => {
                let question = occupied.into_mut();
                question.late.get_or_insert_default();
                question
            }
        };
        if !owners.is_empty() {
            question.owners = owners;
        }
        let Question { askers, late, .. } = question;
        match agent {
            // Who asks twice hears the later answer.
            Some(conn) => {
                if late.is_some() {
                    askers.agents.remove(&conn);
                }
                let agents = &mut late.as_mut().unwrap_or(askers).agents;
                if agents.len() < MAX_ASKERS {
                    agents.insert(conn);
                }
            }
            None => {
                askers.tracker = late.is_none();
                late.as_mut().unwrap_or(askers).tracker = true;
            }
        }
    }

    /// Storage has answered.
    pub(crate) fn resolved(&mut self, now: Time, name: SwarmName, found: Found) {
        let question = self.origin.resolving.remove(&name).unwrap_or_default();
        let Question {
            askers,
            late,
            owners,
        } = question;
        // It was pushed here while storage was asked.
        let is_here = self.torrents.contains_key(&name);
        match found {
            Found::Here(description) => self.source(now, name, description, owners),
            Found::Absent | Found::Failed(_) if is_here => self.announce_source(&name),
            Found::Absent | Found::Failed(_) => {
                let is_absent = matches!(found, Found::Absent);
                // Agents hear it from the tracker, where there is one.
                let late = late.filter(|late| late.tracker || self.trackers_up != Some(true));
                self.not_found(&name, is_absent, &askers, late.is_some());
                if let Some(askers) = late {
                    self.outputs.push_back(Output::Resolve { name });
                    let late = None;
                    let question = Question {
                        askers,
                        late,
                        owners,
                    };
                    self.origin.resolving.insert(name, question);
                }
                return;
            }
        }
        for askers in [Some(askers), late].into_iter().flatten() {
            for conn in askers.agents {
                self.introduce_link(now, conn, &name);
            }
        }
    }

    /// Tells those who asked that storage gave nothing.
    fn not_found(&mut self, name: &SwarmName, is_absent: bool, askers: &Askers, again: bool) {
        if !again {
            self.grants_forgotten(name);
        }
        // A tracker that nobody asked for would take it for the answer to its next question.
        if askers.tracker {
            let absent = is_absent.then_some(AnnounceEvent::Absent);
            self.announce(name, absent.unwrap_or(AnnounceEvent::Failed));
        }
        if !is_absent {
            return;
        }
        // Without a tracker this is how an agent learns it (§7.10).
        for conn in &askers.agents {
            if self.conns.contains_key(conn) {
                let nothing = Message::Bitfield {
                    name: *name,
                    description: None,
                    have: Vec::new(),
                };
                self.send(*conn, nothing);
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
