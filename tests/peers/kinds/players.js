// No room server: the pages of players, and the libraries that they load as scripts.
'use strict';

const fs = require('node:fs');

// A library and what it is made of, in the order in which they are needed.
const LIBRARIES = {
  'webrtc-player.js': ['events/', '@eyevinn/whpp-client', '@eyevinn/webrtc-player'],
};

module.exports = () => {};

// CommonJS modules for a page, as one script: each finds those before it by its name.
module.exports.script = (name) =>
  LIBRARIES[name]
    ?.map((library) => {
      const code = fs.readFileSync(require.resolve(library), 'utf8');
      const key = JSON.stringify(library.replace(/\/$/, ''));
      return `modules[${key}] = ((module) => {
        ((module, exports) => {${code}\n})(module, module.exports);
        return module.exports;
      })({ exports: {} });`;
    })
    .join('\n');
