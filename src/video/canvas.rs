//! Pictures that are drawn here: rectangles and dot-matrix text on the three planes. Pure.

use super::font;

/// A colour in BT.601, limited range.
#[derive(Clone, Copy)]
pub(super) struct Colour {
    pub(super) y: u8,
    pub(super) u: u8,
    pub(super) v: u8,
}

impl Colour {
    pub(super) const fn grey(y: u8) -> Self {
        Self { y, u: 128, v: 128 }
    }

    pub(super) const fn new(y: u8, u: u8, v: u8) -> Self {
        Self { y, u, v }
    }
}

/// A line of text: where it starts, and how far its dots are apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) pitch: usize,
}

/// The three planes of a picture in one block, written with clipping at the edges.
pub(super) struct Canvas<'a> {
    pub(super) width: usize,
    pub(super) y: &'a mut [u8],
    pub(super) u: &'a mut [u8],
    pub(super) v: &'a mut [u8],
}

impl<'a> Canvas<'a> {
    pub(super) fn new(bytes: &'a mut [u8], width: usize, height: usize) -> Self {
        let (y, chroma) = bytes.split_at_mut(width * height);
        let (u, v) = chroma.split_at_mut(width * height / 4);
        Self { width, y, u, v }
    }

    /// Fills a rectangle. Of a chroma sample that is half inside, all is filled.
    pub(super) fn fill(
        &mut self,
        columns: std::ops::Range<usize>,
        rows: std::ops::Range<usize>,
        colour: Colour,
    ) {
        for row in rows.clone() {
            fill(self.y, self.width, row, columns.clone(), colour.y);
        }
        let columns = columns.start / 2..columns.end.div_ceil(2);
        for row in rows.start / 2..rows.end.div_ceil(2) {
            fill(self.u, self.width / 2, row, columns.clone(), colour.u);
            fill(self.v, self.width / 2, row, columns.clone(), colour.v);
        }
    }

    /// Writes text in grey, in dots with a little space between them.
    pub(super) fn write(&mut self, text: Text, characters: &[u8], luma: u8) {
        let dot = text.pitch - text.pitch / 8;
        for (i, &character) in characters.iter().enumerate() {
            let left = text.left + i * (font::COLUMNS + 1) * text.pitch;
            for (row, bits) in font::dots(character).into_iter().enumerate() {
                for column in
                    (0..font::COLUMNS).filter(|c| bits >> (font::COLUMNS - 1 - c) & 1 == 1)
                {
                    let x = left + column * text.pitch;
                    let y = text.top + row * text.pitch;
                    for y in y..y + dot {
                        fill(self.y, self.width, y, x..x + dot, luma);
                    }
                }
            }
        }
    }
}

fn fill(plane: &mut [u8], width: usize, row: usize, columns: std::ops::Range<usize>, value: u8) {
    let (start, end) = (columns.start.min(width), columns.end.min(width));
    if let Some(samples) = plane.get_mut(row * width + start..row * width + end) {
        samples.fill(value);
    }
}
