// The viewer page: joins a room, shows the device's picture, plays its sound and steers it.
//
//   Room      one WebSocket to the room server, kept alive (docs/signaling.md)
//   Media     one RTCPeerConnection and its control channel (docs/control.md); never mended,
//             always replaced: a new one takes a few hundred milliseconds
//   Talk      the viewer's microphone, while the button is held
//   Session   from Join to Leave: one Room, the current Media, and when to replace it
//   page()    draws the session and passes the clicks on
//
// The functions before those are pure; time and randomness come in as arguments. What the page
// shows of the device is what the device said in its last `state`, never what was asked for.
// It asks for no camera of the viewer's, and for the microphone only when the button is pressed.

import { Incoming, SettingsPanel, fileName, merged, save } from './camera.js';

const PROTOCOL = 1;

/** Delays before the next attempt, in ms: the ceiling doubles from the first to the longest. */
const RETRY_FIRST = 300;
const RETRY_LONGEST = 5000;
/** From opening the WebSocket to `joined`. Beyond that a half-open connection is likelier. */
const JOIN_WITHIN = 8000;
/** A room that said nothing for so long is in doubt: the server pings, but a page sees no pings. */
const ROOM_SILENT_FOR = 40_000;
/** From the offer to a connection. ICE through a TURN server takes 1 to 3 s. */
const CONNECT_WITHIN = 10_000;
/** ICE is `disconnected` for a moment whenever a phone changes its cell: wait this long. */
const DISCONNECTED_FOR = 3000;
/** Decoded frames stand still: first a keyframe is asked for, then the connection is replaced. */
const FROZEN_FOR = 2000;
const FROZEN_FOR_GOOD = 4000;
/** The page looks at its connection this often. */
const LOOK_EVERY = 500;
/** Figures in the overlay are means over this long. */
const FIGURES_EVERY = 1000;
const REPLY_WITHIN = 5000;
const NOTICE_FOR = 6000;
/** The bar leaves the full screen when the pointer has rested this long. */
const REST_AFTER = 2500;
/** Candidates that come before the answer; a device has a handful. */
const MAX_EARLY_CANDIDATES = 64;
/** The longest text of others that is shown: why nothing connects, with all candidates. */
const MAX_WORDS = 1000;

// ---- pure ------------------------------------------------------------------------------------

/** Delay before attempt `failures + 1`, in ms; `random` is uniform in [0, 1). */
export function retryDelay(failures, random) {
  const ceiling = Math.min(RETRY_LONGEST, RETRY_FIRST * 2 ** Math.min(failures, 10));
  return ceiling * (0.5 + random / 2);
}

/** Room and keys of a fragment such as `#room=cam&key=…&talk=…`; absent ones are empty. */
export function readFragment(hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ''));
  return { room: fields.get('room') ?? '', key: fields.get('key') ?? '', talk: fields.get('talk') ?? '' };
}

/** Whether an offer's SDP has an H.264 format. */
export function offersH264(sdp) {
  return /^a=rtpmap:\d+ H264\/90000\r?$/im.test(sdp);
}

export const NO_WEBRTC = 'This browser has no WebRTC: it is switched off, as in Lockdown Mode (iPhone, Mac) and Tor Browser';

export const NO_H264 = 'This browser offers no H.264 (Firefox: enable its OpenH264 plugin)';

/** What an error of the room server or the device means: words, and whether trying again may help. */
export function errorWords(code, message) {
  switch (code) {
    case 'wrong-key': return { words: 'Wrong key, or no such room', final: true };
    case 'bad-room': return { words: 'This is no room name: letters, digits, “-”, “_” and “.” only', final: true };
    case 'room-full': return { words: 'The room is full', final: true };
    case 'unsupported-protocol': return { words: 'This page and its server are of different versions: reload the page', final: true };
    case 'bad-offer': return { words: sentence(message) || 'The device cannot serve this browser', final: true };
    default: return { words: sentence(message) || `Error: ${code}`, final: false };
  }
}

/**
 * The state in words, and its tone: idle, busy (will pass by itself), live, warn, error.
 *
 * room: 'none' | 'connecting' | 'joined' | 'unreachable' | 'lost'
 * media: 'none' | 'connecting' | 'connected' | 'shaky' | 'lost'
 * device: whether it is in the room · state: its last `state` message, or null
 * picture: a picture was shown since video became live · frozen: and no more come
 * speaking: this viewer is
 * trouble: why there is no connection, in the device's words · ended: why the last session ended
 */
export function statusOf({ room, media, device, state, picture, frozen, speaking, trouble, ended }) {
  if (room === 'none') return ended ? { tone: 'error', words: ended } : { tone: 'idle', words: '' };
  if (media !== 'connected') {
    if (room === 'unreachable') return { tone: 'busy', words: 'The server does not answer: retrying…' };
    if (room === 'lost') return { tone: 'busy', words: 'Connection lost: retrying…' };
    if (room === 'joined' && !device) return { tone: 'busy', words: 'Waiting for the device…' };
    if (trouble) return { tone: 'warn', words: `No connection yet, still trying. ${trouble}` };
    if (media === 'lost') return { tone: 'busy', words: 'Connection lost: retrying…' };
    if (media === 'shaky') return { tone: 'busy', words: 'Connection interrupted: waiting for it…' };
    return { tone: 'busy', words: 'Connecting…' };
  }
  const now = liveWords(state, picture, frozen, speaking);
  if (room === 'joined' || now.tone === 'busy') return now;
  return { tone: now.tone, words: `${now.words} (room server lost: retrying…)` };
}

