//! A picture → an encoder's buffer, with rows as long and as many as the driver wants them. Pure.

use super::super::convert::{I420, Plane};

/// Writes the planes of `picture` as the driver lays them out: luma rows of `stride` bytes, `rows` of
/// them, then chroma rows of half as many bytes. Returns how long that is.
pub(super) fn write_picture(
    picture: &I420<'_>,
    stride: usize,
    rows: usize,
    buffer: &mut [u8],
) -> usize {
    let [y, u, v] = picture.planes();
    let luma_bytes = stride * rows;
    let chroma_bytes = luma_bytes / 4;
    let (width, height) = (picture.width(), picture.height());
    write_plane(y, width, height, buffer, 0, stride);
    for (plane, start) in [(u, luma_bytes), (v, luma_bytes + chroma_bytes)] {
        write_plane(plane, width / 2, height / 2, buffer, start, stride / 2);
    }
    (luma_bytes + 2 * chroma_bytes).min(buffer.len())
}

fn write_plane(
    plane: Plane<'_>,
    columns: usize,
    rows: usize,
    buffer: &mut [u8],
    start: usize,
    stride: usize,
) {
    let from = plane.bytes().chunks(plane.stride().max(1)).take(rows);
    let target = buffer.get_mut(start..).unwrap_or_default();
    for (from, to) in from.zip(target.chunks_mut(stride.max(1))) {
        if let (Some(from), Some(to)) = (from.get(..columns), to.get_mut(..columns)) {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_written_with_the_strides_and_rows_of_the_driver() {
        let raw: Vec<u8> = (0..24).collect();
        let picture = I420::in_one_block(4, 4, &raw, 4).unwrap();
        let mut buffer = [99; 8 * 6 * 3 / 2];
        assert_eq!(write_picture(&picture, 8, 6, &mut buffer), 72);
        assert_eq!(buffer[..12], [0, 1, 2, 3, 99, 99, 99, 99, 4, 5, 6, 7]);
        assert_eq!(buffer[48..54], [16, 17, 99, 99, 18, 19]);
        assert_eq!(buffer[60..66], [20, 21, 99, 99, 22, 23]);
    }

    #[test]
    fn a_buffer_that_is_too_small_does_no_harm() {
        let raw = [7; 24];
        let picture = I420::in_one_block(4, 4, &raw, 4).unwrap();
        for length in 0..72 {
            let mut buffer = vec![0; length];
            assert!(write_picture(&picture, 8, 6, &mut buffer) <= length);
        }
    }
}
