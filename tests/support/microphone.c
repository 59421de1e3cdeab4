/* A microphone for libasound that needs no sound card: a tone of 440 Hz at a tenth of full scale, at
 * the pace of the clock, in the one format, at the one rate and with the one number of channels that
 * its configuration names:
 *
 *   pcm.NAME { type roomcam_test  format "S32_LE"  rate 44100  channels 1  faults "FILE" }
 *
 * With "marks 1" it is silent but for marks: 50 ms of 1 kHz at half of full scale from each whole and each
 * half second of Unix time on. With "ppm 200" its clock is fast by so much, or slow if that is negative; what
 * it hears is not.
 *
 * While FILE holds "unplugged", the microphone is gone. When FILE holds "overrun", sound is lost
 * once, and the file is removed. */
#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <math.h>
#include <stdint.h>
#include <sys/timerfd.h>
#include <unistd.h>

struct card {
    snd_pcm_ioplug_t io;
    int timer;
    char faults[512];
    long rate;
    long marks;
    double pace;        /* frames in a second of ours */
    double unix_offset; /* Unix time minus that of the monotonic clock, in seconds */
    int64_t started_ns; /* 0: it does not run */
    uint64_t taken;     /* frames read since the start */
    int64_t opened_ns;  /* the tone goes on through an overrun */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int has_fault(const struct card *card, const char *name)
{
    char text[32] = "";
    FILE *file = card->faults[0] ? fopen(card->faults, "r") : NULL;
    if (!file)
        return 0;
    if (!fgets(text, sizeof text, file))
        text[0] = 0;
    fclose(file);
    return strncmp(text, name, strlen(name)) == 0;
}

static uint64_t frames_since(const struct card *card, int64_t from_ns)
{
    return (uint64_t)((double)(now_ns() - from_ns) / 1e9 * card->pace);
}

static int start(snd_pcm_ioplug_t *io)
{
    struct card *card = io->private_data;
    long period_ns = (long)(1e9 * (double)io->period_size / card->pace);
    struct itimerspec every = {{0, period_ns}, {0, period_ns}};
    card->started_ns = now_ns();
    card->taken = 0;
    return timerfd_settime(card->timer, 0, &every, NULL) ? -errno : 0;
}

static int stop(snd_pcm_ioplug_t *io)
{
    struct card *card = io->private_data;
    struct itimerspec never = {{0, 0}, {0, 0}};
    card->started_ns = 0;
    timerfd_settime(card->timer, 0, &never, NULL);
    return 0;
}

static int prepare(snd_pcm_ioplug_t *io)
{
    stop(io);
    return has_fault(io->private_data, "unplugged") ? -ENODEV : 0;
}

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io)
{
    struct card *card = io->private_data;
    uint64_t captured;
    if (has_fault(card, "unplugged")) {
        snd_pcm_ioplug_set_state(io, SND_PCM_STATE_DISCONNECTED);
        return -ENODEV;
    }
    if (!card->started_ns)
        return 0;
    if (has_fault(card, "overrun")) {
        unlink(card->faults);
        return -EPIPE;
    }
    captured = frames_since(card, card->started_ns);
    if (captured - card->taken > io->buffer_size)
        return -EPIPE;
    return (snd_pcm_sframes_t)(captured % io->buffer_size);
}

static void write_sample(unsigned char *to, snd_pcm_format_t format, double value)
{
    int32_t wide = (int32_t)(value * 2147483647.0);
    float real = (float)value;
    switch (format) {
    case SND_PCM_FORMAT_FLOAT_LE:
        memcpy(to, &real, 4);
        break;
    case SND_PCM_FORMAT_S32_LE:
        memcpy(to, &wide, 4);
        break;
    case SND_PCM_FORMAT_S24_LE:
        wide >>= 8;
        memcpy(to, &wide, 4);
        break;
    case SND_PCM_FORMAT_S24_3LE:
        memcpy(to, (unsigned char *)&wide + 1, 3);
        break;
    case SND_PCM_FORMAT_S16_LE:
        memcpy(to, (unsigned char *)&wide + 2, 2);
        break;
    default: /* U8 */
        *to = (unsigned char)((wide >> 24) + 128);
    }
}

/* What is heard at this many seconds of the monotonic clock. */
static double heard(const struct card *card, double at)
{
    double since = fmod(at + card->unix_offset, 0.5);
    if (!card->marks)
        return 0.1 * sin(2.0 * M_PI * 440.0 * (at - (double)card->opened_ns / 1e9));
    return since < 0.05 ? 0.5 * sin(2.0 * M_PI * 1000.0 * since) : 0.0;
}

