// Rooms of two over Socket.IO: the first to come creates the room, the second joins it, all others
// hear that it is full. With `--leave` one may leave without closing the socket.
'use strict';

const listen = require('./socketio');

module.exports = (http, { version, leave }, entered) => {
  const io = listen(http, version);
  const members = (room) => {
    const { rooms } = io.sockets.adapter;
    return version === '2' ? (rooms[room]?.length ?? 0) : (rooms.get(room)?.size ?? 0);
  };

  io.on('connection', (socket) => {
    socket.on('join', (room) => {
      const before = members(room);
      if (before >= 2) return socket.emit('full');
      socket.join(room);
      entered();
      socket.emit(before === 0 ? 'created' : 'joined');
    });
    socket.on('ready', (room) => socket.to(room).emit('ready'));
    for (const event of ['offer', 'answer', 'candidate']) {
      socket.on(event, (content, room) => socket.to(room).emit(event, content));
    }
    if (leave) {
      socket.on('leave', (room) => {
        socket.leave(room);
        socket.to(room).emit('leave');
      });
    }
  });
};
