// One room server of a kind that people have, and the pages for it, on the loopback:
//
//   NODE_PATH=$(./install) node server.js KIND [--port PORT] [OPTION…]
//
// Prints `listening PORT`, and `entered` for everyone who enters a room. Runs until it is killed or
// its standard input ends. The real libraries do the work; what is here is the little that a tutorial
// adds to them, and no more: a message that such a server would not survive ends this one, too.
'use strict';

const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { parseArgs } = require('node:util');

const players = require('./kinds/players');

const KINDS = {
  'ws-rooms': require('./kinds/ws-rooms'),
  'ws-broadcast': require('./kinds/ws-broadcast'),
  'socketio-rooms': require('./kinds/socketio-rooms'),
  'socketio-calls': require('./kinds/socketio-calls'),
  ayame: require('./kinds/ayame'),
  players,
};

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    port: { type: 'string', default: '0' },
    // Major version of the library: ws 7 and 8, or socket.io 2, 3 and 4.
    version: { type: 'string' },
    // socketio-rooms: knows `leave`.
    leave: { type: 'boolean', default: false },
    // ayame: the signaling key that it asks for.
    key: { type: 'string' },
  },
});
const attach = KINDS[positionals[0]];
if (!attach) {
  console.error(`usage: server.js ${Object.keys(KINDS).join('|')} [OPTION…]`);
  process.exit(2);
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript' };

const server = http.createServer((request, response) => {
  const name = path.basename(new URL(request.url, 'http://localhost').pathname);
  const script = players.script(name);
  if (script) return response.writeHead(200, { 'Content-Type': TYPES['.js'] }).end(script);
  const file =
    name === 'ayame.mjs'
      ? require.resolve('@open-ayame/ayame-web-sdk')
      : path.join(__dirname, 'pages', name);
  fs.readFile(file, (error, content) => {
    if (error) return response.writeHead(404).end();
    response.writeHead(200, { 'Content-Type': TYPES[path.extname(file)], 'Cache-Control': 'no-store' });
    response.end(content);
  });
});
attach(server, options, () => console.log('entered'));
server.listen(Number(options.port), '127.0.0.1', () => {
  console.log(`listening ${server.address().port}`);
});
// Whoever started it is gone.
process.stdin.resume().on('end', () => process.exit());
