//! A byte stream to an engine, whose sending side can be closed from outside.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Bytes in both directions, whatever carries them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream whose way out can be closed from elsewhere, and whose way in stays open.
pub struct Closable {
    stream: Box<dyn Stream>,
    /// `None`: it is closed, or never will be.
    closed: Option<oneshot::Receiver<()>>,
    is_closing: bool,
}

impl Closable {
    /// The stream, and what closes its way out.
    pub fn new(stream: Box<dyn Stream>) -> (Self, oneshot::Sender<()>) {
        let (close, closed) = oneshot::channel();
        (Self { stream, closed: Some(closed), is_closing: false }, close)
    }
}

impl AsyncRead for Closable {
    /// hyper waits here for the answer, so this is where it is seen that nothing more is to be sent.
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(closed) = &mut self.closed
            && let Poll::Ready(told) = Pin::new(closed).poll(cx)
        {
            self.is_closing = told.is_ok();
            self.closed = None;
        }
        if self.is_closing && Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
            self.is_closing = false;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Closable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
