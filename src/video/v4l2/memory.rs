//! The memory of a device's buffers: in our address space, and as DMABUF for another device to read
//! ("Streaming I/O (DMA buffer importing)").
#![expect(unsafe_code, reason = "mmap, and a descriptor that an ioctl made")]

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd as _, FromRawFd as _, RawFd};
use std::ptr::{self, NonNull};

use v4l::v4l_sys as sys;

use super::request::{EXPBUF, zeroed};
use super::{Device, Kind};

/// One buffer of the driver in our address space.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    pub(super) length: usize,
}

// SAFETY: the memory belongs to this value alone and is not tied to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(super) fn new(file: &File, length: u32, offset: u32) -> io::Result<Self> {
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

    pub(super) const fn bytes(&self) -> &[u8] {
        // SAFETY: `length` bytes are mapped and initialized (the kernel zeroes them) until `drop`.
        // The driver writes to them only while the buffer is queued, and `Queue::bytes` is called
        // only with a `Filled`, which exists only while it is not.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(super) const fn bytes_mut(&mut self) -> &mut [u8] {
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

/// A buffer of one device that another one may read.
#[derive(Debug)]
pub(in crate::video) struct Exported {
    file: File,
    /// Of the memory, which is whole pages.
    pub(in crate::video) bytes: u32,
}

impl Exported {
    /// Exports the first plane of a buffer.
    pub(super) fn of(device: &Device, kind: Kind, index: u32) -> io::Result<Self> {
        let mut raw: sys::v4l2_exportbuffer = zeroed();
        raw.type_ = kind.code();
        raw.index = index;
        // To be read alone, and not by programs that we start.
        raw.flags = u32::try_from(libc::O_RDONLY | libc::O_CLOEXEC).unwrap_or_default();
        device.ioctl(&EXPBUF, &mut raw)?;
        // SAFETY: the driver has just opened it for us, and nobody else knows it.
        let mut file = unsafe { File::from_raw_fd(raw.fd) };
        let bytes = file.seek(SeekFrom::End(0))?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(Self { file, bytes })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
