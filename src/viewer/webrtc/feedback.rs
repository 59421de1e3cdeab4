//! What a viewer says about our packets (RTCP), seen next to the wire.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rtc::interceptor::{Interceptor, Packet, StreamInfo, TaggedPacket};
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;

use super::RETRANSMIT_PACKETS;

/// Where the tap sits in the chain: next to the wire, in front of the NACK responder (4000).
pub(super) const FEEDBACK_TAP_SLOT: usize = 3_900;

/// Most packets that are sent again in [`RETRANSMIT_WINDOW`]: everything that is kept. One datagram
/// of NACKs can ask for 5 MB.
const MAX_RETRANSMITS: usize = RETRANSMIT_PACKETS as usize;
const RETRANSMIT_WINDOW: Duration = Duration::from_millis(250);

/// Sees every RTCP packet first. Chromium sends PLI in a compound that `rtc` routes by its first
/// block, which names the repair stream: without this, keyframe requests are lost. And NACKs are
/// answered without measure: here they get one.
pub(super) struct FeedbackTap {
    keyframe_wanted: Arc<AtomicBool>,
    window_began: Instant,
    retransmits: usize,
    reads: VecDeque<TaggedPacket>,
    writes: VecDeque<TaggedPacket>,
}

impl FeedbackTap {
    pub(super) const fn new(keyframe_wanted: Arc<AtomicBool>, now: Instant) -> Self {
        Self {
            keyframe_wanted,
            window_began: now,
            retransmits: 0,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
        }
    }

    /// Cuts what is asked for to what is left of the window.
    fn admit(&mut self, nack: &mut TransportLayerNack, now: Instant) {
        if now.saturating_duration_since(self.window_began) >= RETRANSMIT_WINDOW {
            self.window_began = now;
            self.retransmits = 0;
        }
        nack.nacks.retain(|pair| {
            let packets = 1 + usize::try_from(pair.lost_packets.count_ones()).unwrap_or(16);
            let fits = self.retransmits + packets <= MAX_RETRANSMITS;
            if fits {
                self.retransmits += packets;
            }
            fits
        });
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for FeedbackTap {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = RtcError;
    type Time = Instant;

    fn handle_read(&mut self, mut message: TaggedPacket) -> Result<(), RtcError> {
        if let Packet::Rtcp(packets) = &mut message.message.packet {
            for packet in packets {
                let any = packet.as_any();
                if any.is::<PictureLossIndication>() || any.is::<FullIntraRequest>() {
                    self.keyframe_wanted.store(true, Ordering::Relaxed);
                } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
                    let mut nack = nack.clone();
                    self.admit(&mut nack, message.now);
                    *packet = Box::new(nack);
                }
            }
        }
        self.reads.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.reads.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), RtcError> {
        self.writes.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.writes.pop_front()
    }
}

impl Interceptor for FeedbackTap {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtc::rtcp::transport_feedbacks::transport_layer_nack::NackPair;

    #[test]
    fn one_datagram_of_nacks_cannot_ask_for_more_than_is_kept() {
        let t0 = crate::clock::now();
        let mut tap = FeedbackTap::new(Arc::default(), t0);
        let flood = TransportLayerNack {
            nacks: vec![
                NackPair {
                    packet_id: 1,
                    lost_packets: u16::MAX,
                };
                290
            ],
            ..TransportLayerNack::default()
        };
        let admitted = |tap: &mut FeedbackTap, now| {
            let mut nack = flood.clone();
            tap.admit(&mut nack, now);
            nack.nacks.len() * 17
        };
        assert_eq!(admitted(&mut tap, t0), MAX_RETRANSMITS / 17 * 17);
        assert_eq!(admitted(&mut tap, t0), 0);
        let later = t0 + RETRANSMIT_WINDOW;
        assert_eq!(admitted(&mut tap, later), MAX_RETRANSMITS / 17 * 17);
    }
}
