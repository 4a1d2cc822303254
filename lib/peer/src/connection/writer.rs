//! The writing task: messages as they come, and between them one frame of payload after the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use service::tls::WriteHalf;
use swarm::{ConnId, Message, wire};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Known, Outgoing, Upload};
use crate::driver::Event;
use crate::metrics::Source;
use crate::node::Inner;

/// Bytes of messages that are put together for one write.
const MAX_CONTROL_BYTES: usize = 64 * 1024;

/// Writes one connection to its end.
pub(super) struct WriteSide {
    node: Arc<Inner>,
    conn: ConnId,
    socket: WriteHalf,
    queue: mpsc::Receiver<Outgoing>,
    known: Arc<Known>,
    events: mpsc::Sender<Event>,
    control: Vec<u8>,
    /// In the order in which they get the next frame, among those of the same priority.
    uploads: Vec<Upload>,
    is_closing: bool,
}

impl WriteSide {
    pub(super) fn new(
        node: Arc<Inner>,
        conn: ConnId,
        socket: WriteHalf,
        queue: mpsc::Receiver<Outgoing>,
        known: Arc<Known>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            node,
            conn,
            socket,
            queue,
            known,
            events,
            control: Vec::new(),
            uploads: Vec::new(),
            is_closing: false,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Some(Err(error)) = stop.run_until_cancelled(self.write()).await else {
            return;
        };
        let conn = self.conn;
        let why = error.to_string();
        let _ = self.events.send(Event::Closed { conn, why }).await;
    }

    async fn write(&mut self) -> io::Result<()> {
        loop {
            while self.control.len() < MAX_CONTROL_BYTES && !self.is_closing {
                match self.queue.try_recv() {
                    Ok(outgoing) => self.take(outgoing),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => self.is_closing = true,
                }
            }
            if !self.control.is_empty() {
                let control = Bytes::from(std::mem::take(&mut self.control));
                self.write_all(control).await?;
                continue;
            }
            if self.is_closing {
                return self.socket.shutdown().await;
            }
            self.uploads
                .retain(|upload| !upload.cancelled.load(Ordering::Relaxed));
            let Some(next) = self.next_upload() else {
                self.wait().await;
                continue;
            };
            match self.node.limiter.blocked_until(Instant::now()) {
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, self.wait()).await;
                }
                None => self.frame(next).await?,
            }
        }
    }

    /// Waits for something to write.
    async fn wait(&mut self) {
        match self.queue.recv().await {
            Some(outgoing) => self.take(outgoing),
            None => self.is_closing = true,
        }
    }

    fn take(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Message(message) => wire::encode(&message, &mut self.control),
            Outgoing::Upload(upload) => self.uploads.push(upload),
            Outgoing::Close => self.is_closing = true,
        }
    }

    fn next_upload(&self) -> Option<usize> {
        let by_urgency = |(_, upload): &(usize, &Upload)| upload.priority;
        let uploads = self.uploads.iter().enumerate();
        uploads.min_by_key(by_urgency).map(|(at, _)| at)
    }

    /// Writes one frame of an upload.
    async fn frame(&mut self, at: usize) -> io::Result<()> {
        let mut upload = self.uploads.remove(at);
        let limit = self.node.limiter.frame_bytes();
        let payload = upload.bytes.split_to(upload.bytes.len().min(limit));
        let last = upload.bytes.is_empty();
        let length = u32::try_from(payload.len()).expect("a frame is at most 256 KiB");
        let header = Message::Data {
            id: upload.id,
            piece: upload.piece,
            offset: upload.offset,
            length,
            last,
        };
        let mut frame = Vec::with_capacity(64);
        wire::encode(&header, &mut frame);
        self.write_all(Bytes::from(frame).chain(payload)).await?;
        self.node.limiter.charge(Instant::now(), length.into());
        self.count(length);
        if last {
            let (conn, id) = (self.conn, upload.id);
            let _ = self.events.send(Event::UploadDone { conn, id }).await;
        } else {
            upload.offset += length;
            self.uploads.push(upload);
        }
        Ok(())
    }

    async fn write_all(&mut self, mut bytes: impl Buf) -> io::Result<()> {
        let patience = self.node.config.write_timeout;
        let written = async {
            self.socket.write_all_buf(&mut bytes).await?;
            // What TLS still holds goes too; plaintext holds nothing.
            self.socket.flush().await
        };
        match tokio::time::timeout(patience, written).await {
            Ok(written) => written,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer does not take what is sent to it",
            )),
        }
    }

    fn count(&self, length: u32) {
        let sent = &self.known.sent_bytes;
        sent.fetch_add(length.into(), Ordering::Relaxed);
        let source = Source::from(self.known.role());
        let counter = self.node.metrics.sent_bytes.get_or_create(&source);
        counter.inc_by(length.into());
    }
}
