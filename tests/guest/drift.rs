//! A sound card whose clock is not ours: `snd-aloop` can be told to run fast or slow.

use super::{SOUND_CARD, play, stop_playing};
use crate::sound::MICROPHONE;
use crate::support::guest::Guest;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the guest: scripts/test"]
async fn sound_of_a_card_that_runs_fast_or_slow_is_neither_delayed_nor_cut() {
    let mut guest = Guest::start(&[SOUND_CARD]).await;
    let facts = std::env::current_exe().expect("this program has a path");
    let facts = format!(
        "{} --exact --nocapture sound::this_card_that_is_off_is_kept_in_step",
        facts.display()
    );
    // In units of 10 ppm: 480, of the 500 that are compensated for.
    for shift in [100_048, 99_952] {
        play(&mut guest, "-F S16_LE -r 48000 -c 1");
        guest.run(&format!(
            "amixer -q -c Loopback cset \
             iface=PCM,name='PCM Rate Shift 100000',device=0,subdevice=0 {shift}"
        ));
        let (status, output) = guest.attempt(&format!(
            "chroot /host env {MICROPHONE}='hw:CARD=Loopback,DEV=0,SUBDEV=0' {facts}"
        ));
        assert_eq!(status, 0, "{shift}: {output}");
        assert!(output.contains("1 passed"), "{output}");
        stop_playing(&mut guest);
    }
}
