//! The buffers that a device and this program pass to and fro ("Streaming I/O (Memory Mapping)").
//!
//! One type for cameras and for both sides of an encoder, single- and multi-planar. The `v4l` crate's
//! own stream ignores error flags, cannot be used after an error and panics when it is dropped then.
//! Pictures whose planes lie in several pieces of memory are left out.
#![expect(unsafe_code, reason = "mmap, and unions of C")]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use v4l::v4l_sys as sys;

use super::request::{DQBUF, QBUF, QUERYBUF, REQBUFS, Request, STREAMOFF, STREAMON, zeroed};
use super::{Device, Kind, failure};
use crate::clock;
use crate::video::VideoError;

const MMAP: u32 = sys::v4l2_memory_V4L2_MEMORY_MMAP;

/// Most planes of a buffer (`VIDEO_MAX_PLANES`).
const MAX_PLANES: usize = 8;

/// A buffer that the device is done with.
#[derive(Debug)]
pub(in crate::video) struct Filled {
    pub(in crate::video) index: u32,
    start: usize,
    end: usize,
    /// The driver says that the content is damaged.
    pub(in crate::video) is_damaged: bool,
    /// By the driver's clock; encoders copy what was queued.
    pub(in crate::video) timestamp: Duration,
    /// The same as a time, if it is one; otherwise now.
    pub(in crate::video) captured_at: Instant,
}

/// One queue of a device. Dropping it stops it.
#[derive(Debug)]
pub(in crate::video) struct Queue {
    kind: Kind,
    buffers: Vec<Mapping>,
    device: Arc<Device>,
}

impl Queue {
    /// Asks for `count` buffers; the driver may give another number of them.
    pub(in crate::video) fn allocate(
        device: &Arc<Device>,
        kind: Kind,
        count: u32,
    ) -> Result<Self, VideoError> {
        let mut request: sys::v4l2_requestbuffers = zeroed();
        request.count = count;
        request.type_ = kind.code();
        request.memory = MMAP;
        device.call(&REQBUFS, &mut request)?;
        let mut queue = Self {
            kind,
            buffers: Vec::new(),
            device: Arc::clone(device),
        };
        for index in 0..request.count {
            let mut buffer = RawBuffer::new(kind, index);
            buffer.call(device, &QUERYBUF)?;
            let (length, offset) = buffer.place();
            let mapping = Mapping::new(&device.file, length, offset);
            let mapping = mapping.map_err(|error| failure(device.path(), "mmap", error))?;
            queue.buffers.push(mapping);
        }
        Ok(queue)
    }

    /// Gives the device all buffers to fill.
    pub(in crate::video) fn give_all(&self) -> Result<(), VideoError> {
        self.indices().try_for_each(|index| self.give(index))
    }

    pub(in crate::video) fn start(&self) -> Result<(), VideoError> {
        self.device.call(&STREAMON, &mut self.kind_as_int())
    }

    pub(in crate::video) fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.buffers.len()).unwrap_or(u32::MAX)
    }

    pub(in crate::video) fn path(&self) -> &Path {
        self.device.path()
    }

    pub(in crate::video) fn device(&self) -> &Device {
        &self.device
    }

    /// Waits up to `timeout` for a filled buffer. Hand it back with [`Self::give_back`].
    pub(in crate::video) fn next(&self, timeout: Duration) -> Result<Option<Filled>, VideoError> {
        let events = self.device.wait(libc::POLLIN | libc::POLLPRI, timeout)?;
        if events == 0 {
            return Ok(None);
        }
        if events & libc::POLLPRI != 0 && self.device.has_changed_signal() {
            let path = self.path().to_owned();
            return Err(VideoError::SignalChanged { path });
        }
        let filled = self.dequeue()?;
        // Nothing there although poll said so: with an error it would say so for ever.
        if filled.is_none() && events & (libc::POLLERR | libc::POLLHUP) != 0 {
            let error = io::Error::from_raw_os_error(libc::EIO);
            return Err(failure(self.path(), "poll", error));
        }
        Ok(filled)
    }

    /// Takes a buffer that the device is done with, if there is one.
    pub(in crate::video) fn dequeue(&self) -> Result<Option<Filled>, VideoError> {
        let mut buffer = RawBuffer::new(self.kind, 0);
        match self.device.ioctl_of(&DQBUF, &mut buffer) {
            Ok(()) => Ok(Some(self.filled(&buffer))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(failure(self.path(), DQBUF.name, error)),
        }
    }

    /// Returns what the device wrote.
    pub(in crate::video) fn bytes(&self, filled: &Filled) -> &[u8] {
        let mapping = self.mapping(filled.index).map(Mapping::bytes);
        mapping
            .and_then(|bytes| bytes.get(filled.start..filled.end))
            .unwrap_or_default()
    }

    /// Lets the device fill the buffer again.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "its bytes must not be read afterwards"
    )]
    pub(in crate::video) fn give_back(&self, filled: Filled) -> Result<(), VideoError> {
        self.give(filled.index)
    }

    fn give(&self, index: u32) -> Result<(), VideoError> {
        RawBuffer::new(self.kind, index).call(&self.device, &QBUF)
    }

    /// Writes a picture into a buffer that the device does not hold, and gives it to the device.
    pub(in crate::video) fn give_written(
        &mut self,
        index: u32,
        timestamp: Duration,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), VideoError> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let mapping = self.buffers.get_mut(place);
        let used = mapping.map_or(0, |mapping| write(mapping.bytes_mut()));
        let mut buffer = RawBuffer::new(self.kind, index);
        buffer.set_used(u32::try_from(used).unwrap_or(u32::MAX));
        buffer.raw.field = sys::v4l2_field_V4L2_FIELD_NONE;
        buffer.raw.timestamp.tv_sec = timestamp.as_secs().try_into().unwrap_or_default();
        buffer.raw.timestamp.tv_usec = (timestamp.as_micros() % 1_000_000)
            .try_into()
            .unwrap_or_default();
        buffer.call(&self.device, &QBUF)
    }

    fn filled(&self, buffer: &RawBuffer) -> Filled {
        let raw = &buffer.raw;
        let room = self.mapping(raw.index).map_or(0, |mapping| mapping.length);
        let (start, end) = buffer.used();
        let is_time =
            raw.flags & sys::V4L2_BUF_FLAG_TIMESTAMP_MASK == sys::V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        let seconds = u64::try_from(raw.timestamp.tv_sec).unwrap_or_default();
        let micros = u64::try_from(raw.timestamp.tv_usec).unwrap_or_default();
        let timestamp = Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros));
        Filled {
            index: raw.index,
            start,
            end: end.min(room),
            is_damaged: raw.flags & sys::V4L2_BUF_FLAG_ERROR != 0,
            timestamp,
            captured_at: if is_time {
                clock::from_monotonic(timestamp)
            } else {
                clock::now()
            },
        }
    }

    fn mapping(&self, index: u32) -> Option<&Mapping> {
        self.buffers.get(usize::try_from(index).ok()?)
    }

    fn kind_as_int(&self) -> c_int {
        c_int::try_from(self.kind.code()).unwrap_or_default()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // An unplugged device refuses, and closing it stops it as well.
        let _refused = self.device.ioctl(&STREAMOFF, &mut self.kind_as_int());
    }
}

