//! A frame → I420 in limited range: the scan of a baseline picture, block by block (ITU-T T.81, A.2, E.2, F.2).
//!
//! No detour over RGB or full-size chroma: each block is decoded, transformed, brought into limited range and
//! put where it belongs. Everything is kept from frame to frame. A frame that does not end exactly where it
//! should is damage, and takes no longer than a whole one. Pure.

use super::bits::{Bits, PADDING, take_interval};
use super::huffman::{END_OF_BLOCK, Table};
use super::planes::{Grid, Lay, Planes};
use super::tables::{Steps, Tables};
use super::transform::{Block, chroma, luma, samples, scaled};
use super::{
    Damage, END, HUFFMAN_TABLES, Header, Parts, QUANTIZATION_TABLES, RESTART_INTERVAL,
    STANDARD_TABLES, START, read,
};
use crate::video::convert::I420;

/// First of the eight restart markers, which take turns.
const FIRST_RESTART: u8 = 0xd0;

/// Most blocks in an MCU (B.2.3).
const MOST_BLOCKS: usize = 10;

/// Decodes frames. Its memory is that of the largest so far.
#[derive(Debug)]
pub(in crate::video) struct Decoder {
    tables: Box<Tables>,
    /// Of one interval.
    coded: Vec<u8>,
    planes: Planes,
}

/// A component in a scan.
#[derive(Debug)]
struct Component<'t> {
    is_luma: bool,
    /// Blocks in an MCU, next to each other.
    across: usize,
    /// Blocks in an MCU, one above the other.
    down: usize,
    lay: Lay,
    dc: &'t Table,
    ac: &'t Table,
    steps: &'t Steps,
    /// Of the block before.
    mean: i32,
}

impl Decoder {
    pub(in crate::video) fn new() -> Self {
        Self {
            tables: Box::new(Tables::new()),
            coded: Vec::new(),
            planes: Planes::default(),
        }
    }

    /// Decodes `frame`, where `accept` takes its header; nothing is allocated before.
    pub(in crate::video) fn decode(
        &mut self,
        frame: &[u8],
        accept: impl FnOnce(Header) -> Result<(), Damage>,
    ) -> Result<(), Damage> {
        let Self { tables, .. } = self;
        tables.clear();
        let mut has_huffman_tables = false;
        let parts = read(frame, |marker, segment| {
            let content = segment.get(4..).unwrap_or_default();
            match marker {
                HUFFMAN_TABLES => {
                    has_huffman_tables = true;
                    tables.set_huffman(content)
                }
                QUANTIZATION_TABLES => tables.set_quantizers(content),
                RESTART_INTERVAL => tables.set_restart_interval(content),
                _ => Ok(()),
            }
        })?;
        accept(parts.header)?;
        if !has_huffman_tables {
            tables.set_huffman(STANDARD_TABLES.get(4..).unwrap_or_default())?;
        }
        self.decode_scan(&parts)
    }

    /// Returns the first `width` x `height` pixels of the last frame, both even.
    pub(in crate::video) fn picture(&self, width: usize, height: usize) -> Option<I420<'_>> {
        self.planes.picture(width, height)
    }

    fn decode_scan(&mut self, parts: &Parts<'_>) -> Result<(), Damage> {
        let Header { width, height, .. } = parts.header;
        let (mut components, h, v) = components(parts, &self.tables)?;
        let grid = Grid::covering(width, height, h, v);
        self.planes.prepare(grid);
        let (mut planes, stride) = self.planes.split();
        if parts.header.is_grey {
            let [_, u, v] = &mut planes;
            u.fill(128);
            v.fill(128);
        }
        let longest = parts.coded.len() + PADDING;
        if self.coded.capacity() < longest {
            // Frames differ in length, but hardly one is longer than the raw picture.
            self.coded.clear();
            self.coded.reserve(longest.max(width * height * 2));
        }
        let mcus = grid.across * grid.down;
        let interval = match usize::from(self.tables.restart_interval) {
            0 => mcus,
            interval => interval,
        };
        let mut rest = parts.coded;
        let mut restarts = (FIRST_RESTART..FIRST_RESTART + 8).cycle();
        for first in (0..mcus).step_by(interval) {
            let behind_last = (first + interval).min(mcus);
            let (marker, behind) = take_interval(rest, &mut self.coded)?;
            let restart = restarts.next().filter(|_| behind_last < mcus);
            check(marker, restart.unwrap_or(END))?;
            rest = behind;
            let mut bits = Bits::new(&self.coded);
            for component in components.iter_mut().flatten() {
                component.mean = 0;
            }
            for mcu in first..behind_last {
                let place = (mcu % grid.across, mcu / grid.across);
                let parts = components.iter_mut().flatten().zip(&mut planes);
                for (component, plane) in parts {
                    let decoded = if component.is_luma {
                        component.decode(&mut bits, place, plane, stride, luma)
                    } else {
                        component.decode(&mut bits, place, plane, stride / 2, chroma)
                    };
                    decoded.ok_or(Damage::Coded("a code that is none"))?;
                }
                if bits.ended_early() {
                    return Err(Damage::Coded("coded blocks are missing"));
                }
            }
            if !bits.is_at_end() {
                return Err(Damage::Coded("there are more coded blocks than pixels"));
            }
        }
        Ok(())
    }
}

