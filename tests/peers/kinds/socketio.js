// A Socket.IO server of a major version, which also serves its own browser client.
'use strict';

module.exports = (http, version) => {
  switch (version) {
    case '2':
      return require('socket.io-2')(http);
    case '3':
      return new (require('socket.io-3').Server)(http);
    default:
      return new (require('socket.io').Server)(http);
  }
};
