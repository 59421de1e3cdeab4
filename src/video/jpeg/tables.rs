//! The tables that a frame brings (ITU-T T.81, B.2.4): quantization, Huffman codes, restart interval.
//!
//! They hold for their frame alone; what the next one brings again is recognized, and nothing is built. Pure.

use super::Damage;
use super::huffman::Table;
use super::transform::factor;

/// How many there are of each kind.
const SLOTS: usize = 4;

/// What is done with a coefficient.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    /// What it is multiplied by, for `transform::scaled`.
    pub(super) factor: i32,
    /// Where it is in a block.
    pub(super) place: u8,
}

/// What is done with each coefficient, in the order they are coded in.
pub(super) type Steps = [Step; 64];

/// A table that the last frame may have brought.
#[derive(Debug)]
struct Slot<T> {
    is_there: bool,
    table: T,
}

/// Quantizers as they came, and what follows from them.
#[derive(Debug)]
struct Quantizers {
    values: [u16; 64],
    steps: Steps,
}

/// All tables.
#[derive(Debug)]
pub(super) struct Tables {
    quantizers: [Slot<Quantizers>; SLOTS],
    dc: [Slot<Table>; SLOTS],
    ac: [Slot<Table>; SLOTS],
    /// From restart marker to restart marker, in MCUs; zero where there are none.
    pub(super) restart_interval: u16,
}

impl Tables {
    pub(super) fn new() -> Self {
        let huffman = || {
            std::array::from_fn(|_| Slot {
                is_there: false,
                table: Table::new(),
            })
        };
        let quantizers = || Slot {
            is_there: false,
            table: Quantizers {
                values: [0; 64],
                steps: steps(&[0; 64]),
            },
        };
        Self {
            quantizers: std::array::from_fn(|_| quantizers()),
            dc: huffman(),
            ac: huffman(),
            restart_interval: 0,
        }
    }

    /// A new frame starts, without tables.
    pub(super) fn clear(&mut self) {
        for slot in &mut self.quantizers {
            slot.is_there = false;
        }
        for slot in self.dc.iter_mut().chain(&mut self.ac) {
            slot.is_there = false;
        }
        self.restart_interval = 0;
    }

    /// Takes what is in a DQT segment, behind its length.
    pub(super) fn set_quantizers(&mut self, mut rest: &[u8]) -> Result<(), Damage> {
        while let Some((&kind, behind)) = rest.split_first() {
            let slot = self.quantizers.get_mut(usize::from(kind & 15));
            let slot = slot.ok_or(Damage::Malformed)?;
            let mut values = [0; 64];
            rest = match kind >> 4 {
                0 => {
                    let (bytes, behind) = behind.split_at_checked(64).ok_or(Damage::Malformed)?;
                    let pairs = values.iter_mut().zip(bytes);
                    pairs.for_each(|(value, byte)| *value = u16::from(*byte));
                    behind
                }
                1 => {
                    let (bytes, behind) = behind.split_at_checked(128).ok_or(Damage::Malformed)?;
                    let pairs = values.iter_mut().zip(bytes.as_chunks().0);
                    pairs.for_each(|(value, bytes)| *value = u16::from_be_bytes(*bytes));
                    behind
                }
                _ => return Err(Damage::Malformed),
            };
            slot.is_there = true;
            if slot.table.values != values {
                slot.table.steps = steps(&values);
                slot.table.values = values;
            }
        }
        Ok(())
    }

    /// Takes what is in a DHT segment, behind its length.
    pub(super) fn set_huffman(&mut self, mut rest: &[u8]) -> Result<(), Damage> {
        while let Some((&kind, behind)) = rest.split_first() {
            let slots = match kind >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(Damage::Malformed),
            };
            let slot = slots.get_mut(usize::from(kind & 15));
            let slot = slot.ok_or(Damage::Malformed)?;
            let (counts, behind) = behind.split_first_chunk().ok_or(Damage::Malformed)?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let (values, behind) = behind.split_at_checked(count).ok_or(Damage::Malformed)?;
            slot.table.set(counts, values)?;
            slot.is_there = true;
            rest = behind;
        }
        Ok(())
    }

    /// Takes what is in a DRI segment, behind its length.
    pub(super) fn set_restart_interval(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let bytes = bytes.try_into().map_err(|_| Damage::Malformed)?;
        self.restart_interval = u16::from_be_bytes(bytes);
        Ok(())
    }

    /// Returns what is done with the coefficients of a component.
    pub(super) fn steps(&self, slot: u8) -> Result<&Steps, Damage> {
        Ok(&found(&self.quantizers, slot)?.steps)
    }

    /// Returns the codes of means.
    pub(super) fn dc(&self, slot: u8) -> Result<&Table, Damage> {
        found(&self.dc, slot)
    }

    /// Returns the codes of the other coefficients.
    pub(super) fn ac(&self, slot: u8) -> Result<&Table, Damage> {
        found(&self.ac, slot)
    }
}

fn found<T>(slots: &[Slot<T>; SLOTS], slot: u8) -> Result<&T, Damage> {
    let slot = slots.get(usize::from(slot)).filter(|slot| slot.is_there);
    Ok(&slot.ok_or(Damage::Coded("a table is missing"))?.table)
}

fn steps(values: &[u16; 64]) -> Steps {
    let mut steps = [Step::default(); 64];
    for ((step, value), (column, row)) in steps.iter_mut().zip(values).zip(zigzag()) {
        *step = Step {
            factor: factor(*value, column, row),
            place: u8::try_from(column * 8 + row).unwrap_or_default(),
        };
    }
    steps
}

/// Column and row of each coefficient, in the order they are coded in: from diagonal to diagonal, to and
/// fro.
fn zigzag() -> impl Iterator<Item = (usize, usize)> {
    (0..15_usize).flat_map(|diagonal| {
        (diagonal.saturating_sub(7)..=diagonal.min(7)).map(move |at| {
            if diagonal % 2 == 0 {
                (at, diagonal - at)
            } else {
                (diagonal - at, at)
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_come_in_zigzag_order() {
        let order: Vec<_> = zigzag().collect();
        let start = [
            (0, 0),
            (1, 0),
            (0, 1),
            (0, 2),
            (1, 1),
            (2, 0),
            (3, 0),
            (2, 1),
        ];
        assert_eq!(order[..8], start);
        assert_eq!(order[60..], [(7, 5), (7, 6), (6, 7), (7, 7)]);
    }
}
