//! What must hold of a swarm at every moment: named rules, checked by the simulator after each
//! drain, and by tests. None of them looks at every piece, so that checking stays cheap.

use crate::swarm::Swarm;
use crate::timers::Timer;

/// A breach of what must always hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {detail}")]
pub struct Broken {
    /// The rule.
    pub rule: &'static str,
    pub detail: String,
}

type Rule = (&'static str, fn(&Swarm) -> Result<(), String>);

const RULES: &[Rule] = &[
    ("open requests are counted", open_requests_are_counted),
    ("open requests are bounded", open_requests_are_bounded),
    ("unchecked bytes are counted", unchecked_bytes_are_counted),
    ("requests and pieces agree", requests_and_pieces_agree),
    ("links and connections agree", links_and_connections_agree),
    ("uploads are sound", uploads_are_sound),
    ("nobody is left waiting", nobody_is_left_waiting),
    ("collections are bounded", collections_are_bounded),
];

pub(crate) fn check(swarm: &Swarm) -> Result<(), Broken> {
    for (rule, holds) in RULES {
        holds(swarm).map_err(|detail| Broken { rule, detail })?;
    }
    Ok(())
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

fn open_requests_are_counted(swarm: &Swarm) -> Result<(), String> {
    let mut sum = 0;
    for (conn, connection) in &swarm.conns {
        let live = connection.open.values().filter(|one| !one.cancelled);
        let live = live.count();
        ensure(live == connection.live, || {
            format!("{conn:?}: {live}, not {}", connection.live)
        })?;
        sum += live;
    }
    ensure(sum == swarm.open, || format!("{sum}, not {}", swarm.open))
}

/// The cap is one of ordinary requests: grants and what a reader is blocked on come on top, and it
/// sinks with the measured rate.
fn open_requests_are_bounded(swarm: &Swarm) -> Result<(), String> {
    let policy = &swarm.config.policy;
    for (conn, connection) in &swarm.conns {
        let max = if swarm.is_served_by(*conn) {
            usize::MAX
        } else {
            policy.max_open_per_peer
        };
        ensure(connection.live <= max, || {
            format!("{} at {conn:?}", connection.live)
        })?;
    }
    Ok(())
}

fn unchecked_bytes_are_counted(swarm: &Swarm) -> Result<(), String> {
    let torrents = swarm.torrents.values();
    let sum: u64 = torrents.map(crate::torrent::Torrent::checking_bytes).sum();
    ensure(sum == swarm.checking_bytes, || {
        format!("{sum}, not {}", swarm.checking_bytes)
    })
}

/// A piece is asked for where the books say so, by at most three live requests, and only while it
/// is missing.
fn requests_and_pieces_agree(swarm: &Swarm) -> Result<(), String> {
    for (name, torrent) in &swarm.torrents {
        for (piece, asked) in &torrent.asked {
            ensure(!asked.is_empty() && asked.len() <= 3, || {
                format!(
                    "piece {piece} of {name} is asked for by {} requests",
                    asked.len()
                )
            })?;
            ensure(!torrent.have.contains(*piece), || {
                format!("piece {piece} of {name} is here and asked for")
            })?;
            for (conn, id) in asked {
                let request = swarm.conns.get(conn).and_then(|one| one.open.get(id));
                let agrees = request.is_some_and(|request| {
                    !request.cancelled && request.name == *name && request.piece == Some(*piece)
                });
                ensure(agrees, || {
                    format!("piece {piece} of {name}: no request {id:?} at {conn:?}")
                })?;
            }
            if let Some(picker) = &torrent.picker {
                ensure(!picker.free().contains(*piece), || {
                    format!("piece {piece} of {name} is asked for and free")
                })?;
            }
        }
    }
    Ok(())
}

fn links_and_connections_agree(swarm: &Swarm) -> Result<(), String> {
    for (name, torrent) in &swarm.torrents {
        for conn in torrent.links.keys() {
            let connection = swarm.conns.get(conn);
            ensure(
                connection.is_some_and(|one| one.names.contains(name)),
                || format!("{name} has a link on {conn:?}, which does not know it"),
            )?;
        }
    }
    for (peer, conn) in &swarm.peers {
        let known = swarm.conns.get(conn).and_then(|one| one.peer.as_ref());
        ensure(known.is_some_and(|known| known.id == *peer), || {
            format!("{peer} is not at {conn:?}")
        })?;
    }
    Ok(())
}

fn uploads_are_sound(swarm: &Swarm) -> Result<(), String> {
    ensure(swarm.uploads.is_sound(), || "the books differ".to_owned())?;
    let mut last = None;
    for conn in swarm.uploads.receivers() {
        ensure(last != Some(conn), || format!("two uploads to {conn:?}"))?;
        last = Some(conn);
    }
    for conn in swarm.uploads.conns() {
        ensure(swarm.conns.contains_key(&conn), || {
            format!("an upload to {conn:?}, which is closed")
        })?;
        ensure(swarm.timers.is_armed(Timer::Queued(conn)), || {
            format!("{conn:?} waits and will not be told so")
        })?;
    }
    Ok(())
}

/// Whoever lacks something has a timer that looks for it, and whoever owes something is watched.
fn nobody_is_left_waiting(swarm: &Swarm) -> Result<(), String> {
    for (name, torrent) in &swarm.torrents {
        ensure(
            !torrent.is_hungry() || swarm.timers.is_armed(Timer::Torrent(*name)),
            || format!("{name} is wanted and nothing is due"),
        )?;
    }
    for conn in swarm.conns.keys() {
        ensure(swarm.timers.is_armed(Timer::Connection(*conn)), || {
            format!("nobody looks after {conn:?}")
        })?;
    }
    Ok(())
}

fn collections_are_bounded(swarm: &Swarm) -> Result<(), String> {
    let policy = &swarm.config.policy;
    ensure(swarm.back_off.len() <= policy.max_back_offs, || {
        format!("{} peers are left alone", swarm.back_off.len())
    })?;
    ensure(swarm.uploads.waiting() <= policy.max_waiting, || {
        format!("{} requests wait", swarm.uploads.waiting())
    })
}
