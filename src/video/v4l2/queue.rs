//! The buffers that a device and this program pass to and fro ("Streaming I/O (Memory Mapping)").
//!
//! One type for cameras and for both sides of an encoder, single- and multi-planar; its memory is the
//! driver's own, or another device's (`memory`). The `v4l` crate's own stream ignores error flags,
//! cannot be used after an error and panics when it is dropped then. Pictures whose planes lie in
//! several pieces of memory are left out.
#![expect(unsafe_code, reason = "unions of C")]

use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use v4l::v4l_sys as sys;

use super::memory::{Exported, Mapping};
use super::request::{
    DQBUF, EXPBUF, QBUF, QUERYBUF, REQBUFS, Request, STREAMOFF, STREAMON, zeroed,
};
use super::{Device, Kind, failure};
use crate::clock;
use crate::video::VideoError;

/// Most planes of a buffer (`VIDEO_MAX_PLANES`).
const MAX_PLANES: usize = 8;

/// A buffer that the device is done with.
#[derive(Debug)]
pub(in crate::video) struct Filled {
    pub(in crate::video) index: u32,
    pub(in crate::video) start: usize,
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
    memory: Memory,
    device: Arc<Device>,
}

/// Where the pictures of a queue lie.
#[derive(Debug)]
enum Memory {
    /// In the driver's own buffers.
    Own(Vec<Mapping>),
    /// In those of another device.
    Foreign(Arc<[Exported]>),
}

impl Memory {
    const fn code(&self) -> u32 {
        match self {
            Self::Own(_) => sys::v4l2_memory_V4L2_MEMORY_MMAP,
            Self::Foreign(_) => sys::v4l2_memory_V4L2_MEMORY_DMABUF,
        }
    }
}

impl Queue {
    /// Asks for `count` buffers; the driver may give another number of them.
    pub(in crate::video) fn allocate(
        device: &Arc<Device>,
        kind: Kind,
        count: u32,
    ) -> Result<Self, VideoError> {
        let own = Memory::Own(Vec::with_capacity(
            usize::try_from(count).unwrap_or_default(),
        ));
        let (mut queue, given) = Self::request(device, kind, own, count)?;
        for index in 0..given {
            let mut buffer = queue.buffer(index);
            buffer.call(device, &QUERYBUF)?;
            let (length, offset) = buffer.place();
            let mapping = Mapping::new(&device.file, length, offset);
            let mapping = mapping.map_err(|error| failure(device.path(), "mmap", error))?;
            if let Memory::Own(mappings) = &mut queue.memory {
                mappings.push(mapping);
            }
        }
        Ok(queue)
    }

    /// Takes what lies in another device's buffers, each under its number there.
    pub(in crate::video) fn import(
        device: &Arc<Device>,
        kind: Kind,
        buffers: Arc<[Exported]>,
    ) -> Result<Self, VideoError> {
        let count = u32::try_from(buffers.len()).unwrap_or(u32::MAX);
        let (queue, given) = Self::request(device, kind, Memory::Foreign(buffers), count)?;
        if given < count {
            let error = io::Error::from_raw_os_error(libc::ENOBUFS);
            return Err(failure(device.path(), REQBUFS.name, error));
        }
        Ok(queue)
    }

    fn request(
        device: &Arc<Device>,
        kind: Kind,
        memory: Memory,
        count: u32,
    ) -> Result<(Self, u32), VideoError> {
        let mut request: sys::v4l2_requestbuffers = zeroed();
        request.count = count;
        request.type_ = kind.code();
        request.memory = memory.code();
        device.call(&REQBUFS, &mut request)?;
        let queue = Self {
            kind,
            memory,
            device: Arc::clone(device),
        };
        Ok((queue, request.count))
    }