function liveWords(state, picture, frozen, speaking) {
  const video = state?.video ?? 'live';
  if (state?.camera === false) return { tone: 'idle', words: 'Camera is off' };
  if (video === 'waiting') return { tone: 'busy', words: waitingWords(state.detail) };
  if (video === 'starting' || video === 'off') return { tone: 'busy', words: 'Camera is starting…' };
  if (video === 'none') return { tone: 'live', words: `Live, sound only${soundWords(state, speaking)}` };
  if (frozen) return { tone: 'busy', words: 'The picture stands still: asking for a new one…' };
  if (!picture) return { tone: 'busy', words: 'Waiting for the picture…' };
  return { tone: 'live', words: `Live${soundWords(state, speaking)}` };
}

/** Whether there is something to look at: while a camera is waited for, the device sends a picture that says why. */
function showsPicture(state) {
  return state?.video === 'live' || state?.video === 'waiting';
}

function soundWords(state, speaking) {
  const others = (state?.talking ?? 0) - (speaking ? 1 : 0);
  if (speaking) return others > 0 ? `, you and ${others} more are speaking` : ', you are speaking';
  if (others > 0) return others > 1 ? `, ${others} are speaking` : ', somebody is speaking';
  if (state?.muted) return ', microphone muted';
  if (state?.audio !== 'waiting') return '';
  return state.detail ? `, no sound: ${clip(state.detail).replace(/^waiting for microphone: /, '')}` : ', no sound yet';
}

/** Whether the device lets a viewer with this key for speaking speak, as far as it said. */
export function mayTalk(state, key) {
  return state?.talkback === 'anyone' || (state?.talkback === 'key' && key !== '');
}

/** Why this page can have no microphone at all, in words; '' where it can. */
export function noMicrophone(isSecure, hasDevices) {
  if (!isSecure) return 'Speaking needs https: a browser gives no microphone to a page that came over plain http, except from this very machine';
  return hasDevices ? '' : 'This browser gives pages no microphone';
}

/** What a failed `getUserMedia` means, in words. */
export function microphoneWords(error) {
  switch (error.name) {
    case 'NotAllowedError':
    case 'SecurityError': return 'This page may not use the microphone: allow it in the browser’s settings for this site';
    case 'NotFoundError':
    case 'OverconstrainedError': return 'No microphone was found';
    case 'NotReadableError':
    case 'AbortError': return 'The microphone cannot be used: perhaps another program has it';
    default: return `The microphone cannot be used: ${clip(error.message)}`;
  }
}

function waitingWords(detail) {
  if (!detail) return 'Waiting for camera…';
  const words = /^waiting/.test(detail) ? detail : `waiting for camera: ${detail}`;
  return sentence(words.replace('camera: camera ', 'camera: '));
}

