//! A peer of which only its words are real.

use swarm::{Message, wire};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use torrent::{Bitfield, Description, PeerId, Role};

use super::{Content, Member, peer};

/// Says to have all of a blob, and leaves.
pub(super) async fn visit(agent: &Member, content: &Content, number: u8) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let me = peer(&listener, PeerId::new([number; 20]), Role::Agent);
    let version = swarm::message::VERSION;
    let summary = *content.metainfo.summary();
    let bitfield = Message::Bitfield {
        name: content.name,
        description: Some(Description::Complete(summary)),
        have: Bitfield::full(summary.geometry()).to_bytes(),
    };
    let mut said = Vec::new();
    for message in [Message::Hello { version, me }, bitfield] {
        wire::encode(&message, &mut said);
    }
    let addr = &*agent.node.me().addr;
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&said).await.unwrap();
}
