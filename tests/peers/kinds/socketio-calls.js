// Calls over Socket.IO: who joins is announced to those inside, with the id to call it by; all else
// is addressed to an id, and arrives with the sender's.
'use strict';

const listen = require('./socketio');

// What is sent, what arrives, and the field that comes along.
const RELAYED = [
  ['user:call', 'incomming:call', 'offer'],
  ['call:accepted', 'call:accepted', 'ans'],
  ['peer:nego:needed', 'peer:nego:needed', 'offer'],
  ['peer:nego:done', 'peer:nego:final', 'ans'],
  ['peer:ice:candidate', 'peer:ice:candidate', 'candidate'],
];

module.exports = (http, { version }, entered) => {
  const io = listen(http, version);

  io.on('connection', (socket) => {
    socket.on('room:join', ({ email, room }) => {
      io.to(room).emit('user:joined', { email, id: socket.id });
      socket.join(room);
      entered();
      socket.emit('room:join', { email, room });
    });
    for (const [sent, arrives, field] of RELAYED) {
      socket.on(sent, (content) => {
        io.to(content.to).emit(arrives, { from: socket.id, [field]: content[field] });
      });
    }
  });
};