function sentence(text) {
  const words = clip(text);
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function clip(text) {
  const words = typeof text === 'string' ? text : '';
  return words.length > MAX_WORDS ? `${words.slice(0, MAX_WORDS)}…` : words;
}

/** Picks the counters that matter out of an `RTCStatsReport` (or any iterable of its values). */
export function readStats(values, at) {
  const stats = [...values];
  const sample = {
    at, bytes: 0, packets: 0, lost: 0, frames: 0, keyframes: 0, plis: 0, width: 0, height: 0, sound: 0, roundTrip: null,
  };
  const transport = stats.find((s) => s.type === 'transport' && s.selectedCandidatePairId);
  for (const s of stats) {
    if (s.type === 'inbound-rtp') {
      sample.bytes += s.bytesReceived ?? 0;
      sample.packets += s.packetsReceived ?? 0;
      sample.lost += s.packetsLost ?? 0;
      if (s.kind === 'video') {
        sample.frames = s.framesDecoded ?? 0;
        sample.keyframes = s.keyFramesDecoded ?? 0;
        sample.plis = s.pliCount ?? 0;
        sample.width = s.frameWidth ?? 0;
        sample.height = s.frameHeight ?? 0;
      } else {
        sample.sound = s.totalAudioEnergy ?? 0;
      }
    } else if (s.type === 'candidate-pair') {
      const used = transport ? s.id === transport.selectedCandidatePairId : s.selected || s.nominated;
      if (used && s.currentRoundTripTime !== undefined) sample.roundTrip = s.currentRoundTripTime;
    }
  }
  return sample;
}

/** What the overlay shows, from two samples; null while there is no time between them. */
export function figures(before, after) {
  const seconds = (after.at - before.at) / 1000;
  if (seconds <= 0) return null;
  const lost = Math.max(0, after.lost - before.lost);
  const received = Math.max(0, after.packets - before.packets);
  const kbps = Math.max(0, after.bytes - before.bytes) * 8 / 1000 / seconds;
  return {
    bitrate: kbps >= 1000 ? `${(kbps / 1000).toFixed(2)} Mbit/s` : `${kbps.toFixed(0)} kbit/s`,
    frames: `${(Math.max(0, after.frames - before.frames) / seconds).toFixed(0)} /s`,
    resolution: after.width ? `${after.width} × ${after.height}` : '–',
    loss: lost + received ? `${(100 * lost / (lost + received)).toFixed(1)} %` : '–',
    roundTrip: after.roundTrip === null ? '–' : `${(after.roundTrip * 1000).toFixed(after.roundTrip < 0.01 ? 1 : 0)} ms`,
  };
}

/** Says when one peer connection is in doubt. All times in ms. */
export class Watchdog {
  #offeredAt;
  #lookedAt;
  #disconnectedAt = null;
  #movedAt;
  #frames = 0;
  #asked = false;

  constructor(now) {
    this.#offeredAt = now;
    this.#lookedAt = now;
    this.#movedAt = now;
  }

  /** Whether a picture is expected and stands still. */
  get frozen() { return this.#asked; }

  /** `expected`: pictures ought to come. Returns null, 'keyframe' (ask for one) or 'replace'. */
  look({ now, connection, frames, expected }) {
    // A page that slept knows nothing of the time it slept through.
    const slept = now - this.#lookedAt > FROZEN_FOR;
    this.#lookedAt = now;
    if (connection === 'failed' || connection === 'closed') return 'replace';
    if (connection === 'disconnected') {
      this.#disconnectedAt ??= now;
      return now - this.#disconnectedAt > DISCONNECTED_FOR ? 'replace' : null;
    }
    this.#disconnectedAt = null;
    if (connection !== 'connected') {
      this.#movedAt = now;
      return now - this.#offeredAt > CONNECT_WITHIN ? 'replace' : null;
    }
    if (frames !== this.#frames || !expected || slept) {
      this.#frames = frames;
      this.#movedAt = now;
      this.#asked = false;
      return null;
    }
    const still = now - this.#movedAt;
    if (still > FROZEN_FOR_GOOD) return 'replace';
    if (still > FROZEN_FOR && !this.#asked) {
      this.#asked = true;
      return 'keyframe';
    }
    return null;
  }
}

// ---- the room --------------------------------------------------------------------------------

/** One WebSocket to the room server: joins, and joins again whenever it was lost. */
class Room {
  #url;
  #join;
  #on;
  #socket = null;
  #timer = 0;
  #failures = 0;
  #heardAt = 0;
  /** As in `statusOf`. */
  status = 'connecting';

  /** on: joined(message), message(message), refused(code, message), changed(). */
  constructor(room, key, on) {
    this.#url = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`;
    this.#join = { type: 'join', protocol: PROTOCOL, role: 'viewer', room, key };
    this.#on = on;
    this.#open();
  }

  get silent() { return performance.now() - this.#heardAt > ROOM_SILENT_FOR; }

  /** Returns whether it went out; what does not is of no use later. */
  send(message) {
    if (this.status !== 'joined' || this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /** Tries at once if it was waiting to. */
  hurry() {
    if (this.#socket === null && this.status !== 'none') {
      clearTimeout(this.#timer);
      this.#open();
    }
  }

  /** Gives up on a socket that seems dead. */
  reopen() {
    if (this.status === 'joined') this.#lost();
  }

  close() {
    this.send({ type: 'bye' });
    this.status = 'none';
    this.#drop();
  }

  #open() {
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(), JOIN_WITHIN);
    socket.onopen = () => socket.send(JSON.stringify(this.#join));
    socket.onclose = () => this.#lost();
    socket.onmessage = ({ data }) => {
      this.#heardAt = performance.now();
      let message = null;
      try { message = JSON.parse(data); } catch { /* not ours: ignored, as unknown types are */ }
      if (message !== null && typeof message === 'object') this.#handle(message);
    };
  }

  #handle(message) {
    if (message.type === 'joined') {
      clearTimeout(this.#timer);
      this.#failures = 0;
      this.status = 'joined';
      this.#on.joined(message);
    } else if (message.type === 'error') {
      this.#on.refused(message.code, message.message);
    } else {
      this.#on.message(message);
    }
  }

  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onclose = socket.onmessage = null;
    socket.close();
  }

  #lost() {
    this.#drop();
    this.status = this.status === 'joined' || this.status === 'lost' ? 'lost' : 'unreachable';
    this.#timer = setTimeout(() => this.#open(), retryDelay(this.#failures, Math.random()));
    this.#failures += 1;
    this.#on.changed();
  }
}

// ---- media -----------------------------------------------------------------------------------

/** Everything goes over one transport: candidates are found once. */
const BUNDLED = { bundlePolicy: 'max-bundle' };

/** One peer connection. Its offer is made at once, while the room is still being joined. */
class Media {
  pc = new RTCPeerConnection(BUNDLED);
  /** The device's instance it was offered to; null before. */
  instance = null;
  watchdog = null;
  /** The device's last `state` message. */
  state = null;
  /** What can be set of the camera. */
  controls = [];
  /** The snapshot that is coming. */
  #incoming = null;
  #on;
  #offer;
  #control;
  #early = [];
  #nextId = 1;
  #replies = new Map();
  #sound;

  /** on: candidate(candidate), track(track), talkingEnded(words), changed(). */
  constructor(on) {
    this.#on = on;
    const { pc } = this;
    // Both ways, for a microphone that may come: until then, nothing is sent.
    this.#sound = pc.addTransceiver('audio', { direction: 'sendrecv' });
    preferH264(pc.addTransceiver('video', { direction: 'recvonly' }));
    this.#control = pc.createDataChannel('control');
    this.#control.binaryType = 'arraybuffer';
    this.#control.onopen = () => on.changed();
    this.#control.onmessage = ({ data }) => this.#hear(data);
    // The device ended it; ICE would notice seconds later.
    this.#control.onclose = () => {
      this.close();
      on.changed();
    };
    pc.onconnectionstatechange = () => on.changed();
    pc.ontrack = ({ track }) => on.track(track);
    this.#offer = pc.createOffer();
    this.#offer.catch(() => {}); // whoever awaits it sees the error
  }

  /** As in `statusOf`. */
  get status() {
    switch (this.pc.connectionState) {
      case 'new': return this.instance === null ? 'none' : 'connecting';
      case 'connecting': return 'connecting';
      case 'connected': return 'connected';
      case 'disconnected': return 'shaky';
      default: return 'lost';
    }
  }

  get controllable() { return this.#control.readyState === 'open'; }

  /** Whether the device takes sound on this connection. One that was made before it did does not. */
  get takesSound() { return this.#sound.currentDirection === 'sendrecv'; }

  /** Sends what this track of a microphone hears; null: nothing. */
  speak(track) { return this.#sound.sender.replaceTrack(track); }

  /** Throws if one of them is malformed. Only before `start`. */
  useServers(iceServers) {
    if (Array.isArray(iceServers) && iceServers.length > 0) this.pc.setConfiguration({ ...BUNDLED, iceServers });
  }

  /** Sends the offer through `send`; candidates follow as they are found. */
  async start(instance, send) {
    this.instance = instance;
    this.watchdog = new Watchdog(performance.now());
    const { pc } = this;
    const offer = await this.#offer;
    if (pc.connectionState === 'closed') return;
    if (!offersH264(offer.sdp)) throw new Error(NO_H264);
    pc.onicecandidate = ({ candidate }) => this.#on.candidate(candidate?.toJSON() ?? null);
    // The offer leaves before the browser has taken it in, which takes it some 10 ms; it handles
    // the answer after that in any case.
    send({ type: 'offer', offer: { type: offer.type, sdp: offer.sdp } });
    await pc.setLocalDescription(offer);
  }

  /** A second answer, or one that nobody asked for, is dropped. */
  async answer(description) {
    if (this.instance === null || this.pc.remoteDescription !== null || this.status === 'lost') return;
    await this.pc.setRemoteDescription(description);
    for (const candidate of this.#early.splice(0)) await this.candidate(candidate);
  }

  /** A candidate that makes no sense is skipped: others may do. */
  async candidate(candidate) {
    if (!candidate?.candidate) return;
    if (this.pc.remoteDescription === null) {
      if (this.#early.length < MAX_EARLY_CANDIDATES) this.#early.push(candidate);
      return;
    }
    await this.pc.addIceCandidate(candidate).catch(() => {});
  }

  /** Asks for the newest picture; resolves with the file, rejects with words. */
  async snapshot() {
    await this.command({ type: 'snapshot' });
    return this.#incoming.file;
  }

  /** Sends a command; resolves once the device accepted it, rejects with words. */
  command(command) {
    if (!this.controllable) return Promise.reject(new Error('The device is not connected'));
    const id = this.#nextId;
    this.#nextId = (id + 1) % 2 ** 32;
    return new Promise((accept, reject) => {
      const timer = setTimeout(() => {
        this.#replies.delete(id);
        reject(new Error('The device does not answer'));
      }, REPLY_WITHIN);
      this.#replies.set(id, { accept, reject, timer });
      this.#control.send(JSON.stringify({ id, ...command }));
    });
  }

  close() {
    this.pc.onconnectionstatechange = this.pc.onicecandidate = this.pc.ontrack = null;
    this.#control.onopen = this.#control.onmessage = this.#control.onclose = null;
    this.pc.close();
    for (const { reject, timer } of this.#replies.values()) {
      clearTimeout(timer);
      reject(new Error('The connection was lost'));
    }
    this.#replies.clear();
    this.#incoming?.fail('The connection was lost');
  }

  #hear(data) {
    if (typeof data !== 'string') {
      this.#incoming?.piece(data);
      return;
    }
    let message = null;
    try { message = JSON.parse(data); } catch { /* not of this version: ignored */ }
    if (message === null || typeof message !== 'object') return;
    if (message.type === 'state') {
      this.state = message;
      this.#on.changed();
    } else if (message.type === 'talking_ended') {
      this.#on.talkingEnded(sentence(message.message) || 'You are not heard any more');
    }
    const controls = merged(this.controls, message);
    if (controls !== null) {
      this.controls = controls;
      this.#on.changed();
    }
    const waiting = this.#replies.get(message.id);
    if (waiting === undefined) return;
    // Its pieces come next.
    if (message.snapshot) this.#incoming = new Incoming(message.snapshot);
    this.#replies.delete(message.id);
    clearTimeout(waiting.timer);
    if (message.ok === true) waiting.accept();
    else waiting.reject(new Error(`The device refused: ${clip(message.error?.message) || message.error?.code}`));
  }
}

/** H.264 is all a device sends: offering it alone makes a short offer and a clear refusal. */
function preferH264(transceiver) {
  const codecs = RTCRtpReceiver.getCapabilities?.('video')?.codecs ?? [];
  const wanted = codecs.filter((c) => /^video\/(H264|rtx)$/i.test(c.mimeType));
  // Without H.264 the offer stays as it is, and `start` says what is missing.
  if (wanted.some((c) => /H264/i.test(c.mimeType))) transceiver.setCodecPreferences?.(wanted);
}

// ---- the viewer's microphone -----------------------------------------------------------------

/** Echo and noise are the browser's business: it knows what it plays. */
const VOICE = { audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true } };

/** The microphone, from the press of the button to its release: not open any longer. */
class Talk {
  /** 'off' | 'opening' | 'on' */
  status = 'off';
  #on;
  #presses = 0;
  #media = null;
  #track = null;

  /** on: notice(words), changed(). */
  constructor(on) { this.#on = on; }

  /** Speaks on this connection until `release`; `key` is that of those who may. */
  async press(media, key) {
    if (this.status !== 'off') return;
    const hindrance = noMicrophone(window.isSecureContext, typeof navigator.mediaDevices?.getUserMedia === 'function');
    if (hindrance) {
      this.#on.notice(hindrance);
      return;
    }
    this.#presses += 1;
    const press = this.#presses;
    this.#be('opening');
    try {
      const stream = await navigator.mediaDevices.getUserMedia(VOICE);
      const [track] = stream.getAudioTracks();
      if (press !== this.#presses) {
        // Let go while the browser asked: what it asked for is not used now.
        for (const unused of stream.getTracks()) unused.stop();
        if (this.status === 'off') this.#on.notice('The microphone is ready: hold the button while you speak');
        return;
      }
      this.#media = media;
      this.#track = track;
      track.onended = () => { if (press === this.#presses) this.end('The microphone is gone'); };
      const accepted = media.command({ type: 'set_talking', on: true, ...(key && { key }) });
      // What comes before the device has agreed is not heard: there is no need to wait for it.
      await Promise.all([accepted, media.speak(track)]);
      if (press === this.#presses) this.#be('on');
    } catch (error) {
      if (press === this.#presses) this.end(this.#track === null ? microphoneWords(error) : error.message);
    }
  }

  release() {
    if (this.status === 'off') return;
    this.#presses += 1;
    const media = this.#media;
    this.#track?.stop();
    this.#track = this.#media = null;
    media?.speak(null).catch(() => {}); // closed meanwhile
    media?.command({ type: 'set_talking', on: false }).catch(() => {});
    this.#be('off');
  }

  /** It is over, and not because the button was let go. */
  end(words) {
    this.release();
    if (words) this.#on.notice(words);
  }

  /** The connection that is spoken on was given up. */
  lost(media) { if (media === this.#media) this.end('The connection was lost while you spoke'); }

  #be(status) {
    this.status = status;
    this.#on.changed();
  }
}

// ---- from Join to Leave ----------------------------------------------------------------------

class Session {
  room;
  media;
  talk;
  /** The device's instance, null while it is away. */
  device = null;
  picture = false;
  timing = { pressedAt: performance.now() };
  sample = null;
  #iceServers = [];
  #on;
  #failures = 0;
  #served = false;
  #trouble = '';
  #replacing = 0;
  #looking;
  #videoWasShown = false;

  /** on: track(track), awaitPicture(shown), changed(), notice(words), ended(words). */
  constructor(room, key, on) {
    this.#on = on;
    this.talk = new Talk(on);
    this.media = this.#newMedia();
    this.room = new Room(room, key, {
      joined: (message) => this.#joined(message),
      message: (message) => this.#hear(message),
      refused: (code, message) => this.#refused(code, message),
      changed: () => this.#on.changed(),
    });
    // Last, for a constructor above may throw.
    this.#looking = setInterval(() => this.#look(), LOOK_EVERY);
  }

  get view() {
    return {
      room: this.room.status,
      media: this.media.status,
      device: this.device !== null,
      state: this.media.state,
      picture: this.picture,
      frozen: this.media.watchdog?.frozen ?? false,
      speaking: this.talk.status === 'on',
      trouble: this.#trouble,
      ended: '',
    };
  }

  /** Looks at once what became of everything, e.g. when the network or the page is back. */
  hurry() {
    // What the page waits for may have been sent to a socket that died unnoticed meanwhile.
    if (this.media.status !== 'connected') this.room.reopen();
    this.room.hurry();
    this.#look();
  }

  /** Speaks with this key, if the connection was made for it; otherwise the next one will be. */
  speak(key) {
    if (this.media.takesSound) this.talk.press(this.media, key);
    else {
      this.#on.notice('Connecting anew for speaking: press again in a moment');
      this.#replace();
    }
  }

  leave(words) {
    this.talk.release();
    clearInterval(this.#looking);
    clearTimeout(this.#replacing);
    this.room.close();
    this.media.close();
    this.#on.ended(words);
  }

  #newMedia() {
    this.picture = false;
    this.#videoWasShown = false;
    const media = new Media({
      candidate: (candidate) => this.room.send({ type: 'candidate', candidate }),
      track: (track) => this.#on.track(track),
      talkingEnded: (words) => { if (media === this.media) this.talk.end(words); },
      changed: () => { if (media === this.media) this.#mediaChanged(); },
    });
    return media;
  }

  #joined({ ice_servers: iceServers, device }) {
    this.timing.joinedAt ??= performance.now();
    this.#iceServers = iceServers;
    this.#deviceIs(typeof device === 'string' ? device : null);
  }

  #hear(message) {
    const { media } = this;
    switch (message.type) {
      case 'device-joined': this.#deviceIs(String(message.instance)); break;
      case 'ice-servers': this.#iceServers = message.ice_servers; break;
      case 'device-left': this.device = null; break; // running media may go on
      case 'answer':
        this.timing.answeredAt ??= performance.now();
        media.answer(message.answer).catch(() => { if (media === this.media) this.#replace(); });
        break;
      case 'candidate': media.candidate(message.candidate); break;
      default: // of a later version
    }
    this.#on.changed();
  }

  /** Running media with the same device is kept, whatever happened to the room. */
  #deviceIs(instance) {
    this.device = instance;
    const { media } = this;
    const running = media.status === 'connected' && media.instance === instance;
    if (instance !== null && !running) this.#connect();
    this.#on.changed();
  }

  #connect() {
    clearTimeout(this.#replacing);
    this.#replacing = 0;
    if (this.media.instance !== null || this.media.status === 'lost') {
      this.talk.lost(this.media);
      this.media.close();
      this.media = this.#newMedia();
    }
    this.timing.offeredAt ??= performance.now();
    const { media } = this;
    try {
      media.useServers(this.#iceServers);
    } catch (error) {
      this.#on.notice(`The room's STUN and TURN servers cannot be used: ${error.message}`);
    }
    media.start(this.device, (offer) => this.room.send(offer)).catch((error) => {
      if (media === this.media && media.status !== 'lost') this.leave(error.message);
    });
  }

  /** The current connection is given up; the next one comes soon, or with the room or the device. */
  #replace() {
    if (this.#replacing !== 0) return;
    // No answer, or no word for long: is anyone there?
    if (this.media.status === 'connecting' || this.room.silent) this.room.reopen();
    this.talk.lost(this.media);
    this.media.close();
    this.#replacing = setTimeout(() => {
      this.#replacing = 0;
      if (this.room.status === 'joined' && this.device !== null) this.#connect();
      this.#on.changed();
    }, retryDelay(this.#failures, Math.random()));
    this.#failures += 1;
  }

  #refused(code, message) {
    const { words, final } = errorWords(code, message);
    if (code === 'no-path' || code === 'no-encryption') {
      this.#trouble = words;
      this.#on.changed();
      return;
    }
    // Once served, a room is full of ourselves: the server has not yet missed the lost connection.
    if (final && !(code === 'room-full' && this.#served)) this.leave(words);
    else if (code !== 'no-device') this.#on.notice(words);
  }

  #mediaChanged() {
    const { media } = this;
    if (media.status === 'connected') {
      this.timing.connectedAt ??= performance.now();
      this.#served = true;
      this.#trouble = '';
    }
    const shown = showsPicture(media.state);
    if (shown && !this.#videoWasShown) this.picture = false;
    if ((shown || media.state === null) && !this.picture) this.#awaitPicture();
    this.#videoWasShown = shown;
    if (media.status === 'lost') this.#replace();
    this.#on.changed();
  }

  #awaitPicture() {
    const { media } = this;
    this.#on.awaitPicture(() => {
      if (media !== this.media || this.picture) return;
      this.picture = true;
      this.timing.firstFrameAt ??= performance.now();
      this.#on.changed();
    });
  }

  async #look() {
    const { media } = this;
    if (media.watchdog === null || this.#replacing !== 0) return;
    const report = await media.pc.getStats();
    if (media !== this.media || this.#replacing !== 0) return;
    const now = performance.now();
    this.sample = readStats(report.values(), now);
    const verdict = media.watchdog.look({
      now,
      connection: media.pc.connectionState,
      frames: this.sample.frames,
      expected: media.state?.video === 'live' && document.visibilityState === 'visible',
    });
    if (verdict === 'keyframe') media.command({ type: 'request_keyframe' }).catch(() => {});
    // Without the room there is nothing to replace it with: it is kept, it may come back.
    if (verdict === 'replace' && this.room.status === 'joined') this.#replace();
    if (verdict === null && media.status === 'connected' && !media.watchdog.frozen) this.#failures = 0;
    this.#on.changed();
  }
}

// ---- the page --------------------------------------------------------------------------------

function page() {
  const $ = (id) => document.getElementById(id);
  const app = $('app');
  let session = null;
  let ended = '';
  let talkKey = '';

  const fill = () => {
    const { room, key, talk } = readFragment(location.hash);
    if (room) $('room').value = room;
    if (key) $('key').value = key;
    if (talk) talkKey = talk;
  };

  const join = () => {
    notice('');
    if (typeof RTCPeerConnection === 'undefined') {
      left(NO_WEBRTC);
      return;
    }
    ended = '';
    // Within the gesture: from here on the browser lets these elements play.
    for (const element of [$('video'), $('audio')]) {
      element.srcObject = new MediaStream();
      play(element);
    }
    try {
      session = new Session($('room').value, $('key').value, { track, awaitPicture, changed: draw, notice, ended: left });
    } catch (error) {
      left(`This browser cannot connect: ${error.message}`);
      return;
    }
    lastFigures = null;
    draw();
    $('stage').focus();
  };

  const left = (words) => {
    session = null;
    ended = words;
    for (const element of [$('video'), $('audio')]) element.srcObject = null;
    if (document.fullscreenElement) document.exitFullscreen();
    draw();
    $(words ? 'key' : 'join').focus();
  };

  // Each in a stream of its own: lip sync is decided by the streams the device names, not here,
  // and the picture never waits for an element that plays sound.
  const track = (received) => {
    const element = received.kind === 'video' ? $('video') : $('audio');
    element.srcObject = new MediaStream([received]);
    play(element);
  };

  const play = (element) => {
    element.play().catch((error) => {
      if (error.name !== 'NotAllowedError') return; // replaced by the next stream
      notice('The browser holds back the sound: click or tap anywhere');
      // A touch allows sound only when it ends; on an iPhone it is no click outside of a button.
      const heard = new AbortController();
      const unlock = () => {
        heard.abort();
        notice('');
        if (element.srcObject) play(element);
      };
      for (const event of ['click', 'touchend']) addEventListener(event, unlock, { signal: heard.signal });
    });
  };

  // Phones pause what plays in a page that is not shown.
  const resume = () => {
    for (const element of [$('video'), $('audio')]) {
      if (element.paused && element.srcObject) play(element);
    }
  };

  const awaitPicture = (shown) => {
    if ($('video').requestVideoFrameCallback) $('video').requestVideoFrameCallback(shown);
    else $('video').addEventListener('timeupdate', shown, { once: true });
  };

  let noticeTimer = 0;
  const notice = (words) => {
    clearTimeout(noticeTimer);
    noticeTimer = setTimeout(() => { $('notice').textContent = ''; }, NOTICE_FOR);
    $('notice').textContent = words;
  };

  const command = (fields) => session?.media.command(fields).catch((error) => notice(error.message));

  // ---- drawing: only what changed is written, so that a screen reader says it once

  const put = (element, words) => { if (element.textContent !== words) element.textContent = words; };

  const draw = () => {
    const view = session?.view ?? { room: 'none', ended };
    const { tone, words } = statusOf(view);
    const state = view.state ?? null;
    const inside = session !== null;
    app.dataset.view = inside ? 'stage' : 'form';
    $('form').hidden = inside;
    $('stage').hidden = $('controls').hidden = !inside;
    put($('status'), words);
    $('status').dataset.tone = tone;
    document.title = inside ? `${$('room').value}: ${words}` : 'roomcam';
    put($('viewers'), inside && state?.viewers > 1 ? `${state.viewers} are watching` : '');

    // A connection that may come back keeps its last picture; the words say that it is one.
    const connected = view.media === 'connected' || view.media === 'shaky';
    const covered = !connected || !view.picture || (state !== null && !showsPicture(state));
    $('cover').hidden = !covered;
    put($('cover-words'), words);
    icon($('cover'), state?.camera === false ? 'camera-off' : 'camera');

    const controllable = inside && session.media.controllable && state !== null;
    $('mute').disabled = !controllable || state.audio === 'none';
    $('mute').title = state?.audio === 'none' ? 'This device has no microphone' : '';
    $('camera').disabled = !controllable || state.video === 'none';
    face($('mute'), state?.muted ? 'Unmute' : 'Mute', state?.muted ? 'mic-off' : 'mic', state?.muted);
    const off = state?.camera === false;
    $('snapshot').disabled = !controllable || state.video !== 'live' || snapshotComes;
    drawSettings(inside ? session.media.controls : []);
    face($('camera'), off ? 'Start camera' : 'Stop camera', off ? 'camera-off' : 'camera', off);
    drawTalk(controllable && state, session?.talk.status ?? 'off');
    drawFigures();
  };

  const TALK_WORDS = { off: 'Hold to talk', opening: 'Wait…', on: 'On air' };

  const drawTalk = (state, status) => {
    const offered = mayTalk(state, talkKey);
    $('talk').hidden = !offered && status === 'off';
    $('talk').disabled = !offered && status === 'off';
    $('talk').setAttribute('aria-pressed', String(status !== 'off'));
    $('talk').dataset.talking = String(status === 'on');
    put($('talk').querySelector('span'), TALK_WORDS[status]);
  };

  // ---- the camera's settings and snapshots

  let snapshotComes = false;
  const snapshot = async () => {
    snapshotComes = true;
    draw();
    try {
      save(await session.media.snapshot(), fileName($('room').value, new Date()));
    } catch (error) {
      notice(error.message);
    }
    snapshotComes = false;
    draw();
  };

  const panel = new SettingsPanel($('settings-list'), (control, value) => command({ type: 'set_control', control, value }));

  const drawSettings = (controls) => {
    $('settings').hidden = controls.length === 0;
    if (controls.length === 0 && !$('settings-panel').hidden) showSettings(false);
    panel.draw(controls);
  };

  const showSettings = (shown) => {
    $('settings-panel').hidden = !shown;
    $('settings').setAttribute('aria-expanded', String(shown));
    if (shown) $('settings-panel').focus();
    else ($('settings').hidden ? $('stage') : $('settings')).focus();
  };

  const face = (button, words, name, off) => {
    put(button.querySelector('span'), words);
    icon(button, name);
    button.dataset.off = String(off === true);
  };

  const icon = (element, name) => element.querySelector('use').setAttribute('href', `#icon-${name}`);

  let lastFigures = null;
  const drawFigures = () => {
    const sample = session?.sample ?? null;
    if (sample === null) return;
    if (lastFigures !== null && sample.at - lastFigures.at < FIGURES_EVERY - LOOK_EVERY / 2) return;
    const shown = lastFigures === null ? null : figures(lastFigures, sample);
    lastFigures = sample;
    if (shown === null) return;
    put($('stat-bitrate'), shown.bitrate);
    put($('stat-frames'), shown.frames);
    put($('stat-resolution'), shown.resolution);
    put($('stat-loss'), shown.loss);
    put($('stat-round-trip'), shown.roundTrip);
  };

  // ---- what people do

  $('form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (session === null) join();
  });
  $('mute').addEventListener('click', () => command({ type: 'set_muted', muted: !session.media.state.muted }));
  $('camera').addEventListener('click', () => command({ type: 'set_camera', on: !session.media.state.camera }));
  $('snapshot').addEventListener('click', snapshot);
  $('settings').addEventListener('click', () => showSettings($('settings-panel').hidden));
  $('settings-close').addEventListener('click', () => showSettings(false));
  $('settings-reset').addEventListener('click', () => command({ type: 'reset_controls' }));
  $('settings-panel').addEventListener('keydown', ({ key }) => { if (key === 'Escape') showSettings(false); });
  $('leave').addEventListener('click', () => session?.leave(''));

  // Held by a finger, the mouse, the space bar or Enter; whatever takes the page away lets it go.
  const press = () => session?.speak(talkKey);
  const release = () => session?.talk.release();
  const isHoldKey = ({ key }) => key === ' ' || key === 'Enter';
  $('talk').addEventListener('pointerdown', (event) => {
    if (event.button !== 0) return;
    // A finger that slides off still holds it.
    $('talk').setPointerCapture(event.pointerId);
    press();
  });
  for (const event of ['pointerup', 'pointercancel', 'lostpointercapture', 'blur']) $('talk').addEventListener(event, release);
  $('talk').addEventListener('contextmenu', (event) => event.preventDefault());
  $('talk').addEventListener('keydown', (event) => {
    if (!isHoldKey(event)) return;
    event.preventDefault(); // else it is a click as well
    if (!event.repeat) press();
  });
  $('talk').addEventListener('keyup', (event) => {
    if (!isHoldKey(event)) return;
    event.preventDefault();
    release();
  });
  // Whoever cannot hold it, as with a screen reader: a click without pointer or key begins and ends.
  $('talk').addEventListener('click', ({ detail }) => {
    if (detail !== 0) return;
    if (session?.talk.status === 'off') press();
    else release();
  });
  addEventListener('blur', release);
  $('stats').addEventListener('click', () => {
    $('overlay').hidden = !$('overlay').hidden;
    $('stats').setAttribute('aria-pressed', String(!$('overlay').hidden));
  });
  $('full').addEventListener('click', () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (app.requestFullscreen) app.requestFullscreen().catch((error) => notice(error.message));
    else $('video').webkitEnterFullscreen?.(); // iPhones: video elements only
  });
  document.addEventListener('fullscreenchange', () => {
    put($('full').querySelector('span'), document.fullscreenElement ? 'Exit full screen' : 'Full screen');
    stir();
  });

  let restTimer = 0;
  const stir = () => {
    clearTimeout(restTimer);
    delete app.dataset.resting;
    restTimer = setTimeout(() => { app.dataset.resting = ''; }, REST_AFTER);
  };
  for (const event of ['pointermove', 'pointerdown', 'keydown']) addEventListener(event, stir, { passive: true });

  addEventListener('hashchange', fill);
  addEventListener('online', () => session?.hurry());
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState !== 'visible') {
      release();
      return;
    }
    session?.hurry();
    resume();
  });
  addEventListener('pagehide', () => session?.leave(''));

  // For tests and for people with a console: looks, changes nothing, carries no key.
  window.roomcam = Object.freeze({
    /** The current RTCPeerConnection, or null. */
    get pc() { return session?.media.pc ?? null; },
    /** The device's last `state` message, or null. */
    get state() { return session?.media.state ?? null; },
    /** Whether the viewer speaks: 'off', 'opening' or 'on'. */
    get talk() { return session?.talk.status ?? 'off'; },
    /** What can be set of the camera, as the device told it last. */
    get controls() { return session?.media.controls ?? []; },
    /** The words of the status region, and their tone. */
    get status() { return statusOf(session?.view ?? { room: 'none', ended }); },
    /** performance.now() of the first: pressedAt, joinedAt, offeredAt, answeredAt, connectedAt, firstFrameAt. */
    get timing() { return session === null ? null : { ...session.timing }; },
    /** Counters as of now: bytes, packets, lost, frames, keyframes, plis, width, height, sound, roundTrip. */
    async stats() {
      return session === null ? null : readStats((await session.media.pc.getStats()).values(), performance.now());
    },
  });

  fill();
  draw();
  $(!$('room').value ? 'room' : !$('key').value ? 'key' : 'join').focus();
}

if (typeof document !== 'undefined') page();
