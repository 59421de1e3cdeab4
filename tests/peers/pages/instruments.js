// What a test reads of a page, without the page knowing: loaded before the page's own script.
'use strict';

// Where the page's room server is: there where the page comes from, unless its address says `?server=`.
const roomServer = new URLSearchParams(location.search).get('server') ?? location.host;

const seen = {
  // What the page did not catch.
  errors: [],
  // Every peer connection that the page made.
  connections: [],
  // Pictures shown in #remote since the last call of restart(), and when the first of them was.
  frames: 0,
  firstPictureAt: null,

  restart() {
    seen.frames = 0;
    seen.firstPictureAt = null;
  },

  async report() {
    const report = {
      errors: seen.errors,
      connections: seen.connections.map((connection) => connection.connectionState),
      transports: seen.connections.map(
        (connection) => connection.getReceivers()[0]?.transport?.state ?? 'new',
      ),
      frames: seen.frames,
      firstPictureAgoMs: seen.firstPictureAt && performance.now() - seen.firstPictureAt,
      audioPackets: 0,
      audioEnergy: 0,
      videoCodec: null,
    };
    for (const connection of seen.connections) {
      if (connection.connectionState !== 'connected') continue;
      const stats = await connection.getStats();
      for (const s of stats.values()) {
        if (s.type === 'inbound-rtp' && s.kind === 'audio') {
          report.audioPackets += s.packetsReceived;
          report.audioEnergy += s.totalAudioEnergy ?? 0;
        }
        if (s.type === 'inbound-rtp' && s.kind === 'video' && s.packetsReceived > 0) {
          report.videoCodec = stats.get(s.codecId)?.mimeType;
        }
      }
    }
    return report;
  },
};

addEventListener('error', (event) => seen.errors.push(event.message));
addEventListener('unhandledrejection', (event) => seen.errors.push(String(event.reason)));

window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...parameters) {
    super(...parameters);
    seen.connections.push(this);
  }
};

addEventListener('DOMContentLoaded', () => {
  const remote = document.getElementById('remote');
  const count = (now) => {
    seen.frames += 1;
    seen.firstPictureAt ??= now;
    remote.requestVideoFrameCallback(count);
  };
  remote.requestVideoFrameCallback(count);
});