/// What is passed with each ioctl on a buffer, with the planes it may point to.
struct RawBuffer {
    raw: sys::v4l2_buffer,
    planes: [sys::v4l2_plane; MAX_PLANES],
    has_planes: bool,
}

impl RawBuffer {
    fn new(kind: Kind, index: u32) -> Self {
        let mut raw: sys::v4l2_buffer = zeroed();
        raw.index = index;
        raw.type_ = kind.code();
        raw.memory = MMAP;
        Self {
            raw,
            planes: std::array::from_fn(|_| zeroed()),
            has_planes: kind.has_planes(),
        }
    }

    fn call(
        &mut self,
        device: &Device,
        request: &Request<sys::v4l2_buffer>,
    ) -> Result<(), VideoError> {
        let result = device.ioctl_of(request, self);
        result.map_err(|error| failure(device.path(), request.name, error))
    }

    fn set_used(&mut self, bytes: u32) {
        self.raw.bytesused = bytes;
        let [plane, ..] = &mut self.planes;
        plane.bytesused = bytes;
    }

    /// Returns where the content of a dequeued buffer begins and ends.
    fn used(&self) -> (usize, usize) {
        let [plane, ..] = &self.planes;
        let (start, end) = if self.has_planes {
            (plane.data_offset, plane.bytesused)
        } else {
            (0, self.raw.bytesused)
        };
        let bytes = |n| usize::try_from(n).unwrap_or(usize::MAX);
        (bytes(start), bytes(end))
    }

    /// Returns length and offset of a buffer that was asked about.
    fn place(&self) -> (u32, u32) {
        let [plane, ..] = &self.planes;
        if self.has_planes {
            // SAFETY: for memory-mapped buffers the driver answers with an offset, a plain integer.
            (plane.length, unsafe { plane.m.mem_offset })
        } else {
            // SAFETY: as above.
            (self.raw.length, unsafe { self.raw.m.offset })
        }
    }
}

impl Device {
    fn ioctl_of(
        &self,
        request: &Request<sys::v4l2_buffer>,
        buffer: &mut RawBuffer,
    ) -> io::Result<()> {
        if buffer.has_planes {
            buffer.raw.length = u32::try_from(MAX_PLANES).unwrap_or_default();
            buffer.raw.m.planes = buffer.planes.as_mut_ptr();
        }
        self.ioctl(request, &mut buffer.raw)
    }
}

/// One buffer of the driver in our address space.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to this value alone and is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(file: &File, length: u32, offset: u32) -> io::Result<Self> {
        let length = usize::try_from(length).unwrap_or_default();
        // SAFETY: a new mapping at an address that the kernel chooses; it touches no memory of ours.
        let start = unsafe {
            libc::mmap64(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                libc::off64_t::from(offset),
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, length })
    }

    const fn bytes(&self) -> &[u8] {
        // SAFETY: `length` bytes are mapped and initialized (the kernel zeroes them) until `drop`.
        // The driver writes to them only while the buffer is queued, and [`Queue::bytes`] is called
        // only with a `Filled`, which exists only while it is not.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively. A driver that holds the buffer reads
        // it, and sees a mixture of two pictures at worst.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `mmap` returned, and no slice of it outlives `self`.
        let _status = unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