static snd_pcm_sframes_t transfer(snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas,
                                  snd_pcm_uframes_t offset, snd_pcm_uframes_t size)
{
    struct card *card = io->private_data;
    double started = (double)card->started_ns / 1e9;
    int mapped = io->access != SND_PCM_ACCESS_RW_INTERLEAVED;
    if (mapped) /* the offset is that in the card's own buffer, and may be asked for again */
        card->taken += (offset + io->buffer_size - card->taken % io->buffer_size) % io->buffer_size;
    for (snd_pcm_uframes_t i = 0; i < size; i++) {
        double value = heard(card, started + (double)(card->taken + i) / card->pace);
        for (unsigned c = 0; c < io->channels; c++) {
            size_t bit = areas[c].first + areas[c].step * (offset + i);
            write_sample((unsigned char *)areas[c].addr + bit / 8, io->format, value);
        }
    }
    if (!mapped)
        card->taken += size;
    return (snd_pcm_sframes_t)size;
}

static int ready(snd_pcm_ioplug_t *io, struct pollfd *fds, unsigned int count, unsigned short *events)
{
    struct card *card = io->private_data;
    uint64_t expirations;
    *events = 0;
    if (count == 1 && fds[0].revents & POLLIN) {
        if (read(card->timer, &expirations, sizeof expirations) > 0)
            *events = POLLIN;
    }
    return 0;
}

static int shut(snd_pcm_ioplug_t *io)
{
    struct card *card = io->private_data;
    close(card->timer);
    free(card);
    return 0;
}

static const snd_pcm_ioplug_callback_t callbacks = {
    .start = start,
    .stop = stop,
    .prepare = prepare,
    .pointer = pointer,
    .transfer = transfer,
    .poll_revents = ready,
    .close = shut,
};

static const unsigned int accesses[] = {SND_PCM_ACCESS_RW_INTERLEAVED,
                                        SND_PCM_ACCESS_MMAP_INTERLEAVED};

/* Only this one value of a parameter is offered. */
static int only(snd_pcm_ioplug_t *io, int parameter, unsigned int value)
{
    return snd_pcm_ioplug_set_param_list(io, parameter, 1, &value);
}

SND_PCM_PLUGIN_DEFINE_FUNC(roomcam_test)
{
    snd_config_iterator_t i, next;
    const char *format = "S16_LE", *faults = "", *id;
    long rate = 48000, channels = 1, marks = 0, ppm = 0;
    struct timespec unix_time;
    struct card *card;
    int error;
    (void)root;
    if (stream != SND_PCM_STREAM_CAPTURE)
        return -ENODEV;
    snd_config_for_each(i, next, conf)
    {
        snd_config_t *entry = snd_config_iterator_entry(i);
        if (snd_config_get_id(entry, &id) < 0)
            continue;
        if (!strcmp(id, "format"))
            snd_config_get_string(entry, &format);
        else if (!strcmp(id, "faults"))
            snd_config_get_string(entry, &faults);
        else if (!strcmp(id, "rate"))
            snd_config_get_integer(entry, &rate);
        else if (!strcmp(id, "channels"))
            snd_config_get_integer(entry, &channels);
        else if (!strcmp(id, "marks"))
            snd_config_get_integer(entry, &marks);
        else if (!strcmp(id, "ppm"))
            snd_config_get_integer(entry, &ppm);
    }
    card = calloc(1, sizeof *card);
    if (!card)
        return -ENOMEM;
    snprintf(card->faults, sizeof card->faults, "%s", faults);
    card->rate = rate;
    card->marks = marks;
    card->pace = (double)rate * (1.0 + (double)ppm / 1e6);
    card->opened_ns = now_ns();
    clock_gettime(CLOCK_REALTIME, &unix_time);
    card->unix_offset = (double)unix_time.tv_sec + (double)unix_time.tv_nsec / 1e9 -
                        (double)card->opened_ns / 1e9;
    card->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    card->io.version = SND_PCM_IOPLUG_VERSION;
    card->io.name = "a test microphone";
    card->io.callback = &callbacks;
    card->io.private_data = card;
    card->io.poll_fd = card->timer;
    card->io.poll_events = POLLIN;
    card->io.flags = SND_PCM_IOPLUG_FLAG_MONOTONIC;
    error = has_fault(card, "unplugged") ? -ENODEV
                                         : snd_pcm_ioplug_create(&card->io, name, stream, mode);
    if (error < 0) {
        shut(&card->io);
        return error;
    }
    snd_pcm_ioplug_set_param_list(&card->io, SND_PCM_IOPLUG_HW_ACCESS, 2, accesses);
    only(&card->io, SND_PCM_IOPLUG_HW_FORMAT, (unsigned int)snd_pcm_format_value(format));
    only(&card->io, SND_PCM_IOPLUG_HW_RATE, (unsigned int)rate);
    only(&card->io, SND_PCM_IOPLUG_HW_CHANNELS, (unsigned int)channels);
    snd_pcm_ioplug_set_param_minmax(&card->io, SND_PCM_IOPLUG_HW_PERIOD_BYTES, 16, 1 << 20);
    snd_pcm_ioplug_set_param_minmax(&card->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 64);
    *pcmp = card->io.pcm;
    return 0;
}
SND_PCM_PLUGIN_SYMBOL(roomcam_test);
