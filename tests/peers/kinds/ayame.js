// Ayame, from its public specification (github.com/OpenAyame/ayame-spec): two in a room, of whom
// the second offers. When one goes, the other hears `bye`, and both are closed. Of its extensions:
// ping and pong, and a signaling key, which clients also send under its older name. No webhooks.
'use strict';

const { randomUUID } = require('node:crypto');
const WebSocket = require('ws');

const PING_EVERY_MS = 5_000;
const PONG_WITHIN_MS = 60_000;

module.exports = (http, { key }, entered) => {
  const rooms = new Map();

  new WebSocket.Server({ server: http, path: '/signaling' }).on('connection', (socket) => {
    let roomId;
    let room;
    let heard = Date.now();
    const say = (message) => socket.send(JSON.stringify(message));
    const reject = (reason) => {
      say({ type: 'reject', reason });
      socket.close();
    };
    const register = (message) => {
      if (room) return reject('InvalidMessage');
      if (!message.roomId) return reject('InvalidRoomId');
      if (key && (message.signalingKey ?? message.key) !== key) return reject('InvalidSignalingKey');
      const members = rooms.get(message.roomId) ?? new Set();
      if (members.size >= 2) return reject('full');
      const exists = members.size > 0;
      roomId = message.roomId;
      room = members.add(socket);
      rooms.set(roomId, room);
      entered();
      say({
        type: 'accept',
        connectionId: randomUUID(),
        isExistClient: exists,
        isExistUser: exists,
        iceServers: [],
      });
    };
    const others = () => [...(room ?? [])].filter((member) => member !== socket);

    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (message.type === 'register') register(message);
      else if (message.type === 'pong') heard = Date.now();
      else for (const member of others()) member.send(data.toString());
    });
    const timer = setInterval(() => {
      if (Date.now() - heard > PONG_WITHIN_MS) socket.terminate();
      else if (room) say({ type: 'ping' });
    }, PING_EVERY_MS);
    socket.on('close', () => {
      clearInterval(timer);
      for (const member of others()) {
        member.send(JSON.stringify({ type: 'bye' }));
        member.close();
      }
      room?.clear();
      // The next one may be in a new room of this name already.
      if (rooms.get(roomId) === room) rooms.delete(roomId);
    });
  });
};