impl Component<'_> {
    /// Decodes its blocks of an MCU; `None` where a code is none.
    #[inline]
    fn decode(
        &mut self,
        bits: &mut Bits<'_>,
        (column, row): (usize, usize),
        plane: &mut [u8],
        stride: usize,
        sample: impl Fn(i16) -> u8,
    ) -> Option<()> {
        let (width, height) = self.lay.size();
        for y in 0..self.down {
            for x in 0..self.across {
                let top = (row * self.down + y) * height;
                let left = (column * self.across + x) * width;
                let place = plane.get_mut(top * stride + left..)?;
                let mut block = [0; 64];
                let samples = if self.read(bits, &mut block)? {
                    samples(&block, &sample)
                } else {
                    [sample(block[0]); 64]
                };
                self.lay.put(&samples, place, stride);
            }
        }
        Some(())
    }

    /// Reads the coefficients of a block of zeros; returns whether there are others than its mean.
    #[inline]
    fn read(&mut self, bits: &mut Bits<'_>, block: &mut Block) -> Option<bool> {
        // A copy stays in registers.
        let mut copy = *bits;
        let difference = self.dc.read(&mut copy)?;
        self.mean = self.mean.saturating_add(difference.value.into());
        let [first, ..] = self.steps;
        block[0] = scaled(self.mean, first.factor);
        let mut at = 0;
        while at < 63 {
            let coded = self.ac.read(&mut copy)?;
            at += usize::from(coded.advance);
            let Some(step) = self.steps.get(at) else {
                if coded.advance == END_OF_BLOCK {
                    break;
                }
                return None;
            };
            let out = block.get_mut(usize::from(step.place))?;
            *out = scaled(coded.value.into(), step.factor);
        }
        *bits = copy;
        Some(at != usize::from(END_OF_BLOCK))
    }
}

/// Returns the components, and the blocks of luma in an MCU: next to each other, one above the other.
fn components<'t>(
    parts: &Parts<'_>,
    tables: &'t Tables,
) -> Result<([Option<Component<'t>>; 3], usize, usize), Damage> {
    let selectors = parts.selectors.as_chunks::<2>().0;
    let sampling = |of: u8| (usize::from(of >> 4), usize::from(of & 15));
    let mut found = [None, None, None];
    let (mut h, mut v) = (1, 1);
    let each = parts.components.as_chunks::<3>().0.iter().zip(selectors);
    for (index, (([id, factors, quantizer], [selected, codes]), slot)) in
        each.zip(&mut found).enumerate()
    {
        if id != selected {
            return Err(Damage::Unusual);
        }
        let is_luma = index == 0;
        let (mut across, mut down) = sampling(*factors);
        if parts.header.is_grey {
            // Whatever it says, blocks of a single component come row by row.
            (across, down) = (1, 1);
        }
        let lay = if is_luma {
            (h, v) = (across, down);
            matches!((h, v), (1 | 2 | 4, 1 | 2 | 4)).then_some(Lay::Whole)
        } else {
            let is_fraction = across > 0 && down > 0 && h % across == 0 && v % down == 0;
            is_fraction
                .then(|| Lay::of_chroma(h / across, v / down))
                .flatten()
        };
        *slot = Some(Component {
            is_luma,
            across,
            down,
            lay: lay.ok_or(Damage::Unusual)?,
            dc: tables.dc(codes >> 4)?,
            ac: tables.ac(codes & 15)?,
            steps: tables.steps(*quantizer)?,
            mean: 0,
        });
    }
    let blocks = found.iter().flatten().map(|part| part.across * part.down);
    if blocks.sum::<usize>() > MOST_BLOCKS {
        return Err(Damage::Unusual);
    }
    Ok((found, h, v))
}

/// Checks the marker at the end of an interval.
fn check(marker: u8, wanted: u8) -> Result<(), Damage> {
    const LAST_RESTART: u8 = FIRST_RESTART + 7;
    match marker {
        _ if marker == wanted => Ok(()),
        // The end of the scan is lost, and the next frame may follow.
        START | END => Err(Damage::CutShort),
        FIRST_RESTART..=LAST_RESTART => Err(Damage::Coded("a restart marker out of turn")),
        _ => Err(Damage::Unusual),
    }
}