    /// Lets another device read the buffers. Both hold the memory until they are done with it, so
    /// either may go first.
    pub(in crate::video) fn export(&self) -> Result<Arc<[Exported]>, VideoError> {
        let export = |index| Exported::of(&self.device, self.kind, index);
        let all: io::Result<Vec<_>> = self.indices().map(export).collect();
        let all = all.map_err(|source| VideoError::Driver {
            path: self.path().to_owned(),
            operation: EXPBUF.name,
            source,
        })?;
        Ok(all.into())
    }

    /// Gives the device all buffers to fill.
    pub(in crate::video) fn give_all(&self) -> Result<(), VideoError> {
        self.indices().try_for_each(|index| self.give(index))
    }

    pub(in crate::video) fn start(&self) -> Result<(), VideoError> {
        self.device.call(&STREAMON, &mut self.kind_as_int())
    }

    pub(in crate::video) fn indices(&self) -> impl Iterator<Item = u32> + use<> {
        let count = match &self.memory {
            Memory::Own(mappings) => mappings.len(),
            Memory::Foreign(buffers) => buffers.len(),
        };
        0..u32::try_from(count).unwrap_or(u32::MAX)
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
        let mut buffer = self.buffer(0);
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

    /// The same by its number, of one that was lent to another device.
    pub(in crate::video) fn give(&self, index: u32) -> Result<(), VideoError> {
        self.buffer(index).call(&self.device, &QBUF)
    }

    /// Writes a picture into a buffer that the device does not hold, and gives it to the device.
    pub(in crate::video) fn give_written(
        &mut self,
        index: u32,
        timestamp: Duration,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Result<(), VideoError> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let used = match &mut self.memory {
            Memory::Own(mappings) => mappings
                .get_mut(place)
                .map_or(0, |mapping| write(mapping.bytes_mut())),
            Memory::Foreign(_) => 0,
        };
        let mut buffer = self.buffer(index);
        buffer.set_used(u32::try_from(used).unwrap_or(u32::MAX));
        buffer.set_timestamp(timestamp);
        buffer.call(&self.device, &QBUF)
    }

    /// Gives the device the picture of `used` bytes that lies in another one's buffer of that number.
    pub(in crate::video) fn give_foreign(
        &self,
        index: u32,
        timestamp: Duration,
        used: u32,
    ) -> Result<(), VideoError> {
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        let foreign = match &self.memory {
            Memory::Own(_) => None,
            Memory::Foreign(buffers) => buffers.get(place),
        };
        let mut buffer = self.buffer(index);
        if let Some(foreign) = foreign {
            buffer.set_used(used);
            buffer.set_place(foreign);
        }
        buffer.set_timestamp(timestamp);
        buffer.call(&self.device, &QBUF)
    }

    fn buffer(&self, index: u32) -> RawBuffer {
        RawBuffer::new(self.kind, self.memory.code(), index)
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
        match &self.memory {
            Memory::Own(mappings) => mappings.get(usize::try_from(index).ok()?),
            Memory::Foreign(_) => None,
        }
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
    fn new(kind: Kind, memory: u32, index: u32) -> Self {
        let mut raw: sys::v4l2_buffer = zeroed();
        raw.index = index;
        raw.type_ = kind.code();
        raw.memory = memory;
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

    fn set_timestamp(&mut self, timestamp: Duration) {
        self.raw.field = sys::v4l2_field_V4L2_FIELD_NONE;
        self.raw.timestamp.tv_sec = timestamp.as_secs().try_into().unwrap_or_default();
        self.raw.timestamp.tv_usec = (timestamp.as_micros() % 1_000_000)
            .try_into()
            .unwrap_or_default();
    }

    /// Of multi-planar types the kernel looks at the plane alone, whose list takes the place of `m`.
    fn set_place(&mut self, foreign: &Exported) {
        let [plane, ..] = &mut self.planes;
        plane.m.fd = foreign.descriptor();
        plane.length = foreign.bytes;
        self.raw.m.fd = foreign.descriptor();
        self.raw.length = foreign.bytes;
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
