//! Reads the bodies of HTTP requests.

use std::io::{self, BufRead, Read};

/// A reader of a request body, which removes the transfer encoding.
pub enum Body<R> {
    Known(io::Take<R>),
    /// A chunked body, from which the reader removes the sizes and line endings of the chunks.
    Chunked {
        reader: R,
        left: usize,
        is_over: bool,
    },
}

impl<R: BufRead> Body<R> {
    pub fn of(headers: &[(String, String)], reader: R) -> Self {
        let header = |name: &str| headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        if header("transfer-encoding").is_some_and(|(_, value)| value == "chunked") {
            return Self::Chunked { reader, left: 0, is_over: false };
        }
        let length = header("content-length").and_then(|(_, length)| length.parse().ok()).unwrap_or(0);
        Self::Known(reader.take(length))
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Known(body) => body.read(buffer),
            Self::Chunked { is_over: true, .. } => Ok(0),
            Self::Chunked { reader, left, is_over } => {
                let mut line = String::new();
                if *left == 0 {
                    reader.read_line(&mut line)?;
                    *left = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                }
                if *left == 0 {
                    *is_over = true;
                    return reader.read_line(&mut line).map(|_| 0);
                }
                let most = buffer.len().min(*left);
                let read = reader.read(&mut buffer[..most])?;
                *left -= read;
                if *left == 0 {
                    reader.read_line(&mut line)?;
                }
                Ok(read)
            }
        }
    }
}
