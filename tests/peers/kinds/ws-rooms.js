// Rooms over a plain WebSocket: who joins as the second starts it, for both; whatever else is said
// goes to the others of the room as it is. The library's version 8 hands messages on as bytes, so
// they leave as binary frames; 7 keeps them text.
'use strict';

module.exports = (http, { version = '8' }, entered) => {
  const WebSocket = require(version === '7' ? 'ws-7' : 'ws');
  const rooms = new Map();

  new WebSocket.Server({ server: http }).on('connection', (socket) => {
    socket.on('message', (data) => {
      const message = JSON.parse(data);
      if (!rooms.has(message.room)) rooms.set(message.room, new Set());
      const room = rooms.get(message.room);
      if (message.type === 'join') {
        room.add(socket);
        entered();
        if (room.size === 2) {
          const ready = JSON.stringify({ type: 'ready', room: message.room });
          for (const member of room) member.send(ready);
        }
        return;
      }
      for (const member of room) if (member !== socket) member.send(data);
    });
    socket.on('close', () => {
      for (const room of rooms.values()) room.delete(socket);
    });
  });
};
