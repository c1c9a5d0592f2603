//! A byte stream to an engine, whose sending side can be closed while hyper owns the stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// A byte stream to and from an engine, over any kind of connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream whose sending side can be closed through a channel, while its receiving side remains open.
pub struct Closable {
    stream: Box<dyn Stream>,
    /// Receives the command to close the sending side. `None` after this command, or after the sender was
    /// dropped.
    closed: Option<oneshot::Receiver<()>>,
    is_closing: bool,
}

impl Closable {
    /// Wraps a stream, and returns the channel that closes the sending side of the stream.
    pub fn new(stream: Box<dyn Stream>) -> (Self, oneshot::Sender<()>) {
        let (close, closed) = oneshot::channel();
        (Self { stream, closed: Some(closed), is_closing: false }, close)
    }
}

impl AsyncRead for Closable {
    /// Reads bytes, and closes the sending side after a message on the channel. hyper polls this method while
    /// hyper waits for the response.
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
