// A bus: what one says goes to all others as it is. As in ws-rooms, version 8 of the library makes
// binary frames of it.
'use strict';

module.exports = (http, { version = '8' }, entered) => {
  const WebSocket = require(version === '7' ? 'ws-7' : 'ws');
  const server = new WebSocket.Server({ server: http });

  server.on('connection', (socket) => {
    entered();
    socket.on('message', (data) => {
      for (const other of server.clients) {
        if (other !== socket && other.readyState === WebSocket.OPEN) other.send(data);
      }
    });
  });
};
